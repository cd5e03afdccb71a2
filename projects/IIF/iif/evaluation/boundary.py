"""Boundary AP: mask AP in which the outline must fit, too (Cheng et al., arXiv 2103.16562).

The boundary of a mask is its part within a distance d of the outline: the mask without its erosion
by d pixels. The overlap of two objects is the lower of mask IoU and the IoU of the boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Matches, match
from iif.evaluation.overlaps import Overlaps, find_overlaps
from iif.kernels import kernel
from iif.progress import progress

# d as a share of the image's diagonal.
DILATION_RATIO = 0.02


def match_boundaries(
    gt: Annotations,
    detections: Detections,
    *,
    max_dets: int | None = MAX_DETECTIONS,
    overlaps: Overlaps | None = None,
) -> Matches:
    """Match masks by the lower of mask IoU and boundary IoU; `compute_metrics` gives Boundary AP.

    Args:
        gt, detections: with masks.
        max_dets: as for `iif.evaluation.matching.match`.
        overlaps: of the masks, from `find_overlaps`, where they were found already.
    """
    if overlaps is None:
        overlaps = find_overlaps(gt, detections, "segm")
    lower = replace(overlaps, iou=_lower(gt, detections, overlaps))
    return match(gt, detections, "segm", max_dets=max_dets, classify_errors=False, overlaps=lower)


def boundary_of(mask: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """Return the part of a mask within ``distance`` pixels of its outline.

    Beyond the image's border there is no mask: an object that is cut off there has its outline on
    the border.

    Args:
        mask: (H, W), 0 or 1.
        distance: in pixels, at least 1, by the larger of the distances in x and y.
    """
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return (mask - eroded[1:-1, 1:-1]).astype(np.uint8, copy=False)


def boundary_distance(height: int, width: int) -> int:
    """Return d of an image of this size: 2% of its diagonal, at least 1 pixel."""
    return max(1, round(DILATION_RATIO * float(np.sqrt(height**2 + width**2))))


def _lower(gt: Annotations, detections: Detections, overlaps: Overlaps) -> NDArray[np.float64]:
    """Return (N,) the entries' lower IoU; of crowds mask IoU, as in boundary-iou-api."""
    assert detections.rle is not None
    iou = overlaps.iou.copy()
    entry_of = np.repeat(np.arange(len(detections)), np.diff(overlaps.starts))
    same = detections.category[entry_of] == gt.ann_category[overlaps.gt]
    # Nothing below the lowest threshold can match, and the boundary cannot raise an overlap.
    wanted = np.flatnonzero(same & (iou >= IOU_THRESHOLDS[0]) & ~gt.crowd[overlaps.gt])
    boundaries: dict[int, _Window] = {}
    image = -1
    order = wanted[np.argsort(detections.image[entry_of[wanted]], kind="stable")]
    for entry in progress(order, desc="boundary IoU", unit="pair", delay=1):
        d, g = int(entry_of[entry]), int(overlaps.gt[entry])
        if detections.image[d] != image:
            image = detections.image[d]
            boundaries = {}
            distance = boundary_distance(*gt.image_sizes[image].tolist())
        # Detections and ground truth by one key: d, and -1 - g.
        for key in (d, -1 - g):
            if key not in boundaries:
                rle = detections.rle[d] if key == d else gt.rle(g)
                boundaries[key] = _Window.of(rle, distance)
        iou[entry] = min(iou[entry], boundaries[d].iou(boundaries[-1 - g]))
    return iou


@dataclass(frozen=True)
class _Window:
    """A boundary's pixels within the box of its mask; outside of it there are none.

    Attributes:
        x, y: where the box begins.
        pixels: (width, height) bool, transposed.
        size: how many are set.
    """

    x: int
    y: int
    pixels: NDArray[np.bool_]
    size: int

    @classmethod
    def of(cls, rle: Mapping[str, Any], distance: int) -> _Window:
        """Return the boundary of a compressed RLE that was checked."""
        x, y, width, height = (int(v) for v in mask_utils.toBbox(rle))
        pixels = np.zeros((width, height), np.uint8)
        _fill(np.frombuffer(rle["counts"], np.uint8), rle["size"][0], x, y, pixels)
        boundary = boundary_of(pixels, distance).astype(np.bool_)
        return cls(x, y, boundary, int(np.count_nonzero(boundary)))

    def iou(self, other: _Window) -> float:
        """Return the share of pixels that both have among those that one has."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        ends = [np.add((one.x, one.y), one.pixels.shape) for one in (self, other)]
        width, height = (max(0, int(v)) for v in np.minimum(*ends) - (x, y))
        mine, its = (
            one.pixels[x - one.x : x - one.x + width, y - one.y : y - one.y + height]
            for one in (self, other)
        )
        shared = int(np.count_nonzero(mine & its))
        return shared / (self.size + other.size - shared)


@kernel
def _fill(counts: NDArray, image_height: int, x: int, y: int, pixels: NDArray) -> None:
    """Set the pixels of a compressed RLE, which all lie in the window that begins at x, y."""
    before_last, last, number, begin, at = 0, 0, 0, 0, 0
    while at < len(counts):
        run, shift, more = 0, 0, True
        while more:
            digit: int = np.int64(counts[at]) - 48  # type: ignore[assignment]
            at += 1
            run |= (digit & 31) << shift
            shift += 5
            more = digit & 32 != 0
            if not more and digit & 16:
                run |= -1 << shift
        if number > 2:
            run += before_last
        end = begin + run
        while number % 2 and begin < end:
            column, top = begin // image_height, begin % image_height
            bottom = min(image_height, top + end - begin)
            pixels[column - x, top - y : bottom - y] = 1
            begin += bottom - top
        begin = end
        before_last, last = last, run
        number += 1
