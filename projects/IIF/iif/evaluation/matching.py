"""One matching of detections to ground truth, from which every figure of an evaluation comes.

Names and shapes: I images, K categories, G ground-truth instances, D detections, V detections that
count (verified, not capped, not degenerate), A area ranges, T IoU thresholds. A row is an index
into these, from 0. A *cell* is a pair of image and category.

The rules are those of the official LVIS evaluator (lvis 0.5.3), so AP and AR equal its own; what
differs on purpose is listed in docs/evaluation.md. The error types are TIDE's (arXiv 2008.08115).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.errors import InputError
from iif.files import atomic_write

MAX_DETECTIONS = 300
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
BACKGROUND_IOU = 0.1

_FORMAT = "iif-eval-matches/1"


class Outcome(IntEnum):
    """What became of a detection, in the order in which it is asked."""

    CAPPED = 0
    DEGENERATE = 1
    UNVERIFIED = 2
    TP = 3
    IGNORED = 4
    FP = 5


class ErrorType(IntEnum):
    """Why a false positive is one, in the order in which it is asked."""

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


# The values in numba's reach.
_CAPPED, _DEGENERATE, _UNVERIFIED, _TP, _IGNORED, _FP = (int(o) for o in Outcome)
_NONE, _LOC, _CLS, _DUPE, _BKG, _BOTH = (int(e) for e in ErrorType)
FALSE_POSITIVE, TRUE_POSITIVE, NOT_COUNTED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Matches:
    """The outcome of every detection, and what the metrics need of those that count.

    Attributes:
        iou_type: "bbox" or "segm".
        outcome: (D,) uint8, an `Outcome` at IoU 0.5 and every size.
        error_type: (D,) uint8, an `ErrorType`; NONE for all but false positives.
        gt_row: (D,) int32, the ground truth that decided: for TP (and IGNORED by an ignored one)
            that which was taken, for FP that of the highest IoU (of the same category for Loc and
            Dupe, of another for Cls and Both); -1 for none.
        rows: (V,) int64, the detections that count, by category, then falling score, then image
            row, then the file's order.
        category_offsets: (K + 1,) int64; category k has ``rows[offsets[k]:offsets[k + 1]]``.
        image: (V,) int32 image rows.
        score: (V,) float64.
        flags: (A, T, V) uint8: FALSE_POSITIVE, TRUE_POSITIVE or NOT_COUNTED.
        gt_image, gt_category: (Gv,) int32 rows of the ground truth of non-zero area.
        gt_in_area: (A, Gv) bool, whether it is to be found in that area range.
        num_gt: (A, K) int64, how many are to be found.
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


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Where detections overlap ground truth: one computation for matching under any cap.

    Attributes:
        area: (D,) float64 in square pixels: width * height of a box, the pixels of a mask.
        verified: (D,) bool, whether the detection's category is verified in its image.
        exempt: (D,) bool, whether the category is not exhaustively annotated in the image.
        by_image: (D,) int64 detection rows by image, in the file's order within one.
        image_offsets: (I + 1,) int64 into ``by_image``.
        starts: (D + 1,) int64; detection d has the entries ``starts[d]:starts[d + 1]`` of
        gt: (N,) int32 rows of ground truth in the detection's image, ascending, and
        iou: (N,) float64, above 0. Only verified detections of a sound area have entries.
    """

    area: NDArray[np.float64]
    verified: NDArray[np.bool_]
    exempt: NDArray[np.bool_]
    by_image: NDArray[np.int64]
    image_offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    gt: NDArray[np.int32]
    iou: NDArray[np.float64]


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
    """Match detections to ground truth as LVIS does and say what became of each.

    Args:
        gt: the annotations, with masks for "segm".
        detections: the detections, with boxes or masks as ``iou_type`` needs.
        iou_type: "bbox" or "segm".
        max_dets: the cap on each image's detections, over all categories; None for no cap.
        max_dets_per_category: a cap on each category's detections over the whole set.
        classify_errors: give false positives their error type.
        overlaps: from `find_overlaps`, when several matchings share them.
    """
    if overlaps is None:
        overlaps = find_overlaps(gt, detections, iou_type)
    num_classes = len(gt.category_ids)
    degenerate = ~has_area(overlaps.area)
    capped = _beyond_image_cap(overlaps, detections.score, max_dets)
    counts = overlaps.verified & ~degenerate & ~capped
    eligible = ~capped if max_dets_per_category is not None else counts
    rows = overlaps.by_image[eligible[overlaps.by_image]]
    rows, offsets = _group(detections.category, rows, num_classes)
    _sort_by_score(rows, offsets, detections.score)
    if max_dets_per_category is not None:
        place = np.arange(len(rows)) - np.repeat(offsets[:-1], np.diff(offsets))
        capped[rows[place >= max_dets_per_category]] = True
        rows = rows[(counts & ~capped)[rows]]
        offsets = _offsets(detections.category[rows], num_classes)

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
    real = has_area(gt.area)
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


def find_overlaps(gt: Annotations, detections: Detections, iou_type: IouType) -> Overlaps:
    """Find which detections are verified and how much they overlap their image's ground truth.

    Args:
        gt, detections, iou_type: as for `match`.
    """
    num_images, num_classes = len(gt.image_ids), len(gt.category_ids)
    by_image, image_offsets = _group(detections.image, np.arange(len(detections)), num_images)
    gt_rows, gt_offsets = _group(gt.ann_image, np.flatnonzero(has_area(gt.area)), num_images)
    area = _areas(detections, iou_type)
    exempt = _in_cells(detections, by_image, image_offsets, gt.not_exhaustive, num_classes)
    if gt.exhaustive:
        verified = np.ones(len(detections), np.bool_)
    else:
        annotated = np.column_stack([gt.ann_image[gt_rows], gt.ann_category[gt_rows]])
        cells = np.concatenate([annotated, gt.neg])
        verified = _in_cells(detections, by_image, image_offsets, cells, num_classes)
    wanted = verified & has_area(area)
    if iou_type == "bbox":
        assert detections.bbox is not None
        starts, entries, iou = _box_overlaps(
            detections.bbox, wanted, by_image, image_offsets, gt.bbox, gt.crowd, gt_rows, gt_offsets
        )
    else:
        starts, entries, iou = _mask_overlaps(
            detections, wanted, by_image, image_offsets, gt, gt_rows, gt_offsets
        )
    return Overlaps(area, verified, exempt, by_image, image_offsets, starts, entries, iou)


def save_matches(path: str | os.PathLike[str], matches: Mapping[IouType, Matches]) -> None:
    """Write ``eval_matches.npz``: all of `Matches` but what is by detection (D).

    Args:
        path: the file to write, whole or not at all.
        matches: by IoU type.
    """
    arrays: dict[str, Any] = {"format": np.array(_FORMAT)}
    for iou_type, m in matches.items():
        stored = {
            "rows": m.rows,
            "category_offsets": m.category_offsets,
            "image": m.image,
            "score": m.score,
            "flags_shape": np.array(m.flags.shape),
            "true_positive": np.packbits(m.flags == TRUE_POSITIVE),
            "not_counted": np.packbits(m.flags == NOT_COUNTED),
            "gt_image": m.gt_image,
            "gt_category": m.gt_category,
            "gt_in_area": m.gt_in_area,
            "num_gt": m.num_gt,
        }
        arrays |= {f"{iou_type}/{key}": value for key, value in stored.items()}
    # As np.savez_compressed, at the lowest level: as small within 5%, five times as fast.
    with (
        atomic_write(path, "wb") as f,
        zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_matches(path: str | os.PathLike[str]) -> dict[str, Matches]:
    """Read what `save_matches` wrote; outcome, error_type and gt_row come back empty.

    Raises:
        InputError: the file is missing or not of this format.
    """
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {arrays['format']}")
        return {
            str(iou_type): _stored_matches(arrays, iou_type)
            for iou_type in ("bbox", "segm")
            if f"{iou_type}/rows" in arrays
        }
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; iif evaluate writes it") from None
    except (KeyError, ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of {_FORMAT} ({error}); write it again with iif evaluate"
        ) from None


def _stored_matches(arrays: Mapping[str, NDArray[Any]], iou_type: Any) -> Matches:
    def stored(key: str) -> NDArray[Any]:
        return arrays[f"{iou_type}/{key}"]

    shape = tuple(stored("flags_shape").tolist())
    flags = np.zeros(shape, np.uint8)
    for key, flag in (("true_positive", TRUE_POSITIVE), ("not_counted", NOT_COUNTED)):
        bits = np.unpackbits(stored(key), count=flags.size).reshape(shape)
        flags[bits.astype(np.bool_)] = flag
    return Matches(
        iou_type=iou_type,
        outcome=np.zeros(0, np.uint8),
        error_type=np.zeros(0, np.uint8),
        gt_row=np.zeros(0, np.int32),
        flags=flags,
        **{
            key: stored(key)
            for key in (
                "rows",
                "category_offsets",
                "image",
                "score",
                "gt_image",
                "gt_category",
                "gt_in_area",
                "num_gt",
            )
        },
    )


def has_area(area: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether areas are positive and finite; nothing else takes part in matching."""
    return (area > 0) & (area < np.inf)


def _areas(detections: Detections, iou_type: IouType) -> NDArray[np.float64]:
    """Return the (D,) areas; NaN for a box with a coordinate that is not finite."""
    if iou_type == "segm":
        if detections.mask_area is None:
            raise ValueError('the results were loaded without masks; give iou_type="segm"')
        return detections.mask_area.astype(np.float64)
    if detections.bbox is None:
        raise InputError(
            f"{detections.path}: not every row has a bbox; evaluate with --iou-type segm"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        area = detections.bbox[:, 2] * detections.bbox[:, 3]
    area[~np.isfinite(detections.bbox).all(axis=1)] = np.nan
    return area


def _offsets(keys: NDArray[Any], num_keys: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=num_keys))])


def _group(
    keys: NDArray[np.int32], rows: NDArray[np.int64], num_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``rows`` stably ordered by ``keys[rows]``, and the (num_keys + 1,) offsets."""
    offsets = _offsets(keys[rows], num_keys)
    return _counting_sort(keys, rows, offsets), offsets


@njit(cache=True)
def _counting_sort(keys: NDArray, rows: NDArray, offsets: NDArray) -> NDArray:
    place = offsets.copy()
    ordered = np.empty_like(rows)
    for row in rows:
        ordered[place[keys[row]]] = row
        place[keys[row]] += 1
    return ordered


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


def _in_cells(
    detections: Detections,
    by_image: NDArray[np.int64],
    image_offsets: NDArray[np.int64],
    cells: NDArray[np.int32],
    num_classes: int,
) -> NDArray[np.bool_]:
    """Return (D,) whether a detection's image and category are among the (N, 2) cells."""
    order, offsets = _group(cells[:, 0], np.arange(len(cells)), len(image_offsets) - 1)
    return _marked(
        detections.category, by_image, image_offsets, cells[order, 1], offsets, num_classes
    )


@njit(cache=True)
def _marked(
    category: NDArray,
    by_image: NDArray,
    image_offsets: NDArray,
    listed: NDArray,
    listed_offsets: NDArray,
    num_classes: int,
) -> NDArray:
    marked = np.zeros(len(category), np.bool_)
    # One row of the image-by-category table at a time: whole, it would have gigabytes.
    image_of = np.full(num_classes, -1, np.int64)
    for i in range(len(image_offsets) - 1):
        for k in listed[listed_offsets[i] : listed_offsets[i + 1]]:
            image_of[k] = i
        for d in by_image[image_offsets[i] : image_offsets[i + 1]]:
            marked[d] = image_of[category[d]] == i
    return marked


@njit(cache=True)
def _box_iou(d: NDArray, g: NDArray, crowd: bool) -> float:
    # Operation by operation as bbIou of pycocotools: a different rounding could move an IoU
    # across a threshold.
    width = min(d[2] + d[0], g[2] + g[0]) - max(d[0], g[0])
    if width <= 0:
        return 0.0
    height = min(d[3] + d[1], g[3] + g[1]) - max(d[1], g[1])
    if height <= 0:
        return 0.0
    shared = width * height
    area = d[2] * d[3]
    return shared / (area if crowd else area + g[2] * g[3] - shared)


@njit(cache=True)
def _box_overlaps(
    boxes: NDArray,
    wanted: NDArray,
    by_image: NDArray,
    image_offsets: NDArray,
    gt_boxes: NDArray,
    crowd: NDArray,
    gt_rows: NDArray,
    gt_offsets: NDArray,
) -> tuple[NDArray, NDArray, NDArray]:
    starts = np.zeros(len(boxes) + 1, np.int64)
    for i in range(len(image_offsets) - 1):
        for d in by_image[image_offsets[i] : image_offsets[i + 1]]:
            if wanted[d]:
                for g in gt_rows[gt_offsets[i] : gt_offsets[i + 1]]:
                    starts[d + 1] += _box_iou(boxes[d], gt_boxes[g], crowd[g]) > 0
    starts = np.cumsum(starts)
    gt = np.empty(starts[-1], np.int32)
    iou = np.empty(starts[-1], np.float64)
    for i in range(len(image_offsets) - 1):
        for d in by_image[image_offsets[i] : image_offsets[i + 1]]:
            if wanted[d]:
                at = starts[d]
                for g in gt_rows[gt_offsets[i] : gt_offsets[i + 1]]:
                    value = _box_iou(boxes[d], gt_boxes[g], crowd[g])
                    if value > 0:
                        gt[at] = g
                        iou[at] = value
                        at += 1
    return starts, gt, iou


def _mask_overlaps(
    detections: Detections,
    wanted: NDArray[np.bool_],
    by_image: NDArray[np.int64],
    image_offsets: NDArray[np.int64],
    gt: Annotations,
    gt_rows: NDArray[np.int64],
    gt_offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    assert detections.rle is not None
    dets, entries, ious = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0)]
    images = tqdm(
        range(len(gt.image_ids)),
        desc="mask IoU",
        unit="image",
        delay=1,
        disable=None,
    )
    for i in images:
        rows = by_image[image_offsets[i] : image_offsets[i + 1]]
        rows = rows[wanted[rows]]
        truth = gt_rows[gt_offsets[i] : gt_offsets[i + 1]]
        if not len(rows) or not len(truth):
            continue
        iou = mask_utils.iou(
            [detections.rle[d] for d in rows],
            [gt.rle(int(g)) for g in truth],
            gt.crowd[truth].astype(np.uint8),
        )
        d, g = np.nonzero(iou > 0)
        dets.append(rows[d])
        entries.append(truth[g].astype(np.int32))
        ious.append(iou[d, g])
    of = np.concatenate(dets)
    order = np.argsort(of, kind="stable")
    starts = _offsets(of, len(detections))
    return starts, np.concatenate(entries)[order], np.concatenate(ious)[order]


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

    A category's detections come by falling score over all images, so each image's do, too.
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
