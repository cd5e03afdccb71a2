"""Charts of classification runs: classes against training images, and reliability."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from iif.evaluation.classification.compare import ClassificationComparison, ClassificationRun
from iif.evaluation.classification.measures import GROUPS
from iif.evaluation.classification.summary import Class, Group
from iif.report import charts
from iif.report.tables import page_number

# A logarithmic axis has no zero: a class never seen in training is placed at a half.
_UNSEEN = 0.5


def accuracy_chart(comparison: ClassificationComparison) -> Markup:
    """Return accuracy by class against training images, with the mean of each group."""
    x = _count_axis(comparison)
    lines, marks = [], []
    for position, run in enumerate(comparison.runs):
        css = f"run-{position}"
        for row in run.summary.per_class:
            if row.accuracy is not None:
                tip = f"{page_number(row.accuracy)}% of {row.num_test:,} test images are right"
                marks.append(_mark(run, row, row.accuracy, css, tip))
        for group in GROUPS:
            value = run.summary.group(group).accuracy
            counts = [max(c.image_count, _UNSEEN) for c in comparison.first.per_class
                      if c.group == group]  # fmt: skip
            if value is not None and min(counts) < max(counts):
                ends = [charts.Mark(n, value, css, "") for n in (min(counts), max(counts))]
                lines.append((css, ends))
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        x,
        charts.y_axis("accuracy, %", 0, 100),
        lines,
        marks,
        label="Accuracy against training images, one point a class and run",
        radius=3,
    )


def false_positive_chart(comparison: ClassificationComparison) -> Markup:
    """Return false positives by class against training images."""
    rows = [
        (position, run, row)
        for position, run in enumerate(comparison.runs)
        for row in run.summary.per_class
    ]
    low, high = charts.log_range([row.false_positives for _, _, row in rows])
    marks = [
        _mark(
            run,
            row,
            row.false_positives,
            f"run-{position}",
            f"{row.false_positives:,} false positives in {row.predicted:,} predictions",
        )
        for position, run, row in rows
    ]
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        _count_axis(comparison),
        charts.y_axis("false positives", low, high, "log0"),
        [],
        marks,
        label="False positives against training images, one point a class and run",
        radius=3,
    )


def reliability_charts(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return the reliability diagram of all predictions, and of those of each group."""
    return [
        {"group": group, "svg": _reliability(comparison, group)}
        for group in ("all", *GROUPS)
        if any(run.summary.group(group).predicted for run in comparison.runs)
    ]


def _reliability(comparison: ClassificationComparison, group: str) -> Markup:
    diagonal = [charts.Mark(0, 0, "", ""), charts.Mark(100, 100, "", "")]
    lines, marks = [("zero", diagonal)], []
    for position, run in enumerate(comparison.runs):
        css = f"run-{position}"
        points = _points(run, run.summary.group(group), css)
        lines.append((css, points))
        marks += points
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        charts.x_axis("confidence, %", 0, 100),
        charts.y_axis("accuracy, %", 0, 100),
        lines,
        marks,
        label=f"Accuracy against confidence, predictions as classes of the group {group}",
    )


def _points(run: ClassificationRun, group: Group, css: str) -> list[charts.Mark]:
    bins = group.bins
    return [
        charts.Mark(
            confidence,
            accuracy,
            css,
            f"{run.name}\n{count:,} predictions\nmean confidence {page_number(confidence)}%, "
            f"{page_number(accuracy)}% right",
        )
        for count, confidence, accuracy in zip(
            bins.count, bins.confidence, bins.accuracy, strict=True
        )
        if confidence is not None and accuracy is not None
    ]


def _count_axis(comparison: ClassificationComparison) -> charts.Axis:
    counts = [max(row.image_count, _UNSEEN) for row in comparison.first.per_class]
    low, high = charts.log_range(counts)
    return charts.x_axis("training images of the class", low, high, "log", width=charts.WIDE)


def _mark(run: ClassificationRun, row: Class, y: float, css: str, tip: str) -> charts.Mark:
    words = f"{row.name} ({row.group})\n{row.image_count:,} training images\n{run.name}: {tip}"
    return charts.Mark(max(row.image_count, _UNSEEN), y, css, words)
