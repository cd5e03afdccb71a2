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
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.evaluation.caps import beyond_cell_cap
from iif.evaluation.overlaps import (
    Overlaps,
    box_iou,
    find_overlaps,
    group_rows,
    has_area,
    selected,
)
from iif.kernels import kernel
from iif.threads import in_threads, ranges

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


_LIMITS = np.array(list(AREA_RANGES.values()))


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
        rows: (V,) int32, the detections that count, sorted by category, then falling score, then
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
    rows: NDArray[np.int32]
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
    capped = beyond_caps(detections, overlaps, max_dets, max_dets_per_category)
    outcome = np.full(len(detections), _FP, np.uint8)
    outcome[~overlaps.verified] = _UNVERIFIED
    outcome[~has_area(overlaps.area, gt.exhaustive)] = _DEGENERATE
    outcome[capped] = _CAPPED
    gt_row = np.full(len(detections), -1, np.int32)
    rows, offsets = sorted_rows(detections, overlaps, outcome == _FP)
    flags = match_rows(gt, detections, overlaps, rows, offsets, outcome, gt_row)
    error_type = np.zeros(len(detections), np.uint8)
    if classify_errors:
        in_threads(
            lambda images: _classify(
                *images, overlaps.by_image, overlaps.image_offsets, detections.category,
                overlaps.boxes, overlaps.starts, overlaps.gt, overlaps.iou,
                overlaps.gt_rows, overlaps.gt_offsets, gt.bbox, gt.ann_category, gt.crowd,
                IOU_THRESHOLDS[0], BACKGROUND_IOU, outcome, error_type, gt_row,
            ),
            ranges(overlaps.image_offsets),
        )  # fmt: skip
    real = has_area(gt.area, gt.exhaustive)
    gt_category = gt.ann_category[real]
    in_area = ~_ignored(gt)[:, real]
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


def beyond_caps(
    detections: Detections,
    overlaps: Overlaps,
    max_dets: int | None,
    max_dets_per_category: int | None = None,
) -> NDArray[np.bool_]:
    """Return (D,) whether a cap of `match` leaves a detection out."""
    score = detections.score
    beyond = np.zeros(len(detections), np.bool_)
    if max_dets is not None and overlaps.exhaustive:
        num_classes = len(overlaps.category_offsets) - 1
        beyond = beyond_cell_cap(overlaps, detections, max_dets, num_classes)
    elif max_dets is not None:
        beyond = beyond_group_cap(score, overlaps.by_image, overlaps.image_offsets, max_dets)
    if max_dets_per_category is not None:
        grouped = selected(overlaps.by_category, overlaps.category_offsets, ~beyond)
        beyond |= beyond_group_cap(score, *grouped, max_dets_per_category)
    return beyond


def beyond_group_cap(
    score: NDArray[np.float64], rows: NDArray[np.int32], offsets: NDArray[np.int64], cap: int
) -> NDArray[np.bool_]:
    """Return (D,) whether ``cap`` detections of the same group score higher, or as high before it.

    Args:
        score: (D,).
        rows: detection rows by group; offsets: (groups + 1,) of the groups in them.
        cap: how many of each group are left.
    """
    beyond = np.zeros(len(score), np.bool_)

    def leave_out(group_at: np.int64) -> None:
        group = rows[offsets[group_at] : offsets[group_at + 1]]
        beyond[group[_by_falling(score[group], cap)[cap:]]] = True

    in_threads(leave_out, np.flatnonzero(np.diff(offsets) > cap))
    return beyond


def sorted_rows(
    detections: Detections, overlaps: Overlaps, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the wanted rows in the order of `Matches.rows`, and the offsets of the categories."""
    rows, offsets = selected(overlaps.by_category, overlaps.category_offsets, wanted)

    def sort(categories: tuple[int, int]) -> None:
        for k in range(*categories):
            group = rows[offsets[k] : offsets[k + 1]]
            if len(group) > 1:
                group[:] = group[_by_falling(detections.score[group])]

    in_threads(sort, ranges(offsets))
    return rows, offsets


def _by_falling(score: NDArray[np.float64], first: int | None = None) -> NDArray[np.int64]:
    """Return the order by falling score; equal scores keep theirs.

    With ``first``, those are the ``first`` first, and neither they nor the rest are in order.
    """
    with np.errstate(over="ignore"):
        single = np.float32(0) - score.astype(np.float32)
    if not (single == -score).all():
        return np.argsort(-score, kind="stable")
    # Models give single precision. Its bits and the place behind them make one whole number, which
    # numpy sorts several times faster than it finds a stable order.
    bits = single.view(np.int32)
    ascending = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(np.int64)
    keys = ascending << 32 | np.arange(len(score))
    if first is None:
        keys.sort()
    else:
        keys.partition(first)
    return keys & 0xFFFFFFFF


def _ignored(gt: Annotations) -> NDArray[np.bool_]:
    """Return (A, G) whether ground truth counts neither when found nor when missed."""
    return gt.ignore | (gt.area < _LIMITS[:, :1]) | (gt.area > _LIMITS[:, 1:])


def match_rows(
    gt: Annotations,
    detections: Detections,
    overlaps: Overlaps,
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
    outcome: NDArray[np.uint8],
    gt_row: NDArray[np.int32],
    num_areas: int = len(AREA_RANGES),
) -> NDArray[np.uint8]:
    """Match sorted rows; return their (num_areas, T, V) flags, fill their outcome and gt_row."""
    num_images, num_classes = len(gt.image_ids), len(gt.category_ids)
    gt_rows, gt_offsets = group_rows(gt.ann_category, overlaps.gt_rows, num_classes)
    flags = np.empty((num_areas, len(IOU_THRESHOLDS), len(rows)), np.uint8)
    # A bit of a whole number for each pair of area range and threshold says what is taken.
    assert flags.shape[0] * flags.shape[1] <= 64
    ignored = _ignored(gt)[:num_areas]
    most = int(np.diff(gt_offsets).max(initial=0))

    of_gt = gt.ann_image[gt_rows], gt.bbox[gt_rows], gt.crowd[gt_rows], ignored[:, gt_rows]

    def of(categories: tuple[int, int]) -> None:
        part = slice(*offsets[list(categories)])
        chosen = rows[part]
        # As if nothing overlapped.
        area, exempt = overlaps.area[chosen], overlaps.exempt[chosen]
        for a, (low, high) in enumerate(_LIMITS[:num_areas]):
            flags[a, :, part] = NOT_COUNTED * (exempt | (area < low) | (area > high))
        outcome[chosen[flags[0, 0, part] == NOT_COUNTED]] = _IGNORED
        _match(
            *categories, rows, offsets, detections.image, overlaps.boxes, overlaps.starts,
            overlaps.gt, overlaps.iou, gt_rows, gt_offsets, *of_gt, IOU_THRESHOLDS,
            np.full(num_images, -1, np.int64), np.empty(most, np.uint64),
            np.empty(most, np.int64), np.empty(most), flags, outcome, gt_row,
        )  # fmt: skip

    in_threads(of, ranges(offsets))
    return flags


@kernel
def _match(  # type: ignore[no-untyped-def]
    first, end, rows, offsets, image, boxes, starts, entries, ious, gt_rows, gt_offsets,
    gt_image, gt_boxes, crowd, ignored, thresholds, place, taken, same, same_iou,
    flags, outcome, gt_row,
):  # fmt: skip
    """Match categories greedily for each area range and threshold; fill flags and outcomes.

    ``rows`` are sorted by category and falling score, over all images and thus within each; ground
    truth by category and image. ``place`` says where in it an image's begins.
    """
    one = np.uint64(1)
    for k in range(first, end):
        begin, stop = gt_offsets[k], gt_offsets[k + 1]
        for g in range(stop - 1, begin - 1, -1):
            place[gt_image[g]] = g
            taken[g - begin] = 0
        for v in range(offsets[k], offsets[k + 1]):
            d = rows[v]
            i = image[d]
            num_same = 0
            highest = 0.0
            g = place[i]
            while begin <= g < stop and gt_image[g] == i:
                value = 0.0
                if len(boxes):
                    value = box_iou(boxes, d, gt_boxes, g, crowd[g])
                else:
                    for pair in range(starts[d], starts[d + 1]):
                        if entries[pair] == gt_rows[g]:
                            value = ious[pair]
                if value >= thresholds[0]:
                    same[num_same] = g
                    same_iou[num_same] = value
                    highest = max(highest, value)
                    num_same += 1
                g += 1
            if num_same == 0:
                continue
            for a in range(len(ignored)):
                for t in range(len(thresholds)):
                    least = min(thresholds[t], 1 - 1e-10)
                    if highest < least:
                        break
                    bit = one << np.uint64(a * len(thresholds) + t)
                    best = -1
                    # Ignored ground truth only where no other fits.
                    for ignorable in (False, True):
                        iou = least
                        if best >= 0:
                            break
                        for s in range(num_same):
                            g = same[s]
                            is_taken = taken[g - begin] & bit != 0
                            if ignored[a, g] != ignorable or (is_taken and not crowd[g]):
                                continue
                            # Of equal IoUs the last, as in the official evaluator.
                            if same_iou[s] >= iou:
                                iou = same_iou[s]
                                best = g
                    if best < 0:
                        continue
                    taken[best - begin] |= bit
                    flags[a, t, v] = NOT_COUNTED if ignored[a, best] else TRUE_POSITIVE
                    if a == 0 and t == 0:
                        gt_row[d] = gt_rows[best]
                        outcome[d] = _IGNORED if ignored[a, best] else _TP


@kernel
def _classify(  # type: ignore[no-untyped-def]
    first, end, by_image, image_offsets, category, boxes, starts, entries, ious, gt_rows,
    gt_offsets, gt_boxes, gt_category, crowd, foreground, background, outcome, error_type,
    gt_row,
):  # fmt: skip
    """Give each false positive its error type and the ground truth that decided it."""
    for i in range(first, end):
        for place in range(image_offsets[i], image_offsets[i + 1]):
            d = by_image[place]
            if outcome[d] != _FP:
                continue
            same, same_iou = np.int32(-1), 0.0
            other, other_iou = np.int32(-1), 0.0
            start, stop = gt_offsets[i], gt_offsets[i + 1]
            if not len(boxes):
                start, stop = starts[d], starts[d + 1]
            for e in range(start, stop):
                g = np.int32(gt_rows[e]) if len(boxes) else entries[e]
                if crowd[g]:
                    continue
                iou = box_iou(boxes, d, gt_boxes, g, False) if len(boxes) else ious[e]
                if gt_category[g] == category[d]:
                    if iou > same_iou:
                        same, same_iou = g, iou
                elif iou > other_iou:
                    other, other_iou = g, iou
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
