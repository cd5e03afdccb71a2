"""Outcomes of detections at a fixed cut, the same for every run: a rank in the image, or a score.

Such a cut means another recall in each run, and a score another scale. The counts are given because
they are often asked for; they do not compare models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.results import Detections
from iif.evaluation.matching import Outcome
from iif.evaluation.runs import Run

TOP_K = (1, 3, 5, 10, 20, 50, 100, 300)
SCORES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)

_COUNTED = (Outcome.TP, Outcome.FP, Outcome.IGNORED, Outcome.UNVERIFIED)


@dataclass(frozen=True)
class FixedCut:
    """Detections of each run that a fixed cut keeps, by outcome.

    Attributes:
        rule: "top_k" (the ``value`` best-scoring of each image) or "score" (score >= ``value``).
        value: k, or the score.
        counts: (runs,) each "TP", "FP", "IGNORED", "UNVERIFIED" -> detections.
        by_group: (runs,) each group -> false positives.
    """

    rule: str
    value: float
    counts: list[dict[str, int]]
    by_group: list[dict[str, int]]


def count_fixed_cuts(
    runs: Sequence[Run], members: Mapping[str, NDArray[np.bool_]]
) -> list[FixedCut]:
    """Count outcomes at each of TOP_K and SCORES.

    Args:
        runs: matched with one IoU type.
        members: group -> (K,) whether a category belongs to it.
    """
    ranks = [_rank_in_image(run.detections) for run in runs]
    cuts = []
    for rule, values in (("top_k", TOP_K), ("score", SCORES)):
        for value in values:
            counts, by_group = [], []
            for run, rank in zip(runs, ranks, strict=True):
                keep = rank < value if rule == "top_k" else run.detections.score >= value
                outcome = np.bincount(run.matches.outcome[keep], minlength=len(Outcome))
                false = run.detections.category[keep & (run.matches.outcome == Outcome.FP)]
                counts.append({o.name: int(outcome[o]) for o in _COUNTED})
                by_group.append(
                    {group: int(chosen[false].sum()) for group, chosen in members.items()}
                )
            cuts.append(FixedCut(rule, value, counts, by_group))
    return cuts


def _rank_in_image(detections: Detections) -> NDArray[np.int64]:
    """Return (D,) how many detections of the same image score higher; file order breaks ties."""
    order = np.lexsort((-detections.score, detections.image))
    image = detections.image[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(image, image)
    return rank
