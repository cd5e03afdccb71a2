"""Bootstrap replicates of every metric that has an interval, and of each category's AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from iif.data.results import Detections
from iif.evaluation.bootstrap import GROUP_METRICS, category_bootstrap, group_means
from iif.evaluation.matching import IOU_THRESHOLDS, Matches, Outcome
from iif.evaluation.metrics import FIXED_DETECTIONS, FIXED_METRICS
from iif.evaluation.overlaps import row_offsets

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
    category = detections.category
    if np.bincount(category, minlength=1).max() <= FIXED_DETECTIONS:
        return np.ones(len(matches.rows), np.bool_)
    order = np.lexsort((detections.image, -detections.score, category))
    place = np.empty(len(order), np.int64)
    starts = row_offsets(category, int(category.max()) + 1)
    place[order] = np.arange(len(order)) - starts[category[order]]
    return place[matches.rows] < FIXED_DETECTIONS


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
    draws = {"replicates": replicates, "seed": seed}
    drawn = category_bootstrap(runs, len(groups), num_images, single=(at_50, at_75), **draws)
    per_category = drawn[:, 0]
    means = group_means(per_category, groups)
    metrics = {name: means[..., column] for column, name in enumerate(GROUP_METRICS)}
    for name, single in (("AP50", drawn[:, 1]), ("AP75", drawn[:, 2])):
        metrics[name] = group_means(single, groups)[..., 0]
    kept = [rows for rows in fixed if rows is not None]
    if len(kept) == len(runs):
        # Most categories are taken whole.
        cut = [_categories(m)[~rows] for m, rows in zip(runs, kept, strict=True)]
        changed = np.bincount(np.concatenate(cut), minlength=len(groups)) > 0
        if changed.any():
            parts = [
                _part(matches, rows & changed[_categories(matches)])
                for matches, rows in zip(runs, kept, strict=True)
            ]
            again = category_bootstrap(parts, len(groups), num_images, **draws)[:, 0]
            means = group_means(np.where(changed, again, per_category), groups)
        metrics |= {name: means[..., column] for column, name in enumerate(FIXED_METRICS)}
    return Replicates(metrics, per_category)


def _categories(matches: Matches) -> NDArray[np.int64]:
    """Return the (V,) category of each of ``matches.rows``."""
    offsets = matches.category_offsets
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _part(matches: Matches, kept: NDArray[np.bool_]) -> Matches:
    """Return the matches of the detections that are kept; metrics alone may use them."""
    category = _categories(matches)
    return replace(
        matches,
        rows=matches.rows[kept],
        category_offsets=row_offsets(category[kept], len(matches.category_offsets) - 1),
        image=matches.image[kept],
        score=matches.score[kept],
        flags=np.ascontiguousarray(matches.flags[:1, :, kept]),
    )
