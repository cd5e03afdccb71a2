"""The sections of a classification page as text, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from iif.evaluation.classification.compare import ClassificationComparison, MeasureRow
from iif.evaluation.classification.measures import GROUPS, NUM_BINS
from iif.report import charts
from iif.report.classification.labels import (
    FALSE_POSITIVES,
    METRIC_LABELS,
    PER_1000,
    css_of,
    group_of,
)
from iif.report.tables import page_interval, page_number, page_signed

MAX_CONFUSIONS = 50


def accuracy_table(comparison: ClassificationComparison) -> dict[str, Any]:
    """Return the accuracies and the calibration error of every run."""
    rows = [comparison.metric(metric) for metric in METRIC_LABELS]
    labels = list(METRIC_LABELS.values())
    return _measure_table(rows, labels, decimals=1)


def false_positive_tables(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return counts by group of the predicted class, and rates per 1,000 other images."""
    return [
        {
            "title": title,
            **_measure_table(
                [comparison.metric(metric) for metric in metrics],
                [(group_of(metric).capitalize(), "") for metric in metrics],
                decimals=decimals,
            ),
        }
        for title, metrics, decimals in (
            ("Images wrongly predicted as a class of the group", FALSE_POSITIVES, 0),
            ("Per 1,000 test images of other classes, mean over the classes", PER_1000, 2),
        )
    ]


def _measure_table(
    rows: Sequence[MeasureRow], labels: Sequence[tuple[str, str]], *, decimals: int
) -> dict[str, Any]:
    intervals = [i for row in rows for i in row.difference_intervals if i is not None]
    extent = max([abs(b) for i in intervals for b in (i.low, i.high)], default=0.0)
    return {
        "intervals": bool(intervals),
        "extent": page_number(extent, decimals),
        "rows": [
            {
                "label": label,
                "note": note,
                "values": [page_number(value, decimals) for value in row.values],
                "ranges": [
                    ""
                    if i is None
                    else f"{page_number(i.low, decimals)} to {page_number(i.high, decimals)}"
                    for i in row.intervals
                ],
                "changes": _changes(row, extent or 1.0, decimals),
            }
            for (label, note), row in zip(labels, rows, strict=True)
        ],
    }


def _changes(row: MeasureRow, extent: float, decimals: int) -> list[dict[str, Any]]:
    changes = []
    for difference, interval in zip(row.differences, row.difference_intervals, strict=True):
        css = css_of(row.metric, interval)
        glyph = Markup("")
        if interval is not None and difference is not None:
            glyph = charts.interval_glyph(
                difference, interval.low, interval.high, extent, css or "open"
            )
        changes.append(
            {
                "text": page_signed(difference, decimals),
                "range": page_interval(interval, decimals),
                "css": css,
                "glyph": glyph,
            }
        )
    return changes


def group_rows(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return classes, images, predictions and their wrong share, by group."""
    return [
        {
            "group": group.capitalize(),
            "counts": [f"{n:,}" for n in (first.classes, first.training_images, first.test_images)],
            "predicted": [f"{run.summary.group(group).predicted:,}" for run in comparison.runs],
            "shares": [
                page_number(run.summary.group(group).false_share) for run in comparison.runs
            ],
            "ece": [page_number(run.summary.group(group).ece) for run in comparison.runs],
        }
        for group in ("all", *GROUPS)
        for first in [comparison.first.group(group)]
    ]


def error_rows(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return wrong predictions of each run by group of the true and of the predicted class."""
    return [
        {
            "group": group.capitalize(),
            "cells": [[f"{n:,}" for n in run.summary.group_errors[i]] for run in comparison.runs],
        }
        for i, group in enumerate(GROUPS)
    ]


def bin_rows(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return the reliability diagram of all predictions as a table."""
    bins = [run.summary.group("all").bins for run in comparison.runs]
    return [
        {
            "bin": f"{100 * b / NUM_BINS:.1f} to {100 * (b + 1) / NUM_BINS:.1f}",
            "cells": [
                [f"{of.count[b]:,}", page_number(of.confidence[b]), page_number(of.accuracy[b])]
                for of in bins
            ],
        }
        for b in range(NUM_BINS)
    ]


def class_table(comparison: ClassificationComparison) -> dict[str, Any]:
    """Return header groups and rows of text, one row a class; see `iif.report.sections`."""
    names = comparison.names
    headings = [("", 1), ("", 3)]
    columns = ["Class", "Group", "Training images", "Test images"]
    differences = ["Difference"] if len(names) == 2 else [f"{n} difference" for n in names[1:]]
    for title in ("Accuracy, %", "Precision, %", "False positives"):
        headings.append((title, 2 * len(names) - 1))
        columns += [*names, *differences]
    rows = []
    for same in comparison.classes:
        first = same[0]
        cells = [first.group, f"{first.image_count:,}", f"{first.num_test:,}"]
        for values in ([c.accuracy for c in same], [c.precision for c in same]):
            cells += [page_number(v) for v in values]
            cells += [
                page_signed(None if v is None or values[0] is None else v - values[0])
                for v in values[1:]
            ]
        counts = [c.false_positives for c in same]
        cells += [f"{n:,}" for n in counts]
        cells += [page_signed(n - counts[0], 0) for n in counts[1:]]
        rows.append({"name": first.name, "group": first.group, "cells": cells})
    starts = set(np.cumsum([width for _, width in headings])[1:-1].tolist())
    return {"headings": headings, "columns": columns, "starts": starts, "rows": rows}


def confusion_rows(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return the most frequent pairs of true and predicted class."""
    classes = comparison.first.per_class
    return [
        {
            "label": classes[row.label].name,
            "label_group": classes[row.label].group,
            "predicted": classes[row.predicted].name,
            "predicted_group": classes[row.predicted].group,
            "counts": [f"{n:,}" for n in row.counts],
            "changes": [page_signed(n - row.counts[0], 0) for n in row.counts[1:]],
        }
        for row in comparison.confusions[:MAX_CONFUSIONS]
    ]


def setting_rows(comparison: ClassificationComparison) -> list[dict[str, Any]]:
    """Return every recorded setting of the runs, those that differ first.

    A method's options are under its name; a run of another method has none of them, though its
    configuration may list their defaults.
    """
    methods = [run.summary.method or {} for run in comparison.runs]
    names = {method.get("name") for method in methods}
    flat = []
    for run, method in zip(comparison.runs, methods, strict=True):
        own = method.get("name")
        config = {
            key: value
            for key, value in (run.summary.config or {}).items()
            if key not in names - {own} or not isinstance(value, Mapping)
        }
        options = _flat(method.get("options") or {}, f"{own}.")
        settings = {"method": own, **options, **_flat(config, "")}
        flat.append({key: _text(value) for key, value in settings.items()})
    rows = []
    for key in dict.fromkeys(key for settings in flat for key in settings):
        values = [settings.get(key, "-") for settings in flat]
        rows.append({"key": key, "values": values, "differs": len(set(values)) > 1})
    return sorted(rows, key=lambda row: not row["differs"])


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    return "-" if value is None else str(value)
