"""COCO's cap on detections: of each category in each image, not of each image as in LVIS."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from iif.data.results import Detections
from iif.evaluation.overlaps import Overlaps


def beyond_cell_cap(
    overlaps: Overlaps, detections: Detections, max_dets: int, num_classes: int
) -> NDArray[np.bool_]:
    """Return (D,) whether ``max_dets`` detections of the same image and category score higher.

    Of equal scores the first in the file counts as the higher.
    """
    return _beyond(
        overlaps.by_image,
        overlaps.image_offsets,
        detections.category,
        detections.score,
        max_dets,
        num_classes,
    )


@njit(cache=True)
def _beyond(
    by_image: NDArray,
    image_offsets: NDArray,
    category: NDArray,
    score: NDArray,
    max_dets: int,
    num_classes: int,
) -> NDArray:
    beyond = np.zeros(len(score), np.bool_)
    seen = np.empty(num_classes, np.int64)
    for i in range(len(image_offsets) - 1):
        rows = by_image[image_offsets[i] : image_offsets[i + 1]]
        if len(rows) <= max_dets:
            continue
        seen[:] = 0
        for d in rows[np.argsort(-score[rows], kind="mergesort")]:
            beyond[d] = seen[category[d]] >= max_dets
            seen[category[d]] += 1
    return beyond
