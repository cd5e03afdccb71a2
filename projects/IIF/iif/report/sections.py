"""The sections of the page as text, row by row: metrics, false positives, categories, crops."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from iif.evaluation.compare import Comparison, MetricRow, RunInfo
from iif.evaluation.false_positives import (
    ERROR_TYPES,
    GROUPS,
    FalsePositiveAnalysis,
    GroupRow,
)
from iif.evaluation.fixed_cuts import FixedCut
from iif.report import charts
from iif.report.labels import (
    GROUP_LABELS,
    IOU_NAMES,
    METRIC_LABELS,
    OUTCOME_NAMES,
)
from iif.report.page_charts import css_kind, false_positive_bars, recall_curve
from iif.report.tables import page_interval, page_number, page_signed
from iif.report.verdict import is_difference, percent_change

if TYPE_CHECKING:
    from iif.report.html import Report

MAX_CONFUSIONS = 50
# What the analyses of an evaluation have beside the metrics.
_BOUNDARY = {
    metric: METRIC_LABELS[metric] for metric in ("AP", "AP50", "AP75", "APr", "APc", "APf")
}
_WITHOUT_CATEGORIES = {
    "AR@1": "recall of any object with 1 detection an image, whatever its category",
    "AR@10": "the same, 10 detections",
    "AR@100": "the same, 100 detections",
    "AR@300": "the same, 300 detections",
}


# Metrics


def metric_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one table for each IoU type: values, differences, intervals of what is defined."""
    tables = []
    for iou_type in _main_first(comparison):
        rows = [
            row
            for row in comparison.metrics
            if row.iou_type == iou_type and any(value is not None for value in row.values)
        ]
        intervals = [i for row in rows for i in row.difference_intervals if i is not None]
        extent = max([abs(b) for i in intervals for b in (i.low, i.high)], default=0.0)
        tables.append(
            {
                "iou": IOU_NAMES[iou_type],
                "intervals": bool(intervals),
                "extent": page_number(extent),
                "rows": [_metric_row(row, extent or 1.0) for row in rows],
            }
        )
    return tables


def _metric_row(row: MetricRow, extent: float) -> dict[str, Any]:
    changes = []
    for difference, interval in zip(row.differences, row.difference_intervals, strict=True):
        css = ""
        if interval is not None and is_difference(interval):
            css = "better" if interval.low > 0 else "worse"
        glyph = Markup("")
        if interval is not None and difference is not None:
            glyph = charts.interval_glyph(
                difference, interval.low, interval.high, extent, css or "open"
            )
        changes.append(
            {
                "text": page_signed(difference),
                "range": page_interval(interval),
                "css": css,
                "glyph": glyph,
            }
        )
    return {
        "metric": row.metric,
        "label": METRIC_LABELS.get(row.metric, ""),
        "values": [page_number(value) for value in row.values],
        "changes": changes,
    }


def further_figures(report: Report) -> dict[str, Any]:
    """Return Boundary AP and the recall without categories, which the analyses have.

    Returns:
        "rows": [label, value of each run, difference of each later one]; "missing": of each
        run without them the files and the folder of its evaluation.
    """
    comparison = report.comparison
    if comparison is None:
        return {"rows": [], "missing": []}
    kind = comparison.main_iou_type
    by_name = {run.name: run.analyses.get(kind) for run in report.details}
    found = [by_name.get(name) for name in comparison.names]
    known = [analyses for analyses in found if analyses is not None]
    rows = []
    if len(known) == len(found):
        parts = [("Boundary ", "boundary", _BOUNDARY)] if kind == "segm" else []
        parts += [("", "class_agnostic_recall", _WITHOUT_CATEGORIES)]
        for prefix, key, metrics in parts:
            for metric, label in metrics.items():
                values = [(analyses[key] or {}).get(metric) for analyses in known]
                if any(value is not None for value in values):
                    rows.append(_further_row(f"{prefix}{metric}", label, values))
    return {
        "rows": rows,
        "missing": [
            _evaluated_files(comparison, run)
            for run, analyses in zip(comparison.runs, found, strict=True)
            if analyses is None
        ],
    }


def _further_row(metric: str, label: str, values: Sequence[float | None]) -> dict[str, Any]:
    first, *later = values
    changes = [None if None in (first, v) else v - first for v in later]  # type: ignore[operator]
    return {
        "metric": metric,
        "label": label,
        "values": [page_number(value) for value in values],
        "changes": [page_signed(change) for change in changes],
    }


def _evaluated_files(comparison: Comparison, run: RunInfo) -> dict[str, str]:
    """Return, quoted for a shell, the files and the folder of a run's evaluation."""
    files = [file.path for file in run.files] or [run.results]
    return {
        "annotations": shlex.quote(comparison.dataset.path or "GT"),
        "results": shlex.join(path or "RESULTS" for path in files),
        "folder": shlex.quote(str(Path(run.summary).parent)),
    }


def _main_first(comparison: Comparison) -> list[str]:
    return sorted(comparison.iou_types, key=lambda iou_type: iou_type != comparison.main_iou_type)


# False positives


def false_positive_view(
    analysis: FalsePositiveAnalysis, link: Callable[..., str | None] = lambda **_: None
) -> dict[str, Any]:
    """Return the tables and charts of one analysis.

    Args:
        analysis: the analysis.
        link: returns the link to the crops of a kind and group, None where there is none.
    """
    groups = {row.group: row for row in analysis.groups}
    compared = [group for group in GROUPS if groups[group].matched]
    return {
        "iou": IOU_NAMES[analysis.iou_type],
        "recall": f"{100 * analysis.recall:g}%",
        "matched": groups["all"].matched,
        "total": sum(groups["all"].total),
        "nowhere": not groups["all"].matched,
        "groups": [GROUP_LABELS[group] for group in compared],
        "rows": _type_rows([groups[group] for group in compared]),
        "bars": [false_positive_bars(analysis, groups[group], link) for group in GROUPS],
        "curves": [recall_curve(analysis, group) for group in GROUPS],
        "coverage": [
            {
                "group": GROUP_LABELS[group],
                "share": page_number(100 * analysis.coverage[group], 2),
                "categories": f"{groups[group].categories:,}",
                "matched": f"{groups[group].matched:,}",
                "reached": [f"{n:,}" for n in groups[group].reached],
            }
            for group in GROUPS
        ],
        "outcomes": [
            {"label": label, "counts": [f"{run.outcomes.get(key, 0):,}" for run in analysis.runs]}
            for key, label in OUTCOME_NAMES.items()
        ],
        "fixed_cuts": [_fixed_cut(cut) for cut in analysis.fixed_cuts],
        "confusions": _confusions(analysis),
        "confusions_left": max(0, len(analysis.confusions) - MAX_CONFUSIONS),
    }


def _type_rows(groups: Sequence[GroupRow]) -> list[dict[str, Any]]:
    """Return rows of cells: for each group the runs' figures, then changes against the first."""

    def row(
        label: str, css: str, values: Callable[[GroupRow], Sequence[float]], decimals: int
    ) -> dict[str, Any]:
        cells = []
        for group in groups:
            of_runs = values(group)
            changes = [percent_change(of_runs[0], v) for v in of_runs[1:]]
            cells.append([page_number(v, decimals) for v in of_runs])
            cells[-1] += [page_signed(c, 0) + ("%" if c is not None else "") for c in changes]
        return {"label": label, "css": css, "cells": cells}

    by_type = [
        row(kind, css_kind(kind), lambda g, i=i: [r[i] for r in g.by_type], 0)  # type: ignore[misc]
        for i, kind in enumerate(ERROR_TYPES)
    ]
    return [
        *by_type,
        row("All types", "total", lambda g: g.total, 0),
        row("Mean per category", "", lambda g: g.mean, 1),
        row("Per 1,000 verified images", "", lambda g: g.per_1000, 1),
    ]


def _fixed_cut(cut: FixedCut) -> dict[str, Any]:
    return {
        "rule": cut.rule,
        "value": cut.value,
        "counts": [
            [f"{counts.get(name, 0):,}" for name in ("TP", "FP", "IGNORED", "UNVERIFIED")]
            for counts in cut.counts
        ],
    }


def _confusions(analysis: FalsePositiveAnalysis) -> list[dict[str, Any]]:
    names, groups = analysis.category_names, analysis.category_groups
    return [
        {
            "object": names[c.gt_category],
            "object_group": GROUP_LABELS.get(str(groups[c.gt_category]), "-"),
            "predicted": names[c.predicted],
            "predicted_group": GROUP_LABELS.get(str(groups[c.predicted]), "-"),
            "counts": [f"{n:,}" for n in c.counts],
            "changes": [page_signed(n - c.counts[0], 0) for n in c.counts[1:]],
        }
        for c in analysis.confusions[:MAX_CONFUSIONS]
    ]


# Categories


def category_table(
    comparison: Comparison | None, analysis: FalsePositiveAnalysis | None
) -> dict[str, Any]:
    """Return header groups and rows of text, one row a category; columns of "-" are left out.

    Returns:
        "headings": [(text, number of columns)]; "columns": [text]; "starts": positions of the
        columns that begin a later heading; "rows": [{"name", "group"
        (r, c or f), "cells"}], in the order of ids.
    """
    # The first column stays in view when the table scrolls: its heading spans it alone.
    headings: list[tuple[str, int]] = [("Category", 1), ("Data", 3)]
    columns = ["Name", "Group", "Training images", "Objects"]
    runs: list[str] = []
    if comparison is not None:
        runs = comparison.names
        for iou_type in _main_first(comparison):
            headings.append((f"{IOU_NAMES[iou_type].capitalize()} AP", 2 * len(runs) - 1))
            columns += runs + _difference_columns(runs)
    if analysis is not None:
        runs = analysis.names
        headings.append(
            (f"False positives at {100 * analysis.recall:g}% recall", 2 * len(runs) - 1)
        )
        columns += runs + _difference_columns(runs)

    table: list[dict[str, Any]] = []
    for row, (name, group, images, objects) in enumerate(_category_heads(comparison, analysis)):
        cells = [GROUP_LABELS.get(group, "-"), images, objects]
        if comparison is not None:
            category = comparison.categories[row]
            for iou_type in _main_first(comparison):
                cells += [page_number(v) for v in category.ap[iou_type]]
                cells += [page_signed(v) for v in category.difference[iou_type]]
        if analysis is not None:
            cells += _false_positive_cells(analysis, row)
        table.append({"name": name, "group": group, "cells": cells})
    owner = [i for i, (_, width) in enumerate(headings) for _ in range(width)]
    kept = [0] + [
        c for c in range(1, len(columns)) if any(entry["cells"][c - 1] != "-" for entry in table)
    ]
    for entry in table:
        entry["cells"] = [entry["cells"][c - 1] for c in kept[1:]]
    widths = [sum(owner[c] == i for c in kept) for i in range(len(headings))]
    return {
        "headings": [(text, n) for (text, _), n in zip(headings, widths, strict=True) if n],
        "columns": [columns[c] for c in kept],
        "starts": set(np.cumsum([n for n in widths if n])[1:-1].tolist()),
        "rows": table,
    }


def _difference_columns(runs: Sequence[str]) -> list[str]:
    if len(runs) == 2:
        return ["Difference"]
    return [f"{name} difference" for name in runs[1:]]


def _category_heads(
    comparison: Comparison | None, analysis: FalsePositiveAnalysis | None
) -> list[tuple[str, str, str, str]]:
    """Return (name, group, training images, objects) of every category."""
    if comparison is not None:
        return [
            (
                row.name,
                row.group,
                "-" if row.image_count is None else f"{row.image_count:,}",
                f"{row.num_gt:,}",
            )
            for row in comparison.categories
        ]
    if analysis is None:
        return []
    return [
        (name, str(group), "-", f"{objects:,}")
        for name, group, objects in zip(
            analysis.category_names, analysis.category_groups, analysis.num_gt, strict=True
        )
    ]


def _false_positive_cells(analysis: FalsePositiveAnalysis, row: int) -> list[str]:
    if not analysis.matched[row]:
        return ["-"] * (2 * len(analysis.runs) - 1)
    counts = [int(run.false_positives[row].sum()) for run in analysis.runs]
    return [f"{n:,}" for n in counts] + [page_signed(n - counts[0], 0) for n in counts[1:]]
