"""Every file name inside an output folder, once.

An output folder holds what Detectron2 or torchvision training leaves (configuration, checkpoints,
TensorBoard's events) and, under ``inference``, what the evaluation leaves. Of several test sets
each has a folder of its own there.
"""

from __future__ import annotations

import os
from pathlib import Path

_TABLES = ("txt", "md", "json", "csv")

# Of a training run.
CONFIG_YAML = "config.yaml"  # Detectron2's settings
CONFIG_JSON = "config.json"  # torchvision's settings
CLASSIFICATION_JSON = "classification.json"  # a classifier's settings
STATISTICS = "class_statistics.json"
LAST_CHECKPOINT = "last_checkpoint"
FINAL_CHECKPOINT = "model_final.pth"
BEST_CHECKPOINT = "model_best.pth"
BEST = "best_checkpoint.json"  # which it is, and by what
CHECKPOINTS = "model_*.pth"  # the pattern of their names
SPLIT = "split"  # the folder of training and validation annotations that were split
METRICS = "metrics.json"  # one JSON object a line, as Detectron2's
LOCK = ".lock"  # held while a run writes into the folder
LOG = "log.txt"
METRICS = "metrics.json"  # one JSON object a line, as Detectron2's

# Of an evaluation.
INFERENCE = "inference"
INFERENCE_TTA = "inference_TTA"  # with test-time augmentation; the name is Detectron2's
RESULTS = "lvis_instances_results.json"
SUMMARY = "eval_summary.json"
MATCHES = "eval_matches.npz"
CLASS_PREDICTIONS = "predictions.npz"  # of an image classifier

# Of a comparison; its tables are comparison.txt, .md, .json and .csv.
COMPARISON = "comparison"
COMPARISON_CATEGORIES = "comparison_categories.csv"
COMPARISON_CLASSES = "comparison_classes.csv"  # of image classifiers
COMPARISON_TABLES = (
    *(f"{COMPARISON}.{kind}" for kind in _TABLES),
    COMPARISON_CATEGORIES,
    COMPARISON_CLASSES,
)
SEEDS = "seeds"  # of methods of several seeds: .txt, .json

# Of an analysis of false positives; its tables are false_positives.txt, .md, .json and .csv.
FALSE_POSITIVES = "false_positives"
FALSE_POSITIVE_TABLES = tuple(f"{FALSE_POSITIVES}.{kind}" for kind in _TABLES)
VISUALIZER = "visualizer"

# Of the demo.
QUICKSTART = "quickstart.json"  # its settings, so that it goes on with the same ones
WEIGHTS_CSV = "weights.csv"
WEIGHTS_PLOT = "weights.png"
REPORT = "report.html"
CONSOLE = "console.txt"  # the output of Detectron2's training

# Of "iif predict".
DETECTIONS = "detections.json"

# Of "iif tune".
TUNING_JSON = "tuning.json"
TUNING_PLOT = "tuning.png"
TUNING_PAGE = "tuning.html"
FOLDED = "folded.pth"  # the winner as a plain checkpoint
TUNING_FILES = (
    *(TUNING_JSON, TUNING_PLOT, TUNING_PAGE, REPORT, FOLDED),
    *(CONFIG_YAML, CONFIG_JSON, STATISTICS),
)


def outcomes(iou_type: str) -> str:
    """Return the name of the table of every detection's outcome."""
    return f"outcomes_{iou_type}.csv"


def checkpoint(iteration: int) -> str:
    """Return the name of the checkpoint after an iteration, counted from 0, as Detectron2's."""
    return f"model_{iteration:07d}.pth"


def analyses(iou_type: str) -> tuple[str, str, str, str]:
    """Return the names of the tables of missed objects, curves, thresholds and confusions."""
    missed, curves, thresholds, confusion = (
        f"{what}_{iou_type}.csv" for what in ("missed", "curves", "thresholds", "confusion")
    )
    return missed, curves, thresholds, confusion


EVALUATION_FILES = (SUMMARY, MATCHES, *map(outcomes, ("bbox", "segm")))


def evaluation_folder(
    root: str | os.PathLike[str], dataset: str, *, several: bool, inference: str = INFERENCE
) -> Path:
    """Return where an output folder keeps the evaluation on a data set.

    Args:
        root: the output folder.
        dataset: the data set's name.
        several: whether there is more than one test set.
        inference: INFERENCE or INFERENCE_TTA.
    """
    folder = Path(root) / inference
    return folder / dataset if several else folder
