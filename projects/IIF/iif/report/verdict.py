"""The verdict at the top of a page: how the runs differ, and whether that may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from iif.evaluation.compare import Comparison, Interval, MetricRow
from iif.evaluation.false_positives import FalsePositiveAnalysis, GroupRow
from iif.report.labels import IOU_NAMES
from iif.report.tables import page_interval, page_number, page_signed


def percent_change(before: float, after: float) -> float | None:
    """Return by how many percent ``after`` differs from ``before``; None when undefined."""
    if math.isnan(before) or math.isnan(after) or before == 0:
        return None
    return 100 * (after - before) / before


def is_difference(interval: Interval | None) -> bool:
    """Return whether an interval of a difference excludes zero."""
    return interval is not None and (interval.low > 0 or interval.high < 0)


def find_metric(rows: Sequence[MetricRow], iou_type: str, metric: str) -> MetricRow | None:
    """Return the row of a metric, if it is there."""
    return next((r for r in rows if r.iou_type == iou_type and r.metric == metric), None)


def verdicts(comparison: Comparison | None, analysis: FalsePositiveAnalysis | None) -> list[str]:
    """Return one sentence per later run, or one for a single run.

    Args:
        comparison: metrics, or None when the page has none.
        analysis: false positives of the same runs, or None.
    """
    if comparison is not None:
        names = [run.name for run in comparison.runs]
    elif analysis is not None:
        names = [run.name for run in analysis.runs]
    else:
        raise ValueError("a verdict needs a comparison or an analysis of false positives")
    sentences = []
    for run in range(1, len(names)) if len(names) > 1 else (0,):
        if comparison is None:
            assert analysis is not None
            sentence = _false_positives(analysis, run, who=names[run])
            sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")
            continue
        sentence = f"{names[run]} {_metrics(comparison, run)}"
        if analysis is not None:
            sentence += f"; {_false_positives(analysis, run, who='it')}"
        sentences.append(f"{sentence}.")
    return sentences


def _metrics(comparison: Comparison, run: int) -> str:
    iou_type = "segm" if "segm" in comparison.iou_types else comparison.iou_types[0]
    found = [find_metric(comparison.metrics, iou_type, name) for name in ("APr", "AP")]
    rows = [row for row in found if row is not None and row.values[run] is not None]
    kind = IOU_NAMES[iou_type]
    if not rows:
        return f"has no {kind} AP that is defined"
    if run == 0:
        reached = [f"{kind} {row.metric} {page_number(row.values[0])}" for row in rows]
        return f"reaches {' and '.join(reached)}"
    parts = [_metric_change(row, run, kind) for row in rows]
    return f"changes {' and '.join(parts)} against {comparison.runs[0].name}"


def _metric_change(row: MetricRow, run: int, kind: str) -> str:
    difference = row.differences[run - 1]
    interval = row.difference_intervals[run - 1]
    if difference is None:
        return f"{kind} {row.metric} from undefined to {page_number(row.values[run])}"
    text = f"{kind} {row.metric} by {page_signed(difference)}"
    if interval is None:
        return text
    noise = "" if is_difference(interval) else " (no difference shown)"
    return f"{text} {page_interval(interval)}{noise}"


def _false_positives(analysis: FalsePositiveAnalysis, run: int, *, who: str) -> str:
    row = analysis.groups[0]
    several = len(analysis.runs) > 1
    if row.matched == 0:
        reaching = "that every run brings" if several else f"that {who} brings"
        return f"there is no category {reaching} to {100 * analysis.recall:g}% recall"
    where = f"{100 * analysis.recall:g}%, {row.matched:,} of {row.categories:,} categories"
    if not several:
        return (
            f"at a recall of {where}, {who} makes {page_number(row.per_1000[0])} false positives "
            "per 1,000 verified images"
        )
    than = f" than {analysis.runs[0].name}" if who != "it" else ""
    return f"at matched recall ({where}) {who} makes {_count_change(row, run, than)}"


def _count_change(row: GroupRow, run: int, than: str) -> str:
    before, after = row.total[0], row.total[run]
    if before == after:
        return f"as many false positives ({before:,})"
    change = percent_change(before, after)
    if change is None:
        return f"{after:,} false positives where there were none"
    direction = "fewer" if after < before else "more"
    text = f"{_percent(abs(change))} {direction} false positives{than}"
    rate = percent_change(row.per_1000[0], row.per_1000[run])
    # The sum leans to the frequent categories; say so where the mean over categories disagrees.
    if rate is not None and rate * change < 0:
        text += f" in sum, but {_percent(abs(rate))} {'more' if rate > 0 else 'fewer'} per category"
    return text


def _percent(value: float) -> str:
    if value < 1:
        return "under 1%"
    return "over 99%" if 99 < value < 100 else f"{value:,.0f}%"
