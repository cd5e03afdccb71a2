"""Comparisons and analyses of false positives as JSON values and CSV: every figure, unrounded.

Keys are part of the file formats. Undefined is None in JSON, and empty in CSV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.evaluation.compare import Comparison
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis, RunFalsePositives
from iif.files import versions
from iif.report.tables import Cell, csv_text

COMPARISON_FORMAT = "iif-comparison/1"
FALSE_POSITIVES_FORMAT = "iif-false-positives/1"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of ``comparison.json``."""
    content = asdict(comparison)
    # The key that LVIS uses.
    content["categories"] = [
        {"frequency" if key == "group" else key: value for key, value in row.items()}
        for row in content["categories"]
    ]
    return {"format": COMPARISON_FORMAT, "versions": versions(), **content}


def comparison_csv(comparison: Comparison) -> str:
    """Return the metrics, a row for each IoU type and metric."""
    header = ["iou_type", "metric", *comparison.names]
    for name in comparison.names[1:]:
        header += [f"difference {name}", f"difference {name}: low", f"difference {name}: high"]
    rows = []
    for row in comparison.metrics:
        cells: list[Cell] = [row.iou_type, row.metric, *row.values]
        for value, interval in zip(row.differences, row.difference_intervals, strict=True):
            bounds = (None, None) if interval is None else (interval.low, interval.high)
            cells += [value, *bounds]
        rows.append(cells)
    return csv_text(header, rows)


def comparison_categories_csv(comparison: Comparison) -> str:
    """Return AP by category."""
    header = ["id", "name", "frequency", "image_count", "num_gt"]
    for iou_type in comparison.iou_types:
        header += [f"{iou_type} AP {name}" for name in comparison.names]
        header += [f"{iou_type} AP difference {name}" for name in comparison.names[1:]]
    rows = []
    for row in comparison.categories:
        cells: list[Cell] = [row.id, row.name, row.group, row.image_count, row.num_gt]
        for iou_type in comparison.iou_types:
            cells += [*row.ap[iou_type], *row.difference[iou_type]]
        rows.append(cells)
    return csv_text(header, rows)


def false_positives_json(analysis: FalsePositiveAnalysis) -> dict[str, Any]:
    """Return the content of ``false_positives.json``, categories by id."""
    ids = analysis.category_ids
    groups = [
        {
            **{key: getattr(row, key) for key in ("group", "categories", "matched", "reached")},
            "false_positives": row.total,
            "mean": row.mean,
            "per_1000_verified_images": row.per_1000,
            "by_type": [_by_type(counts) for counts in row.by_type],
        }
        for row in analysis.groups
    ]
    confusions = [
        {"gt_category": ids[c.gt_category], "predicted": ids[c.predicted], "counts": c.counts}
        for c in analysis.confusions
    ]
    return _plain(
        {
            "format": FALSE_POSITIVES_FORMAT,
            "versions": versions(),
            "dataset": analysis.dataset,
            "iou_type": analysis.iou_type,
            "iou_threshold": 0.5,
            "recall": analysis.recall,
            "coverage": analysis.coverage,
            "runs": [_run(run) for run in analysis.runs],
            "groups": groups,
            "curve": {"recall": analysis.curve_recalls, "categories": analysis.curve_categories},
            "secondary": [vars(cut) for cut in analysis.fixed_cuts],
            "confusions": confusions,
            "per_category": [_category(analysis, k) for k in range(len(ids))],
        }
    )


def false_positives_csv(analysis: FalsePositiveAnalysis) -> str:
    """Return the false positives by category."""
    header = ["id", "name", "frequency", "num_gt", "verified_images", "matched"]
    columns = ["max_recall", "threshold", "TP", "FP", *(f"FP {t}" for t in ERROR_TYPES)]
    header += [f"{name}: {column}" for name in analysis.names for column in columns]
    rows = []
    for k, name in enumerate(analysis.category_names):
        cells: list[Any] = [analysis.category_ids[k], name, analysis.category_groups[k]]
        cells += [analysis.num_gt[k], analysis.verified_images[k], int(analysis.matched[k])]
        for run in analysis.runs:
            reached = not math.isnan(run.threshold[k])
            counts = [run.true_positives[k], run.false_positives[k].sum()]
            counts += [*run.false_positives[k]]
            cells += [_defined(run.max_recall[k]), _defined(run.threshold[k])]
            cells += counts if reached else [None] * len(counts)
        rows.append(cells)
    return csv_text(header, rows)


def json_text(value: dict[str, Any]) -> str:
    """Return values as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _run(run: RunFalsePositives) -> dict[str, Any]:
    keys = ("name", "path", "sha256", "num_detections", "outcomes", "error_types", "curve")
    return {key: getattr(run, key) for key in keys}


def _category(analysis: FalsePositiveAnalysis, k: int) -> dict[str, Any]:
    return {
        "id": analysis.category_ids[k],
        "name": analysis.category_names[k],
        "frequency": str(analysis.category_groups[k]),
        "num_gt": analysis.num_gt[k],
        "verified_images": analysis.verified_images[k],
        "matched": analysis.matched[k],
        "runs": [
            {
                "max_recall": run.max_recall[k],
                "threshold": run.threshold[k],
                "true_positives": run.true_positives[k],
                "false_positives": run.false_positives[k].sum(),
                "by_type": _by_type(run.false_positives[k]),
            }
            for run in analysis.runs
        ],
    }


def _by_type(counts: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(ERROR_TYPES, (int(count) for count in counts), strict=True))


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _plain(value: Any) -> Any:
    """Return nested values with numpy's turned into Python's and NaN into None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
