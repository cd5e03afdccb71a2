"""How much detections overlap the ground truth of their image, and where they can be judged.

Names and shapes are those of `iif.evaluation.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.errors import InputError


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Overlaps of detections with ground truth, which matchings under any cap share.

    Attributes:
        area: (D,) float64 in square pixels: width * height of a box, the pixels of a mask.
        verified: (D,) bool, whether the detection's category is verified in its image.
        exempt: (D,) bool, whether the category is not exhaustively annotated in the image.
        by_image: (D,) int64 detection rows by image, in the file's order within one.
        image_offsets: (I + 1,) int64 into ``by_image``.
        starts: (D + 1,) int64; detection d has the entries ``starts[d]:starts[d + 1]`` of ``gt``
            and ``iou``. Only verified detections with an area have entries.
        gt: (N,) int32 rows of ground truth in the detection's image, ascending.
        iou: (N,) float64, above 0.
    """

    area: NDArray[np.float64]
    verified: NDArray[np.bool_]
    exempt: NDArray[np.bool_]
    by_image: NDArray[np.int64]
    image_offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    gt: NDArray[np.int32]
    iou: NDArray[np.float64]


def find_overlaps(gt: Annotations, detections: Detections, iou_type: IouType) -> Overlaps:
    """Find which detections are verified and how much they overlap their image's ground truth.

    Args:
        gt, detections, iou_type: as for `iif.evaluation.matching.match`.

    Raises:
        InputError, ValueError: as `match`.
    """
    num_images, num_classes = len(gt.image_ids), len(gt.category_ids)
    by_image, image_offsets = group_rows(detections.image, np.arange(len(detections)), num_images)
    takes_part = np.flatnonzero(has_area(gt.area, gt.exhaustive))
    gt_rows, gt_offsets = group_rows(gt.ann_image, takes_part, num_images)
    area = _areas(detections, iou_type)
    exempt = _in_cells(detections, by_image, image_offsets, gt.not_exhaustive, num_classes)
    if gt.exhaustive:
        verified = np.ones(len(detections), np.bool_)
    else:
        annotated = np.column_stack([gt.ann_image[gt_rows], gt.ann_category[gt_rows]])
        cells = np.concatenate([annotated, gt.neg])
        verified = _in_cells(detections, by_image, image_offsets, cells, num_classes)
    wanted = verified & has_area(area, gt.exhaustive)
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


def has_area(area: NDArray[np.float64], exhaustive: bool = False) -> NDArray[np.bool_]:
    """Return whether objects of these areas take part in matching.

    By LVIS's rules (as the official evaluator) the area must be positive and finite. By COCO's,
    where annotation is ``exhaustive``, it must be a number: COCOeval counts an area of zero, too.
    """
    return ~np.isnan(area) if exhaustive else (area > 0) & (area < np.inf)


def _areas(detections: Detections, iou_type: IouType) -> NDArray[np.float64]:
    """Return the (D,) areas; NaN for a box with a coordinate that is not finite."""
    if iou_type == "segm":
        if detections.mask_area is None:
            raise ValueError('the results were loaded without masks; give iou_type="segm"')
        return detections.mask_area.astype(np.float64)
    if detections.bbox is None:
        raise InputError(f"{detections.path}: not every row has a bbox; evaluate the masks alone")
    with np.errstate(over="ignore", invalid="ignore"):
        area = detections.bbox[:, 2] * detections.bbox[:, 3]
    area[~np.isfinite(detections.bbox).all(axis=1)] = np.nan
    return area


def row_offsets(keys: NDArray[Any], num_keys: int) -> NDArray[np.int64]:
    """Return the (num_keys + 1,) offsets of each key's part of an array that is sorted by key."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=num_keys))])


def group_rows(
    keys: NDArray[np.int32], rows: NDArray[np.int64], num_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ``rows`` stably ordered by ``keys[rows]``, and the (num_keys + 1,) offsets."""
    offsets = row_offsets(keys[rows], num_keys)
    return _counting_sort(keys, rows, offsets), offsets


@njit(cache=True)
def _counting_sort(keys: NDArray, rows: NDArray, offsets: NDArray) -> NDArray:
    place = offsets.copy()
    ordered = np.empty_like(rows)
    for row in rows:
        ordered[place[keys[row]]] = row
        place[keys[row]] += 1
    return ordered


def _in_cells(
    detections: Detections,
    by_image: NDArray[np.int64],
    image_offsets: NDArray[np.int64],
    cells: NDArray[np.int32],
    num_classes: int,
) -> NDArray[np.bool_]:
    """Return (D,) whether a detection's image and category are among the (N, 2) cells."""
    order, offsets = group_rows(cells[:, 0], np.arange(len(cells)), len(image_offsets) - 1)
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
    # One row of the image-by-category table at a time: the whole table would take gigabytes.
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
    if shared == 0:  # smaller than a float can be
        return 0.0
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
    starts = row_offsets(of, len(detections))
    return starts, np.concatenate(entries)[order], np.concatenate(ious)[order]
