"""The settings that ``iif train`` chooses from the training data, each with its reason."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iif.data.annotation_file import AnnotationFile, read_annotation_file
from iif.data.masks import Form, mask_forms
from iif.data.trainable import trainable
from iif.errors import InputError
from iif.methods import BASELINE
from iif.methods.usable import clamps_needed
from iif.statistics import ClassStatistics
from iif.tv.config import OPENMOJI, TrainConfig
from iif.tv.model import SMALL_BOX_MODEL, SMALL_MODEL

PRESETS = {"lvis": TrainConfig(), "openmoji": OPENMOJI}
# Images no longer than this get the small model, which is made for about 100 pixels.
_SMALL_SIDE = 160
# The scale of published COCO models: images of about 480 pixels on the shorter side become 800.
_ENLARGE, _MIN_SIZE, _MAX_SIZE = 800 / 480, 800, 1333
# Epochs and the least iterations, with published weights. At random three times as many
# (He et al., arXiv 1811.08883).
_EPOCHS, _ITERATIONS, _AT_RANDOM = 12, 1000, 3
_SMALL_ITERATIONS = 600
_EVALUATIONS = 10
# Decoded images and masks of the small model are kept in memory up to this many bytes.
_CACHE_BYTES = 1 << 30
# Memory of a GPU from which it takes 4 images at once.
_LARGE_GPU = 14 << 30


@dataclass(frozen=True)
class Choice:
    """Settings, and what is said of them.

    Attributes:
        config: the settings.
        notes: lines: the training data, then what was chosen and why.
    """

    config: TrainConfig
    notes: list[str]


def choose(
    train_json: str | os.PathLike[str],
    assignments: Sequence[str],
    *,
    device: torch.device,
    validated: bool,
) -> Choice:
    """Choose the settings for a training set; those that the user assigns stand.

    Args:
        train_json: the training annotations.
        assignments: the user's KEY=VALUE; ``preset`` decides what the others start from.
        device: that trains.
        validated: whether there is a validation set.

    Raises:
        InputError: an assignment or the training data cannot be used.
    """
    given = {assignment.partition("=")[0] for assignment in assignments}
    asked = TrainConfig().override(assignments)
    preset = asked.preset if "preset" in given else "own"
    if {"epochs", "iterations"} <= given:
        raise InputError("epochs and iterations both say how long to train; give one of them")
    content = read_annotation_file(train_json)
    with warnings.catch_warnings():  # the training says what it finds, once
        warnings.simplefilter("ignore")
        statistics = ClassStatistics.from_json(train_json)
    found = trainable(content, asked.held_out)
    data = _Data.of(content, found.images, found.trained)
    notes = [
        f"{train_json}: {len(statistics):,} classes, {statistics.num_images:,} images, "
        f"{len(found.images):,} of them trained on with {len(found.trained):,} objects."
    ]
    if preset == "own":
        values, reasons = _own(asked, given, data, device, validated)
    else:
        values, reasons = {"model": PRESETS[preset].model}, {}
        if asked.epochs is not None:
            chosen = PRESETS[preset].override(assignments)
            own = _schedule(chosen, math.ceil(asked.epochs * data.images / chosen.images_per_batch))
            values |= own
    if "model" not in given:
        values["model"], reasons["model"] = _for_masks(str(values["model"]), data)
    start = PRESETS["lvis" if preset == "own" else preset]
    values = {"preset": preset, **values}
    config = start.override(_assign(values)).override(assignments)
    config, clamped = _usable_method(config, given, statistics)
    reasons |= clamped
    shown = {key: reason for key, reason in reasons.items() if key not in given and reason}
    if shown:
        notes.append(
            "Chosen from the training data, KEY=VALUE changes each; preset=lvis takes LVIS's "
            "published settings:"
            if preset == "own"
            else "Chosen from the training data, KEY=VALUE changes each:"
        )
    written = config.to_dict()
    for keys, reason in shown.items():
        texts = [f"{key}={_text(written, key)}" for key in keys.split() if key not in given]
        notes.append(f"  {' '.join(texts)}: {reason}")
    return Choice(config, notes)


@dataclass(frozen=True)
class _Data:
    """What the choices depend on.

    Attributes:
        images: those that are trained on.
        short, long: the median of the shorter side, and the 95th percentile of the longer one.
        masks, objects: annotations with a mask, and all that are trained on.
        memory: bytes of the decoded images and masks.
    """

    images: int
    short: int
    long: int
    masks: int
    objects: int
    memory: int

    @classmethod
    def of(
        cls, content: AnnotationFile, images: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]
    ) -> _Data:
        sizes = content.image_sizes()
        shown = sizes[images]
        forms = mask_forms(content)[rows]
        masks = int(np.isin(forms, (Form.RLE, Form.POLYGONS)).sum())
        pixels = sizes.astype(np.int64).prod(axis=1)
        memory = 3 * pixels[images].sum() + (pixels[content.ann_image[rows]].sum() if masks else 0)
        return cls(
            len(images),
            int(np.median(shown.min(axis=1))),
            int(np.percentile(shown.max(axis=1), 95)),
            masks,
            len(rows),
            int(memory),
        )


def _own(
    asked: TrainConfig, given: set[str], data: _Data, device: torch.device, validated: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings for own data, and the reason of each by its keys."""
    small = data.long <= _SMALL_SIDE
    if "model" in given:
        small = asked.model in (SMALL_MODEL, SMALL_BOX_MODEL)
    values: dict[str, Any] = {"model": SMALL_MODEL if small else TrainConfig().model}
    reasons: dict[str, str] = {"model": ""}
    if small:
        values |= {"weights": None, "weights_backbone": None, "clip_gradients": 5.0}
        size = data.short if data.long <= _SMALL_SIDE else 96
        values |= {"min_size": [size], "max_size": max(size, min(data.long, _SMALL_SIDE))}
        reasons["weights weights_backbone"] = (
            f"{'the small model' if 'model' in given else 'images are small'} (up to "
            f"{data.long} pixels for 95% of them): the small model starts at random"
        )
        reasons["min_size max_size"] = "about the images' own size"
    else:
        values["weights"] = None if "weights_backbone" in given else "COCO_V1"
        reasons["weights"] = "start from a model trained on COCO; weights=FILE without a network"
        size = 32 * max(1, min(_MIN_SIZE, round(data.short * _ENLARGE)) // 32)
        sizes = sorted({32 * round(size * (0.8 + 0.04 * step) / 32) for step in range(6)} - {0})
        values |= {"min_size": sizes, "max_size": round(size * _MAX_SIZE / _MIN_SIZE)}
        reasons["min_size max_size"] = (
            f"the images' shorter side is {data.short} pixels at the median; enlarged as for COCO, "
            f"to at most {_MIN_SIZE}"
        )

    processes = int(os.environ.get("WORLD_SIZE", 1))
    batch = asked.images_per_batch
    if "images_per_batch" not in given:
        batch, reasons["images_per_batch"] = _batch(small, processes, device)
        values["images_per_batch"] = batch
    reference, per = (0.04, 8) if small else (0.02, 16)
    values["base_lr"] = float(f"{reference * batch / per:.3g}")
    reasons["base_lr"] = f"{reference} for {per} images, in proportion to the batch"

    at_random = values.get("weights") is None and not small
    if "weights" in given or "weights_backbone" in given:
        at_random = asked.weights is None and asked.weights_backbone is None and not small
    iterations, reason = _length(asked, given, data, batch, small, at_random)
    values |= _schedule(asked, iterations) | {
        "iterations": iterations,
        "epochs": asked.epochs or round(iterations * batch / data.images, 1),
    }
    if small:
        values["warmup_iterations"] = min(100, max(1, iterations // 5))
    reasons["epochs iterations steps warmup_iterations"] = reason

    period = max(1, math.ceil(iterations / _EVALUATIONS))
    values |= {"checkpoint_period": period, "keep_all_checkpoints": False}
    values["evaluation_period"] = period if validated else 0
    reasons["evaluation_period checkpoint_period keep_all_checkpoints"] = (
        f"evaluated {_EVALUATIONS} times; the best and the last checkpoint are kept"
        if validated
        else "nothing to evaluate on; the last checkpoint is kept"
    )
    cached = small and data.memory <= _CACHE_BYTES
    values |= {
        "cache_images": cached and asked.workers == TrainConfig().workers,
        "workers": 0 if cached else min(4, (os.cpu_count() or 1) // processes),
    }
    return values, reasons


def _batch(small: bool, processes: int, device: torch.device) -> tuple[int, str]:
    if small:
        return processes * max(1, 8 // processes), "images are small"
    each, where = 2, "the CPU"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        each = 4 if memory >= _LARGE_GPU else 2
        where = f"a GPU of {memory / 2**30:.0f} GiB"
    return each * processes, f"{each} for each of {processes} process(es), on {where}"


def _length(
    asked: TrainConfig, given: set[str], data: _Data, batch: int, small: bool, at_random: bool
) -> tuple[int, str]:
    """Return the iterations and the reason for so many."""
    if "iterations" in given:
        return asked.iterations, "as iterations says"
    if asked.epochs is not None:
        return math.ceil(asked.epochs * data.images / batch), f"{asked.epochs:g} epochs"
    factor = _AT_RANDOM if at_random else 1
    least = _SMALL_ITERATIONS if small else _ITERATIONS * factor
    epochs = _EPOCHS * factor
    iterations = math.ceil(epochs * data.images / batch)
    why = f"{epochs} epochs of {data.images:,} images"
    if at_random:
        why += f", {_AT_RANDOM} times as many as with published weights"
    if iterations < least:
        return least, f"{why} would be {iterations:,} iterations, too few to learn from"
    return iterations, why


def _schedule(asked: TrainConfig, iterations: int) -> dict[str, Any]:
    return {
        "iterations": iterations,
        "steps": [round(iterations * 2 / 3), round(iterations * 11 / 12)],
        "warmup_iterations": min(asked.warmup_iterations, max(1, iterations // 5)),
    }


def _for_masks(model: str, data: _Data) -> tuple[str, str]:
    """Return the model that the annotations allow: with masks where all have one."""
    if data.masks == data.objects:
        return model, f"all {data.objects:,} objects have a mask"
    boxes = SMALL_BOX_MODEL if model == SMALL_MODEL else model.replace("maskrcnn", "fasterrcnn")
    if not data.masks:
        return boxes, "no object has a mask: boxes alone are trained"
    without = data.objects - data.masks
    return boxes, (
        f"{without:,} of {data.objects:,} objects have no mask: boxes alone are trained, on all of "
        f"them (masks: add those that are missing, and set model={model})"
    )


def _usable_method(
    config: TrainConfig, given: set[str], statistics: ClassStatistics
) -> tuple[TrainConfig, dict[str, str]]:
    """Return the settings with what lets the method use the counts of own data, and the reason.

    Files in LVIS's format, and options that the user gives, stay as they are. Where every class is
    in every image there is no long tail, and the plain softmax is trained.
    """
    name = config.method
    if statistics.federated is not False or name == BASELINE:
        return config, {}
    own = {key.partition(".")[2] for key in given if key.startswith(f"{name}.")}
    clamps = clamps_needed(name, statistics, config.options[name], own)
    if not clamps.usable:
        if clamps.options and not own and "method" not in given:
            reason = "classes do not differ in their number of images: there is no long tail"
            return config.override([f"method={BASELINE}"]), {"method": reason}
        return config, {}
    if not clamps.options:
        return config, {}
    keys = [f"{name}.{option}" for option in clamps.options]
    refuse = " ".join(f"{key}=error" for key in keys)
    reason = f"{clamps.fact}, which would be refused; {refuse} refuses it"
    return config.override([f"{key}=clamp" for key in keys]), {" ".join(keys): reason}


def _assign(values: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _text(written: dict[str, Any], key: str) -> str:
    node, dot, option = key.partition(".")
    value = written[node][option] if dot else written[key]
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
