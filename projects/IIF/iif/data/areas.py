"""The areas of annotations that have none, which some annotation tools do not write."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from iif.data.annotation_file import AnnotationFile
from iif.data.faults import Faults
from iif.data.masks import Form, is_polygon, mask_forms, polygon_fault, rle_areas


def areas(content: AnnotationFile) -> NDArray[np.float64]:
    """Return (G,) areas in square pixels: those of the file, where it has none those of the masks.

    Without a mask, or with a broken one, it is the box's area. A file in LVIS's format must have
    its areas.

    Raises:
        InputError: an annotation of a file in LVIS's format has no area.
    """
    if content.federated:
        content.require("area")
    missing = np.flatnonzero(np.isnan(content.area))
    if not len(missing):
        return content.area
    found = content.area.copy()
    found[missing] = np.prod(np.maximum(content.bbox[missing, 2:], 0), axis=1)
    forms = mask_forms(content)[missing]
    rles = missing[forms == Form.RLE]
    pixels = rle_areas(content, rles, Faults())
    found[rles[pixels >= 0]] = pixels[pixels >= 0]
    sizes = content.image_sizes()[content.ann_image]
    for row in missing[forms == Form.POLYGONS].tolist():
        segmentation = content.segmentation[row]
        polygons = [part for part in segmentation if is_polygon(part)]
        if not polygon_fault(polygons, *sizes[row].tolist()):
            found[row] = mask_utils.area(
                mask_utils.merge(mask_utils.frPyObjects(polygons, *sizes[row].tolist()))
            )
    return found
