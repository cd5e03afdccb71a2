"""What to do now: the run to use, a remedy for each group's most frequent error, what to label.

Every sentence follows from figures of the page by a rule that is stated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iif.evaluation.compare import CategoryRow, Comparison
from iif.evaluation.false_positives import (
    ERROR_TYPES,
    GROUPS,
    Confusion,
    FalsePositiveAnalysis,
)
from iif.evaluation.seeds import SeedComparison
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.pooled import pooled_words
from iif.report.tables import page_number, page_signed
from iif.report.verdict import find_metric, is_difference

# Categories that the page proposes to label.
NUM_TO_LABEL = 10
# A type is a group's most frequent error when it makes up at least this share of them.
DOMINANT = 0.35
# A group is said to be short of labels when at least this share of its categories is not reached.
UNREACHED = 0.25

_REMEDIES = {
    "Loc": "the object is found, but its outline is off: train longer, use larger input images, or "
    "a cascade of box heads",
    "Dupe": "one object is detected several times: lower the IoU threshold of non-maximum "
    "suppression",
    "Bkg": "nothing is there: add training images that show these backgrounds without the "
    "categories, or raise the score threshold",
    "Both": "neither place nor category is right: label more objects, and train longer",
}

_MORE = "label more of them, and show them more often in training (repeat-factor sampling)"
_UNREACHED_REMEDIES = {
    "r": _MORE,
    "c": _MORE,
    "f": "there are labels enough, so train longer, or on larger input images",
}


@dataclass(frozen=True)
class Advice:
    """What to do now.

    Attributes:
        run: position of the run that is recommended, and that the rest is about.
        recommendation: why, in one or two sentences.
        remedies: (what it is about, sentence, and the group and error type whose crops show it,
            "" where none do).
        to_label: (category, group, training images, AP, objects, why) of those to label next.
    """

    run: int
    recommendation: str
    remedies: list[tuple[str, str, str, str]]
    to_label: list[tuple[str, str, str, str, str, str]]


def advise(
    comparison: Comparison | None,
    analysis: FalsePositiveAnalysis | None,
    pooled: SeedComparison | None = None,
) -> Advice:
    """Return what to do now, from the figures of the main IoU type.

    Args:
        comparison, analysis: of the runs that the page is about.
        pooled: all methods over their seeds; then they decide which to use.
    """
    run = recommended(comparison)
    use = recommendation(comparison)
    if pooled is not None and comparison is not None:
        words = pooled_words(pooled, comparison.main_iou_type)
        use = words.use if words is not None else use
    remedies = []
    if analysis is not None:
        for group in GROUPS[1:]:
            remedies += _remedies(analysis, run, group)
        remedies += _unverified(analysis, run)
    return Advice(run, use, remedies, to_label(comparison, analysis, run))


def recommended(comparison: Comparison | None) -> int:
    """Return the position of the run of the highest AP; the first of equal ones."""
    row = comparison and find_metric(comparison.metrics, comparison.main_iou_type, "AP")
    if not row:
        return 0
    return max(range(len(row.values)), key=lambda i: (_or_low(row.values[i]), -i))


def recommendation(comparison: Comparison | None) -> str:
    """Return which run to use, and what it costs; "" where there is no choice or no AP."""
    if comparison is None or len(comparison.runs) == 1:
        return ""
    kind = IOU_NAMES[comparison.main_iou_type]
    rows = {
        group: find_metric(comparison.metrics, comparison.main_iou_type, metric)
        for group, metric in zip(GROUPS, ("AP", "APr", "APc", "APf"), strict=True)
    }
    row = rows["all"]
    if row is None or all(value is None for value in row.values):
        return ""
    best, names = recommended(comparison), comparison.names
    value, first = page_number(row.values[best]), page_number(row.values[0])
    if best == 0:
        rivals = [i for i in row.difference_intervals if i is not None and not is_difference(i)]
        doubt = " Of some runs no difference to it is shown." if rivals else ""
        return (
            f"Use {names[0]}: no run has a higher {kind} AP ({value}), in which every category "
            f"counts the same.{doubt}"
        )
    interval, why = row.difference_intervals[best - 1], ""
    if interval is not None and not is_difference(interval):
        why = f" But no difference to {names[0]} is shown: it may be chance."
    losses = [
        f"{GROUP_LABELS[group]} categories ({page_signed(of.differences[best - 1])})"
        for group, of in rows.items()
        if of is not None
        and (bounds := of.difference_intervals[best - 1]) is not None
        and bounds.high < 0
    ]
    cost = f" It loses in {' and '.join(losses)}: where these count most, keep {names[0]}."
    return (
        f"Use {names[best]}: it has the highest {kind} AP ({value}; {names[0]} {first}), in which "
        f"every category counts the same.{why}{cost if losses else ''}"
    )


def to_label(
    comparison: Comparison | None, analysis: FalsePositiveAnalysis | None, run: int
) -> list[tuple[str, str, str, str, str, str]]:
    """Return the categories whose AP is at most the median, those of fewest training images first.

    Where training images are not known, those of the lowest AP come first.
    """
    if comparison is None:
        return []
    kind = comparison.main_iou_type
    known = [
        (ap, k, row)
        for k, row in enumerate(comparison.categories)
        if (ap := row.ap[kind][run]) is not None
    ]
    if not known:
        return []
    median = float(np.median([ap for ap, _, _ in known]))
    low = [(ap, k, row) for ap, k, row in known if ap <= median]
    low.sort(key=lambda x: (x[2].image_count is None, x[2].image_count or 0, x[0]))
    return [_label_row(row, ap, k, analysis, run) for ap, k, row in low[:NUM_TO_LABEL]]


def _label_row(
    row: CategoryRow, ap: float, k: int, analysis: FalsePositiveAnalysis | None, run: int
) -> tuple[str, str, str, str, str, str]:
    why = "nothing is found" if ap == 0 else "few labels, low AP"
    if ap > 0 and analysis is not None and np.isnan(analysis.runs[run].threshold[k]):
        why = f"{100 * analysis.recall:g}% recall not reached"
    images = "-" if row.image_count is None else f"{row.image_count:,}"
    return row.name, row.group, images, page_number(ap), f"{row.num_gt:,}", why


def _remedies(
    analysis: FalsePositiveAnalysis, run: int, group: str
) -> list[tuple[str, str, str, str]]:
    row = next(row for row in analysis.groups if row.group == group)
    label = GROUP_LABELS[group]
    found = []
    missing = row.categories - row.reached[run]
    if row.categories and missing >= UNREACHED * row.categories:
        found.append(
            (
                f"{label} categories: not found",
                f"{missing:,} of {row.categories:,} are not brought to "
                f"{100 * analysis.recall:g}% recall: {_UNREACHED_REMEDIES[group]}.",
                "",
                "",
            )
        )
    counts, total = row.by_type[run], row.total[run]
    if not total:
        return found
    top = int(np.argmax(counts))
    share = counts[top] / total
    if share < DOMINANT:
        parts = ", ".join(f"{t} {n:,}" for t, n in zip(ERROR_TYPES, counts, strict=True) if n)
        text = f"No error type dominates ({parts}): label more, and train longer."
        return [*found, (f"{label} categories: false positives", text, group, "")]
    kind = ERROR_TYPES[top]
    remedy = _confusion_remedy(analysis, run, group) if kind == "Cls" else _REMEDIES[kind]
    text = (
        f"{counts[top]:,} of {total:,} false positives ({100 * share:.0f}%) are {kind}: {remedy}."
    )
    return [*found, (f"{label} categories: {kind}", text, group, kind)]


def _confusion_remedy(analysis: FalsePositiveAnalysis, run: int, group: str) -> str:
    """Return the remedy of confused categories: it names the pair that is confused most often."""
    own = [c for c in analysis.confusions if analysis.category_groups[c.predicted] == group]
    pair: Confusion | None = max(own, key=lambda c: c.counts[run], default=None)
    # One or two confusions may be chance: a pair is named from three on.
    if pair is None or pair.counts[run] < 3:
        return "an object of another category is there: label more of both"
    names, groups = analysis.category_names, [str(g) for g in analysis.category_groups]
    object_, predicted = names[pair.gt_category], names[pair.predicted]
    text = (
        f"{object_} is taken for {predicted} most often ({pair.counts[run]:,} times); merge the "
        "two if telling them apart does not matter, else label more of both"
    )
    rank = "rcf".index
    if rank(groups[pair.gt_category]) > rank(groups[pair.predicted]):
        return f"{text}; the rarer one wins, so try a weaker method (iif tune)"
    if rank(groups[pair.gt_category]) < rank(groups[pair.predicted]):
        return f"{text}; the more frequent one wins, so try a long-tail method (iif methods)"
    return text


def _unverified(analysis: FalsePositiveAnalysis, run: int) -> list[tuple[str, str, str, str]]:
    outcomes: dict[str, int] = analysis.runs[run].outcomes
    judged = sum(outcomes.get(key, 0) for key in ("TP", "FP", "UNVERIFIED"))
    unverified = outcomes.get("UNVERIFIED", 0)
    if not judged or 2 * unverified < judged:
        return []
    few = np.flatnonzero(analysis.num_gt > 0)
    few = few[np.argsort(analysis.verified_images[few], kind="stable")][:3]
    names = _listed([analysis.category_names[k] for k in few])
    return [
        (
            "Unverifiable detections",
            f"{100 * unverified / judged:.0f}% of the detections lie in images where nobody "
            "looked for their category: verify the categories in more test images, those with "
            f"fewest first ({names}).",
            "",
            "",
        )
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _or_low(value: float | None) -> float:
    return -1.0 if value is None else value
