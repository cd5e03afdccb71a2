"""The verdict: what changed, in both directions, in words that page, texts and console share.

A change is stated as a gain or a loss only where its 95% interval excludes zero. Gains and losses
are of AP, of false positives at equal recall, and of the false discovery rate at that recall, in
which a category that a run does not reach counts 100% (`iif.evaluation.at_recall`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iif.evaluation.at_recall import GROUPS, Interval, RecallRow, rows_of_analysis
from iif.evaluation.compare import Comparison, MetricRow
from iif.evaluation.false_positives import FalsePositiveAnalysis
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import MINUS, page_number, page_signed

ARROW = "\N{RIGHTWARDS ARROW}"
_METRIC_OF = {"all": "AP", "r": "APr", "c": "APc", "f": "APf"}
# Runs beyond the first that each get sentences of their own; of more, a table is read.
MAX_VERDICTS = 4


@dataclass(frozen=True)
class Verdict:
    """What one run shows.

    Attributes:
        run: its name.
        lead: sentences for the head of the page.
        better, worse: changes against the first run whose interval excludes zero; a line for each
            figure, with its groups.
        unclear: figures and groups whose interval includes zero.
        notes: sentences about what cannot be compared, or has no interval.
    """

    run: str
    lead: list[str]
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """One figure of one group in a run and in the first run.

    Attributes:
        figure: "box AP", "mask false positives", ...
        group: "all", "r", "c" or "f".
        before, after: the first run's value and the run's.
        interval: of the difference; None where there is none.
        decimals: of the figure.
        gain: +1 where more is better, else -1.
    """

    figure: str
    group: str
    before: float
    after: float
    interval: Interval | None
    decimals: int = 1
    gain: int = 1

    @property
    def direction(self) -> int:
        """+1: better, -1: worse, 0: no difference is shown."""
        if self.interval is None or not is_difference(self.interval):
            return 0
        return self.gain if self.interval.low > 0 else -self.gain

    @property
    def words(self) -> str:
        """Group, both values, difference, interval."""
        text = (
            f"{_of(self.group)} {page_number(self.before, self.decimals)} {ARROW} "
            f"{page_number(self.after, self.decimals)}"
        )
        difference = page_signed(self.after - self.before, self.decimals)
        if self.interval is None:
            return f"{text} ({difference})"
        low, high = (page_signed(v, self.decimals) for v in (self.interval.low, self.interval.high))
        return f"{text} ({difference} [{low}, {high}])"


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


def verdicts(
    comparison: Comparison | None, analyses: Sequence[FalsePositiveAnalysis] = ()
) -> list[Verdict]:
    """Return the verdict of each later run, or of a single run.

    Args:
        comparison: metrics, or None.
        analyses: false positives of the same runs, the main IoU type first.
    """
    if comparison is not None:
        names = comparison.names
    elif analyses:
        names = analyses[0].names
    else:
        raise ValueError("a verdict needs a comparison or an analysis of false positives")
    rows = recall_rows_of(comparison, analyses)
    if len(names) == 1:
        return [_single(names[0], comparison, rows)]
    return [
        _versus(names, run, changes(comparison, rows, run), rows, analyses)
        for run in range(1, len(names))
    ]


def shown_verdicts(
    comparison: Comparison | None, analyses: Sequence[FalsePositiveAnalysis] = ()
) -> list[Verdict]:
    """Return the verdicts; of more than MAX_VERDICTS that of the run of the highest AP alone."""
    found = verdicts(comparison, analyses)
    if len(found) <= MAX_VERDICTS or comparison is None:
        return found[:MAX_VERDICTS]
    row = find_metric(comparison.metrics, comparison.main_iou_type, "AP")
    values = [-1.0 if v is None else v for v in row.values[1:]] if row is not None else [0.0]
    return [found[values.index(max(values))]]


def recall_rows_of(
    comparison: Comparison | None, analyses: Sequence[FalsePositiveAnalysis] = ()
) -> list[RecallRow]:
    """Return the rows at equal recall, the main IoU type first; with intervals where known."""
    rows = list(comparison.at_recall) if comparison is not None else []
    if analyses and (not rows or rows[0].recall != analyses[0].recall):
        return [row for analysis in analyses for row in rows_of_analysis(analysis)]
    if comparison is None:
        return rows
    return sorted(rows, key=lambda row: row.iou_type != comparison.main_iou_type)


def changes(comparison: Comparison | None, rows: Sequence[RecallRow], run: int) -> list[Change]:
    """Return every figure of every group in which a run can be compared with the first."""
    found = []
    for iou_type in reversed(comparison.iou_types) if comparison is not None else ():
        assert comparison is not None
        for suffix in ("", "-fixed"):
            for group in GROUPS:
                row = find_metric(comparison.metrics, iou_type, f"{_METRIC_OF[group]}{suffix}")
                if row is None or row.values[0] is None or row.values[run] is None:
                    continue
                found.append(
                    Change(
                        f"{IOU_NAMES[iou_type]} AP{suffix}",
                        group,
                        row.values[0],
                        row.values[run] or 0.0,
                        row.difference_intervals[run - 1],
                    )
                )
    for row_at in rows:
        kind = IOU_NAMES[row_at.iou_type]
        if row_at.compared:
            counts, bounds = row_at.false_positives, row_at.false_positive_intervals
            found.append(
                Change(
                    f"{kind} false positives at {100 * row_at.recall:g}% recall",
                    row_at.group,
                    counts[0],
                    counts[run],
                    bounds[run - 1] if bounds else None,
                    decimals=0,
                    gain=-1,
                )
            )
        before, after = row_at.false_discovery[0], row_at.false_discovery[run]
        if before is not None and after is not None:
            found.append(
                Change(
                    f"{kind} false discovery rate at {100 * row_at.recall:g}% recall",
                    row_at.group,
                    before,
                    after,
                    None,
                    gain=-1,
                )
            )
    return found


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return a verdict as lines of plain text."""
    lines = [" ".join(verdict.lead)]
    for heading, items in (
        ("Better:", verdict.better),
        ("Worse:", verdict.worse),
        ("No difference shown:", verdict.unclear),
        ("Note:", verdict.notes),
    ):
        lines += [heading, *(f"  {item}" for item in items)] if items else []
    return [line.replace(MINUS, "-").replace(ARROW, "->") for line in lines]


def found_categories(summary: Mapping[str, Any]) -> list[str]:
    """Return, for each IoU type of an eval_summary.json, of how many categories a run finds any.

    A category counts as found where its AP is above 0: at least one of its objects is detected.
    """
    sentences = []
    for iou_type in summary["metrics"]:
        known = [
            (row["frequency"], row[iou_type]["AP"] > 0)
            for row in summary["per_category"]
            if (row.get(iou_type) or {}).get("AP") is not None
        ]
        counts = [
            f"{GROUP_LABELS[group]} {sum(hits)} of {len(hits)}"
            for group in GROUPS[1:]
            if (hits := [found for own, found in known if own == group])
        ]
        if known:
            total = sum(found for _, found in known)
            sentences.append(
                f"With {IOU_NAMES[iou_type]} IoU, at least one object is found in {total:,} of "
                f"{len(known):,} categories ({', '.join(counts)})."
            )
    return sentences


def _versus(
    names: Sequence[str],
    run: int,
    found: Sequence[Change],
    rows: Sequence[RecallRow],
    analyses: Sequence[FalsePositiveAnalysis],
) -> Verdict:
    baseline, name = names[0], names[run]
    better = [change for change in found if change.direction > 0]
    worse = [change for change in found if change.direction < 0]
    known = any(change.interval is not None for change in found)
    main = [row for row in rows if row.iou_type == rows[0].iou_type]
    lead, notes = [], []
    # The rarest group first, all categories last.
    lost = next((row for row in [*main[1:], *main[:1]] if _is_lopsided(row, run)), None)
    if lost is not None:
        lead.append(_lopsided(lost, names, run, found))
    if not known:
        lead.append(
            f"Whether {name} differs from {baseline} by more than chance is not known: there are "
            "no intervals."
        )
        notes += [line for line in _lines(found) if "-fixed" not in line]
    elif better or worse:
        lead.append(_direction(name, baseline, better, worse))
    else:
        lead.append(f"No difference between {name} and {baseline} is shown.")
    lead += _reach(main, names, run)
    if known:
        open_figures = [c for c in found if c.interval is None and "-fixed" not in c.figure]
        notes += [f"Without an interval: {line}" for line in _lines(open_figures)]
    for row in rows:
        notes += _incomparable(row, names, run)
    notes += [text for analysis in analyses[:1] if (text := _disagreement(analysis, name, run))]
    return Verdict(
        name, lead, _lines(better), _lines(worse), _unclear([c for c in found if c.interval]), notes
    )


def _direction(name: str, baseline: str, better: Sequence[Change], worse: Sequence[Change]) -> str:
    """Return the sentence that names the groups with gains and those with losses."""
    if better and worse:
        return (
            f"{name} is better than {baseline} in {_figures(better)}, and worse in "
            f"{_figures(worse)}."
        )
    if better:
        return f"{name} is better than {baseline} in {_figures(better)}; no loss is shown."
    return f"{name} is worse than {baseline} in {_figures(worse)}; no gain is shown."


def _figures(found: Sequence[Change]) -> str:
    """Return "AP (rare, common) and false positives (frequent)"."""
    parts = []
    for figure in ("AP", "AP-fixed", "false positives", "false discovery rate"):
        own = [c for c in found if c.figure.split(" at ")[0].partition(" ")[2] == figure]
        groups = [_of(g) for g in GROUPS if any(c.group == g for c in own)]
        if groups:
            parts.append(f"{figure} ({', '.join(groups)})")
    return _joined(parts)


def _reach(rows: Sequence[RecallRow], names: Sequence[str], run: int) -> list[str]:
    """Return the sentence about how many categories both runs bring to the recall."""
    if not rows or not rows[0].categories:
        return []
    row = rows[0]
    at = f"{100 * row.recall:g}% {IOU_NAMES[row.iou_type]} recall"
    if not any(row.reached):
        return [f"No run brings any of the {row.categories:,} categories to {at}."]
    return [
        f"{names[run]} brings {row.reached[run]:,} of {row.categories:,} categories to {at}, "
        f"{names[0]} {row.reached[0]:,}."
    ]


def _is_lopsided(row: RecallRow, run: int) -> bool:
    return bool(row.categories) and (row.reached[0] == 0) != (row.reached[run] == 0)


def _lopsided(row: RecallRow, names: Sequence[str], run: int, found: Sequence[Change]) -> str:
    """Return what can be compared where one of two runs reaches no category of a group."""
    none, some = (0, run) if row.reached[0] == 0 else (run, 0)
    group, kind = GROUP_LABELS[row.group], IOU_NAMES[row.iou_type]
    rate = f"{kind} false discovery rate at {100 * row.recall:g}% recall"
    comparable = [
        f"{c.figure} {page_number(c.before)} {ARROW} {page_number(c.after)}"
        for c in found
        if c.group == row.group and c.figure in (f"{kind} AP-fixed", rate)
    ]
    text = (
        f"{names[some]} brings {row.reached[some]:,} of the {row.categories:,} {group} categories "
        f"to {100 * row.recall:g}% recall, {names[none]} none, so their false positives cannot be "
        "compared."
    )
    if comparable:
        text += f" What can be, from {names[0]} to {names[run]}: {_joined(comparable)}."
    return text


def _incomparable(row: RecallRow, names: Sequence[str], run: int) -> list[str]:
    if row.compared or not row.categories:
        return []
    at = f"{100 * row.recall:g}% {IOU_NAMES[row.iou_type]} recall"
    group = "" if row.group == "all" else f"{GROUP_LABELS[row.group]} "
    if not any(row.reached):
        return [f"No run brings a {group}category to {at}: nothing is compared there."]
    counts = ", ".join(f"{names[i]} {row.reached[i]:,}" for i in (0, run))
    return [
        f"No {group}category is brought to {at} by every run ({counts} of {row.categories:,}): "
        "false positives are not compared there."
    ]


def _disagreement(analysis: FalsePositiveAnalysis, name: str, run: int) -> str:
    """Return the sentence for a sum and a mean over categories that change in opposite ways."""
    row = analysis.groups[0]
    total = percent_change(row.total[0], row.total[run])
    rate = percent_change(row.per_1000[0], row.per_1000[run])
    if not row.matched or total is None or rate is None or total * rate >= 0:
        return ""
    return (
        f"The sum of {name}'s false positives is {percent(abs(total))} "
        f"{'lower' if total < 0 else 'higher'}, but their mean rate per category "
        f"{percent(abs(rate))} {'lower' if rate < 0 else 'higher'}: frequent categories dominate "
        "the sum."
    )


def _single(name: str, comparison: Comparison | None, rows: Sequence[RecallRow]) -> Verdict:
    lead = []
    if comparison is not None:
        kind = comparison.main_iou_type
        values = [
            (group, row.values[0])
            for group in GROUPS
            if (row := find_metric(comparison.metrics, kind, _METRIC_OF[group])) is not None
            and row.values[0] is not None
        ]
        if values:
            text = ", ".join(f"{_of(group)} {page_number(value)}" for group, value in values)
            lead.append(f"{name} has {IOU_NAMES[kind]} AP: {text}.")
        else:
            lead.append(f"{name} has no {IOU_NAMES[kind]} AP that is defined.")
    if rows and rows[0].categories:
        first = rows[0]
        at = f"{100 * first.recall:g}% {IOU_NAMES[first.iou_type]} recall"
        if first.compared:
            lead.append(
                f"It brings {first.reached[0]:,} of {first.categories:,} categories to {at} and "
                f"makes {first.false_positives[0]:,} false positives there; its false discovery "
                f"rate is {page_number(first.false_discovery[0])}%, counting a category that is "
                "not reached as 100%."
            )
        else:
            lead.append(f"It brings none of {first.categories:,} categories to {at}.")
    if comparison is None and lead:
        lead[0] = lead[0].replace("It", name, 1)
    notes = [text for row in rows for text in _incomparable(row, [name], 0)]
    return Verdict(name, lead, notes=list(dict.fromkeys(notes)))


def _lines(found: Sequence[Change]) -> list[str]:
    """Return one line for each figure, with its groups."""
    return _by_figure(found, lambda change: change.words, "; ")


def _unclear(found: Sequence[Change]) -> list[str]:
    """Return the figures without a difference; of false positives with their intervals."""
    unclear = [c for c in found if not c.direction]
    counts = [c for c in unclear if c.gain < 0]
    others = [c for c in unclear if c.gain > 0]
    return _by_figure(others, lambda c: _of(c.group), ", ") + _lines(counts)


def _by_figure(
    found: Sequence[Change], words: Callable[[Change], str], separator: str
) -> list[str]:
    figures = dict.fromkeys(change.figure for change in found)
    return [
        f"{figure[0].upper()}{figure[1:]}: "
        + separator.join(words(change) for change in found if change.figure == figure)
        for figure in figures
    ]


def _of(group: str) -> str:
    return "all categories" if group == "all" else GROUP_LABELS[group]


def _joined(parts: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def percent(value: float) -> str:
    """Return a share of percents that neither 0 nor 100 hides: "under 1%", "over 99%"."""
    if value < 1:
        return "under 1%"
    return "over 99%" if 99 < value < 100 else f"{value:,.0f}%"
