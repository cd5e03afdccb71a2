"""Choose a method's free number on training images that were kept out of training.

A method that is used on a plain model has one free number, which it names as its tuned option. It
is chosen here, and never on the data that the result is measured on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
)

from iif import layout
from iif.d2.checkpoint import load_model
from iif.d2.datasets import check_dataset, refuse_test_set, register_custom_datasets
from iif.d2.method import METHOD_KEY, options_from_config, options_node
from iif.d2.passes import find_boxes
from iif.d2.plain import boxes_only
from iif.d2.statistics import statistics_from_config
from iif.data.annotations import load_annotations
from iif.data.split import held_out_images
from iif.errors import InputError
from iif.evaluation.matching import match
from iif.evaluation.metrics import average_precision, mean_by_group
from iif.files import atomic_write, versions, write_json
from iif.methods import METHODS, Method, build_method, method_type, parse_options
from iif.report.tuning import METRICS, plot_curve
from iif.statistics import ClassStatistics

FORMAT = "iif-tuning/1"


def tune(
    cfg: CfgNode,
    weights: str,
    output: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    fraction: float | None = None,
    values: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Measure box AP at each value on held-out training images and choose the best.

    Writes into ``output`` tuning.json (what is returned), tuning.png (the curve), and config.yaml
    and class_statistics.json: ``cfg`` with the method, used post-hoc, at the chosen value.

    Args:
        cfg: the configuration of a model trained without a method, with the method to use.
        weights: its checkpoint.
        output: the folder to write to.
        dataset: one of DATASETS.TRAIN; the first by default.
        fraction: the part of its images to measure on; DATASETS.HELD_OUT by default or, where
            that is 0, a tenth. Images beyond DATASETS.HELD_OUT were seen in training.
        values: of the method's tuned option; by default those that the method names.

    Raises:
        InputError: the method has no such option, the data set is not a training set or is a test
            set too, or the model or an argument cannot be used.
    """
    register_custom_datasets(cfg)
    name = training_set(cfg, dataset)
    kind, option = _tuned(cfg)
    tried = sorted(set(kind.tuned_values if values is None else values))
    if not tried:
        raise InputError(f"there is no value of {option} to try; give one or more")
    fraction = (cfg.DATASETS.HELD_OUT or 0.1) if fraction is None else fraction
    cfg = _post_hoc_config(cfg, weights, kind)
    statistics = statistics_from_config(cfg)
    methods = [_method_at(cfg, kind, option, value, statistics) for value in tried]
    model = load_model(boxes_only(cfg), weights)

    gt = load_annotations(MetadataCatalog.get(name).json_file, statistics=statistics)
    image_held_out = held_out_images(gt.image_ids.tolist(), fraction)
    held_out_ids = set(gt.image_ids[image_held_out].tolist())
    images = [image for image in DatasetCatalog.get(name) if image["image_id"] in held_out_ids]
    if not images:
        raise InputError(f"no image of {name} is held out with a fraction of {fraction}")
    curve: list[dict[str, Any]] = []
    for value, found in zip(tried, find_boxes(model, cfg, images, methods, gt), strict=True):
        matches = match(gt, found.detections(), "bbox", classify_errors=False)
        ap = average_precision(matches, image_held_out.astype(np.int64))
        means = mean_by_group(ap, gt.groups)
        curve.append({"value": value, **dict(zip(METRICS, means, strict=True))})
    if curve[0]["AP"] is None:
        raise InputError(f"the held-out images of {name} have no ground truth: hold out more")
    best = max(curve, key=lambda point: point["AP"])  # the least of equally good values

    _set_options(cfg, kind, {option: float(best["value"])})
    result = {
        "format": FORMAT,
        "versions": versions(),
        "checkpoint": str(weights),
        "method": kind.name,
        "option": option,
        "options": msgspec.to_builtins(options_from_config(cfg)),
        "dataset": {"name": name, "path": gt.path, "sha256": gt.sha256},
        "fraction": fraction,
        "num_images": len(images),
        "seen_in_training": fraction > cfg.DATASETS.HELD_OUT,
        "curve": curve,
        "value": best["value"],
    }
    folder = Path(output)
    write_json(folder / layout.TUNING_JSON, result)
    with atomic_write(folder / layout.TUNING_PLOT, "wb") as f:
        plot_curve(result).savefig(f, format="png", dpi=150)
    statistics.save(folder / layout.STATISTICS)
    cfg.MODEL.LONG_TAIL.STATISTICS = str(folder / layout.STATISTICS)
    with atomic_write(folder / layout.CONFIG_YAML) as f:
        f.write(cfg.dump())
    return result


def _tuned(cfg: CfgNode) -> tuple[type[Method], str]:
    """Return the configuration's method and its tuned option."""
    kind = method_type(cfg.MODEL.LONG_TAIL.METHOD, key=METHOD_KEY)
    if kind.tuned_option is None or kind.post_hoc is None:
        names = [
            name
            for name, method in METHODS.items()
            if method.tuned_option and method.post_hoc is not None
        ]
        raise InputError(
            f"{METHOD_KEY} is {kind.name}, which has nothing to tune: add {METHOD_KEY} and one of "
            f"{', '.join(names)} to the command"
        )
    return kind, kind.tuned_option


def _set_options(cfg: CfgNode, kind: type[Method], options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        cfg.MODEL[kind.name.upper()][option.upper()] = value


def _post_hoc_config(cfg: CfgNode, weights: str, kind: type[Method]) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    _set_options(cfg, kind, kind.post_hoc or {})
    return cfg


def _method_at(
    cfg: CfgNode, kind: type[Method], option: str, value: float, statistics: ClassStatistics
) -> Method:
    options = msgspec.to_builtins(options_from_config(cfg)) | {option: float(value)}
    node = options_node(kind.name)
    checked = parse_options(kind, options, key=lambda name: f"{node}.{name.upper()}")
    return build_method(kind.name, statistics, checked)


def training_set(cfg: CfgNode, dataset: str | None) -> str:
    """Return the training set to choose on, the first of DATASETS.TRAIN by default.

    Raises:
        InputError: it is no training set, is a test set too, or cannot be used.
    """
    if dataset is None and not len(cfg.DATASETS.TRAIN):
        raise InputError("DATASETS.TRAIN is empty: there is no training set to tune on")
    name = cfg.DATASETS.TRAIN[0] if dataset is None else dataset
    if name not in cfg.DATASETS.TRAIN:
        raise InputError(
            f"{name!r} is not in DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)}): the value is "
            "chosen on training data; on the data that it is measured on, the result would be "
            "too good"
        )
    check_dataset(name, "DATASETS.TRAIN", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    refuse_test_set(cfg, name, "the value must not be chosen on")
    return name
