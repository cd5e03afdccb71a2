"""Average precision and recall of LVIS from matches, in percent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.data.annotations import Annotations
from iif.evaluation.matching import (
    AREA_RANGES,
    FALSE_POSITIVE,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    TRUE_POSITIVE,
    Matches,
)
from iif.kernels import kernel
from iif.threads import in_threads

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
_AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
# AP-fixed over all categories and over each group; iif.evaluation.evaluate computes it.
FIXED_METRICS = ("AP-fixed", "APr-fixed", "APc-fixed", "APf-fixed")
# AP-fixed of Dave et al. (arXiv 2102.01066): the cap on a category's detections over the whole set.
FIXED_DETECTIONS = 10_000
# As in the official evaluator's division.
_EPSILON = float(np.spacing(1.0))


def recall_metric(max_dets: int | None, area: str = "") -> str:
    """Return the name of average recall under a cap: "AR@300", "ARs@300", without one "AR@all"."""
    return f"AR{area}@{'all' if max_dets is None else max_dets}"


METRICS = (*_AP_METRICS, *(recall_metric(MAX_DETECTIONS, area) for area in ("", "s", "m", "l")))


def compute_metrics(
    matches: Matches, gt: Annotations, max_dets: int | None = MAX_DETECTIONS
) -> tuple[dict[str, float | None], dict[str, NDArray[np.float64]]]:
    """Compute LVIS's metrics.

    AP is the mean precision over 101 recall thresholds, 10 IoU thresholds and the categories that
    have ground truth in the area range; AR is the mean of the highest recalls.

    Args:
        matches: under the cap ``max_dets``.
        gt: the annotations.
        max_dets: for the names of the recalls alone.

    Returns:
        The metrics by name, in percent, None where no category defines one; and "AP", "AP50",
        "AR@300" by category: (K,) in percent, NaN where the category has no ground truth.
    """
    precision, recall = precision_and_recall(matches)
    areas = list(AREA_RANGES)
    at_50, at_75 = (int(np.argmin(abs(IOU_THRESHOLDS - iou))) for iou in (0.5, 0.75))
    ap, ar = precision.mean(axis=1), recall.mean(axis=1)
    metrics = dict(zip(("AP", "APr", "APc", "APf"), mean_by_group(ap[0], gt.groups), strict=True))
    metrics |= {"AP50": _mean(precision[0, at_50]), "AP75": _mean(precision[0, at_75])}
    metrics |= {f"AP{area[0]}": _mean(ap[areas.index(area)]) for area in areas[1:]}
    recalls = {
        recall_metric(max_dets, "" if area == "all" else area[0]): _mean(ar[areas.index(area)])
        for area in areas
    }
    per_category = {"AP": ap[0], "AP50": precision[0, at_50], recall_metric(max_dets): ar[0]}
    return {name: metrics[name] for name in _AP_METRICS} | recalls, per_category


def average_precision(
    matches: Matches, image_weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the (K,) AP in percent over all IoU thresholds and sizes, NaN where undefined.

    Args:
        matches: the matches.
        image_weights: (I,) integers: evaluate as if image i occurred ``image_weights[i]`` times.
            By default each occurs once.
    """
    precision, _ = precision_and_recall(matches, image_weights, num_areas=1)
    return precision[0].mean(axis=0)


def mean_by_group(values: NDArray[np.float64], groups: NDArray[np.str_]) -> list[float | None]:
    """Return the mean of (K,) values over all, rare, common and frequent categories.

    NaN is left out; a mean of nothing is None.
    """
    return [_mean(values), *(_mean(values[groups == group]) for group in "rcf")]


def precision_and_recall(
    matches: Matches, image_weights: ArrayLike | None = None, num_areas: int = len(AREA_RANGES)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean precision over the recall thresholds, and the highest recall.

    Args:
        matches: the matches.
        image_weights: as for `average_precision`.
        num_areas: how many of the area ranges, from the first ("all").

    Returns:
        Two (num_areas, T, K) arrays in percent; NaN where a category has no ground truth.
    """
    num_gt = matches.num_gt[:num_areas]
    if image_weights is None:
        return mean_precision(matches.flags[:num_areas], matches.category_offsets, num_gt)
    weights = np.asarray(image_weights)
    if weights.dtype.kind not in "iu":
        raise ValueError(f"image_weights are {weights.dtype}; they must be whole numbers")
    weights = weights.astype(np.int64)
    num_gt = np.array(
        [
            np.bincount(
                matches.gt_category[in_area],
                weights[matches.gt_image[in_area]],
                minlength=num_gt.shape[1],
            )
            for in_area in matches.gt_in_area[:num_areas]
        ]
    ).astype(np.int64)
    precision = np.full((*matches.flags[:num_areas].shape[:2], num_gt.shape[1]), np.nan)
    recall = precision.copy()
    _precision_and_recall(
        matches.flags[:num_areas],
        matches.category_offsets,
        matches.image,
        matches.score,
        weights,
        num_gt,
        RECALL_THRESHOLDS,
        precision,
        recall,
    )
    return 100 * precision, 100 * recall


def mean_precision(
    flags: NDArray[np.uint8], offsets: NDArray[np.int64], num_gt: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Do what `precision_and_recall` does where each image occurs once.

    Args:
        flags: (A, T, V) of sorted detections; offsets: (K + 1,) of the categories in them.
        num_gt: (A, K).
    """
    precision = np.full((*flags.shape[:2], num_gt.shape[1]), np.nan)
    recall = precision.copy()

    def walk(at: tuple[int, int]) -> None:
        number = num_gt[at[0]]
        scratch = np.empty(number.max(initial=0))
        _walk(flags[at], offsets, number, RECALL_THRESHOLDS, scratch, precision[at], recall[at])

    in_threads(walk, np.ndindex(*flags.shape[:2]))
    return 100 * precision, 100 * recall


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


@kernel
def _walk(
    flags: NDArray,
    offsets: NDArray,
    num_gt: NDArray,
    recall_thresholds: NDArray,
    precision: NDArray,
    mean: NDArray,
    highest: NDArray,
) -> None:
    """Write each category's mean interpolated precision and highest recall.

    As `_mean_precision` does; without weights, precision is highest at true positives, of which
    there are no more than objects. ``precision`` has room for as many.
    """
    for k in range(len(num_gt)):
        if num_gt[k] == 0:
            continue
        tp, fp = 0, 0
        for v in range(offsets[k], offsets[k + 1]):
            if flags[v] == TRUE_POSITIVE:
                tp += 1
                precision[tp - 1] = tp / (fp + tp + _EPSILON)
            fp += flags[v] == FALSE_POSITIVE
        highest[k] = tp / num_gt[k]
        threshold = len(recall_thresholds) - 1
        while threshold >= 0 and recall_thresholds[threshold] > highest[k]:
            threshold -= 1
        total, best = 0.0, 0.0
        while tp > 0:
            best = max(best, precision[tp - 1])
            tp -= 1
            reached = tp / num_gt[k]
            while threshold >= 0 and recall_thresholds[threshold] > reached:
                total += best
                threshold -= 1
        mean[k] = (total + (threshold + 1) * best) / len(recall_thresholds)


@kernel
def _precision_and_recall(  # type: ignore[no-untyped-def]
    flags, offsets, image, score, weights, num_gt, recall_thresholds, precision, recall,
):  # fmt: skip
    num_areas, num_thresholds, _ = flags.shape
    num_classes = len(offsets) - 1
    for a in range(num_areas):
        for t in range(num_thresholds):
            for k in range(num_classes):
                if num_gt[a, k] > 0:
                    mean, highest = _mean_precision(
                        flags[a, t],
                        offsets[k],
                        offsets[k + 1],
                        image,
                        score,
                        weights,
                        num_gt[a, k],
                        recall_thresholds,
                    )
                    precision[a, t, k] = mean
                    recall[a, t, k] = highest


@kernel
def _mean_precision(  # type: ignore[no-untyped-def]
    flags, first, end, image, score, weights, num_gt, recall_thresholds,
):  # fmt: skip
    """Return one category's mean interpolated precision and highest recall.

    The curve is walked from its low-scored end, where all true and false positives are counted,
    so that the highest precision at a recall or above it is known on arrival.
    """
    tp, fp = 0, 0
    for v in range(first, end):
        tp += weights[image[v]] * (flags[v] == TRUE_POSITIVE)
        fp += weights[image[v]] * (flags[v] == FALSE_POSITIVE)
    highest = tp / num_gt
    total = 0.0
    best = 0.0
    threshold = len(recall_thresholds) - 1
    while threshold >= 0 and recall_thresholds[threshold] > highest:
        threshold -= 1
    stop = end
    while stop > first:
        start = stop - 1
        while (
            start > first and score[start - 1] == score[start] and image[start - 1] == image[start]
        ):
            start -= 1
        # An image that occurs n times: its detections of equal score follow each other, n times.
        weight = weights[image[start]]
        turns, step = (weight, 1) if stop - start > 1 else (min(weight, 1), weight)
        for _ in range(turns):
            for v in range(stop - 1, start - 1, -1):
                best = max(best, tp / (fp + tp + _EPSILON))
                if flags[v] == TRUE_POSITIVE:
                    tp -= step
                elif flags[v] == FALSE_POSITIVE:
                    fp -= step
                reached = tp / num_gt
                while threshold >= 0 and recall_thresholds[threshold] > reached:
                    total += best
                    threshold -= 1
        stop = start
    return (total + (threshold + 1) * best) / len(recall_thresholds), highest
