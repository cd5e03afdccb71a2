"""Precision, recall and F1 of a category over the score threshold, and the best threshold.

Matching is at IoU 0.5. Detections of equal score are kept or left out together, because a threshold
cannot separate them. Names and shapes are those of `iif.evaluation.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from iif.evaluation.metrics import RECALL_THRESHOLDS


@dataclass(frozen=True)
class Curve:
    """One category at every score threshold that changes anything, highest first.

    Attributes:
        threshold: (P,) detections with this score or a higher one are kept.
        precision, recall, f1: (P,) of the kept detections, 0 to 1.
        kept: (P,) how many of the category's detections that count are kept.
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    kept: NDArray[np.int64]


@dataclass(frozen=True)
class BestThreshold:
    """The score threshold of one category with the highest F1, of equal ones the highest.

    Attributes:
        category_id: the category; it has ground truth.
        threshold: None where no detection is true.
        precision, recall, f1: at this threshold, in percent; 0 where there is none.
    """

    category_id: int
    threshold: float | None
    precision: float
    recall: float
    f1: float


def curve(matches: Matches, category: int) -> Curve | None:
    """Return the curve of a category (its row); None without ground truth.

    Detections that are ignored take no part.
    """
    num_gt = int(matches.num_gt[0, category])
    if num_gt == 0:
        return None
    part = slice(*matches.category_offsets[category : category + 2])
    flags, score = matches.flags[0, 0, part], matches.score[part]
    counted = (flags == TRUE_POSITIVE) | (flags == FALSE_POSITIVE)
    # The last of equal scores: all of them are kept together.
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: len(score)])
    true = np.cumsum(flags == TRUE_POSITIVE)[last]
    kept = np.cumsum(counted)[last]
    # A threshold that only lets ignored detections in changes nothing.
    news = np.diff(kept, prepend=0) > 0
    last, true, kept = last[news], true[news], kept[news]
    return Curve(
        threshold=score[last],
        precision=true / kept,
        recall=true / num_gt,
        f1=2 * true / (kept + num_gt),
        kept=kept,
    )


def best_thresholds(gt: Annotations, matches: Matches) -> list[BestThreshold]:
    """Return the best threshold of each category that has ground truth, in the order of ids."""
    best = []
    for category, category_id in enumerate(gt.category_ids.tolist()):
        found = curve(matches, category)
        if found is None:
            continue
        at = int(np.argmax(found.f1)) if len(found.f1) else -1
        if at < 0 or found.f1[at] == 0:
            best.append(BestThreshold(category_id, None, 0.0, 0.0, 0.0))
            continue
        values = (100 * float(v[at]) for v in (found.precision, found.recall, found.f1))
        best.append(BestThreshold(category_id, float(found.threshold[at]), *values))
    return best


def interpolated_precision(true: NDArray[np.bool_], num_gt: int) -> NDArray[np.float64]:
    """Return (101,) the highest precision at each recall threshold or above, 0 to 1.

    Args:
        true: whether each detection that counts is true, best score first.
        num_gt: objects, at least 1.
    """
    found = np.cumsum(true)
    precision = found / np.arange(1, len(true) + 1)
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return highest[np.searchsorted(found / num_gt, RECALL_THRESHOLDS)]


def precision_at_recalls(matches: Matches) -> NDArray[np.float64]:
    """Return (K, 101) interpolated precision in percent at recalls 0, 0.01, ..., 1.

    The mean of a row is the category's AP50. NaN without ground truth.
    """
    rows = np.full((matches.num_gt.shape[1], len(RECALL_THRESHOLDS)), np.nan)
    for category in np.flatnonzero(matches.num_gt[0]):
        part = slice(*matches.category_offsets[category : category + 2])
        flags = matches.flags[0, 0, part]
        true = flags[flags <= TRUE_POSITIVE] == TRUE_POSITIVE
        rows[category] = 100 * interpolated_precision(true, int(matches.num_gt[0, category]))
    return rows
