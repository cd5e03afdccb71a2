"""The section on what is missed and what each error costs, from the analyses of the summaries.

An evaluation that was asked for analyses keeps them in ``eval_summary.json``, by IoU type:
``missed``, ``error_impact`` (TIDE's dAP), ``thresholds`` (of best F1) and ``confusion``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import page_number

if TYPE_CHECKING:
    from iif.report.html import Report

# Confused pairs that are listed.
MAX_PAIRS = 30
_MISSED = ("found", "loc", "cls", "miss")
_PERCENT = ("precision", "recall", "f1")


def view(report: Report) -> dict[str, Any] | None:
    """Return the tables of the main IoU type; None unless every run of the page has analyses."""
    if report.comparison is None:
        return None
    kind = report.comparison.main_iou_type
    runs = [run for run in report.details if run.name in report.runs]
    found = [run.analyses.get(kind) for run in runs]
    if not found or any(of_run is None for of_run in found):
        return None
    of_runs = [of_run for of_run in found if of_run is not None]
    names = {row.id: row.name for row in report.comparison.categories}
    return {
        "iou": IOU_NAMES[kind],
        "names": [run.name for run in runs],
        "missed": _by_group(of_runs, "missed", _missed_cells),
        "errors": list(of_runs[0]["error_impact"][0]["gains"])
        if of_runs[0]["error_impact"]
        else [],
        "impact": _by_group(of_runs, "error_impact", _impact_cells),
        "thresholds": _threshold_rows(of_runs, names),
        "pairs": [_pairs(of_run["confusion"], names) for of_run in of_runs],
    }


def _by_group(of_runs: Sequence[Mapping[str, Any]], key: str, cells: Any) -> list[dict[str, Any]]:
    """Return a row for each group, with the cells of each run."""
    return [
        {"group": GROUP_LABELS[rows[0]["group"]], "cells": [cells(row) for row in rows]}
        for rows in zip(*(of_run[key] for of_run in of_runs), strict=True)
    ]


def _missed_cells(row: Mapping[str, Any]) -> list[str]:
    objects = row["objects"]
    share = page_number(100 * row["found"] / objects if objects else None)
    return [f"{objects:,}", *(f"{row[key]:,}" for key in _MISSED), share]


def _impact_cells(row: Mapping[str, Any]) -> list[str]:
    gains = [page_number(value) for value in row["gains"].values()]
    both = [page_number(row[key]) for key in ("false_positives", "false_negatives")]
    return [page_number(row["ap50"]), *gains, *both]


def _threshold_rows(
    of_runs: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    by_run = [{row["category_id"]: row for row in of_run["thresholds"]} for of_run in of_runs]
    return [
        {"name": name, "cells": [_threshold_cells(rows.get(category)) for rows in by_run]}
        for category, name in names.items()
        if any(category in rows for rows in by_run)
    ]


def _threshold_cells(row: Mapping[str, Any] | None) -> list[str]:
    """Return the threshold, and precision, recall and F1 in percent."""
    if row is None:
        return ["-"] * (1 + len(_PERCENT))
    return [page_number(row["threshold"], 2), *(page_number(row[key]) for key in _PERCENT)]


def _pairs(
    cells: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> list[tuple[str, str, str]]:
    """Return (object, detected as, count) of the pairs of two different categories."""
    return [
        (names[cell["category_id"]], names[cell["predicted_id"]], f"{cell['count']:,}")
        for cell in cells
        if cell["category_id"] in names
        and cell["predicted_id"] in names
        and cell["category_id"] != cell["predicted_id"]
    ][:MAX_PAIRS]
