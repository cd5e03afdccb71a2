"""Paired bootstrap over images: how much of a difference in AP may be sampling noise.

A replicate draws as many images as the data set has, with replacement, and evaluates every run on
that same draw. The drawn set is never built: image i counts w_i times in the sums behind AP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iif.evaluation.matching import TRUE_POSITIVE, Matches
from iif.evaluation.metrics import RECALL_THRESHOLDS

# Columns of the replicates: mean AP over all categories and over each frequency group.
GROUP_METRICS = ("AP", "APr", "APc", "APf")


def paired_bootstrap(
    runs: Sequence[Matches],
    groups: NDArray[np.str_],
    num_images: int,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return AP, APr, APc and APf (percent) of every run in every replicate.

    In a replicate a category without a drawn ground truth is undefined, as it is in any evaluation,
    and is left out of the mean of every run alike.

    Args:
        runs: matches of each run on the same ground truth and IoU type.
        groups: (K,) "r", "c" or "f".
        num_images: images in the data set, those without annotations too.
        replicates: how often to draw.
        seed: of the draws; they depend on nothing else, so IoU types share them.

    Returns:
        (runs, replicates, 4) in the order of GROUP_METRICS; NaN where a group has no category.
    """
    drawn = category_bootstrap(runs, len(groups), num_images, replicates=replicates, seed=seed)
    return group_means(drawn, groups)


def group_means(drawn: NDArray[np.float64], groups: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return (..., 4) means over all, rare, common and frequent categories, from (..., K).

    NaN is left out; a mean of nothing is NaN.
    """
    members = [np.ones(len(groups), bool), *(groups == group for group in "rcf")]
    defined = ~np.isnan(drawn)
    means = []
    for chosen in members:
        number = defined[..., chosen].sum(axis=-1)
        total = np.nansum(drawn[..., chosen], axis=-1)
        means.append(np.where(number > 0, total / np.maximum(number, 1), np.nan))
    return np.stack(means, axis=-1)


def category_bootstrap(
    runs: Sequence[Matches],
    num_categories: int,
    num_images: int,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return (runs, replicates, K) AP of every run and category in every replicate, in percent.

    NaN where a category has no drawn ground truth. Arguments are those of `paired_bootstrap`.
    """
    evaluators = [weighted_average_precision(matches) for matches in runs]
    rng = np.random.default_rng(seed)
    out = np.full((len(runs), replicates, num_categories), np.nan)

    def evaluate(replicate: int, weights: NDArray[np.int64]) -> None:
        for run, evaluator in enumerate(evaluators):
            out[run, replicate] = evaluator(weights)

    # The kernel releases the interpreter lock. Draws are made here, in order, so that the result
    # does not depend on the number of threads. Batches bound the number of draws in memory.
    threads = os.cpu_count() or 1
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=replicates, desc="Bootstrap", disable=None) as bar,
    ):
        for start in range(0, replicates, 4 * threads):
            batch = range(start, min(start + 4 * threads, replicates))
            draws = [
                np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
                for _ in batch
            ]
            list(pool.map(evaluate, batch, draws))
            bar.update(len(batch))
    return out


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the central 95% of the replicates in which the value is defined; None without any."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def weighted_average_precision(
    matches: Matches,
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function of image weights (I,) that gives AP per category (K,) in percent.

    It computes what `iif.evaluation.metrics.average_precision` does, faster. The running maximum of
    precision changes at true positives alone, so a call visits only true positives and ignored
    detections at each IoU threshold. One cumulative sum over all detections, shared by the
    thresholds, gives the number of false positives before each.

    The two differ slightly where an image is drawn several times and has detections of one category
    with equal scores. Here the copies of one detection follow each other; there all detections of
    one copy of the image come before those of the next.
    """
    flags = matches.flags[0]
    positions = [np.flatnonzero(row) for row in flags]
    offsets = np.stack([np.searchsorted(p, matches.category_offsets) for p in positions])
    starts = np.concatenate([[0], np.cumsum([len(p) for p in positions])])
    offsets += starts[:-1, None]
    position = np.concatenate(positions)
    is_tp = np.concatenate(
        [row[p] == TRUE_POSITIVE for row, p in zip(flags, positions, strict=True)]
    )
    counts = matches.gt_in_area[0]
    gt_image, gt_category = matches.gt_image[counts], matches.gt_category[counts]
    num_categories = len(matches.category_offsets) - 1

    def evaluate(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        num_gt = np.bincount(gt_category, weights[gt_image], minlength=num_categories)
        return _average_precision(
            weights.astype(np.int64),
            matches.image,
            matches.category_offsets,
            position,
            is_tp,
            offsets,
            num_gt.astype(np.int64),
        )

    return evaluate


@numba.njit(cache=True, nogil=True)
def _average_precision(  # type: ignore[no-untyped-def]
    weights, image, category_offsets, position, is_tp, offsets, num_gt
):
    """AP (K,) in percent, NaN without ground truth; the 101-point rule of the lvis evaluator."""
    num_thresholds, num_categories = offsets.shape[0], offsets.shape[1] - 1
    longest = np.max(np.diff(category_offsets)) if num_categories else 0
    seen = np.empty(longest, np.int64)
    recall, precision = np.empty(longest), np.empty(longest)
    thresholds = RECALL_THRESHOLDS
    ap = np.full(num_categories, np.nan)
    for c in range(num_categories):
        if num_gt[c] == 0:
            continue
        begin, end = category_offsets[c], category_offsets[c + 1]
        total = 0
        for v in range(begin, end):
            total += weights[image[v]]
            seen[v - begin] = total
        area = 0.0
        for t in range(num_thresholds):
            found, ignored, length = 0, 0, 0
            for event in range(offsets[t, c], offsets[t, c + 1]):
                v = position[event]
                weight = weights[image[v]]
                if weight == 0:
                    continue
                if is_tp[event]:
                    found += weight
                    recall[length] = found / num_gt[c]
                    precision[length] = found / (seen[v - begin] - ignored)
                    length += 1
                else:
                    ignored += weight
            best, r = 0.0, len(thresholds) - 1
            for i in range(length - 1, -1, -1):
                while r >= 0 and thresholds[r] > recall[i]:
                    area += best
                    r -= 1
                best = max(best, precision[i])
            area += best * (r + 1)
        ap[c] = 100.0 * area / (num_thresholds * len(thresholds))
    return ap
