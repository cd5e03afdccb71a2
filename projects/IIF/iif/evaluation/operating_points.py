"""Operating points: the detections of a category that bring a run to a given recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError
from iif.evaluation.matching import TRUE_POSITIVE, Matches


def check_recall(recall: float) -> None:
    """Raise InputError unless 0 < recall <= 1."""
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall:g}; it must be above 0 and at most 1")


def num_kept(matches: Matches, recalls: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (recalls, K) how many best-scoring detections bring a category to a recall.

    Detections that tie with the last needed are kept too. -1 where the recall is not reached.
    """
    offsets, num_gt = matches.category_offsets, matches.num_gt[0]
    true = matches.flags[0, 0] == TRUE_POSITIVE
    kept = np.full((len(recalls), len(num_gt)), -1, np.int64)
    # 0.55 * 20 is a little over 11 in floating point; without the small number it would need 12.
    needed = np.ceil(np.multiply.outer(recalls, num_gt) - 1e-9).astype(np.int64).clip(1)
    for k in np.flatnonzero(num_gt):
        part = slice(offsets[k], offsets[k + 1])
        falling = -matches.score[part]
        last = np.searchsorted(np.cumsum(true[part]), needed[:, k])
        reached = last < len(falling)
        kept[reached, k] = np.searchsorted(falling, falling[last[reached]], side="right")
    return kept


def select_kept(
    matches: Matches, kept: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the category and whether it is kept, of each detection that counts.

    Args:
        matches: of a run.
        kept: (K,) number of detections to keep of each category, from `num_kept`.

    Returns:
        Two (V,) arrays.
    """
    sizes = np.diff(matches.category_offsets)
    category = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(category)) - matches.category_offsets[category]
    return category, rank < kept[category]


def all_runs_reach(names: Sequence[str]) -> str:
    """Return the subject of "... recall 0.5" for these runs: "both runs reach", "IIF reaches"."""
    return {1: f"{names[0]} reaches", 2: "both runs reach"}.get(len(names), "all runs reach")
