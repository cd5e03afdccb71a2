"""Checkpoints that hold all that inference and evaluation need: no training data."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iif import layout
from iif.errors import InputError
from iif.files import atomic_write, versions
from iif.files import find_checkpoint as find
from iif.methods import METHODS, Method
from iif.methods.record import RECORD, check_evaluated, check_resumed
from iif.statistics import ClassStatistics
from iif.tv.config import TrainConfig
from iif.tv.model import build_model, freeze_layers, frozen_layers, method_of

FORMAT = "iif-torchvision/2"

# Settings that a resumed run may change: they affect no iteration that was done.
_FREE_ON_RESUME = {
    "preset",
    "epochs",
    "iterations",
    "checkpoint_period",
    "keep_all_checkpoints",
    "evaluation_period",
    "workers",
    "cache_images",
    "score_threshold",
    "nms_threshold",
    "detections_per_image",
}

Check = Callable[[Method, Mapping[str, Any] | None, str], None]


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
    *,
    best: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all, and note it as the last one of its folder.

    The best one (layout.BEST_CHECKPOINT) is not noted: no run goes on from it.

    Args:
        path: where it goes.
        model, optimizer, config, statistics: of the run.
        iteration: how many iterations are done.
        best: what `iif.tv.validation.Validation` knows of the best one so far.

    Raises:
        InputError: it cannot be written, for example on a full disk; the last one stays noted.
    """
    content = {
        "format": FORMAT,
        "iteration": iteration,
        "config": config.to_dict(),
        "statistics": statistics.to_dict(),
        "versions": versions(),
        "frozen_layers": frozen_layers(model),
        RECORD: method_of(model).record(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best,
    }
    last = path.parent / layout.LAST_CHECKPOINT
    try:
        with atomic_write(path, "wb") as f:
            torch.save(content, f)
        if path.name != layout.BEST_CHECKPOINT:
            with atomic_write(last) as f:
                f.write(path.name)
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own while the OSError of a full disk is handled.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        kept = f"the last checkpoint is {last.read_text()}" if last.is_file() else "there is none"
        raise InputError(
            f"{path}: cannot be written ({reason.strerror}): {kept}; make room and resume"
        ) from None


def read(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return a checkpoint's content.

    Raises:
        InputError: there is none, or the file is not one.
    """
    path = find(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError):
        raise InputError(
            f"{path}: not a checkpoint that iif.tv.train wrote, or cut off; name another one"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint that iif.tv.train wrote (expected format {FORMAT})"
        )
    return content


def settings(path: str | os.PathLike[str]) -> TrainConfig:
    """Return the settings that a checkpoint was trained with.

    Raises:
        InputError: there is no checkpoint, or the file is not one.
    """
    return TrainConfig.from_dict(read(path)["config"])


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    config: TrainConfig | None = None,
) -> Detector:
    """Load a trained model from a checkpoint or an output folder of :func:`iif.tv.train`.

    Args:
        path: the checkpoint or the folder.
        device: where the model goes.
        config: settings to use it under, by default its own. The method, its options and the
            test-time settings may be others: a plain model takes a method that acts at test alone.

    What FASA kept for training is left out.

    Raises:
        InputError: there is no checkpoint, the file is not one, its method is not computed as
            it was when the model was trained, or another setting differs.
    """
    content = read(path, device)
    own = TrainConfig.from_dict(content["config"])
    if config is None:
        config = own
    else:
        _refuse_other_settings(
            config,
            own.to_dict(),
            os.fspath(path),
            "was trained with",
            "only the method, its options and the test-time settings may be changed",
        )
    statistics = ClassStatistics.from_dict(content["statistics"])
    model: Any = rebuild(content, config, statistics, os.fspath(path)).to(device)
    model.roi_heads.box_predictor.augmentation = None
    return Detector(model.eval(), config, statistics, content["iteration"])


def rebuild(
    content: dict[str, Any],
    config: TrainConfig,
    statistics: ClassStatistics,
    source: str,
    check: Check = check_evaluated,
) -> nn.Module:
    """Return the model of a checkpoint's content, with its state, in training mode.

    Args:
        content: the checkpoint's.
        config: its settings, or those of the run that resumes it.
        statistics: of the training set.
        source: the checkpoint, for messages.
        check: of the method against the checkpoint's record.
    """
    model = build_model(config, statistics, pretrained=False)
    check(method_of(model), content[RECORD], source)
    freeze_layers(model, content["frozen_layers"])
    model.load_state_dict(content["model"])
    return model


def resume(
    content: dict[str, Any], config: TrainConfig, statistics: ClassStatistics, source: str
) -> nn.Module:
    """Return the model of a checkpoint to go on training.

    Raises:
        InputError: a setting, the method, one of its options or the training data differ from the
            checkpoint's, or it was trained longer than ``config`` says; names both values.
    """
    _refuse_other_settings(
        config,
        content["config"],
        source,
        "the run to resume has",
        "resume with the same settings or take another folder",
    )
    trained_on = ClassStatistics.from_dict(content["statistics"])
    if not statistics.same_counts(trained_on):
        raise InputError(
            f"{source}: the run to resume was trained on other data: {trained_on}, now it is "
            f"{statistics}; take another folder"
        )
    if content["iteration"] > config.iterations:
        raise InputError(
            f"{source}: was trained {content['iteration']} iterations already, more than "
            f"iterations={config.iterations}"
        )
    return rebuild(content, config, statistics, source, check_resumed)


def _refuse_other_settings(
    config: TrainConfig, old: Mapping[str, Any], source: str, before: str, remedy: str
) -> None:
    """Refuse a setting that differs from a checkpoint's; those of the method are checked later."""
    for key, value in config.to_dict().items():
        if key not in {*_FREE_ON_RESUME, "method", *METHODS} and old.get(key) != value:
            raise InputError(
                f"{source}: {before} {key}={old.get(key)}, now it is {value}; {remedy}"
            )
