"""What of an annotation file is trained on, by Detectron2's rule, for both engines.

- An annotation none of whose polygons has 3 points is not there at all.
- An image is shown when it has an annotation that is no crowd, whatever its box.
- Repeat factors count every annotation of the images that are shown, crowds too.
- A model is trained on what is no crowd and has a box with an area inside the image; with masks,
  on no RLE without a pixel.
- The key ``ignore`` matters in evaluation alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotation_file import AnnotationFile
from iif.data.faults import Fault, Report, examples, refuse
from iif.data.masks import Form, check_polygons, mask_forms, rle_areas
from iif.data.split import held_out_images

# Detectron2 asks for 1e-5 pixels after resizing, in float32, which cannot tell 500 from 500.00001.
# Of a thinner box nothing may be left after torchvision's resizing, which it refuses.
_MIN_SIDE = 1e-3


@dataclass(frozen=True, eq=False)
class Trainable:
    """What is trained on.

    Attributes:
        images: (S,) int64 rows of the images that are shown, ascending.
        counted: (C,) int64 rows of the annotations that repeat factors count.
        trained: (T,) int64 rows of the annotations that a model is trained on; some of
            ``counted``.
    """

    images: NDArray[np.int64]
    counted: NDArray[np.int64]
    trained: NDArray[np.int64]


def trainable(
    content: AnnotationFile,
    held_out: float = 0.0,
    *,
    masks: bool = False,
    report: Report | None = None,
) -> Trainable:
    """Return what of an annotation file is trained on.

    Args:
        content: the annotations.
        held_out: the part of the images that is left out.
        masks: whether masks are trained; they are checked.
        report: is handed the faults; by default the first is refused.

    Raises:
        InputError: there is nothing to train on, an annotation has no mask, or a broken one.
    """
    content.require("annotations", "bbox")
    report = report or refuse(content.path)
    forms = mask_forms(content)
    there = forms != Form.NO_POLYGON
    there &= ~held_out_images(content.image_ids.tolist(), held_out)[content.ann_image]
    single = there & ~content.crowd
    shown = np.zeros(len(content.images), bool)
    shown[content.ann_image[single]] = True
    with_area = has_area(content)
    if masks:
        without = np.flatnonzero(single & (forms == Form.NONE))
        if len(without):
            ids = content.ann_ids[without]
            message = (
                f"annotation {ids[0]} has no mask ({len(without):,} such); add it, or train a "
                "model without masks"
            )
            report(Fault("no_mask", message, len(without), examples(ids.tolist())))
        rles = np.flatnonzero(single & (forms == Form.RLE))
        with_area[rles] &= rle_areas(content, rles, report) > 0
        polygons = np.flatnonzero(single & (forms == Form.POLYGONS))
        check_polygons(content, polygons, report)
    trained = np.flatnonzero(single & with_area)
    if not len(trained):
        report(_nothing(content, there, single))
    return Trainable(
        images=np.flatnonzero(shown),
        counted=np.flatnonzero(there & shown[content.ann_image]),
        trained=trained,
    )


def _nothing(content: AnnotationFile, there: NDArray[np.bool_], single: NDArray[np.bool_]) -> Fault:
    if there.any() and not single.any():
        message = (
            f"all {len(content.ann_ids):,} annotations are crowds (iscrowd: 1), which are not "
            "trained on; CVAT and Datumaro write that of every mask that was painted: set iscrowd "
            "to 0 where the mask is of one object"
        )
        return Fault("nothing_to_train_on", message)
    message = (
        "has no annotation to train on (crowds and boxes without an area do not count, nor images "
        "that are held out)"
    )
    return Fault("nothing_to_train_on", message)


def has_area(content: AnnotationFile) -> NDArray[np.bool_]:
    """Return (G,) whether each box has an area inside its image."""
    bounds = content.image_sizes()[content.ann_image][:, ::-1]
    low = content.bbox[:, :2]
    high = np.clip(low + content.bbox[:, 2:], 0, bounds)
    sides = high.astype(np.float32) - np.clip(low, 0, bounds).astype(np.float32)
    return np.all(sides > _MIN_SIDE, axis=1)
