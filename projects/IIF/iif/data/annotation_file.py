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
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.data.annotation_rows import (
    WHAT,
    AnnotatedImage,
    Category,
    decode_columns,
    decode_rows,
    missing,
)
from iif.data.faults import Fault, Report, examples, refuse
from iif.data.names import image_name, one_line
from iif.data.segmentations import Segmentations
from iif.errors import InputError
from iif.files import read_json, refuse_other_encoding, sha256_file

_MAX_KEPT_FILES = 4
# Two writes within one tick of the file system's clock leave the same time. A file this young is
# read but not kept, because a change of it could go unnoticed.
_TICK_NS = 50_000_000
# The runs of pycocotools's masks are 32-bit numbers.
_MAX_PIXELS = 2**31 - 1


class _File(msgspec.Struct):
    images: list[msgspec.Raw]
    categories: list[msgspec.Raw]
    annotations: list[msgspec.Raw] | None = None
    info: Any = None  # of any form: nothing depends on it


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
        faults: by optional key the fault of the images or annotations that lack it.
        attribution: whom the images are by, where the file's ``info`` says it; else empty.
        whole_floats: images, categories and annotations with a float for a whole number (1.0).
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
    faults: dict[str, Fault]
    attribution: str
    whole_floats: int = 0

    @property
    def annotated(self) -> bool:
        """Whether there is anything to evaluate with; LVIS's test sets have no annotations."""
        return len(self.ann_ids) > 0

    @functools.cached_property
    def federated(self) -> bool:
        """Whether the file is in LVIS's format: it says which categories are verified where."""
        return any(image.neg_category_ids is not None for image in self.images)

    @functools.cached_property
    def shown_categories(self) -> NDArray[np.bool_]:
        """(K,) whether a category is trained on where the file is the training set.

        Annotation tools write categories that nothing is annotated with, Roboflow a root of them
        all; a class without an annotation cannot be learned. A file in LVIS's format keeps all,
        and so does one without any annotation.
        """
        shown = np.bincount(self.ann_category, minlength=len(self.categories)) > 0
        return shown if shown.any() and not self.federated else np.ones(len(shown), bool)

    def require(self, *keys: str) -> None:
        """Check that every image or annotation has these optional keys.

        Args:
            keys: of "height", "width", "annotations", "bbox", "area" and "segmentation".

        Raises:
            InputError: one lacks a key, or its bbox has not four numbers.
        """
        for key in keys:
            if key in self.faults:
                raise InputError(f"{self.path}: not {WHAT}: {self.faults[key].message}")

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


def decode(path: str | os.PathLike[str], report: Report | None = None) -> AnnotationFile:
    """Decode an annotation file: the only place that does.

    Args:
        path: the file.
        report: is handed what contradicts the format; what remains is decoded. By default the
            first such fault is refused.

    Raises:
        InputError: as :func:`read_annotation_file`; with ``report`` only for what is not JSON or
            has neither images nor categories.
    """
    source = os.fspath(path)
    content = read_json(source, _File, what=WHAT)
    try:
        return _checked(source, content, report or refuse(source))
    except UnicodeDecodeError:
        with open(source, "rb") as f:
            refuse_other_encoding(memoryview(f.read()), source)
        raise


def decode_text(source: str, text: bytes, report: Report | None = None) -> AnnotationFile:
    """Decode JSON as :func:`decode` decodes a file; msgspec's errors are the caller's to name."""
    return _checked(source, msgspec.json.decode(text, type=_File), report or refuse(source))


def _checked(source: str, content: _File, report: Report) -> AnnotationFile:
    images, in_lvis_format, whole_floats = _images(content.images, report)
    categories: list[Category] = []
    for _, block, floats in decode_rows(
        content.categories, Category, "categories", report, whole_floats=not in_lvis_format
    ):
        whole_floats += floats
        categories += map(_with_plain_name, block)
    for key, found in (("images", images), ("categories", categories)):
        if not found:
            raise InputError(f"{source}: {key} is empty; give {WHAT}")
    faults = _size_faults(images)
    if content.annotations is None:
        text = "Object missing required field `annotations`"
        faults["annotations"] = Fault("missing_annotations", text)
    columns, missing_keys, floats = decode_columns(
        content.annotations or [], report, whole_floats=not in_lvis_format
    )
    faults |= missing_keys
    whole_floats += floats
    images.sort(key=lambda image: image.id)
    categories.sort(key=lambda category: category.id)
    images = _unique(images, "images", report)
    categories = _unique(categories, "categories", report)
    image_ids = np.array([image.id for image in images], dtype=np.int64)
    category_ids = np.array([category.id for category in categories], dtype=np.int64)
    first = _first_of_each(columns["id"], "annotations", report)
    rows = {
        key: _rows(columns, key, known, section, report)
        for key, known, section in (
            ("image_id", image_ids, "images"),
            ("category_id", category_ids, "categories"),
        )
    }
    known = np.all([found >= 0 for found in rows.values()], axis=0)
    columns = _select(columns | rows, first & known)
    texts = content.annotations or []
    if len(texts) > len(columns["row"]):
        texts = [texts[row] for row in columns["row"].tolist()]
    return AnnotationFile(
        path=source,
        images=images,
        categories=categories,
        image_ids=_frozen(image_ids),
        category_ids=_frozen(category_ids),
        ann_ids=_frozen(columns["id"]),
        ann_image=_frozen(columns["image_id"].astype(np.int32)),
        ann_category=_frozen(columns["category_id"].astype(np.int32)),
        bbox=_frozen(columns["bbox"]),
        area=_frozen(columns["area"]),
        ignore=_frozen(columns["ignore"]),
        crowd=_frozen(columns["iscrowd"]),
        segmentation=Segmentations(texts),
        faults=faults,
        attribution=_attribution(content.info),
        whole_floats=whole_floats,
    )


def _images(texts: list[msgspec.Raw], report: Report) -> tuple[list[AnnotatedImage], bool, int]:
    """Return the images, whether the file is in LVIS's format, and how many had floats as ids."""
    images: list[AnnotatedImage] = []
    mended = 0
    first: Fault | None = None

    def note(fault: Fault) -> None:
        nonlocal first
        first = first or fault

    for _, rows, _ in decode_rows(texts, AnnotatedImage, "images", note, whole_floats=False):
        images += rows
    in_lvis_format = any(image.neg_category_ids is not None for image in images)
    if first is not None:  # once more, now that it is known whether floats may stand for numbers
        images = []
        for _, rows, floats in decode_rows(
            texts, AnnotatedImage, "images", report, whole_floats=not in_lvis_format
        ):
            images += rows
            mended += floats
    return images, in_lvis_format, mended


def _size_faults(images: list[AnnotatedImage]) -> dict[str, Fault]:
    faults = {}
    for key in ("height", "width"):
        rows = [row for row, image in enumerate(images) if getattr(image, key) is None]
        if rows:
            faults[key] = missing(key, "images", rows)
    if not faults and (impossible := _impossible_sizes(images)):
        faults["height"] = impossible
    return faults


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
    fault = _duplicates(ids)
    if fault:
        raise InputError(f"{what} {fault.message}")


def _duplicates(ids: NDArray[np.int64]) -> Fault | None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) == len(ids):
        return None
    repeated = unique[counts > 1].tolist()
    shown = ", ".join(str(value) for value in repeated[:5])
    more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
    message = f"{shown}{more} occurs more than once; ids must be unique"
    return Fault("duplicate_ids", message, len(ids) - len(unique), examples(repeated))


def _first_of_each(ids: NDArray[np.int64], section: str, report: Report) -> NDArray[np.bool_]:
    """Return (N,) whether an id occurs for the first time; report those that occur again."""
    kept = np.ones(len(ids), bool)
    fault = _duplicates(ids)
    if fault:
        message = f"{section}: id {fault.message}"
        report(Fault(f"duplicate_{section}_ids", message, fault.number, fault.examples))
        kept[:] = False
        kept[np.unique(ids, return_index=True)[1]] = True
    return kept


_Row = TypeVar("_Row", AnnotatedImage, Category)


def _unique(rows: list[_Row], section: str, report: Report) -> list[_Row]:
    ids = np.array([row.id for row in rows], dtype=np.int64)
    kept = _first_of_each(ids, section, report)
    return [row for row, keep in zip(rows, kept.tolist(), strict=True) if keep]


def _select(columns: dict[str, NDArray[Any]], kept: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    if kept.all():
        return columns
    return {key: column[kept] for key, column in columns.items()}


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


def _impossible_sizes(images: list[AnnotatedImage]) -> Fault | None:
    """Return the fault of images whose height and width no image can have."""
    sizes = [(image.height or 0, image.width or 0) for image in images]
    rows = [row for row, (h, w) in enumerate(sizes) if min(h, w) < 1 or h * w > _MAX_PIXELS]
    if not rows:
        return None
    height, width = sizes[rows[0]]
    message = (
        f"image {images[rows[0]].id} is {height} x {width} pixels (height, width), which no image "
        f"is - at `$.images[{rows[0]}]`"
    )
    return Fault("impossible_size", message, len(rows), examples(images[r].id for r in rows))


def _with_plain_name(category: Category) -> Category:
    name = one_line(category.name)
    return category if name == category.name else msgspec.structs.replace(category, name=name)


def _rows(
    columns: dict[str, NDArray[Any]],
    key: str,
    known: NDArray[np.int64],
    section: str,
    report: Report,
) -> NDArray[np.int64]:
    """Return the row in ``known`` of each annotation's id under this key; report unknown ones."""
    ids = columns[key]
    rows = rows_of(known, ids)
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = unknown[0]
        more = f" ({len(unknown)} such annotations)" if len(unknown) > 1 else ""
        message = (
            f"annotations: {key} {ids[first]} of the annotation with id {columns['id'][first]} is "
            f"not among {section}{more}; add it to {section} or remove the annotation"
        )
        found = examples(columns["id"][unknown].tolist())
        report(Fault(f"unknown_{key}", message, len(unknown), found))
    return rows


_Array = TypeVar("_Array", bound=NDArray[Any])


def _frozen(array: _Array) -> _Array:
    array.flags.writeable = False
    return array
