"""Matching of detections to ground truth: the one source of every figure of an evaluation.

Names and shapes: I images, K categories, G ground-truth instances, D detections, V detections that
count (verified, not capped, not degenerate), A area ranges, T IoU thresholds. A row is an index
into these, from 0. A *cell* is a pair of image and category.

The rules are those of the official LVIS evaluator (lvis 0.5.3), so AP and AR equal its values;
docs/evaluation.md lists the intended differences. The error types are TIDE's (arXiv 2008.08115).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.evaluation.caps import beyond_cell_cap
from iif.evaluation.overlaps import Overlaps, find_overlaps, group_rows, has_area, row_offsets

MAX_DETECTIONS = 300
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
BACKGROUND_IOU = 0.1


class Outcome(IntEnum):
    """Outcome of a detection. Rules are tested in this order; the first that holds decides."""

    CAPPED = 0
    DEGENERATE = 1
    UNVERIFIED = 2
    TP = 3
    IGNORED = 4
    FP = 5


class ErrorType(IntEnum):
    """Cause of a false positive. Rules are tested in this order; the first that holds decides."""

    NONE = 0
    LOC = 1
    CLS = 2
    DUPE = 3
    BKG = 4
    BOTH = 5

    @property
    def label(self) -> str:
        """ "Loc", "Cls", "Dupe", "Bkg" or "Both"; "" for none."""
        return "" if self is ErrorType.NONE else self.name.capitalize()


# Plain integers for the compiled functions.
_CAPPED, _DEGENERATE, _UNVERIFIED, _TP, _IGNORED, _FP = (int(o) for o in Outcome)
_NONE, _LOC, _CLS, _DUPE, _BKG, _BOTH = (int(e) for e in ErrorType)
FALSE_POSITIVE, TRUE_POSITIVE, NOT_COUNTED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Matches:
    """The outcome of every detection, and the flags of those that count in the metrics.

    Attributes:
        iou_type: "bbox" or "segm".
        outcome: (D,) uint8, an `Outcome` at IoU 0.5 and every size.
        error_type: (D,) uint8, an `ErrorType`; NONE for all but false positives.
        gt_row: (D,) int32, the ground truth that decided, -1 for none. TP, and IGNORED by ignored
            ground truth: the one that was taken. FP: the one of the highest IoU, of the same
            category for Loc and Dupe, of another for Cls and Both.
        rows: (V,) int64, the detections that count, sorted by category, then falling score, then
            image row, then the file's order.
        category_offsets: (K + 1,) int64; category k has ``rows[offsets[k]:offsets[k + 1]]``.
        image: (V,) int32 image rows.
        score: (V,) float64.
        flags: (A, T, V) uint8: FALSE_POSITIVE, TRUE_POSITIVE or NOT_COUNTED.
        gt_image, gt_category: (Gv,) int32 rows of the ground truth that takes part (`has_area`).
        gt_in_area: (A, Gv) bool, whether it counts in that area range.
        num_gt: (A, K) int64, how many count.
    """

    iou_type: IouType
    outcome: NDArray[np.uint8]
    error_type: NDArray[np.uint8]
    gt_row: NDArray[np.int32]
    rows: NDArray[np.int64]
    category_offsets: NDArray[np.int64]
    image: NDArray[np.int32]
    score: NDArray[np.float64]
    flags: NDArray[np.uint8]
    gt_image: NDArray[np.int32]
    gt_category: NDArray[np.int32]
    gt_in_area: NDArray[np.bool_]
    num_gt: NDArray[np.int64]


def match(
    gt: Annotations,
    detections: Detections,
    iou_type: IouType,
    *,
    max_dets: int | None = MAX_DETECTIONS,
    max_dets_per_category: int | None = None,
    classify_errors: bool = True,
    overlaps: Overlaps | None = None,
) -> Matches:
    """Match detections to ground truth as LVIS does; return the outcome of each detection.

    Args:
        gt: the annotations, with masks for "segm".
        detections: the detections, with boxes or masks as ``iou_type`` needs.
        iou_type: "bbox" or "segm".
        max_dets: the cap on each image's detections, over all categories as in LVIS, or of each
            category as in COCO, where annotation is exhaustive; None for no cap.
        max_dets_per_category: a cap on each category's detections over the whole set.
        classify_errors: give false positives their error type.
        overlaps: from `find_overlaps`, when several matchings share them.

    Raises:
        InputError: the IoU type needs boxes, and a row of the result file has none.
        ValueError: the IoU type needs masks, and annotations or results were loaded without.
    """
    if overlaps is None:
        overlaps = find_overlaps(gt, detections, iou_type)
    num_classes = len(gt.category_ids)
    degenerate = ~has_area(overlaps.area, gt.exhaustive)
    if gt.exhaustive and max_dets is not None:
        capped = beyond_cell_cap(overlaps, detections, max_dets, num_classes)
    else:
        capped = _beyond_image_cap(overlaps, detections.score, max_dets)
    counts = overlaps.verified & ~degenerate & ~capped
    eligible = ~capped if max_dets_per_category is not None else counts
    rows = overlaps.by_image[eligible[overlaps.by_image]]
    rows, offsets = group_rows(detections.category, rows, num_classes)
    _sort_by_score(rows, offsets, detections.score)
    if max_dets_per_category is not None:
        place = np.arange(len(rows)) - np.repeat(offsets[:-1], np.diff(offsets))
        capped[rows[place >= max_dets_per_category]] = True
        rows = rows[(counts & ~capped)[rows]]
        offsets = row_offsets(detections.category[rows], num_classes)

    outcome = np.select(
        [capped, degenerate, ~overlaps.verified],
        [np.uint8(_CAPPED), np.uint8(_DEGENERATE), np.uint8(_UNVERIFIED)],
        np.uint8(_FP),
    )
    error_type = np.zeros(len(detections), np.uint8)
    gt_row = np.full(len(detections), -1, np.int32)
    limits = np.array(list(AREA_RANGES.values()))
    ignored = gt.ignore | (gt.area < limits[:, :1]) | (gt.area > limits[:, 1:])
    flags = _match(
        rows,
        detections.category,
        overlaps.area,
        overlaps.exempt,
        overlaps.starts,
        overlaps.gt,
        overlaps.iou,
        gt.ann_category,
        ignored,
        gt.crowd,
        limits,
        IOU_THRESHOLDS,
        outcome,
        gt_row,
    )
    if classify_errors:
        _classify(
            rows,
            detections.category,
            overlaps.starts,
            overlaps.gt,
            overlaps.iou,
            gt.ann_category,
            gt.crowd,
            IOU_THRESHOLDS[0],
            BACKGROUND_IOU,
            outcome,
            error_type,
            gt_row,
        )
    real = has_area(gt.area, gt.exhaustive)
    gt_category = gt.ann_category[real]
    in_area = ~ignored[:, real]
    return Matches(
        iou_type=iou_type,
        outcome=outcome,
        error_type=error_type,
        gt_row=gt_row,
        rows=rows,
        category_offsets=offsets,
        image=detections.image[rows],
        score=detections.score[rows],
        flags=flags,
        gt_image=gt.ann_image[real],
        gt_category=gt_category,
        gt_in_area=in_area,
        num_gt=np.array([np.bincount(gt_category[a], minlength=num_classes) for a in in_area]),
    )


@njit(cache=True)
def _sort_by_score(rows: NDArray, offsets: NDArray, score: NDArray) -> None:
    """Order the rows of each group by falling score, in place; equal scores keep their order."""
    for k in range(len(offsets) - 1):
        group = rows[offsets[k] : offsets[k + 1]]
        if len(group) > 1:
            group[:] = group[np.argsort(-score[group], kind="mergesort")]


def _beyond_image_cap(
    overlaps: Overlaps, score: NDArray[np.float64], max_dets: int | None
) -> NDArray[np.bool_]:
    if max_dets is None:
        return np.zeros(len(score), np.bool_)
    return _lower_scored(overlaps.by_image, overlaps.image_offsets, score, max_dets)


@njit(cache=True)
def _lower_scored(rows: NDArray, offsets: NDArray, score: NDArray, kept: int) -> NDArray:
    beyond = np.zeros(len(score), np.bool_)
    for i in range(len(offsets) - 1):
        group = rows[offsets[i] : offsets[i + 1]]
        if len(group) > kept:
            order = np.argsort(-score[group], kind="mergesort")
            beyond[group[order[kept:]]] = True
    return beyond


@njit(cache=True)
def _match(
    rows: NDArray,
    category: NDArray,
    area: NDArray,
    exempt: NDArray,
    starts: NDArray,
    entries: NDArray,
    ious: NDArray,
    gt_category: NDArray,
    ignored: NDArray,
    crowd: NDArray,
    limits: NDArray,
    thresholds: NDArray,
    outcome: NDArray,
    gt_row: NDArray,
) -> NDArray:
    """Match greedily for each area range and threshold; return the flags, fill the outcomes.

    ``rows`` are sorted by category and falling score, over all images and thus within each.
    """
    num_areas, num_thresholds = len(limits), len(thresholds)
    flags = np.zeros((num_areas, num_thresholds, len(rows)), np.uint8)
    taken = np.zeros((len(gt_category), num_areas, num_thresholds), np.bool_)
    same = np.empty(len(gt_category), np.int64)
    for v in range(len(rows)):
        d = rows[v]
        num_same = 0
        for e in range(starts[d], starts[d + 1]):
            if gt_category[entries[e]] == category[d] and ious[e] >= thresholds[0]:
                same[num_same] = e
                num_same += 1
        for a in range(num_areas):
            not_counted = exempt[d] or area[d] < limits[a, 0] or area[d] > limits[a, 1]
            for t in range(num_thresholds):
                best = -1
                # Ignored ground truth only where no other fits.
                for ignorable in (False, True):
                    iou = min(thresholds[t], 1 - 1e-10)
                    if best >= 0:
                        break
                    for e in same[:num_same]:
                        g = entries[e]
                        if ignored[a, g] != ignorable or (taken[g, a, t] and not crowd[g]):
                            continue
                        # Of equal IoUs the last, as in the official evaluator.
                        if ious[e] >= iou:
                            iou = ious[e]
                            best = g
                if best >= 0:
                    taken[best, a, t] = True
                    flags[a, t, v] = NOT_COUNTED if ignored[a, best] else TRUE_POSITIVE
                else:
                    flags[a, t, v] = NOT_COUNTED if not_counted else FALSE_POSITIVE
                if a == 0 and t == 0:
                    gt_row[d] = best
                    if flags[a, t, v] == TRUE_POSITIVE:
                        outcome[d] = _TP
                    elif flags[a, t, v] == NOT_COUNTED:
                        outcome[d] = _IGNORED
    return flags


@njit(cache=True)
def _classify(
    rows: NDArray,
    category: NDArray,
    starts: NDArray,
    entries: NDArray,
    ious: NDArray,
    gt_category: NDArray,
    crowd: NDArray,
    foreground: float,
    background: float,
    outcome: NDArray,
    error_type: NDArray,
    gt_row: NDArray,
) -> None:
    """Give each false positive its error type and the ground truth that decided it."""
    for d in rows:
        if outcome[d] != _FP:
            continue
        same, same_iou = -1, 0.0
        other, other_iou = -1, 0.0
        for e in range(starts[d], starts[d + 1]):
            g = entries[e]
            if crowd[g]:
                continue
            if gt_category[g] == category[d]:
                if ious[e] > same_iou:
                    same, same_iou = g, ious[e]
            elif ious[e] > other_iou:
                other, other_iou = g, ious[e]
        if background <= same_iou < foreground:
            error_type[d], gt_row[d] = _LOC, same
        elif other_iou >= foreground:
            error_type[d], gt_row[d] = _CLS, other
        elif same_iou >= foreground:
            error_type[d], gt_row[d] = _DUPE, same
        elif max(same_iou, other_iou) <= background:
            error_type[d] = _BKG
        else:
            error_type[d], gt_row[d] = _BOTH, other
