"""Runs at one recall: categories reached, false positives with intervals, and their rate.

At recall r a run's operating point in a category is the score at which it has found ceil(r n) of
the category's n objects. False positives can be compared only in categories that every run brings
to that recall, so a run could look good by reaching few. The false discovery rate charges for
that: FP / (FP + TP) at the operating point, as a mean over all categories with objects, in which a
category that is not reached counts 100%. The rate has no interval: whether a category is reached
changes with the few objects that a replicate draws, so its bootstrap is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.bootstrap import count_objects, evaluate_draws, percentile_interval
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from iif.kernels import kernel

if TYPE_CHECKING:
    from iif.evaluation.false_positives import FalsePositiveAnalysis

GROUPS = ("all", "r", "c", "f")


@dataclass(frozen=True)
class Interval:
    """A 95% percentile interval of a difference, in the unit of the difference."""

    low: float
    high: float


@dataclass(frozen=True)
class RecallRow:
    """One frequency group at one recall; lists are (runs,), of intervals (runs - 1,).

    Attributes:
        iou_type: "bbox" or "segm"; matching is at IoU 0.5.
        recall: the recall.
        group: "all", "r", "c" or "f".
        categories: those with objects.
        reached: how many of them each run brings to the recall.
        compared: how many every run brings to it.
        false_positives: at the operating points, summed over the compared categories.
        false_discovery: percent, mean over all ``categories``, 100 for one that the run does not
            reach; None without a category.
        false_positive_intervals: of the differences to the first run; empty without a bootstrap,
            None where undefined.
    """

    iou_type: str
    recall: float
    group: str
    categories: int
    reached: list[int]
    compared: int
    false_positives: list[int]
    false_discovery: list[float | None]
    false_positive_intervals: list[Interval | None] = field(default_factory=list)


def recall_rows(
    runs: Sequence[Matches],
    groups: NDArray[np.str_],
    num_images: int,
    *,
    recall: float = 0.5,
    replicates: int = 0,
    seed: int = 0,
) -> list[RecallRow]:
    """Compare runs at one recall, the baseline first; a row for each of GROUPS.

    The intervals are of a paired bootstrap over images, with the draws of
    `iif.evaluation.bootstrap.paired_bootstrap`. Operating points are found anew in each replicate;
    a compared category that some run does not reach there is left out of it for all. That draws
    the replicates towards no difference, so the interval is moved until their median lies at the
    difference that was found.

    Args:
        runs: matches of each run on the same ground truth and IoU type.
        groups: (K,) "r", "c" or "f".
        num_images: images in the data set.
        recall: above 0 and up to 1.
        replicates: of the bootstrap; 0 for no intervals.
        seed: of the draws.
    """
    walks = [_Walk.of(matches) for matches in runs]
    num_gt, counts = (
        found[..., 0] for found in _counts(walks, np.ones((num_images, 1), np.uint16), recall)
    )
    members = [(groups == group) | (group == "all") for group in GROUPS]
    rows = _rows(runs[0].iou_type, recall, num_gt, counts, members)
    if not replicates or len(runs) < 2:
        return rows
    shared = (counts[:, 0] >= 0).all(axis=0)
    compared = [chosen & shared for chosen in members]
    drawn = np.full((replicates, len(runs) - 1, len(GROUPS)), np.nan)

    def evaluate(first: int, weights: NDArray[np.uint16]) -> None:
        _, found = _counts(walks, weights[:, : replicates - first], recall)
        again = (found[:, 0] >= 0).all(axis=0)
        for column, chosen in enumerate(compared):
            counted = chosen[:, None] & again
            total = np.where(counted, found[:, 1], 0).sum(axis=1)
            some = counted.any(axis=0)
            of_batch = slice(first, first + len(some))
            drawn[of_batch, :, column] = np.where(some, total[1:] - total[0], np.nan).T

    evaluate_draws(evaluate, num_images, replicates, seed, "Bootstrap at recall")
    for column, row in enumerate(rows):
        for run in range(len(runs) - 1):
            found = row.false_positives[run + 1] - row.false_positives[0]
            row.false_positive_intervals.append(_interval(drawn[:, run, column], found))
    return rows


def rows_of_analysis(analysis: FalsePositiveAnalysis) -> list[RecallRow]:
    """Return the same rows, without intervals, from an analysis of false positives."""
    counts = np.stack(
        [
            np.where(
                np.isnan(run.threshold),
                -1,
                np.stack([run.true_positives, run.false_positives.sum(axis=1)]),
            )
            for run in analysis.runs
        ]
    )
    members = [(analysis.category_groups == group) | (group == "all") for group in GROUPS]
    return _rows(analysis.iou_type, analysis.recall, analysis.num_gt, counts, members)


def _rows(
    iou_type: str,
    recall: float,
    num_gt: NDArray[np.int64],
    counts: NDArray[np.int64],
    members: Sequence[NDArray[np.bool_]],
) -> list[RecallRow]:
    """Return rows from (runs, 2, K) true and false positives, -1 where a run does not reach."""
    reached = counts[:, 0] >= 0
    shared = reached.all(axis=0)
    true, false = counts.clip(0).transpose(1, 0, 2)
    rate = np.where(reached, 100 * false / np.maximum(true + false, 1), 100.0)
    rows = []
    for group, chosen in zip(GROUPS, members, strict=True):
        counted, compared = chosen & (num_gt > 0), chosen & shared
        some = bool(counted.any())
        rows.append(
            RecallRow(
                iou_type=iou_type,
                recall=recall,
                group=group,
                categories=int(counted.sum()),
                reached=(reached & counted).sum(axis=1).tolist(),
                compared=int(compared.sum()),
                false_positives=false[:, compared].sum(axis=1).tolist(),
                false_discovery=[float(v) if some else None for v in _mean(rate[:, counted])],
            )
        )
    return rows


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)


def _interval(values: NDArray[np.float64], found: float) -> Interval | None:
    """Return the central 95% of the replicates, moved so that their median is ``found``."""
    bounds = percentile_interval(values)
    if bounds is None:
        return None
    shift = found - float(np.nanmedian(values))
    return Interval(bounds[0] + shift, bounds[1] + shift)


@dataclass(frozen=True)
class _Walk:
    """What the count of one run needs of its matches, in contiguous arrays."""

    image: NDArray[np.int32]
    score: NDArray[np.float64]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    gt_image: NDArray[np.int32]
    gt_category: NDArray[np.int32]

    @classmethod
    def of(cls, matches: Matches) -> _Walk:
        counts = matches.gt_in_area[0]
        return cls(
            matches.image,
            matches.score,
            np.ascontiguousarray(matches.flags[0, 0]),
            matches.category_offsets,
            matches.gt_image[counts],
            matches.gt_category[counts],
        )


def _counts(
    walks: Sequence[_Walk], weights: NDArray[np.uint16], recall: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (K, lanes) objects, and (runs, 2, K, lanes) true and false positives at the recall.

    Args:
        walks: of each run.
        weights: (I, lanes) how often each image counts.
        recall: above 0.
    """
    first, lanes = walks[0], weights.shape[1]
    num_gt = np.zeros((len(first.offsets) - 1, lanes), np.int64)
    count_objects(weights, first.gt_image, first.gt_category, num_gt)
    # 0.55 * 20 is a little over 11 in floating point; without the small number it would need 12.
    needed = np.ceil(recall * num_gt - 1e-9).astype(np.int64).clip(1)
    counts = np.full((len(walks), 2, *num_gt.shape), -1, np.int64)
    for w, out in zip(walks, counts, strict=True):
        scratch = np.empty((2, lanes), np.int64)
        _walk(weights, w.image, w.score, w.flags, w.offsets, num_gt, needed, *scratch, out)
    return num_gt, counts


@kernel
def _walk(  # type: ignore[no-untyped-def]
    weights, image, score, flags, offsets, num_gt, needed, true, false, out,
):  # fmt: skip
    """Write true and false positives (2, K, lanes) down to the needed one and its ties."""
    lanes = weights.shape[1]
    for c in range(len(num_gt)):
        true[:] = 0
        false[:] = 0
        missing = 0
        for lane in range(lanes):
            missing += num_gt[c, lane] > 0
        more = False
        for v in range(offsets[c], offsets[c + 1]):
            if missing == 0:
                break
            i = image[v]
            if flags[v] == TRUE_POSITIVE:
                more = True
                for lane in range(lanes):
                    true[lane] += weights[i, lane]
            elif flags[v] == FALSE_POSITIVE:
                for lane in range(lanes):
                    false[lane] += weights[i, lane]
            if more and (v + 1 == offsets[c + 1] or score[v + 1] < score[v]):
                more = False
                for lane in range(lanes):
                    if out[0, c, lane] < 0 and true[lane] >= needed[c, lane]:
                        out[0, c, lane], out[1, c, lane] = true[lane], false[lane]
                        missing -= 1
