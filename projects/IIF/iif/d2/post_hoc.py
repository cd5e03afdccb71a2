"""Choose the strength of post-hoc IIF on training images that were kept out of training.

Adjusting the logits of a model that was trained without IIF has one free number, the exponent of
the weights (MODEL.IIF.STRENGTH). It is chosen here, and never on the data that the result is
measured on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from iif.d2.checkpoint import load_model
from iif.d2.datasets import check_dataset, read_header, register_custom_datasets
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.statistics import statistics_from_config, store_statistics, weights_from_config
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import Detections
from iif.data.split import held_out_images
from iif.errors import InputError
from iif.evaluation.matching import match
from iif.evaluation.metrics import average_precision, mean_by_group
from iif.files import atomic_write, sha256_file, versions, write_json
from iif.logits import PostHocIIFLogits
from iif.report.palette import GROUP_COLORS, GROUP_LABELS

FORMAT = "iif-strength/1"
METRICS = ("AP", "APr", "APc", "APf")


def tune_strength(
    cfg: CfgNode,
    weights: str,
    output: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    fraction: float | None = None,
    strengths: Sequence[float],
) -> dict[str, Any]:
    """Measure box AP at each strength on held-out training images and choose the best.

    Writes into ``output`` strength.json (what is returned), strength.png (the curve) and
    config.yaml (``cfg`` with post-hoc IIF at the chosen strength).

    Args:
        cfg: the configuration of a model trained without IIF, with the MODEL.IIF.VARIANT to use.
        weights: its checkpoint.
        output: the folder to write to.
        dataset: one of DATASETS.TRAIN; the first by default.
        fraction: the part of its images to measure on; DATASETS.HELD_OUT by default or, where
            that is 0, a tenth. Images beyond DATASETS.HELD_OUT were seen in training.
        strengths: the exponents to try.

    Raises:
        InputError: the data set is not a training set or is a test set too, or the model or an
            argument cannot be used.
    """
    register_custom_datasets(cfg)
    name = _training_set(cfg, dataset)
    if not strengths or not all(0 <= strength < np.inf for strength in strengths):
        raise InputError("the strengths to try must be one or more numbers, each 0 or more")
    fraction = (cfg.DATASETS.HELD_OUT or 0.1) if fraction is None else fraction
    cfg = _post_hoc_config(cfg, weights)
    model = load_model(_boxes_only(cfg), weights)
    iif_weights = weights_from_config(cfg)
    assert iif_weights is not None

    gt = _load_training_annotations(cfg, name)
    image_held_out = held_out_images(gt.image_ids.tolist(), fraction)
    held_out_ids = set(gt.image_ids[image_held_out].tolist())
    images = [image for image in DatasetCatalog.get(name) if image["image_id"] in held_out_ids]
    if not images:
        raise InputError(f"no image of {name} is held out with a fraction of {fraction}")
    ordered = sorted(set(strengths))
    curve: list[dict[str, Any]] = []
    for strength, detections in zip(
        ordered, _detect(model, cfg, images, ordered, iif_weights, gt), strict=True
    ):
        matches = match(gt, detections, "bbox", classify_errors=False)
        ap = average_precision(matches, image_held_out.astype(np.int64))
        values = mean_by_group(ap, gt.groups)
        curve.append({"strength": strength, **dict(zip(METRICS, values, strict=True))})
    if curve[0]["AP"] is None:
        raise InputError(f"the held-out images of {name} have no ground truth: hold out more")
    best = max(curve, key=lambda point: point["AP"])  # the least of equally good strengths

    result = {
        "format": FORMAT,
        "versions": versions(),
        "checkpoint": str(weights),
        "variant": cfg.MODEL.IIF.VARIANT,
        "count_by": cfg.MODEL.IIF.COUNT_BY,
        "dataset": {"name": name, "path": gt.path, "sha256": gt.sha256},
        "fraction": fraction,
        "num_images": len(images),
        "seen_in_training": fraction > cfg.DATASETS.HELD_OUT,
        "curve": curve,
        "strength": best["strength"],
    }
    folder = Path(output)
    write_json(folder / "strength.json", result)
    with atomic_write(folder / "strength.png", "wb") as f:
        plot_curve(result).savefig(f, format="png", dpi=150)
    cfg.MODEL.IIF.STRENGTH = float(best["strength"])
    with atomic_write(folder / "config.yaml") as f:
        f.write(cfg.dump())
    return result


def format_curve(result: dict[str, Any]) -> str:
    """Return the curve of :func:`tune_strength` as a text table, the chosen strength marked."""
    lines = ["strength" + "".join(f"{metric:>8}" for metric in METRICS)]
    for point in result["curve"]:
        values = ["-" if point[m] is None else f"{point[m]:.2f}" for m in METRICS]
        mark = "  <- chosen" if point["strength"] == result["strength"] else ""
        lines.append(f"{point['strength']:>8g}" + "".join(f"{v:>8}" for v in values) + mark)
    return "\n".join(lines)


def plot_curve(result: dict[str, Any]) -> Figure:
    """Draw box AP, over all classes and by group, against the strength."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    strengths = [point["strength"] for point in result["curve"]]
    for metric, group in zip(METRICS, ("all", "r", "c", "f"), strict=True):
        values = [np.nan if p[metric] is None else p[metric] for p in result["curve"]]
        axes.plot(
            strengths,
            values,
            marker="o",
            markersize=4,
            label=GROUP_LABELS[group],
            color=GROUP_COLORS.get(group, "black"),
        )
    axes.axvline(result["strength"], color="gray", linestyle=":", label="chosen")
    seen = "seen in training" if result["seen_in_training"] else "held out of training"
    axes.set(
        xlabel="strength s (weights w ** s; 0 is the baseline)",
        ylabel="box AP (%)",
        title=f"{result['num_images']:,} images of {result['dataset']['name']}, {seen}",
    )
    axes.legend()
    return figure


def _training_set(cfg: CfgNode, dataset: str | None) -> str:
    if dataset is None and not len(cfg.DATASETS.TRAIN):
        raise InputError("DATASETS.TRAIN is empty: there is no training set to tune on")
    name = cfg.DATASETS.TRAIN[0] if dataset is None else dataset
    if name not in cfg.DATASETS.TRAIN:
        raise InputError(
            f"{name!r} is not in DATASETS.TRAIN ({', '.join(cfg.DATASETS.TRAIN)}): the strength is "
            "chosen on training data; on the data that it is measured on, the result would be "
            "too good"
        )
    check_dataset(name, "DATASETS.TRAIN", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    path = MetadataCatalog.get(name).json_file
    for test in cfg.DATASETS.TEST:
        test_path = MetadataCatalog.get(test).get("json_file")
        there = test_path is not None and os.path.isfile(test_path)
        if test == name or (there and sha256_file(test_path) == sha256_file(path)):
            raise InputError(
                f"{name!r} has the annotations of {test!r} of DATASETS.TEST: the strength must "
                "not be chosen on the data that the result is measured on"
            )
    return name


def _post_hoc_config(cfg: CfgNode, weights: str) -> CfgNode:
    if cfg.MODEL.IIF.VARIANT == "none":
        raise InputError(
            "MODEL.IIF.VARIANT is none: say which weights to use, for example by adding "
            "MODEL.IIF.VARIANT raw to the command"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.IIF.APPLY = "test"
    cfg.MODEL.IIF.STRENGTH = 1.0
    store_statistics(cfg, statistics_from_config(cfg))
    return cfg


def _boxes_only(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.KEYPOINT_ON = False
    return cfg


def _load_training_annotations(cfg: CfgNode, name: str) -> Annotations:
    path = MetadataCatalog.get(name).json_file
    return load_annotations(
        path,
        exhaustive=not read_header(path).federated,
        statistics=statistics_from_config(cfg),
    )


@torch.no_grad()
def _detect(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    images: list[dict[str, Any]],
    strengths: Sequence[float],
    weights: Tensor,
    gt: Annotations,
) -> list[Detections]:
    """Return the boxes found at each strength; backbone and proposals are run once an image."""
    predictors = [m for m in model.modules() if isinstance(m, IIFFastRCNNOutputLayers)]
    adjustments = [
        PostHocIIFLogits(weights**strength).to(model.device) if strength else None
        for strength in strengths
    ]
    found: list[list[tuple[int, Any]]] = [[] for _ in strengths]
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
        for adjustment, kept in zip(adjustments, found, strict=True):
            for predictor in predictors:
                predictor.iif_logits = adjustment
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
