"""The masks of an annotation file before training: which form they have, whether RLEs are sound."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data import rle
from iif.data.annotation_file import AnnotationFile
from iif.data.faults import Fault, Report, refuse

# How far from the image a polygon may reach, in sides of the image: pycocotools draws the whole
# outline, and neither its time nor its whole numbers have a bound.
_MAX_SIDES = 10

_POLYGONS = msgspec.json.Decoder(list[list[float]])


class Form(enum.IntEnum):
    """The form of a segmentation."""

    NONE = 0  # missing, null or an empty list
    RLE = 1
    POLYGONS = 2  # at least one polygon is one
    NO_POLYGON = 3  # none of its polygons has 3 points


class _RLE(msgspec.Struct, gc=False):
    counts: str | list[int]
    size: tuple[int, int]


def is_polygon(coordinates: Any) -> bool:
    """Return whether x, y, x, y, ... are at least 3 points; Detectron2 leaves others out.

    What is no list is left to whoever decodes the polygons.
    """
    if not isinstance(coordinates, list):
        return True
    return len(coordinates) % 2 == 0 and len(coordinates) >= 6


def polygon_fault(polygons: list[Any], height: int, width: int) -> str:
    """Return why pycocotools must not draw polygons on an image of this size; empty where it may.

    Args:
        polygons: what should be lists of x1, y1, x2, y2, ... in pixels.
        height, width: of the image.
    """
    if not polygons:
        return "has no polygon"
    for number, polygon in enumerate(polygons):
        if not isinstance(polygon, list) or not all(isinstance(v, int | float) for v in polygon):
            return "is not a list of polygons [x1, y1, x2, y2, x3, y3, ...]"
        if len(polygon) < 6:
            box = "; a box [x, y, width, height] is no polygon" if len(polygon) == 4 else ""
            return f"polygon {number} has {len(polygon)} numbers, 3 points have 6{box}"
        if len(polygon) % 2:
            return f"polygon {number} has {len(polygon)} numbers, but x, y, x, y, ... are even"
        if not _is_near(polygon, height, width):
            return (
                f"polygon {number} has the coordinate {max(polygon, key=abs):g}, far out of the "
                f"image of {height} x {width} pixels (height, width)"
            )
    return ""


def _is_near(polygon: list[float], height: int, width: int) -> bool:
    reach = _MAX_SIDES * max(height, width)
    return -reach <= min(polygon) and max(polygon) <= reach


def check_polygons(
    content: AnnotationFile, rows: NDArray[np.integer], report: Report | None = None
) -> None:
    """Check the polygons of annotations, those apart that are left out (`is_polygon`).

    Args:
        content: the annotations.
        rows: (M,) which; each of form POLYGONS.
        report: is handed the faults; by default the first is refused.

    Raises:
        InputError: names the first annotation with a fault.
    """
    report = report or refuse(content.path)
    sizes = content.image_sizes()[content.ann_image[rows]]
    for row, (height, width) in zip(rows.tolist(), sizes.tolist(), strict=True):
        polygons: list[Any]
        try:
            polygons = _POLYGONS.decode(content.segmentation.text(row))
        except msgspec.DecodeError:
            polygons = content.segmentation[row]
        else:
            # Of millions of sound ones nothing else is asked.
            if all(_is_near(part, height, width) for part in polygons if is_polygon(part)):
                continue
        fault = polygon_fault([part for part in polygons if is_polygon(part)], height, width)
        if fault:
            report(_fault(content, row, f": {fault}", "odd_polygons"))


def mask_forms(content: AnnotationFile) -> NDArray[np.int8]:
    """Return the (G,) `Form` of each annotation's segmentation; what is malformed has its first."""
    texts = (content.segmentation.text(row) for row in range(len(content.ann_ids)))
    return np.fromiter(map(_form, texts), np.int8, len(content.ann_ids))


def _form(text: bytes) -> Form:
    if text in (b"", b"null"):
        return Form.NONE
    if not text.startswith(b"["):
        return Form.RLE
    lists = text.count(b"[")
    if lists == 1:
        return Form.POLYGONS if text[1:-1].strip() else Form.NONE
    if lists == 2:  # one polygon: its numbers need not be decoded
        numbers = text.count(b",") + 1
        return Form.POLYGONS if numbers % 2 == 0 and numbers >= 6 else Form.NO_POLYGON
    try:
        polygons = _POLYGONS.decode(text)
    except msgspec.DecodeError:
        return Form.POLYGONS
    return Form.POLYGONS if any(map(is_polygon, polygons)) else Form.NO_POLYGON


def rle_areas(
    content: AnnotationFile, rows: NDArray[np.integer], report: Report | None = None
) -> NDArray[np.int64]:
    """Return how many pixels the RLEs of annotations have.

    Args:
        content: the annotations.
        rows: (M,) which; each of form RLE.
        report: is handed the faults, and the areas of such RLEs are negative; by default the first
            fault is refused.

    Raises:
        InputError: one is no RLE of a mask of its image; names the annotation and the fault.
    """
    if not len(rows):
        return np.empty(0, np.int64)
    report = report or refuse(content.path)
    decoder = msgspec.json.Decoder(_RLE)
    sizes = content.image_sizes()[content.ann_image[rows]]
    counts: list[bytes] = []
    sound = np.zeros(len(rows), bool)
    for i, (row, size) in enumerate(zip(rows.tolist(), map(tuple, sizes.tolist()), strict=True)):
        height, width = size
        try:
            segmentation = decoder.decode(content.segmentation.text(row))
        except msgspec.DecodeError as error:
            report(_fault(content, row, f" is neither polygons nor an RLE ({error})"))
            continue
        if segmentation.size != size:
            found = list(segmentation.size)
            report(_fault(content, row, f" has size {found} but the image is [{height}, {width}]"))
            continue
        if isinstance(segmentation.counts, str):
            counts.append(segmentation.counts.encode())
        else:
            try:
                counts.append(rle.from_runs(segmentation.counts, height, width))
            except ValueError as error:
                report(_fault(content, row, f": {error}"))
                continue
        sound[i] = True
    ends = np.cumsum([len(text) for text in counts], dtype=np.int64)
    areas = np.full(len(rows), -1, np.int64)
    areas[sound] = rle.RLEs(sizes[sound], np.frombuffer(b"".join(counts), np.uint8), ends).areas()
    broken = np.flatnonzero(sound & (areas < 0))
    if len(broken):
        words = f": {rle.FAULTS[int(areas[broken[0]])]}"
        report(_fault(content, int(rows[broken[0]]), words, number=len(broken)))
    return areas


def _fault(
    content: AnnotationFile, row: int, fault: str, kind: str = "broken_rles", number: int = 1
) -> Fault:
    more = f" ({number:,} such annotations)" if number > 1 else ""
    message = (
        f"annotations: segmentation of the annotation with id {content.ann_ids[row]}{fault}{more}; "
        "convert the annotations again"
    )
    return Fault(kind, message, number, (int(content.ann_ids[row]),))
