"""The section on all runs: one line a method, pooled over its seeds; the runs themselves below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iif.evaluation.at_recall import RecallRow
from iif.evaluation.compare import Comparison
from iif.evaluation.seeds import SeedComparison
from iif.report.labels import IOU_NAMES
from iif.report.pooled import find_row, method_names
from iif.report.run_details import RunDetails
from iif.report.tables import page_interval, page_number, page_signed
from iif.report.verdict import find_metric, is_difference

if TYPE_CHECKING:
    from iif.report.html import Report

_METRICS = ("AP", "APr", "APc", "APf", "AP-fixed")


@dataclass(frozen=True)
class _Column:
    """A figure of every run: its heading, values (None where undefined), decimals."""

    heading: str
    values: list[float | None]
    decimals: int = 1
    gain: int = 1


def view(report: Report) -> dict[str, Any] | None:
    """Return the table of methods and that of runs; None for fewer than three runs."""
    comparison = report.everything or report.comparison
    if comparison is None or len(comparison.runs) < 3:
        return None
    details = report.details or [RunDetails(name, family=name) for name in comparison.names]
    members: dict[str, list[int]] = {}
    for position, name in enumerate(method_names(details)):
        members.setdefault(name, []).append(position)
    kind, columns = comparison.main_iou_type, _columns(comparison)
    differences = _differences(report.pooled, kind, len(members))
    methods: list[dict[str, Any]] = [
        {
            "name": name,
            "seeds": len(own),
            "baseline": 0 in own,
            "difference": difference,
            "cells": [_pooled(column, own) for column in columns],
        }
        for (name, own), difference in zip(members.items(), differences, strict=True)
    ]
    best = [_best(column, list(members.values())) for column in columns]
    for position, method in enumerate(methods):
        for cell, top in zip(method["cells"], best, strict=True):
            cell["best"] = position == top and len(methods) > 1
    return {
        "iou": IOU_NAMES[kind],
        "headings": [column.heading for column in columns],
        "pooled": any(len(own) > 1 for own in members.values()),
        "methods": methods,
        "differences": any(method["difference"]["range"] for method in methods),
        "runs": [
            {
                "name": name,
                "seed": "-" if details[i].seed is None else str(details[i].seed),
                "cells": [page_number(column.values[i], column.decimals) for column in columns],
                "css": _significance(comparison, i),
            }
            for i, name in enumerate(comparison.names)
        ],
        "shown": None if report.everything is None else report.runs,
    }


def _columns(comparison: Comparison) -> list[_Column]:
    kind = comparison.main_iou_type
    columns = []
    for metric in _METRICS:
        row = find_metric(comparison.metrics, kind, metric)
        if row is not None and any(value is not None for value in row.values):
            columns.append(_Column(metric, row.values))
    row_all = next(
        (row for row in comparison.at_recall if row.iou_type == kind and row.group == "all"), None
    )
    return columns + _recall_columns(row_all)


def _recall_columns(row: RecallRow | None) -> list[_Column]:
    if row is None:
        return []
    at = f"at {100 * row.recall:g}% recall"
    reached: list[float | None] = [float(n) for n in row.reached]
    false: list[float | None] = [float(n) for n in row.false_positives]
    columns = [_Column(f"Categories {at}", reached, 0)]
    if row.compared:
        columns.append(_Column(f"False positives {at}, {row.compared:,} categories", false, 0, -1))
    return [*columns, _Column(f"False discovery rate {at}", row.false_discovery, 1, -1)]


def _pooled(column: _Column, own: Sequence[int]) -> dict[str, Any]:
    """Return the mean over seeds and the standard deviation of the seeds."""
    values = [v for i in own if (v := column.values[i]) is not None]
    mean = _mean(values)
    spread = None
    if len(values) > 1 and mean is not None:
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return {
        "text": page_number(mean, column.decimals),
        "spread": "" if spread is None else f"±{page_number(spread, column.decimals)}",
    }


def _differences(found: SeedComparison | None, iou_type: str, count: int) -> list[dict[str, str]]:
    """Return each method's difference of mean AP to the first, its interval and its colour."""
    nothing = {"text": "-", "range": "", "css": ""}
    row = None if found is None else find_row(found, iou_type)
    if row is None:
        return [nothing] * count
    cells = [nothing]
    for value, interval in zip(row.differences, row.intervals, strict=True):
        css = ""
        if interval is not None and is_difference(interval):
            css = "better" if interval.low > 0 else "worse"
        cells.append({"text": page_signed(value), "range": page_interval(interval), "css": css})
    return cells


def _best(column: _Column, members: Sequence[Sequence[int]]) -> int | None:
    means = [_mean([column.values[i] for i in own]) for own in members]
    known = [(column.gain * mean, -i) for i, mean in enumerate(means) if mean is not None]
    return -max(known)[1] if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _significance(comparison: Comparison, run: int) -> str:
    row = find_metric(comparison.metrics, comparison.main_iou_type, "AP")
    if row is None or run == 0:
        return ""
    interval = row.difference_intervals[run - 1]
    if interval is None or not is_difference(interval):
        return ""
    return "better" if interval.low > 0 else "worse"
