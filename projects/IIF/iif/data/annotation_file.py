"""Annotation files in LVIS's or COCO's format: the schema, and one decoding a process.

:func:`read_annotation_file` decodes a file into arrays and keeps the last few files, so that
counting, checking, training and evaluation share one decoding. Keys that only some uses need are
optional in the schema; a use that needs them calls :meth:`AnnotationFile.require`. Masks stay text
in memory and are decoded on access.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.data.names import image_name, one_line
from iif.errors import InputError
from iif.files import Id, read_json, sha256_file

WHAT = "an LVIS- or COCO-format annotation file"

_MAX_KEPT_FILES = 4
# Two writes within one tick of the file system's clock leave the same time. A file this young is
# read but not kept, because a change of it could go unnoticed.
_TICK_NS = 50_000_000
# The runs of pycocotools's masks are 32-bit numbers.
_MAX_PIXELS = 2**31 - 1
# Annotations that exist as Python objects at a time.
_BLOCK = 1 << 15


class AnnotatedImage(msgspec.Struct, gc=False, frozen=True):
    """An image of an annotation file; the lists of category ids are LVIS's alone."""

    id: Id
    height: Id | None = None
    width: Id | None = None
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class Category(msgspec.Struct, gc=False, frozen=True):
    """A category of an annotation file; ``frequency`` ("r", "c" or "f") is LVIS's alone."""

    id: Id
    name: str
    frequency: str | None = None
    image_count: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


# Where the key is missing.
_NONE = msgspec.Raw(b"")


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: list[float] | None = None
    area: float | None = None
    ignore: int | bool | None = 0
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = _NONE


class _Segmentation(msgspec.Struct, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class _File(msgspec.Struct):
    images: list[AnnotatedImage]
    categories: list[Category]
    annotations: list[msgspec.Raw] | None = None
    info: Any = None  # of any form: nothing depends on it


class Segmentations(Sequence[Any]):
    """The ``segmentation`` of each annotation: text in memory, decoded on access."""

    def __init__(self, annotations: list[msgspec.Raw]) -> None:
        """Keep the annotations, which are views into the file's content."""
        self._annotations = annotations
        self._decoder = msgspec.json.Decoder(_Segmentation)

    def __len__(self) -> int:
        """Return the number of annotations."""
        return len(self._annotations)

    def __getitem__(self, index: Any) -> Any:
        """Return polygons (lists of x, y, x, y, ...) or an RLE dict, as the file has it."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return msgspec.json.decode(self.text(index) or b"null")

    def text(self, row: int) -> bytes:
        """Return the JSON text of a segmentation; empty where the annotation has none."""
        text = bytes(self._decoder.decode(self._annotations[row]).segmentation)
        # What is no UTF-8 is no mask either, and refused as such.
        return text if text.isascii() else text.decode(errors="replace").encode()


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotationFile:
    """An annotation file with I images, K categories and G annotations.

    Images and categories are in ascending id, annotations in the file's order. The arrays are
    shared by all who read the file and cannot be written to.

    Attributes:
        path: the file.
        images: I images.
        categories: K categories.
        image_ids: (I,) int64, ascending.
        category_ids: (K,) int64, ascending.
        ann_ids: (G,) int64.
        ann_image, ann_category: (G,) int32 rows of ``images`` and ``categories``.
        bbox: (G, 4) float64, x, y, width and height in pixels; NaN where there is none.
        area: (G,) float64 in square pixels; NaN where there is none.
        ignore, crowd: (G,) bool, the keys ``ignore`` and ``iscrowd``.
        segmentation: G polygons or RLE dicts, decoded on access.
        faults: for each optional key that an image or annotation lacks, the first such fault.
        attribution: whom the images are by, where the file's ``info`` says it; else empty.
    """

    path: str
    images: list[AnnotatedImage]
    categories: list[Category]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    ann_ids: NDArray[np.int64]
    ann_image: NDArray[np.int32]
    ann_category: NDArray[np.int32]
    bbox: NDArray[np.float64]
    area: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    segmentation: Segmentations
    faults: dict[str, str]
    attribution: str

    @property
    def annotated(self) -> bool:
        """Whether there is anything to evaluate with; LVIS's test sets have no annotations."""
        return len(self.ann_ids) > 0

    @functools.cached_property
    def federated(self) -> bool:
        """Whether the file is in LVIS's format: it says which categories are verified where."""
        return any(image.neg_category_ids is not None for image in self.images)

    def require(self, *keys: str) -> None:
        """Check that every image or annotation has these optional keys.

        Args:
            keys: of "height", "width", "annotations", "bbox", "area" and "segmentation".

        Raises:
            InputError: one lacks a key, or its bbox has not four numbers.
        """
        for key in keys:
            if key in self.faults:
                raise InputError(f"{self.path}: not {WHAT}: {self.faults[key]}")

    def image_sizes(self) -> NDArray[np.int64]:
        """Return (I, 2) height and width in pixels.

        Raises:
            InputError: an image has none.
        """
        self.require("height", "width")
        return np.array([(image.height, image.width) for image in self.images], dtype=np.int64)

    def file_names(self) -> list[str]:
        """Return the names of the I images, "" where there is none; see `iif.data.names`."""
        return [image_name(image.file_name, image.coco_url) for image in self.images]


def read_annotation_file(path: str | os.PathLike[str]) -> AnnotationFile:
    """Return what an annotation file holds, decoded once in a process.

    The 4 files that were used last stay in memory, at their size and about 250 bytes for each
    annotation. A file whose size or times have changed is decoded again.
    :func:`forget_annotation_files` frees them.

    Raises:
        InputError: the file is missing, not JSON (cut off), has no images or no categories, lacks
            an id, has one twice, or has an annotation of an unknown image or category.
    """
    source = os.fspath(path)
    entry = _entry(source)
    if entry.content is None:
        entry.content = decode(source)
    # The same file may be named in several ways; messages use the caller's.
    return dataclasses.replace(entry.content, path=source)


def annotation_file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of an annotation file, computed once in a process.

    Raises:
        OSError: the file cannot be read.
    """
    entry = _entry(path)
    if entry.sha256 is None:
        entry.sha256 = sha256_file(path)
    return entry.sha256


def forget_annotation_files(*paths: str | os.PathLike[str]) -> None:
    """Free what :func:`read_annotation_file` keeps in memory: of these files, or of all."""
    forgotten = set(map(os.path.realpath, paths))
    for key in list(_KEPT):
        if not paths or key[0] in forgotten:
            del _KEPT[key]


def decode(path: str | os.PathLike[str]) -> AnnotationFile:
    """Decode an annotation file: the only place that does. Errors: :func:`read_annotation_file`."""
    source = os.fspath(path)
    return _checked(source, read_json(source, _File, what=WHAT))


def decode_text(source: str, text: bytes) -> AnnotationFile:
    """Decode JSON as :func:`decode` decodes a file; msgspec's errors are the caller's to name."""
    return _checked(source, msgspec.json.decode(text, type=_File))


def _checked(source: str, content: _File) -> AnnotationFile:
    for key in ("images", "categories"):
        if not getattr(content, key):
            raise InputError(f"{source}: {key} is empty; give {WHAT}")
    faults: dict[str, str] = {}
    for key in ("height", "width"):
        row = next((i for i, im in enumerate(content.images) if getattr(im, key) is None), None)
        if row is not None:
            faults[key] = _missing(key, "images", row)
    if not faults and (impossible := _impossible_size(content.images)):
        faults["height"] = impossible
    if content.annotations is None:
        faults["annotations"] = "Object missing required field `annotations`"
    images = sorted(content.images, key=lambda image: image.id)
    categories = [_with_plain_name(category) for category in content.categories]
    categories.sort(key=lambda category: category.id)
    image_ids = np.array([image.id for image in images], dtype=np.int64)
    category_ids = np.array([category.id for category in categories], dtype=np.int64)
    columns = _columns(source, content.annotations or [], faults)
    refuse_duplicates(image_ids, f"{source}: images: id")
    refuse_duplicates(category_ids, f"{source}: categories: id")
    refuse_duplicates(columns["id"], f"{source}: annotations: id")
    return AnnotationFile(
        path=source,
        images=images,
        categories=categories,
        image_ids=_frozen(image_ids),
        category_ids=_frozen(category_ids),
        ann_ids=_frozen(columns["id"]),
        ann_image=_frozen(_rows(source, columns, "image_id", image_ids, "images")),
        ann_category=_frozen(_rows(source, columns, "category_id", category_ids, "categories")),
        bbox=_frozen(columns["bbox"]),
        area=_frozen(columns["area"]),
        ignore=_frozen(columns["ignore"]),
        crowd=_frozen(columns["iscrowd"]),
        segmentation=Segmentations(content.annotations or []),
        faults=faults,
        attribution=_attribution(content.info),
    )


def _attribution(info: Any) -> str:
    found = info.get("attribution") if isinstance(info, dict) else None
    return found if isinstance(found, str) else ""


def rows_of(known: NDArray[np.int64], ids: ArrayLike) -> NDArray[np.int64]:
    """Return where each id is in the ascending ``known``; -1 where it is not."""
    wanted = np.asarray(ids, dtype=np.int64)
    rows = np.searchsorted(known, wanted)
    found = known[np.minimum(rows, len(known) - 1)] == wanted
    return np.where(found, rows, -1)


def refuse_duplicates(ids: NDArray[np.int64], what: str) -> None:
    """Raise InputError where an id occurs more than once; ``what`` begins the message."""
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        repeated = unique[counts > 1]
        shown = ", ".join(str(value) for value in repeated[:5])
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        raise InputError(f"{what} {shown}{more} occurs more than once; ids must be unique")


@dataclasses.dataclass
class _Entry:
    content: AnnotationFile | None = None
    sha256: str | None = None


_KEPT: OrderedDict[tuple[str | int, ...], _Entry] = OrderedDict()


def _entry(path: str | os.PathLike[str]) -> _Entry:
    """Return what is kept of a file, the most recently used last; a new entry for a new file."""
    try:
        stat = os.stat(path)
    except OSError:
        return _Entry()
    key = (
        os.path.realpath(path),
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime_ns,
        # Unlike the time of modification, no program can set this one.
        stat.st_ctime_ns,
    )
    if time.time_ns() - stat.st_ctime_ns < _TICK_NS:
        return _Entry()
    entry = _KEPT.setdefault(key, _Entry())
    _KEPT.move_to_end(key)
    while len(_KEPT) > _MAX_KEPT_FILES:
        _KEPT.popitem(last=False)
    return entry


def _impossible_size(images: list[AnnotatedImage]) -> str:
    """Return which image's height and width no image can have; empty where there is none."""
    for row, image in enumerate(images):
        height, width = image.height or 0, image.width or 0
        if min(height, width) < 1 or height * width > _MAX_PIXELS:
            return (
                f"image {image.id} is {height} x {width} pixels (height, width), which no image "
                f"is - at `$.images[{row}]`"
            )
    return ""


def _with_plain_name(category: Category) -> Category:
    name = one_line(category.name)
    return category if name == category.name else msgspec.structs.replace(category, name=name)


def _missing(key: str, section: str, row: int) -> str:
    """Return the fault in msgspec's words."""
    return f"Object missing required field `{key}` - at `$.{section}[{row}]`"


def _columns(
    source: str, texts: list[msgspec.Raw], faults: dict[str, str]
) -> dict[str, NDArray[Any]]:
    """Decode the annotations block by block; note in ``faults`` which optional keys are missing."""
    number = len(texts)
    columns: dict[str, NDArray[Any]] = {
        "id": np.empty(number, np.int64),
        "image_id": np.empty(number, np.int64),
        "category_id": np.empty(number, np.int64),
        "bbox": np.empty((number, 4)),
        "area": np.empty(number),
        "ignore": np.empty(number, bool),
        "iscrowd": np.empty(number, bool),
    }
    decoder = msgspec.json.Decoder(list[_Annotation])
    for start in range(0, number, _BLOCK):
        try:
            block = decoder.decode(b"[" + b",".join(texts[start : start + _BLOCK]) + b"]")
        except msgspec.ValidationError as error:
            fault, _, place = str(error).partition(" - at `$[")
            number_in_block, _, key = place.partition("]")
            place = f"$.annotations[{start + int(number_in_block)}]{key.rstrip('`')}"
            raise InputError(f"{source}: not {WHAT}: {fault} - at `{place}`") from None
        rows = slice(start, start + len(block))
        for key in ("id", "image_id", "category_id", "ignore", "iscrowd"):
            columns[key][rows] = [getattr(annotation, key) or 0 for annotation in block]
        columns["area"][rows] = [np.nan if a.area is None else a.area for a in block]
        columns["bbox"][rows] = _boxes(block, start, faults)
        if "segmentation" not in faults:
            for row, annotation in enumerate(block, start):
                if annotation.segmentation is _NONE:
                    faults["segmentation"] = _missing("segmentation", "annotations", row)
                    break
    without_area = np.isnan(columns["area"])
    if without_area.any():
        faults["area"] = _missing("area", "annotations", int(without_area.argmax()))
    return columns


def _boxes(block: list[_Annotation], start: int, faults: dict[str, str]) -> NDArray[np.float64]:
    """Return (B, 4) boxes; NaN for an annotation whose bbox has not four numbers."""
    boxes: list[Sequence[float]] = []
    for row, annotation in enumerate(block, start):
        box = annotation.bbox
        if box is not None and len(box) == 4:
            boxes.append(box)
            continue
        boxes.append([np.nan] * 4)
        if "bbox" not in faults:
            faults["bbox"] = (
                _missing("bbox", "annotations", row)
                if box is None
                else f"annotations[{row}].bbox: the bbox of annotation {annotation.id} is {box}; "
                "it must be [x, y, width, height]"
            )
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)


def _rows(
    source: str,
    columns: dict[str, NDArray[Any]],
    key: str,
    known: NDArray[np.int64],
    section: str,
) -> NDArray[np.int32]:
    """Return the row in ``known`` of each annotation's id under this key."""
    ids = columns[key]
    rows = rows_of(known, ids)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = unknown[0]
        more = f" ({len(unknown)} such annotations)" if len(unknown) > 1 else ""
        raise InputError(
            f"{source}: annotations: {key} {ids[first]} of the annotation with id "
            f"{columns['id'][first]} is not among {section}{more}; add it to {section} or remove "
            "the annotation"
        )
    return rows.astype(np.int32)


_Array = TypeVar("_Array", bound=NDArray[Any])


def _frozen(array: _Array) -> _Array:
    array.flags.writeable = False
    return array
