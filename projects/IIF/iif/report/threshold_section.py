"""The section on score thresholds: precision, recall and F1 by group and by category.

The groups' curves are drawn here, a category's by the page's script from `curves_payload`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.analyses import Findings
from iif.evaluation.curves import BestThreshold, Curve
from iif.evaluation.false_positives import GROUPS, FalsePositiveAnalysis
from iif.evaluation.metrics import RECALL_THRESHOLDS
from iif.report import charts
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import page_number

if TYPE_CHECKING:
    from iif.report.html import Report

# A category's curve has a point where it first reaches each of so many even recalls, over all
# runs: a page of LVIS's categories stays small.
_POINTS = 32
# Every fifth of the recalls of a group's curve has a dot.
_DOT_STEP = 5


def view(report: Report) -> dict[str, Any] | None:
    """Return the groups' curves and means; None without findings."""
    if not report.findings:
        return None
    analysis = report.analyses[0]
    groups = [group for group in GROUPS if members(analysis, group).any()]
    return {
        "iou": IOU_NAMES[analysis.iou_type],
        "charts": [
            {"group": GROUP_LABELS[group], "svg": _precision_chart(report, analysis, group)}
            for group in groups
        ],
        "rows": [
            {
                "group": GROUP_LABELS[group],
                "categories": f"{int(members(analysis, group).sum()):,}",
                "cells": [_means(analysis, found, group) for found in report.findings],
            }
            for group in groups
        ],
    }


def members(analysis: FalsePositiveAnalysis, group: str) -> NDArray[np.bool_]:
    """Return (K,) the categories of a group that have objects."""
    return (analysis.num_gt > 0) & ((analysis.category_groups == group) | (group == "all"))


def curves_payload(report: Report) -> dict[str, Any] | None:
    """Return what the page's script draws a category's curves from; None without findings.

    Returns:
        "best": of each run (K,) [threshold, precision, recall, F1] (percent), 0 without ground
        truth; "points": of each run (K,) points as base64 of bytes, four each: the threshold in
        65,535ths (two, the high one first), precision and recall in 255ths; "initial": the row of
        the category that is shown first, the one with most objects.
    """
    if not report.findings:
        return None
    analysis = report.analyses[0]
    steps = max(5, _POINTS // len(report.findings))
    rows = {category: k for k, category in enumerate(analysis.category_ids.tolist())}
    best: list[list[Any]] = []
    for found in report.findings:
        of_run: list[Any] = [0] * len(rows)
        for one in found.thresholds:
            of_run[rows[one.category_id]] = _best_values(one)
        best.append(of_run)
    return {
        "best": best,
        "points": [[_points(curve, steps) for curve in found.curves] for found in report.findings],
        "initial": int(np.argmax(analysis.num_gt)),
    }


def _best_values(best: BestThreshold) -> list[float | None]:
    percent = [round(v, 1) for v in (best.precision, best.recall, best.f1)]
    return [None if best.threshold is None else float(f"{best.threshold:.4g}"), *percent]


def _points(curve: Curve | None, steps: int) -> str:
    """Return where recall first passes each step, the best F1 and the last point."""
    if curve is None or not len(curve.recall):
        return ""
    first = np.searchsorted(curve.recall, np.arange(1, steps + 1) / steps - 1e-9)
    first = first[first < len(curve.recall)]
    at = np.unique([*first.tolist(), int(np.argmax(curve.f1)), len(curve.recall) - 1])
    threshold = np.rint(65535 * np.clip(curve.threshold[at], 0, 1)).astype(np.int64)
    columns = (
        *(threshold >> 8, threshold & 255),
        *(np.rint(255 * values[at]).astype(np.int64) for values in (curve.precision, curve.recall)),
    )
    return base64.b64encode(np.stack(columns, 1).astype(np.uint8).tobytes()).decode()


def _precision_chart(report: Report, analysis: FalsePositiveAnalysis, group: str) -> Any:
    chosen = members(analysis, group)
    lines, marks = [], []
    for position, (name, found) in enumerate(zip(report.runs, report.findings, strict=True)):
        css = f"run-{position}"
        mean = found.precision[chosen].mean(axis=0)
        points = [
            charts.Mark(
                100 * recall,
                value,
                css,
                f"{name}\nprecision {page_number(value)}% at {100 * recall:.0f}% recall\n"
                f"mean of {int(chosen.sum()):,} categories",
            )
            for recall, value in zip(RECALL_THRESHOLDS.tolist(), mean.tolist(), strict=True)
        ]
        lines.append((css, points))
        marks += points[::_DOT_STEP]
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        charts.x_axis("recall, %", 0, 100),
        charts.y_axis("precision, %", 0, 100),
        lines,
        marks,
        label=f"Precision against recall, mean over {GROUP_LABELS[group]} categories",
    )


def _means(analysis: FalsePositiveAnalysis, found: Findings, group: str) -> list[str]:
    """Return the median threshold, and mean precision, recall and F1 of a group."""
    ids = set(analysis.category_ids[members(analysis, group)].tolist())
    own = [one for one in found.thresholds if one.category_id in ids]
    known = [one.threshold for one in own if one.threshold is not None]
    values: Sequence[Sequence[float]] = [
        [one.precision for one in own],
        [one.recall for one in own],
        [one.f1 for one in own],
    ]
    return [
        page_number(float(np.median(known)) if known else None, 2),
        *(page_number(float(np.mean(v))) for v in values),
    ]
