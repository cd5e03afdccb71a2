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
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from tqdm import tqdm

from iif import layout
from iif.d2.checkpoint import load_model
from iif.d2.datasets import check_dataset, refuse_test_set, register_custom_datasets
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.method import METHOD_KEY, options_from_config, options_node
from iif.d2.statistics import statistics_from_config
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import Detections
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
    name = _training_set(cfg, dataset)
    kind, option = _tuned(cfg)
    tried = sorted(set(kind.tuned_values if values is None else values))
    if not tried:
        raise InputError(f"there is no value of {option} to try; give one or more")
    fraction = (cfg.DATASETS.HELD_OUT or 0.1) if fraction is None else fraction
    cfg = _post_hoc_config(cfg, weights, kind)
    statistics = statistics_from_config(cfg)
    methods = [_method_at(cfg, kind, option, value, statistics) for value in tried]
    model = load_model(_boxes_only(cfg), weights)

    gt = load_annotations(MetadataCatalog.get(name).json_file, statistics=statistics)
    image_held_out = held_out_images(gt.image_ids.tolist(), fraction)
    held_out_ids = set(gt.image_ids[image_held_out].tolist())
    images = [image for image in DatasetCatalog.get(name) if image["image_id"] in held_out_ids]
    if not images:
        raise InputError(f"no image of {name} is held out with a fraction of {fraction}")
    curve: list[dict[str, Any]] = []
    for value, detections in zip(tried, _detect(model, cfg, images, methods, gt), strict=True):
        matches = match(gt, detections, "bbox", classify_errors=False)
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


def _training_set(cfg: CfgNode, dataset: str | None) -> str:
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


def _boxes_only(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.KEYPOINT_ON = False
    return cfg


@torch.no_grad()
def _detect(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    images: list[dict[str, Any]],
    methods: Sequence[Method],
    gt: Annotations,
) -> list[Detections]:
    """Return the boxes found under each method; backbone and proposals are run once an image."""
    predictors = [m for m in model.modules() if isinstance(m, IIFFastRCNNOutputLayers)]
    moved = [method.to(model.device).eval() for method in methods]
    found: list[list[tuple[int, Any]]] = [[] for _ in moved]
    loader = build_detection_test_loader(
        images,
        mapper=DatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    for batch in tqdm(loader, desc="detecting", unit="image", disable=None):
        (image,) = batch
        tensors = model.preprocess_image(batch)
        features = model.backbone(tensors.tensor)
        proposals, _ = model.proposal_generator(tensors, features)
        (row,) = gt.image_row([image["image_id"]]).tolist()
        for method, kept in zip(moved, found, strict=True):
            for predictor in predictors:
                predictor.method = method
            (instances,), _ = model.roi_heads(tensors, features, proposals)
            instances = detector_postprocess(instances, image["height"], image["width"])
            kept.append((row, instances.to("cpu")))
    return [_as_detections(kept) for kept in found]


def _as_detections(kept: list[tuple[int, Any]]) -> Detections:
    """Join the detections of all images; category rows are the model's contiguous classes."""
    boxes = torch.cat([instances.pred_boxes.tensor for _, instances in kept]).double().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    return Detections(
        path="",
        sha256="",
        image=np.repeat([row for row, _ in kept], [len(i) for _, i in kept]).astype(np.int32),
        category=torch.cat([i.pred_classes for _, i in kept]).numpy().astype(np.int32),
        score=torch.cat([i.scores for _, i in kept]).double().numpy(),
        bbox=boxes,
    )
