"""Which post-hoc method helps a trained torchvision model: all of them, from one pass.

The best is chosen by box AP on training images that were kept out of training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from iif import layout
from iif.data.annotations import Annotations, load_annotations
from iif.distributed import lock_output, pick_device
from iif.errors import InputError
from iif.evaluation.operating_points import check_recall
from iif.evaluation.summary_file import read_summary
from iif.files import atomic_write, versions, write_json
from iif.methods.record import PLAIN as PLAIN_RECORD
from iif.methods.record import RECORD
from iif.statistics import ClassStatistics
from iif.tuning import (
    BEST,
    NOT_FOLDED,
    PLAIN,
    Candidate,
    Source,
    candidates,
    choose,
    held_out_part,
    save_run,
    save_tuning,
)
from iif.tv import checkpoint
from iif.tv.config import TrainConfig
from iif.tv.dataset import DetectionImages
from iif.tv.inference import check_classes, predict, test_settings
from iif.tv.model import has_masks
from iif.tv.moments import refuse_trained_method
from iif.tv.passes import find_boxes

_CLASSIFIER = "roi_heads.box_predictor.cls_score"


def tune_all(
    run: str | os.PathLike[str],
    train_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    assignments: Iterable[str] = (),
    fraction: float | None = None,
    recall: float = 0.5,
    bootstrap: int = 1000,
    exhaustive: bool | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Measure every post-hoc method at every value on held-out training images, from one pass.

    Writes into ``output`` tuning.json (what is returned), tuning.png, tuning.html, the evaluated
    runs ``plain`` and ``best`` (with masks where the model has them) and report.html on the two,
    config.json and class_statistics.json of the best, and the best as a plain checkpoint
    (folded.pth) where it folds.

    Args:
        run: a checkpoint or an output folder of `iif.tv.train`, trained without a method.
        train_json: the annotations that it was trained on.
        image_root: the folder that their file names start from.
        output: the folder to write to.
        assignments: KEY=VALUE settings: options of methods beside the tuned one, and test-time
            settings.
        fraction: the part of the images to look at; the run's held_out by default or, where that
            is 0, a tenth.
        recall: the recall at which false positives are compared.
        bootstrap: replicates behind the intervals; 0 for none.
        exhaustive: whether every category is annotated in every image; by default the file tells.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Raises:
        InputError: the model was trained under a method, the annotations are not those that it
            was trained on or those that it was evaluated on, an argument cannot be used, or another
            run writes into ``output``.
    """
    check_recall(recall)
    where = pick_device(device)
    path = checkpoint.find(run)
    config = checkpoint.settings(path).override(assignments)
    plain = msgspec.structs.replace(config, method=PLAIN_RECORD["name"])
    detector = checkpoint.load(path, where, plain)
    statistics = detector.statistics
    refuse_trained_method(detector.model, os.fspath(path))
    masks = has_masks(detector.model)
    fraction = (config.held_out or 0.1) if fraction is None else fraction
    tried, skipped = candidates(statistics, msgspec.to_builtins(config.options))
    annotations = load_annotations(
        train_json, exhaustive=exhaustive, masks=masks, statistics=statistics
    )
    check_classes(annotations, statistics, "the model")
    _refuse_other_data(annotations, statistics, path)
    gt = held_out_part(annotations, fraction)
    images = DetectionImages(gt, image_root)
    source = Source(
        engine="torchvision",
        checkpoint=os.fspath(path),
        dataset=Path(annotations.path).stem,
        fraction=fraction,
        held_out=config.held_out,
        images=os.fspath(image_root),
    )
    with lock_output(output):
        methods = [candidate.method for candidate in tried]
        boxes = find_boxes(detector.model, images, methods, where)
        result, best = choose(gt, tried, skipped, boxes, source, recall=recall, bootstrap=bootstrap)
        del boxes

        folder = Path(output)
        model: Any = detector.model
        runs = {PLAIN: tried[0]} if best == 0 else {PLAIN: tried[0], BEST: tried[best]}
        for name, candidate in runs.items():
            model.roi_heads.box_predictor.method = candidate.method
            rows = predict(model, images, statistics.ids, where)
            save_run(
                folder / name,
                gt,
                rows or [],
                candidate,
                source,
                test_settings=test_settings(config),
                config={"engine": source.engine, **_config_of(config, candidate).to_dict()},
                masks=masks,
            )
        chosen = _config_of(config, tried[best])
        statistics.save(folder / layout.STATISTICS)
        write_json(
            folder / layout.CONFIG_JSON,
            {
                "config": chosen.to_dict(),
                "checkpoint": os.fspath(path.absolute()),
                "train": annotations.path,
                "versions": versions(),
            },
        )
        result["folded"] = NOT_FOLDED if best == 0 else _fold(folder, path, chosen)
        return save_tuning(folder, result, gt, source, bootstrap=bootstrap)


def fold(run: str | os.PathLike[str], config: TrainConfig, output: str | os.PathLike[str]) -> None:
    """Write a post-hoc method into the classifier of a checkpoint, which is then a plain one.

    Args:
        run: a plain checkpoint or its output folder.
        config: its settings, with the method.
        output: the checkpoint to write.

    Raises:
        InputError: the method cannot be folded; says why.
    """
    path = checkpoint.find(run)
    checkpoint.load(path, config=config)  # refuses other settings, and a method that was trained
    content = checkpoint.read(path)
    method = config.build_method(ClassStatistics.from_dict(content["statistics"]))
    state = content["model"]
    # torchvision has the background first, a method last. Double precision rounds once.
    weight, bias = (state[f"{_CLASSIFIER}.{part}"].roll(-1, 0) for part in ("weight", "bias"))
    folded = method.fold(weight.double(), bias.double())
    for part, old, new in zip(("weight", "bias"), (weight, bias), folded, strict=True):
        state[f"{_CLASSIFIER}.{part}"] = new.roll(1, 0).to(old.dtype)
    plain = msgspec.structs.replace(config, method=PLAIN_RECORD["name"])
    content |= {"config": plain.to_dict(), RECORD: PLAIN_RECORD}
    with atomic_write(output, "wb") as f:
        torch.save(content, f)


def _fold(folder: Path, path: Path, config: TrainConfig) -> str:
    try:
        fold(path, config, folder / layout.FOLDED)
    except InputError as error:
        return f"not written: {error}"
    return str(folder / layout.FOLDED)


def _config_of(config: TrainConfig, candidate: Candidate) -> TrainConfig:
    """Return the settings under which a candidate ran."""
    setting = candidate.setting
    values = {**config.to_dict(), "method": setting.method}
    if setting.options:
        values[setting.method] = setting.options
    return TrainConfig.from_dict(values)


def _refuse_other_data(gt: Annotations, statistics: ClassStatistics, path: Path) -> None:
    """Refuse annotations that the model was not trained on, and those it was evaluated on."""
    counted = ClassStatistics.from_json(gt.path)
    if not counted.same_counts(statistics):
        raise InputError(
            f"{gt.path}: not the annotations that {path} was trained on ({statistics}): the value "
            "is chosen on training data; on the data that it is measured on, the result would be "
            "too good"
        )
    summary = path.parent / layout.INFERENCE / layout.SUMMARY
    if summary.is_file() and read_summary(summary).dataset.sha256 == gt.sha256:
        raise InputError(
            f"{gt.path}: the annotations that {summary} was evaluated on: the value must not be "
            "chosen on the data that the result is measured on"
        )
