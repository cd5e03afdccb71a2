"""Calibration of scores: how often a detection of a given score is right.

A detection is right when it is a true positive at IoU 0.5. Only detections that count take part, so
scores of detections that cannot be verified say nothing here. The expected calibration error (ECE)
is that of Guo et al. (arXiv 1706.04599) with precision in the place of accuracy, as for detectors
(Kueppers et al., arXiv 2004.13546).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches

NUM_BINS = 15
GROUPS = ("all", "r", "c", "f")


@dataclass(frozen=True)
class Calibration:
    """Calibration over the categories of one frequency group; lists are (NUM_BINS,).

    The bins of the reliability diagram divide the scores from 0 to 1 evenly; a score on a bound
    belongs to the lower bin.

    Attributes:
        group: "all", "r", "c" or "f".
        detections: true and false positives.
        ece: mean over the detections of their bin's distance between precision and mean score, in
            percentage points; None without a detection.
        category_ece: the same within each category, as a mean over those with a detection. In the
            first, errors of categories in opposite directions cancel.
        score, precision: percent, means over all detections; None without one.
        counts: detections in each bin.
        bin_score, bin_precision: percent, means over each bin; None where it is empty.
    """

    group: str
    detections: int
    ece: float | None
    category_ece: float | None
    score: float | None
    precision: float | None
    counts: list[int]
    bin_score: list[float | None]
    bin_precision: list[float | None]


def calibrations(gt: Annotations, matches: Matches) -> list[Calibration]:
    """Return the calibration over each of GROUPS; empty where a score is not from 0 to 1."""
    flags = matches.flags[0, 0]
    counted = (flags == TRUE_POSITIVE) | (flags == FALSE_POSITIVE)
    score = matches.score[counted]
    if len(score) and (score.min() < 0 or score.max() > 1):
        return []
    num_categories = len(gt.category_ids)
    category = np.repeat(np.arange(num_categories), np.diff(matches.category_offsets))[counted]
    true = (flags[counted] == TRUE_POSITIVE).astype(np.float64)
    bins = np.clip(np.ceil(score * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    cells = category * NUM_BINS + bins
    # (3, K, bins): detections, sum of scores, true positives.
    sums = np.stack(
        [
            np.bincount(cells, values, minlength=num_categories * NUM_BINS)
            for values in (np.ones_like(score), score, true)
        ]
    ).reshape(3, num_categories, NUM_BINS)
    found = []
    for group in GROUPS:
        chosen = sums[:, (gt.groups == group) | (group == "all")]
        pooled = chosen.sum(axis=1)
        count, total_score, total_true = pooled
        number = int(count.sum())
        own = [_ece(chosen[:, k]) for k in np.flatnonzero(chosen[0].sum(axis=1))]
        found.append(
            Calibration(
                group=group,
                detections=number,
                ece=_ece(pooled) if number else None,
                category_ece=float(np.mean(own)) if own else None,
                score=100 * float(total_score.sum()) / number if number else None,
                precision=100 * float(total_true.sum()) / number if number else None,
                counts=count.astype(np.int64).tolist(),
                bin_score=_ratios(total_score, count),
                bin_precision=_ratios(total_true, count),
            )
        )
    return found


def _ece(sums: NDArray[Any]) -> float:
    count, score, true = sums
    return 100 * float(abs(true - score).sum() / count.sum())


def _ratios(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> list[float | None]:
    return [100 * float(s) / float(n) if n else None for s, n in zip(sums, counts, strict=True)]
