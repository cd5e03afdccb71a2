"""How much detections overlap the ground truth of their image, and where they can be judged.

Names and shapes are those of `iif.evaluation.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.errors import InputError
from iif.evaluation.mask_overlaps import mask_overlaps
from iif.kernels import kernel
from iif.threads import in_threads, ranges


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What matchings under any cap share: where detections can be judged, and IoUs of masks.

    IoUs of boxes are cheaper to compute anew than to keep.

    Attributes:
        area: (D,) float64 in square pixels: width * height of a box, the pixels of a mask.
        verified: (D,) bool, whether the detection's category is verified in its image.
        exempt: (D,) bool, whether the category is not exhaustively annotated in the image.
        by_image: (D,) int32 detection rows by image, in the file's order within one.
        image_offsets: (I + 1,) int64 into ``by_image``.
        by_category: (D,) int32 detection rows by category, then image, then the file's order.
        category_offsets: (K + 1,) int64 into ``by_category``.
        gt_rows: (Gv,) int64 rows of the ground truth that has an area, by image.
        gt_offsets: (I + 1,) int64 into ``gt_rows``.
        boxes: (D, 4) float64; (0, 4) for masks.
        starts: (D + 1,) int64; the mask of detection d has the entries ``starts[d]:starts[d + 1]``
            of ``gt`` and ``iou``, if it is verified and has an area. (1,) for boxes.
        gt: (N,) int32 rows of ground truth in the detection's image, ascending.
        iou: (N,) float64, above 0.
        exhaustive: whether COCO's rules hold, not LVIS's.
    """

    area: NDArray[np.float64]
    verified: NDArray[np.bool_]
    exempt: NDArray[np.bool_]
    by_image: NDArray[np.int32]
    image_offsets: NDArray[np.int64]
    by_category: NDArray[np.int32]
    category_offsets: NDArray[np.int64]
    gt_rows: NDArray[np.int64]
    gt_offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    starts: NDArray[np.int64]
    gt: NDArray[np.int32]
    iou: NDArray[np.float64]
    exhaustive: bool

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(D,) whether a detection counts unless a cap leaves it out."""
        return self.verified & has_area(self.area, self.exhaustive)


def find_overlaps(gt: Annotations, detections: Detections, iou_type: IouType) -> Overlaps:
    """Find which detections are verified, and how much masks overlap their image's ground truth.

    Args:
        gt, detections, iou_type: as for `iif.evaluation.matching.match`.

    Raises:
        InputError, ValueError: as `match`.
    """
    num_images, num_classes = len(gt.image_ids), len(gt.category_ids)
    area = _areas(detections, iou_type)
    rows = np.arange(len(detections), dtype=np.int32)
    by_image, image_offsets = group_rows(detections.image, rows, num_images)
    by_category, category_offsets = group_rows(detections.category, by_image, num_classes)
    takes_part = np.flatnonzero(has_area(gt.area, gt.exhaustive))
    gt_rows, gt_offsets = group_rows(gt.ann_image, takes_part, num_images)
    exempt = _in_cells(detections, by_image, image_offsets, gt.not_exhaustive, num_classes)
    if gt.exhaustive:
        verified = np.ones(len(detections), np.bool_)
    else:
        annotated = np.column_stack([gt.ann_image[gt_rows], gt.ann_category[gt_rows]])
        cells = np.concatenate([annotated, gt.neg])
        verified = _in_cells(detections, by_image, image_offsets, cells, num_classes)
    if iou_type == "bbox":
        assert detections.bbox is not None
        boxes, starts = detections.bbox, np.zeros(1, np.int64)
        entries, iou = np.zeros(0, np.int32), np.zeros(0)
    else:
        boxes = np.zeros((0, 4))
        wanted = verified & has_area(area, gt.exhaustive)
        of, entries, iou = mask_overlaps(
            gt, detections, wanted, by_image, image_offsets, gt_rows, gt_offsets
        )
        starts = row_offsets(of, len(detections))
    return Overlaps(
        *(area, verified, exempt, by_image, image_offsets, by_category, category_offsets),
        *(gt_rows, gt_offsets, boxes, starts, entries, iou, gt.exhaustive),
    )


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
    finite = np.isfinite(detections.bbox)
    if not finite.all():
        area[~finite.all(axis=1)] = np.nan
    return area


def row_offsets(keys: NDArray[Any], num_keys: int) -> NDArray[np.int64]:
    """Return the (num_keys + 1,) offsets of each key's part of an array that is sorted by key."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=num_keys))])


_Rows = TypeVar("_Rows", bound=NDArray[np.integer[Any]])


def group_rows(
    keys: NDArray[np.int32], rows: _Rows, num_keys: int
) -> tuple[_Rows, NDArray[np.int64]]:
    """Return ``rows`` stably ordered by ``keys[rows]``, and the (num_keys + 1,) offsets."""
    of = keys[rows]
    offsets = row_offsets(of, num_keys)
    if (of[1:] >= of[:-1]).all():
        return rows, offsets
    # numpy sorts numbers of 16 bits by counting them.
    order = np.argsort(of.astype(np.uint16) if num_keys <= 1 << 16 else of, kind="stable")
    return cast(_Rows, rows[order]), offsets


def selected(
    rows: NDArray[np.int32], offsets: NDArray[np.int64], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the wanted of grouped rows, and their groups' offsets."""
    keep = wanted[rows]
    return rows[keep], np.concatenate([[0], np.cumsum(keep, dtype=np.int32)])[offsets]


def _in_cells(
    detections: Detections,
    by_image: NDArray[np.int32],
    image_offsets: NDArray[np.int64],
    cells: NDArray[np.int32],
    num_classes: int,
) -> NDArray[np.bool_]:
    """Return (D,) whether a detection's image and category are among the (N, 2) cells."""
    order, offsets = group_rows(cells[:, 0], np.arange(len(cells)), len(image_offsets) - 1)
    marked = np.zeros(len(detections), np.bool_)
    if len(cells):
        listed = cells[order, 1]

        def mark(images: tuple[int, int]) -> None:
            image_of = np.full(num_classes, -1, np.int64)
            _mark(
                *images, detections.category, by_image, image_offsets, listed, offsets,
                image_of, marked,
            )  # fmt: skip

        in_threads(mark, ranges(image_offsets))
    return marked


@kernel
def _mark(  # type: ignore[no-untyped-def]
    first, end, category, by_image, image_offsets, listed, listed_offsets, image_of, marked,
):  # fmt: skip
    # One row of the image-by-category table at a time: the whole table would take gigabytes.
    for i in range(first, end):
        for e in range(listed_offsets[i], listed_offsets[i + 1]):
            image_of[listed[e]] = i
        for e in range(image_offsets[i], image_offsets[i + 1]):
            d = by_image[e]
            marked[d] = image_of[category[d]] == i


@kernel
def box_iou(boxes: NDArray, d: int, gt_boxes: NDArray, g: int, crowd: bool) -> float:
    """Return the IoU of two boxes XYWH; of a crowd, the share of the detection that it covers."""
    # Operation by operation as bbIou of pycocotools: a different rounding could move an IoU
    # across a threshold.
    dx, dy, dw, dh = boxes[d, 0], boxes[d, 1], boxes[d, 2], boxes[d, 3]
    gx, gy, gw, gh = gt_boxes[g, 0], gt_boxes[g, 1], gt_boxes[g, 2], gt_boxes[g, 3]
    width = min(dw + dx, gw + gx) - max(dx, gx)
    if width <= 0:
        return 0.0
    height = min(dh + dy, gh + gy) - max(dy, gy)
    if height <= 0:
        return 0.0
    shared = width * height
    if shared == 0:  # smaller than a float can be
        return 0.0
    area = dw * dh
    return shared / (area if crowd else area + gw * gh - shared)
