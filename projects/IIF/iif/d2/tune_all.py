"""Which post-hoc method helps a trained Detectron2 model: all of them, from one pass.

The best is chosen by box AP on training images that were kept out of training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from iif import layout
from iif.d2.checkpoint import fold, load_model
from iif.d2.config import plain_config
from iif.d2.datasets import register_custom_datasets
from iif.d2.evaluator import test_settings
from iif.d2.passes import find_boxes, find_results
from iif.d2.plain import boxes_only, plain_model_config
from iif.d2.statistics import statistics_from_config
from iif.d2.tuning import training_set
from iif.data.annotations import load_annotations
from iif.errors import InputError
from iif.evaluation.operating_points import check_recall
from iif.files import atomic_write
from iif.methods import METHODS, option_types
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


def tune_all(
    cfg: CfgNode,
    weights: str,
    output: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    fraction: float | None = None,
    recall: float = 0.5,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Measure every post-hoc method at every value on held-out training images, from one pass.

    Writes into ``output`` tuning.json (what is returned), tuning.png, tuning.html, the evaluated
    runs ``plain`` and ``best`` (with masks where the model has them) and report.html on the two,
    config.yaml and class_statistics.json of the best, and the best as a plain checkpoint
    (folded.pth, folded.yaml) where it folds.

    Args:
        cfg: the configuration of a model trained without a method; nodes of methods
            (MODEL.IIF.VARIANT, ...) hold the options beside the tuned one.
        weights: its checkpoint.
        output: the folder to write to.
        dataset: one of DATASETS.TRAIN; the first by default.
        fraction: the part of its images to look at; DATASETS.HELD_OUT by default or, where that
            is 0, a tenth.
        recall: the recall at which false positives are compared.
        bootstrap: replicates behind the intervals; 0 for none.

    Raises:
        InputError: the model was trained under a method or has no softmax, the data set is not a
            training set or is a test set too, or an argument cannot be used.
    """
    check_recall(recall)
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.USE_SIGMOID_CE or head.USE_FED_LOSS:
        raise InputError(
            "post-hoc methods change a softmax, and this model has sigmoids "
            "(MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE or USE_FED_LOSS)"
        )
    cfg = plain_model_config(cfg, weights)
    register_custom_datasets(cfg)
    name = training_set(cfg, dataset)
    fraction = (cfg.DATASETS.HELD_OUT or 0.1) if fraction is None else fraction
    statistics = statistics_from_config(cfg)
    tried, skipped = candidates(statistics, _options(cfg))
    model = load_model(boxes_only(cfg), weights)
    metadata = MetadataCatalog.get(name)
    gt = held_out_part(
        load_annotations(metadata.json_file, masks=cfg.MODEL.MASK_ON, statistics=statistics),
        fraction,
    )
    looked_at = set(gt.image_ids.tolist())
    images = [image for image in DatasetCatalog.get(name) if image["image_id"] in looked_at]
    source = Source(
        engine="detectron2",
        checkpoint=str(weights),
        dataset=name,
        fraction=fraction,
        held_out=cfg.DATASETS.HELD_OUT,
        images=metadata.get("image_root"),
    )
    boxes = find_boxes(model, cfg, images, [candidate.method for candidate in tried], gt)
    result, best = choose(gt, tried, skipped, boxes, source, recall=recall, bootstrap=bootstrap)
    del model, boxes

    folder = Path(output)
    runs = {PLAIN: tried[0]} if best == 0 else {PLAIN: tried[0], BEST: tried[best]}
    found = find_results(
        load_model(cfg, weights), cfg, images, [candidate.method for candidate in runs.values()], gt
    )
    for (run, candidate), rows in zip(runs.items(), found, strict=True):
        save_run(
            folder / run,
            gt,
            rows,
            candidate,
            source,
            test_settings=test_settings(cfg),
            config=plain_config(_config_of(cfg, candidate)),
            masks=cfg.MODEL.MASK_ON,
        )
    best_cfg = _save_config(folder, cfg, tried[best], statistics)
    result["folded"] = _fold(folder, best_cfg, weights) if best else NOT_FOLDED
    return save_tuning(folder, result, gt, source, bootstrap=bootstrap)


def _options(cfg: CfgNode) -> dict[str, dict[str, Any]]:
    """Return each method's options in the configuration, by their own names."""
    return {
        name: {option: cfg.MODEL[name.upper()][option.upper()] for option in option_types(kind)}
        for name, kind in METHODS.items()
        if name.upper() in cfg.MODEL
    }


def _config_of(cfg: CfgNode, candidate: Candidate) -> CfgNode:
    """Return the configuration under which a candidate ran."""
    cfg = cfg.clone()
    cfg.MODEL.LONG_TAIL.METHOD = candidate.setting.method
    for option, value in candidate.setting.options.items():
        cfg.MODEL[candidate.setting.method.upper()][option.upper()] = value
    return cfg


def _save_config(
    folder: Path, cfg: CfgNode, candidate: Candidate, statistics: ClassStatistics
) -> CfgNode:
    cfg = _config_of(cfg, candidate)
    statistics.save(folder / layout.STATISTICS)
    cfg.MODEL.LONG_TAIL.STATISTICS = str(folder / layout.STATISTICS)
    with atomic_write(folder / layout.CONFIG_YAML) as f:
        f.write(cfg.dump())
    return cfg


def _fold(folder: Path, cfg: CfgNode, weights: str) -> str:
    """Write the best as a plain checkpoint; return its path, or why there is none."""
    try:
        fold(cfg, weights, folder / layout.FOLDED)
    except InputError as error:
        return f"not written: {error}"
    return str(folder / layout.FOLDED)
