"""Checkpoints that hold all that testing a classifier needs beside the images."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iif import layout
from iif.classification.config import ClassifyConfig
from iif.classification.model import ClassificationModel, build_model
from iif.errors import InputError
from iif.files import atomic_write, versions
from iif.files import find_checkpoint as find
from iif.methods import METHODS, Method
from iif.methods.record import PREFIX, RECORD, check_evaluated, check_resumed
from iif.statistics import ClassStatistics

FORMAT = "iif-classification/1"

# Settings that a resumed run may change: they affect no iteration that was done.
_FREE_ON_RESUME = {
    "checkpoint_period",
    "workers",
    "cache_images",
    "compile",
    "second_stage",
    "root",
    "weights",
}
# What a run that only tests may change beside these: how fast it is, and the method.
_FREE_AT_TEST = {*_FREE_ON_RESUME, "images_per_batch", "amp", "channels_last", "train", "test"}


@dataclass(frozen=True)
class Classifier:
    """A trained model and what it was trained with.

    Attributes:
        model: in evaluation mode; output r is class r of ``statistics``.
        config: the settings of its training.
        statistics: the classes and their counts in the training set.
        epoch: how many epochs it was trained.
    """

    model: ClassificationModel
    config: ClassifyConfig
    statistics: ClassStatistics
    epoch: int


def save(
    path: Path,
    model: ClassificationModel,
    optimizer: torch.optim.Optimizer,
    config: ClassifyConfig,
    statistics: ClassStatistics,
    epoch: int,
    start: Mapping[str, Any] | None,
) -> None:
    """Write a checkpoint, whole or not at all, and note it as the last one of its folder.

    Args:
        path: the file.
        model, optimizer: their state is saved.
        config, statistics: of the run.
        epoch: how many are done.
        start: the checkpoint that a second stage began with (path and SHA-256), or None.
    """
    content = {
        "format": FORMAT,
        "epoch": epoch,
        "config": config.to_dict(),
        "statistics": statistics.to_dict(),
        "versions": versions(),
        "start": None if start is None else dict(start),
        RECORD: model.method.record(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path, "wb") as f:
        torch.save(content, f)
    with atomic_write(path.parent / layout.LAST_CHECKPOINT) as f:
        f.write(path.name)


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
            f"{path}: not a checkpoint that iif classify wrote, or cut off; name another one"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint that iif classify wrote (expected format {FORMAT})"
        )
    return content


def settings(path: str | os.PathLike[str]) -> ClassifyConfig:
    """Return the settings that a checkpoint was trained with.

    Raises:
        InputError: there is no checkpoint, or the file is not one.
    """
    return ClassifyConfig.from_dict(read(path)["config"])


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    config: ClassifyConfig | None = None,
) -> Classifier:
    """Load a trained model from a checkpoint or an output folder of `iif.classification.train`.

    Args:
        path: the checkpoint or the folder.
        device: where the model goes.
        config: settings to use it under, by default its own. The method and its options may be
            others: a plain model takes a method that acts at test alone.

    Raises:
        InputError: there is no checkpoint, the file is not one, its method is not computed as
            it was when the model was trained, or another setting differs.
    """
    content = read(path, device)
    own = ClassifyConfig.from_dict(content["config"])
    config = config or own
    _refuse_other_settings(config, own.to_dict(), os.fspath(path), _FREE_AT_TEST, "test")
    statistics = ClassStatistics.from_dict(content["statistics"])
    method = config.build_method(statistics)
    check_evaluated(method, content[RECORD], os.fspath(path))
    model = _filled(content, config, method, statistics)
    return Classifier(model.to(device).eval(), config, statistics, content["epoch"])


def resume(
    content: dict[str, Any], config: ClassifyConfig, statistics: ClassStatistics, source: str
) -> ClassificationModel:
    """Return the model of a checkpoint to go on training.

    Raises:
        InputError: a setting, the method, one of its options or the training data differ from the
            checkpoint's; names both values.
    """
    _refuse_other_settings(config, content["config"], source, _FREE_ON_RESUME, "resume")
    refuse_other_data(content, statistics, source)
    method = config.build_method(statistics)
    check_resumed(method, content[RECORD], source)
    return _filled(content, config, method, statistics)


def start_from(
    content: dict[str, Any], config: ClassifyConfig, statistics: ClassStatistics, source: str
) -> ClassificationModel:
    """Return the model of a run as the start of another one, the second stage.

    Backbone and classifier are the run's; the method is that of the settings.

    Raises:
        InputError: the run has another model, or was trained on other data.
    """
    refuse_other_data(content, statistics, source)
    for key in ("model", "classifier"):
        before, now = content["config"][key], getattr(config, key)
        if before != now:
            raise InputError(f"{source}: has {key}={before}, the settings have {now}; set {key}")
    return _filled(content, config, config.build_method(statistics), statistics, with_method=False)


def refuse_other_data(content: dict[str, Any], statistics: ClassStatistics, source: str) -> None:
    """Raise InputError where a checkpoint was trained on other classes or counts."""
    trained_on = ClassStatistics.from_dict(content["statistics"])
    if not statistics.same_counts(trained_on):
        raise InputError(
            f"{source}: was trained on other data: {trained_on}, now it is {statistics}; give the "
            "same data or take another folder"
        )


def _filled(
    content: dict[str, Any],
    config: ClassifyConfig,
    method: Method,
    statistics: ClassStatistics,
    *,
    with_method: bool = True,
) -> ClassificationModel:
    config = ClassifyConfig.from_dict({**config.to_dict(), "weights": None})
    model = build_model(config, method, len(statistics))
    state = content["model"]
    if not with_method:
        state = {key: v for key, v in state.items() if not key.startswith(PREFIX)}
    own = method.state_dict(prefix=PREFIX)
    model.load_state_dict({**own, **state})
    return model


def _refuse_other_settings(
    config: ClassifyConfig, old: Mapping[str, Any], source: str, free: set[str], verb: str
) -> None:
    """Refuse a setting that differs from a checkpoint's; those of the method are checked later."""
    for key, value in config.to_dict().items():
        if key not in {*free, "method", *METHODS} and old.get(key) != value:
            raise InputError(
                f"{source}: was trained with {key}={old.get(key)}, now it is {value}; {verb} with "
                "the same settings"
            )
