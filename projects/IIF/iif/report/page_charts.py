"""The page's charts: bars of false positives, curves against recall, difference by category."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from markupsafe import Markup

from iif.evaluation.compare import CategoryRow, Comparison
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis, GroupRow
from iif.report import charts
from iif.report.labels import GROUP_LABELS, IOU_NAMES, OUTCOME_LABELS
from iif.report.tables import page_number, page_signed


def css_kind(kind: str) -> str:
    """Return the CSS class of an outcome."""
    return "kind-" + kind.lower().replace(" ", "-")


def false_positive_bars(
    analysis: FalsePositiveAnalysis, group: GroupRow, link: Callable[..., str | None]
) -> dict[str, Any]:
    """Return a group's bar of each run: false positives at matched recall by error type.

    Args:
        analysis: the analysis.
        group: the group's counts.
        link: returns the link to the crops of a kind and group, None where there is none.
    """
    within = "" if group.group == "all" else group.group
    scale = max(1, *group.total)
    bars = []
    for run, total, counts in zip(analysis.runs, group.total, group.by_type, strict=True):
        parts = []
        for kind, n in zip(ERROR_TYPES, counts, strict=True):
            target = link(kind=kind, group=within)
            tip = f"{run.name}\n{OUTCOME_LABELS[kind]}\n{n:,} of {total:,}"
            tip += "\nclick, or Enter: the crops" if target else ""
            parts.append((css_kind(kind), n, tip, target))
        words = ", ".join(f"{k} {n:,}" for k, n in zip(ERROR_TYPES, counts, strict=True))
        label = f"{run.name}, {GROUP_LABELS[group.group]} categories: {words}"
        bars.append(
            {
                "run": run.name,
                "total": f"{total:,}" if group.matched else "-",
                "svg": charts.stacked_bar(parts, scale, label=label),
            }
        )
    return {"group": GROUP_LABELS[group.group], "matched": f"{group.matched:,}", "bars": bars}


def recall_curve(analysis: FalsePositiveAnalysis, group: str) -> dict[str, Any]:
    """Return a group's false positives against recall, as a chart and as rows of text."""
    recalls = analysis.curve_recalls
    behind = analysis.curve_categories[group]
    values = np.concatenate([run.curve[group] for run in analysis.runs])
    defined = values[~np.isnan(values)]
    low, high = charts.log_range(defined.tolist())
    x = charts.x_axis("recall", 0.0, 1.0)
    y = charts.y_axis(
        "false positives per 1,000", low, high, "log0" if (defined == 0).any() else "log"
    )
    lines, marks = [], []
    for position, run in enumerate(analysis.runs):
        points = [
            charts.Mark(
                float(recall),
                float(value),
                f"run-{position}",
                f"{run.name}\n{page_number(float(value), 2)} false positives per 1,000 verified "
                f"images\nat {100 * recall:g}% recall, mean of {count:,} categories",
            )
            for recall, value, count in zip(recalls, run.curve[group], behind, strict=True)
            if not math.isnan(value)
        ]
        lines.append((f"run-{position}", points))
        marks += points
    marks.sort(key=lambda mark: mark.x)
    label = f"False positives per 1,000 verified images against recall, {GROUP_LABELS[group]}"
    return {
        "group": GROUP_LABELS[group],
        "svg": charts.chart(x, y, lines, marks, label=label) if marks else None,
        "rows": [
            {
                "recall": f"{100 * recall:g}%",
                "values": [page_number(float(run.curve[group][i]), 2) for run in analysis.runs],
                "categories": f"{behind[i]:,}",
            }
            for i, recall in enumerate(recalls)
        ],
    }


def difference_charts(comparison: Comparison) -> list[dict[str, Any]]:
    """Return, for each later run, the difference of AP against the training image count."""
    iou_type = comparison.main_iou_type
    return [
        {
            "run": run.name,
            "iou": IOU_NAMES[iou_type],
            "svg": _difference_chart(comparison, iou_type, position),
        }
        for position, run in enumerate(comparison.runs[1:])
        if any(row.image_count for row in comparison.categories)
    ]


def _difference_chart(comparison: Comparison, iou_type: str, position: int) -> Markup | None:
    points = [
        (row, max(row.image_count, 0.5), difference)  # a logarithmic axis has no zero
        for row in comparison.categories
        if row.image_count is not None
        and (difference := row.difference[iou_type][position]) is not None
    ]
    if not points:
        return None
    points.sort(key=lambda point: point[1])
    low, high = charts.log_range([count for _, count, _ in points])
    reach = max(1.0, 1.04 * max(abs(difference) for _, _, difference in points))
    marks = [
        charts.Mark(count, difference, f"group-{row.group}", _difference_tip(row, difference))
        for row, count, difference in points
    ]
    return charts.chart(
        charts.x_axis(
            "training images that contain the category", low, high, "log", width=charts.WIDE
        ),
        charts.y_axis("difference of AP", -reach, reach),
        [],
        marks,
        label="Difference of AP against training images, one point a category",
        radius=3,
    )


def _difference_tip(row: CategoryRow, difference: float) -> str:
    return (
        f"{row.name} ({GROUP_LABELS.get(row.group, '-')})\n{row.image_count:,} training images, "
        f"{row.num_gt:,} objects here\nAP {page_signed(difference)}"
    )
