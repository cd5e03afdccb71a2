"""Boundary AP: mask AP in which the outline must fit, too (Cheng et al., arXiv 2103.16562).

The boundary of a mask is its part within a distance d of the outline: the mask without its erosion
by d pixels. The overlap of two objects is the lower of mask IoU and the IoU of the boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Matches, match
from iif.evaluation.overlaps import Overlaps, find_overlaps

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
    boundaries: dict[int, dict[str, Any]] = {}
    image = -1
    order = wanted[np.argsort(detections.image[entry_of[wanted]], kind="stable")]
    for entry in tqdm(order, desc="boundary IoU", unit="pair", delay=1, disable=None):
        d, g = int(entry_of[entry]), int(overlaps.gt[entry])
        if detections.image[d] != image:
            image = detections.image[d]
            boundaries = {}
            distance = boundary_distance(*gt.image_sizes[image].tolist())
        # Detections and ground truth by one key: d, and -1 - g.
        pair = []
        for key, rle in ((d, detections.rle[d]), (-1 - g, gt.rle(g))):
            if key not in boundaries:
                boundaries[key] = _boundary(rle, distance)
            pair.append(boundaries[key])
        found = mask_utils.iou(pair[:1], pair[1:], [0])
        iou[entry] = min(iou[entry], float(found[0, 0]))
    return iou


def _boundary(rle: Mapping[str, Any], distance: int) -> dict[str, Any]:
    mask = mask_utils.decode(rle)
    x, y, width, height = (int(v) for v in mask_utils.toBbox(rle))
    # Outside of its box the mask is empty, as beyond the image's border.
    box = np.s_[y : y + height, x : x + width]
    mask[box] = boundary_of(np.ascontiguousarray(mask[box]), distance)
    return mask_utils.encode(np.asfortranarray(mask))
