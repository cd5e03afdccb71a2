"""Checkpoints that say all that inference and evaluation need: no training data."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iif.errors import InputError
from iif.files import atomic_write, versions
from iif.statistics import ClassStatistics
from iif.tv.config import TrainConfig
from iif.tv.model import build_model, restore_structure, structure_of

FORMAT = "iif-torchvision/1"
LAST = "last_checkpoint"
FINAL = "model_final.pth"


@dataclass(frozen=True)
class Detector:
    """A trained model and what it was trained with.

    Attributes:
        model: in evaluation mode; label r + 1 is row r of ``statistics``.
        config: the settings of its training.
        statistics: the classes (ids, names) and their counts in the training set.
        iteration: how many iterations it was trained.
    """

    model: nn.Module
    config: TrainConfig
    statistics: ClassStatistics
    iteration: int


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    statistics: ClassStatistics,
    iteration: int,
) -> None:
    """Write a checkpoint, whole or not at all, and note it as the folder's last one."""
    content = {
        "format": FORMAT,
        "iteration": iteration,
        "config": config.to_dict(),
        "statistics": statistics.to_dict(),
        "versions": versions(),
        "structure": structure_of(model),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path, "wb") as f:
        torch.save(content, f)
    with atomic_write(path.parent / LAST) as f:
        f.write(path.name)


def find(path: str | os.PathLike[str]) -> Path:
    """Return a checkpoint's path: the file itself, or the last one of an output folder.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        last = path / LAST
        if not last.is_file():
            raise InputError(f"{path}: holds no checkpoint (no {LAST}); train into it first")
        path = path / last.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    return path


def read(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return a checkpoint's content.

    Raises:
        InputError: there is none, or the file is not one.
    """
    path = find(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError):
        raise InputError(
            f"{path}: not a checkpoint that iif.tv.train wrote, or cut off; name another one"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path}: is not a checkpoint that iif.tv.train wrote (expected format {FORMAT})"
        )
    return content


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Detector:
    """Load a trained model from a checkpoint or an output folder of :func:`iif.tv.train`.

    Raises:
        InputError: there is no checkpoint, or the file is not one.
    """
    content = read(path, device)
    config = TrainConfig.from_dict(content["config"])
    statistics = ClassStatistics.from_dict(content["statistics"])
    model = rebuild(content, config, statistics).to(device)
    return Detector(model.eval(), config, statistics, content["iteration"])


def rebuild(content: dict[str, Any], config: TrainConfig, statistics: ClassStatistics) -> nn.Module:
    """Return the model of a checkpoint's content, with its state."""
    model = build_model(config, statistics, pretrained=False)
    restore_structure(model, content["structure"])
    model.load_state_dict(content["model"])
    return model
