"""The verdict on classification runs: every group that changed, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

from iif.evaluation.classification.compare import ClassificationComparison, MeasureRow
from iif.evaluation.classification.measures import GROUPS
from iif.report.classification.labels import FALSE_POSITIVES, group_of
from iif.report.tables import page_interval, page_number, page_signed
from iif.report.verdict import is_difference


def verdicts(comparison: ClassificationComparison) -> list[str]:
    """Return the sentences of every later run, or those of a single run."""
    if len(comparison.runs) == 1:
        return [_single(comparison)]
    return [
        sentence for run in range(1, len(comparison.runs)) for sentence in _against(comparison, run)
    ]


def _single(comparison: ClassificationComparison) -> str:
    name = comparison.names[0]
    top1 = page_number(comparison.metric("top1").values[0])
    groups = [
        f"{group} {page_number(value)}%"
        for group in GROUPS
        if (value := comparison.metric(group).values[0]) is not None
    ]
    errors = comparison.first.group("all").false_positives
    shares = [
        f"{comparison.first.group(group).false_positives:,} into {group} classes"
        for group in GROUPS
        if comparison.first.group(group).classes
    ]
    return (
        f"{name} reaches {top1}% top-1 accuracy ({', '.join(groups)}). Its {errors:,} errors are "
        f"false positives: {', '.join(shares)}."
    )


def _against(comparison: ClassificationComparison, run: int) -> list[str]:
    name, baseline = comparison.names[run], comparison.names[0]
    top1 = comparison.metric("top1")
    interval = top1.difference_intervals[run - 1]
    change = page_signed(top1.differences[run - 1])
    if interval is not None:
        change += f" {page_interval(interval)}"
        change += "" if is_difference(interval) else ", no difference shown"
    before, after = (page_number(top1.values[place]) for place in (0, run))
    reached = f"{name} reaches {after}% top-1 accuracy against {before}% of {baseline} ({change})."
    accuracy = _directions(
        "Accuracy", [comparison.metric(group) for group in GROUPS], run, "on", decimals=1
    )
    wrong = _directions(
        "False positives", [comparison.metric(m) for m in FALSE_POSITIVES], run, "in", decimals=0
    )
    return [f"{reached} {accuracy}".strip(), *([wrong] if wrong else [])]


def _directions(
    subject: str, rows: Sequence[MeasureRow], run: int, preposition: str, *, decimals: int
) -> str:
    """Return which groups rise, fall, and show no difference; "" when none has a difference."""
    defined = [row for row in rows if row.differences[run - 1] is not None]
    if not defined:
        return ""
    if all(row.difference_intervals[run - 1] is None for row in defined):
        parts = [_change(row, run, decimals) for row in defined]
        return f"{subject} by group, without intervals: {', '.join(parts)}."
    plural = subject.endswith("s")
    rises: list[str] = []
    falls: list[str] = []
    open_: list[str] = []
    for row in defined:
        interval = row.difference_intervals[run - 1]
        if interval is None or not is_difference(interval):
            open_.append(group_of(row.metric))
        else:
            (rises if interval.low > 0 else falls).append(_change(row, run, decimals))
    clauses = [
        f"{verb if plural else verb + 's'} {preposition} {_list(parts)}"
        for verb, parts in (("rise", rises), ("fall", falls))
        if parts
    ]
    if not clauses:
        return f"{subject} by group: no difference is shown."
    sentence = f"{subject} {' and '.join(clauses)}"
    if open_:
        sentence += f"; no difference is shown {preposition} {_list(open_)}"
    return f"{sentence}."


def _change(row: MeasureRow, run: int, decimals: int) -> str:
    interval = row.difference_intervals[run - 1]
    text = f"{group_of(row.metric)} {page_signed(row.differences[run - 1], decimals)}"
    return f"{text} {page_interval(interval, decimals)}" if interval is not None else text


def _list(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
