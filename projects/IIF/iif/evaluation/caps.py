"""COCO's cap on detections: of each category in each image, not of each image as in LVIS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iif.data.results import Detections
from iif.evaluation.overlaps import Overlaps


def beyond_cell_cap(
    overlaps: Overlaps, detections: Detections, max_dets: int, num_classes: int
) -> NDArray[np.bool_]:
    """Return (D,) whether ``max_dets`` detections of the same image and category score higher.

    Of equal scores the first in the file counts as the higher.
    """
    beyond = np.zeros(len(detections), np.bool_)
    many = np.diff(overlaps.image_offsets) > max_dets
    rows = np.flatnonzero(many[detections.image])
    cell = detections.image[rows] * np.int64(num_classes) + detections.category[rows]
    order = np.lexsort((-detections.score[rows], cell))
    cell = cell[order]
    place = np.arange(len(cell)) - np.searchsorted(cell, cell)
    beyond[rows[order]] = place >= max_dets
    return beyond
