"""All faults of an annotation file: those that the readers refuse, and what looks odd."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data.annotation_file import AnnotationFile
from iif.data.annotations import lvis_faults
from iif.data.boxes import are_corners, boxes_beyond
from iif.data.faults import Fault, Report, examples
from iif.data.masks import Form, check_polygons, mask_forms, rle_areas
from iif.data.names import image_paths
from iif.data.trainable import has_area, trainable

_POLYGONS = msgspec.json.Decoder(list[list[float]])
# Rectangles have 4 corners, the first of which may be repeated: 8 or 10 numbers.
_COMMAS_OF_RECTANGLES = (7, 9)
# Numbers of a rectangle may be rounded.
_PIXEL = 1.0


class Content(msgspec.Struct):
    """What an annotation file holds, in numbers.

    Attributes:
        format: "lvis" or "coco".
        images, categories, annotations: how many the file has.
        crowds: annotations that are crowds.
        masks: objects, crowds apart, that have a mask.
        rectangles: of these, masks that are rectangles.
        shown: images that training shows.
        trained: annotations that training uses.
        model: "masks" or "boxes": what can be trained; "" for nothing.
    """

    format: str
    images: int
    categories: int
    annotations: int
    crowds: int
    masks: int
    rectangles: int
    shown: int = 0
    trained: int = 0
    model: str = ""


def check_content(content: AnnotationFile, report: Report) -> Content:
    """Report what training and evaluation refuse of an annotation file, and what looks odd.

    Args:
        content: the file, decoded with the same report.
        report: is handed the faults.
    """
    _report_required(content, report)
    ids = content.image_ids.tolist()
    names = content.file_names()
    image_paths(content.path, ids, names, ".", report)
    lvis_faults(content, report)
    _report_odd(content, names, report)
    counts = len(content.ann_ids), int(content.crowd.sum())
    content = _complete_part(content)
    forms = mask_forms(content)
    single = ~content.crowd & (forms != Form.NO_POLYGON)
    masks = single & np.isin(forms, (Form.RLE, Form.POLYGONS))
    rectangles = _rectangles(content, np.flatnonzero(masks & (forms == Form.POLYGONS)))
    found = Content(
        format="lvis" if content.federated else "coco",
        images=len(ids),
        categories=len(content.categories),
        annotations=counts[0],
        crowds=counts[1],
        masks=int(masks.sum()),
        rectangles=len(rectangles),
    )
    if "annotations" not in content.faults:
        _report_trainable(content, forms, single, masks, found, report)
        _report_boxes(content, report)
    _report_masks(content, forms, single, masks, rectangles, report)
    return found


def _report_required(content: AnnotationFile, report: Report) -> None:
    for key in ("annotations", "bbox", "height", "width"):
        if key in content.faults:
            report(content.faults[key])


def _complete_part(content: AnnotationFile) -> AnnotationFile:
    """Return the annotations that have a box, in images that have a size; the rest is reported."""
    if {"bbox", "height", "width"}.isdisjoint(content.faults):
        return content
    sizes = [(image.height or 0, image.width or 0) for image in content.images]
    sized = np.array([min(size) > 0 for size in sizes])
    kept = sized[content.ann_image] & ~np.isnan(content.bbox).any(axis=1)
    images = [
        image if is_sized else msgspec.structs.replace(image, height=1, width=1)
        for image, is_sized in zip(content.images, sized.tolist(), strict=True)
    ]
    rows = np.flatnonzero(kept).tolist()
    return dataclasses.replace(
        content,
        images=images,
        ann_ids=content.ann_ids[kept],
        ann_image=content.ann_image[kept],
        ann_category=content.ann_category[kept],
        bbox=content.bbox[kept],
        area=content.area[kept],
        ignore=content.ignore[kept],
        crowd=content.crowd[kept],
        segmentation=content.segmentation.part(rows),
        faults={key: f for key, f in content.faults.items() if key == "annotations"},
    )


def _report_trainable(
    content: AnnotationFile,
    forms: NDArray[np.int8],
    single: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    found: Content,
    report: Report,
) -> None:
    """Report what training refuses, of masks where every object has one."""
    with_masks = bool(masks.any()) and bool(masks[single].all())
    refused = False

    def note(fault: Fault) -> None:
        nonlocal refused
        refused = True
        report(fault)

    used = trainable(content, masks=with_masks, report=note)
    if not with_masks:  # Detectron2 reads the masks that there are, whatever is trained
        rle_areas(content, np.flatnonzero(masks & (forms == Form.RLE)), note)
        check_polygons(content, np.flatnonzero(masks & (forms == Form.POLYGONS)), note)
    found.shown, found.trained = len(used.images), len(used.trained)
    found.model = "" if refused else "masks" if with_masks else "boxes"


def _report_boxes(content: AnnotationFile, report: Report) -> None:
    beyond = boxes_beyond(content.bbox, content.image_sizes()[content.ann_image])
    if beyond.any():
        share = float(beyond.mean())
        kind = "corners" if are_corners(share) else "boxes_beyond"
        message = (
            f"{share:.0%} of the boxes reach beyond the right or lower edge of their image"
            + ("; if they are two corners, convert them" if kind == "corners" else "")
        )
        _of_annotations(content, beyond, kind, message, report)
    without = ~has_area(content) & ~content.crowd
    message = "no width, no height, or outside of the image; correct or remove them"
    _of_annotations(content, without, "no_box_area", message, report)


def _report_masks(
    content: AnnotationFile,
    forms: NDArray[np.int8],
    single: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    rectangles: NDArray[np.int64],
    report: Report,
) -> None:
    without = single & (forms == Form.NONE)
    if masks.any():
        message = f"{int(without.sum()):,} of {int(single.sum()):,} objects have no mask; add them"
        _of_annotations(content, without, "no_mask", message, report)
    elif single.any():
        report(Fault("boxes_only", "no object has a mask", int(single.sum())))
    message = "polygons of fewer than 3 points; draw them again, or remove the annotations"
    _of_annotations(content, forms == Form.NO_POLYGON, "no_polygon", message, report)
    if 2 * len(rectangles) > masks.sum() > 0:
        message = f"{len(rectangles):,} of {int(masks.sum()):,} masks are upright rectangles"
        found = examples(content.ann_ids[rectangles].tolist())
        report(Fault("masks_of_boxes", message, len(rectangles), found))


def _rectangles(content: AnnotationFile, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of the annotations, whose masks are polygons, have an upright rectangle."""
    found = []
    for row in rows.tolist():
        text = content.segmentation.text(row)
        if text.count(b",") in _COMMAS_OF_RECTANGLES and text.count(b"[") == 2:
            try:
                (polygon,) = _POLYGONS.decode(text)
            except msgspec.DecodeError:
                continue
            if _is_rectangle(polygon):
                found.append(row)
    return np.array(found, np.int64)


def _is_rectangle(polygon: Sequence[float]) -> bool:
    corners = np.array(polygon).reshape(-1, 2)
    low, high = corners.min(axis=0), corners.max(axis=0)
    at_edge = np.minimum(np.abs(corners - low), np.abs(corners - high)) <= _PIXEL
    sides = corners > (low + high) / 2
    return bool(at_edge.all()) and len(np.unique(sides, axis=0)) == 4


def _report_odd(content: AnnotationFile, names: Sequence[str], report: Report) -> None:
    if content.whole_floats:
        message = "ids, sizes or flags such as 1.0; write 1"
        report(Fault("whole_floats", message, content.whole_floats))
    without = np.isnan(content.area)
    if not content.federated:
        message = "annotations without area; write it in square pixels to be sure of it"
        _of_annotations(content, without, "computed_areas", message, report)
    message = "write the areas in square pixels"
    _of_annotations(content, (content.area <= 0) & ~without, "no_area", message, report)
    again = _repeated(
        np.column_stack([content.ann_image, content.ann_category, np.nan_to_num(content.bbox)])
    )
    message = "the same image, category and box; remove the copies"
    _of_annotations(content, again, "same_annotations", message, report)
    rows = _repeated_names(names)
    if rows:
        message = f"file name {names[rows[0]]!r}; list each image once"
        found = examples(content.images[row].id for row in rows)
        report(Fault("same_files", message, len(rows), found))
    shown = np.bincount(content.ann_image, minlength=len(content.images)) > 0
    if content.annotated and not shown.all():
        bare = content.image_ids[~shown].tolist()
        report(Fault("no_annotation", "no object is annotated there", len(bare), examples(bare)))
    rows = _repeated_names([category.name for category in content.categories])
    if rows:
        message = f"{content.categories[rows[0]].name!r}; merge them, or name them apart"
        found = examples(content.categories[row].id for row in rows)
        report(Fault("same_class_names", message, len(rows), found))


def _repeated(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) whether a row (N, C) equals an earlier one."""
    again = np.zeros(len(rows), bool)
    if len(rows) > 1:
        order = np.lexsort(rows.T)  # stable: the first of equal ones stays the first
        again[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return again


def _repeated_names(names: Sequence[str]) -> list[int]:
    """Return the rows of names, empty ones apart, that occur before."""
    seen: set[str] = set()
    rows = []
    for row, name in enumerate(names):
        if name and name in seen:
            rows.append(row)
        seen.add(name)
    return rows


def _of_annotations(
    content: AnnotationFile, rows: NDArray[np.bool_], kind: str, message: str, report: Report
) -> None:
    """Report the annotations for which ``rows`` is true, where there is one."""
    ids: list[Any] = content.ann_ids[rows].tolist()
    if ids:
        report(Fault(kind, message, len(ids), examples(ids)))
