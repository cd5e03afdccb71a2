"""Bootstrap replicates of every metric that has an interval, and of each category's AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.results import Detections
from iif.evaluation.bootstrap import GROUP_METRICS, category_bootstrap, group_means
from iif.evaluation.matching import IOU_THRESHOLDS, Matches, Outcome, beyond_group_cap
from iif.evaluation.metrics import FIXED_DETECTIONS, FIXED_METRICS
from iif.evaluation.overlaps import group_rows

# Metrics that have an interval.
INTERVAL_METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf", *FIXED_METRICS)


@dataclass(frozen=True, eq=False)
class Replicates:
    """Every run evaluated on the same draws of images, in percent; NaN where undefined.

    Attributes:
        metrics: each of INTERVAL_METRICS -> (runs, replicates); those of AP-fixed only where it
            can be computed for every run.
        per_category: (runs, replicates, K) AP.
    """

    metrics: dict[str, NDArray[np.float64]]
    per_category: NDArray[np.float64]


def within_fixed_cap(matches: Matches, detections: Detections) -> NDArray[np.bool_] | None:
    """Return (V,) which of the detections that count AP-fixed takes.

    They are the FIXED_DETECTIONS best-scored of each category, those that do not count among them.
    None where the cap of an image has left detections out: they are not in the matches.

    Args:
        matches: with outcomes.
        detections: what was matched.
    """
    if (matches.outcome == Outcome.CAPPED).any():
        return None
    num_categories = len(matches.category_offsets) - 1
    rows = np.arange(len(detections), dtype=np.int32)
    by_image, _ = group_rows(detections.image, rows, int(detections.image.max(initial=0)) + 1)
    grouped = group_rows(detections.category, by_image, num_categories)
    return ~beyond_group_cap(detections.score, *grouped, FIXED_DETECTIONS)[matches.rows]


def replicate_metrics(
    runs: Sequence[Matches],
    groups: NDArray[np.str_],
    num_images: int,
    *,
    fixed: Sequence[NDArray[np.bool_] | None] = (),
    replicates: int = 1000,
    seed: int = 0,
) -> Replicates:
    """Evaluate every run on the same draws of images.

    Args:
        runs: matches of each run on the same ground truth and IoU type.
        groups: (K,) "r", "c" or "f".
        num_images: images in the data set.
        fixed: of each run, from `within_fixed_cap`, for AP-fixed. The detections that it leaves
            out are left out of every replicate.
        replicates: how often to draw.
        seed: of the draws, which are those of `iif.evaluation.bootstrap.paired_bootstrap`.
    """
    at_50, at_75 = (int(np.argmin(abs(IOU_THRESHOLDS - iou))) for iou in (0.5, 0.75))
    kept = [rows for rows in fixed if rows is not None]
    whole = len(kept) == len(runs)
    drawn = category_bootstrap(
        runs,
        len(groups),
        num_images,
        replicates=replicates,
        seed=seed,
        single=(at_50, at_75),
        kept=kept if whole else None,
    )
    means = group_means(drawn, groups)
    metrics = {name: means[:, 0, :, column] for column, name in enumerate(GROUP_METRICS)}
    metrics |= {"AP50": means[:, 2, :, 0], "AP75": means[:, 3, :, 0]}
    if whole:
        metrics |= {name: means[:, 1, :, column] for column, name in enumerate(FIXED_METRICS)}
    return Replicates(metrics, drawn[:, 0])
