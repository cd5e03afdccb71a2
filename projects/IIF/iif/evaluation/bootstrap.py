"""Paired bootstrap over images: how much of a difference in AP may be sampling noise.

A replicate draws as many images as the data set has, with replacement, and evaluates every run on
that same draw. The drawn set is never built: image i counts w_i times in the sums behind AP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.matching import NOT_COUNTED, TRUE_POSITIVE, Matches
from iif.evaluation.metrics import RECALL_THRESHOLDS
from iif.kernels import kernel
from iif.progress import progress
from iif.threads import NUM_THREADS

# Columns of the replicates: mean AP over all categories and over each frequency group.
GROUP_METRICS = ("AP", "APr", "APc", "APf")
# Replicates that are evaluated side by side: the weights of LVIS val's images fit the cache.
_LANES = 32


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
    return group_means(drawn[:, 0], groups)


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
    single: Sequence[int] = (),
    kept: Sequence[NDArray[np.bool_]] | None = None,
) -> NDArray[np.float64]:
    """Return AP of every run and category in every replicate, in percent.

    Args:
        runs, num_images, replicates, seed: as for `paired_bootstrap`.
        num_categories: K.
        single: IoU thresholds, by their place, at which AP is returned as well.
        kept: of each run (V,) detections, of each category the first ones; all by default.

    Returns:
        (runs, 2 + single, replicates, K) over all IoU thresholds; the same of the kept detections
        alone; at the single thresholds. NaN where a category has no drawn ground truth.
    """
    parts: Sequence[NDArray[np.bool_] | None] = kept or [None] * len(runs)
    evaluators = [_average_precisions(*run) for run in zip(runs, parts, strict=True)]
    out = np.full((len(runs), 2 + len(single), replicates, num_categories), np.nan)

    def evaluate(first: int, weights: NDArray[np.integer[Any]]) -> None:
        for run, evaluator in enumerate(evaluators):
            ap = evaluator(weights)[..., : replicates - first]
            part = out[run, :, first : first + ap.shape[-1]]
            part[:2] = ap.mean(axis=1).transpose(0, 2, 1)
            part[2:] = ap[0, list(single)].transpose(0, 2, 1)

    evaluate_draws(evaluate, num_images, replicates, seed)
    return out


def evaluate_draws(
    evaluate: Callable[[int, NDArray[np.uint16]], None],
    num_images: int,
    replicates: int,
    seed: int,
    desc: str = "Bootstrap",
) -> None:
    """Call a function that releases the interpreter lock with draws of images, in threads.

    Args:
        evaluate: takes a replicate and the (I, lanes) weights of it and of those behind it, of
            which those beyond ``replicates`` are 0.
        num_images, replicates, seed: as for `paired_bootstrap`.
        desc: of the progress bar.
    """
    # Draws are made here, in order, so that the result does not depend on the number of threads.
    # Batches bound the number of draws in memory.
    rng = np.random.default_rng(seed)
    with (
        ThreadPoolExecutor(NUM_THREADS) as pool,
        progress(total=replicates, desc=desc) as bar,
    ):
        for start in range(0, replicates, 2 * NUM_THREADS * _LANES):
            batch = range(start, min(start + 2 * NUM_THREADS * _LANES, replicates), _LANES)
            draws = [np.zeros((num_images, _LANES), np.uint16) for _ in batch]
            for first, weights in zip(batch, draws, strict=True):
                for lane in range(min(_LANES, replicates - first)):
                    drawn = rng.integers(num_images, size=num_images)
                    weights[:, lane] = np.bincount(drawn, minlength=num_images)
            list(pool.map(evaluate, batch, draws))
            bar.update(min(len(batch) * _LANES, replicates - start))


def percentile_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the central 95% of the replicates in which the value is defined; None without any."""
    defined = values[~np.isnan(values)]
    if len(defined) == 0:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def weighted_average_precision(
    matches: Matches, kept: NDArray[np.bool_] | None = None
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Return a function of image weights (I,) that gives AP per category (K,) in percent.

    It computes what `iif.evaluation.metrics.average_precision` does, faster. They differ slightly
    where an image is drawn several times and has detections of one category with equal scores. Here
    the copies of one detection follow each other; there all detections of one copy of the image
    come before those of the next. With ``kept`` it is the AP of those (V,) detections alone, which
    must be the first ones of each category.
    """
    evaluate = _average_precisions(matches, kept)

    def evaluate_one(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        lanes = np.zeros((len(weights), _LANES), np.int64)
        lanes[:, 0] = weights
        return evaluate(lanes)[1, ..., 0].mean(axis=0)

    return evaluate_one


def _average_precisions(
    matches: Matches, kept: NDArray[np.bool_] | None
) -> Callable[[NDArray[np.integer[Any]]], NDArray[np.float64]]:
    """Return a function of image weights (I, lanes) that gives AP (2, T, K, lanes) in percent.

    That of all detections, and that of the kept ones. The running maximum of precision changes at
    true positives alone. One cumulative sum over all detections, shared by the thresholds, counts
    each as at the last threshold: ignored there, or not. A call visits, beside it, only events: at
    each threshold, the true positives and what is ignored there alone, or not there.
    """
    flags, category_offsets = matches.flags[0], matches.category_offsets
    counted = flags[-1] != NOT_COUNTED
    change = (flags != NOT_COUNTED).astype(np.int8) - counted
    is_event = (flags == TRUE_POSITIVE) | (change != 0)
    events = np.flatnonzero(is_event.any(axis=0))
    # The end of each category, and of what is kept of it.
    ends = category_offsets[1:]
    stops = ends if kept is None else category_offsets[:-1] + _per_category(kept, category_offsets)
    places = [np.flatnonzero(row[events]) for row in is_event]
    category_events = np.searchsorted(events, category_offsets)
    starts = np.concatenate([[0], np.cumsum([len(p) for p in places])])
    columns = [events[p] for p in places]
    offsets = np.stack([np.searchsorted(c, category_offsets) for c in columns])
    cuts = np.stack([np.searchsorted(c, stops) for c in columns])
    offsets, cuts = offsets + starts[:-1, None], cuts + starts[:-1, None]
    is_tp = np.concatenate([f[c] == TRUE_POSITIVE for f, c in zip(flags, columns, strict=True)])
    changes = np.concatenate([f[c] for f, c in zip(change, columns, strict=True)])
    place = np.concatenate(places).astype(np.int32)
    event_image = matches.image[np.concatenate(columns)]
    gt = matches.gt_in_area[0]
    gt_image, gt_category = matches.gt_image[gt], matches.gt_category[gt]
    num_categories = len(ends)
    longest = int(np.diff(category_events).max(initial=0))

    def evaluate(weights: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        if weights.max(initial=0) < 256:
            weights = weights.astype(np.uint8)
        num_gt = np.zeros((num_categories, _LANES), np.int64)
        count_objects(weights, gt_image, gt_category, num_gt)
        ap = np.full((2, len(flags), num_categories, _LANES), np.nan)
        seen, precision = np.empty((2, longest, _LANES))
        _average_precision(
            weights, matches.image, category_offsets, counted, events, category_events,
            event_image, place, is_tp, changes, offsets, cuts, num_gt, RECALL_THRESHOLDS,
            np.zeros((_LANES, num_gt.max(initial=0) + 1), np.uint8),
            seen, np.empty((longest, _LANES), np.uint8), precision,
            *np.empty((4, _LANES)), ap,
        )  # fmt: skip
        return ap

    return evaluate


def _per_category(
    chosen: NDArray[np.bool_], category_offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return (K,) how many of each category's detections are chosen."""
    return np.diff(np.concatenate([[0], np.cumsum(chosen)])[category_offsets])


@kernel
def count_objects(  # type: ignore[no-untyped-def]
    weights, gt_image, gt_category, num_gt,
):  # fmt: skip
    """Add to (K, lanes) each category's objects in images of these (I, lanes) weights."""
    for g in range(len(gt_image)):
        for lane in range(weights.shape[1]):
            num_gt[gt_category[g], lane] += weights[gt_image[g], lane]


@kernel
def _average_precision(  # type: ignore[no-untyped-def]
    weights, image, category_offsets, counted, events, category_events, event_image, place,
    is_tp, changes, offsets, cuts, num_gt, thresholds, reached, seen, steps, precision, total,
    found, best, area, ap,
):  # fmt: skip
    """Write AP in percent where there is ground truth; the 101-point rule of the lvis evaluator.

    Every step is taken for _LANES replicates side by side, in the processor's vectors. Counts are
    floating-point numbers, which they divide as they are.
    """
    for c in range(len(num_gt)):
        for lane in range(_LANES):
            _count_reached(num_gt[c, lane], thresholds, reached[lane])
        first_event, end_event = category_events[c], category_events[c + 1]
        total[:] = 0
        event = first_event
        for v in range(category_offsets[c], category_offsets[c + 1]):
            if event == end_event:
                break
            i = image[v]
            if counted[v]:
                for lane in range(_LANES):
                    total[lane] += np.float64(weights[i, lane])
            if events[event] == v:
                for lane in range(_LANES):
                    seen[event - first_event, lane] = total[lane]
                event += 1
        for t in range(len(offsets)):
            found[:] = 0
            total[:] = 0
            length = kept = 0
            for e in range(offsets[t, c], offsets[t, c + 1]):
                i = event_image[e]
                if changes[e]:
                    for lane in range(_LANES):
                        total[lane] += np.float64(changes[e]) * np.float64(weights[i, lane])
                if is_tp[e]:
                    at = place[e] - first_event
                    # Of an image that was not drawn nothing changes here: no precision is higher
                    # than at the true positive before, and no threshold is reached.
                    for lane in range(_LANES):
                        found[lane] += np.float64(weights[i, lane])
                        number = max(seen[at, lane] + total[lane], np.float64(1))
                        precision[length, lane] = found[lane] / number
                    for lane in range(_LANES):
                        steps[length, lane] = reached[lane, np.uint64(np.int32(found[lane]))]
                    length += 1
                    kept += e < cuts[t, c]
            _sum_precision(precision, steps, length, best, area)
            for part in range(2):
                if part == 1 and kept < length:
                    _sum_precision(precision, steps, kept, best, area)
                for lane in range(_LANES):
                    if num_gt[c, lane] > 0:
                        ap[part, t, c, lane] = 100.0 * area[lane] / len(thresholds)


@kernel
def _count_reached(num_gt, thresholds, reached):  # type: ignore[no-untyped-def]
    """Write how many recall thresholds lie at or below each number of true positives."""
    found = 0
    for r in range(len(thresholds) if num_gt else 0):
        needed = min(np.int64(thresholds[r] * num_gt), num_gt)
        while needed > found and (needed - 1) / num_gt >= thresholds[r]:
            needed -= 1
        while needed / num_gt < thresholds[r]:
            needed += 1
        for tp in range(found, needed):
            reached[tp] = r
        found = max(found, needed)
    for tp in range(found, num_gt + 1):
        reached[tp] = len(thresholds)


@kernel
def _sum_precision(  # type: ignore[no-untyped-def]
    precision, steps, length, best, area,
):  # fmt: skip
    """Write the sum over the recall thresholds of the highest precision at each or above it."""
    best[:] = 0
    area[:] = 0
    for i in range(length - 1, -1, -1):
        for lane in range(_LANES):
            before = np.int32(steps[i - 1, lane]) if i else np.int32(0)
            best[lane] = max(best[lane], precision[i, lane])
            area[lane] += best[lane] * np.float64(np.int32(steps[i, lane]) - before)
