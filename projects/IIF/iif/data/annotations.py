"""LVIS- and COCO-format annotation files as arrays: what an evaluation needs to know of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.errors import InputError
from iif.files import Id, read_json, sha256_file
from iif.statistics import ClassStatistics

_LVIS = "an LVIS-format annotation file"
_GROUPS = ("r", "c", "f")


class AnnotatedImage(msgspec.Struct, gc=False):
    """An image of an annotation file; the lists of category ids are LVIS's alone."""

    id: Id
    height: int
    width: int
    file_name: str | None = None
    coco_url: str | None = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    frequency: str | None = None
    image_count: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float
    ignore: int | bool = 0
    iscrowd: int | bool = 0


class _MaskAnnotation(_Annotation, gc=False, kw_only=True):
    segmentation: msgspec.Raw


class _File(msgspec.Struct):
    images: list[AnnotatedImage]
    categories: list[_Category]
    annotations: list[_Annotation]


class _MaskFile(msgspec.Struct):
    images: list[AnnotatedImage]
    categories: list[_Category]
    annotations: list[_MaskAnnotation]


class Segmentations(Sequence[Any]):
    """The ``segmentation`` of each annotation, kept as the file's text and decoded when asked."""

    def __init__(self, raw: list[msgspec.Raw]) -> None:
        """Keep views into the mapped file."""
        self._raw = raw

    def __len__(self) -> int:
        """Return the number of annotations."""
        return len(self._raw)

    def __getitem__(self, index: Any) -> Any:
        """Return polygons (lists of x, y, x, y, ...) or an RLE dict, as the file has it."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return msgspec.json.decode(self._raw[index])


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file with I images, K categories and G ground-truth instances.

    Image rows are in ascending image id, category rows in ascending category id, ground-truth
    rows in the file's order. Boxes are ``XYWH_ABS``: x, y, width and height in pixels.

    Attributes:
        path, sha256: the file.
        image_ids: (I,) int64, ascending.
        image_sizes: (I, 2) int64, height and width in pixels.
        file_names: I paths relative to the image folder.
        category_ids: (K,) int64, ascending.
        category_names: K names.
        groups: (K,) "r", "c" or "f".
        image_count: (K,) int64 training images that show the category; -1 not known.
        ann_ids: (G,) int64.
        ann_image, ann_category: (G,) int32 rows.
        bbox: (G, 4) float64.
        area: (G,) float64 in square pixels, as the file says (LVIS: the mask's area).
        ignore: (G,) bool; ground truth that is neither to be found nor to be missed.
        crowd: (G,) bool; COCO's regions of many objects, which any number of detections may
            take; they are in ``ignore`` too. LVIS has none.
        segmentation: G polygons or RLE dicts; None unless asked for.
        neg: (P, 2) int32, rows of image and category that is verified to be absent from it.
        not_exhaustive: (Q, 2) int32, rows of image and category not all of whose instances in it
            are annotated.
        exhaustive: whether every category is verified in every image (COCO) or only those that
            are annotated or in ``neg`` (LVIS).
    """

    path: str
    sha256: str
    image_ids: NDArray[np.int64]
    image_sizes: NDArray[np.int64]
    file_names: list[str]
    category_ids: NDArray[np.int64]
    category_names: list[str]
    groups: NDArray[np.str_]
    image_count: NDArray[np.int64]
    ann_ids: NDArray[np.int64]
    ann_image: NDArray[np.int32]
    ann_category: NDArray[np.int32]
    bbox: NDArray[np.float64]
    area: NDArray[np.float64]
    ignore: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    segmentation: Sequence[Any] | None
    neg: NDArray[np.int32]
    not_exhaustive: NDArray[np.int32]
    exhaustive: bool
    _rles: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    def image_row(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of these image ids; -1 for an id that is not in the file."""
        return _lookup(self.image_ids, ids)

    def category_row(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of these category ids; -1 for an id that is not in the file."""
        return _lookup(self.category_ids, ids)

    def rle(self, row: int) -> dict[str, Any]:
        """Return the mask of ground truth ``row`` as a compressed RLE for pycocotools.

        Raises:
            InputError: its segmentation is neither polygons nor an RLE of the image's size.
        """
        if self.segmentation is None:
            raise ValueError("the annotations were loaded without masks; give masks=True")
        if row not in self._rles:
            self._rles[row] = self.encode(row)
        return self._rles[row]

    def encode(self, row: int) -> dict[str, Any]:
        """Return what :meth:`rle` does, made anew and not kept (training goes on for epochs)."""
        from pycocotools import mask as mask_utils

        from iif.data import rle

        assert self.segmentation is not None
        height, width = self.image_sizes[self.ann_image[row]].tolist()
        segmentation = self.segmentation[row]
        place = f"{self.path}: annotations: segmentation of the annotation with id "
        place += f"{self.ann_ids[row]}"
        if isinstance(segmentation, list):
            try:
                return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
            except Exception as error:
                raise InputError(
                    f"{place} is not a list of polygons [x1, y1, x2, y2, x3, y3, ...] ({error})"
                ) from None
        try:
            return rle.checked(segmentation, height, width)
        except ValueError as error:
            raise InputError(f"{place}: {error}; convert the annotations again") from None


def load_annotations(
    path: str | os.PathLike[str],
    *,
    exhaustive: bool = False,
    masks: bool = False,
    statistics: ClassStatistics | None = None,
) -> Annotations:
    """Read an annotation file.

    Args:
        path: an LVIS-format file, or a COCO-format one with ``exhaustive``.
        exhaustive: treat every category as verified in every image, as in COCO. Without it the
            file must have LVIS's keys: ``neg_category_ids`` and ``not_exhaustive_category_ids``
            of each image, ``frequency`` of each category.
        masks: keep the segmentations, too.
        statistics: the training set's counts. They fill ``image_count`` and, when
            ``exhaustive``, the frequency groups.

    Raises:
        InputError: the file is missing, not JSON (cut off), lacks a key, has an id twice or an
            annotation, negative or not-exhaustive entry of an unknown image or category.
    """
    source = os.fspath(path)
    content: _File | _MaskFile
    if masks:
        content = read_json(source, _MaskFile, what=_LVIS)
    else:
        content = read_json(source, _File, what=_LVIS)
    for key in ("images", "categories"):
        if not getattr(content, key):
            raise InputError(f"{source}: {key} is empty; give {_LVIS}")
    images = sorted(content.images, key=lambda image: image.id)
    categories = sorted(content.categories, key=lambda category: category.id)
    image_ids = _unique_ids(images, f"{source}: images")
    category_ids = _unique_ids(categories, f"{source}: categories")
    if not exhaustive:
        _require_lvis_keys(source, images)
    groups, image_count = _groups(source, categories, category_ids, exhaustive, statistics)

    annotations: Sequence[_Annotation] = content.annotations
    ann_ids = _column(annotations, "id", np.int64)
    _refuse_duplicates(ann_ids, f"{source}: annotations")
    crowd = _column(annotations, "iscrowd", bool) & exhaustive
    return Annotations(
        path=source,
        sha256=sha256_file(source),
        image_ids=image_ids,
        image_sizes=np.array([(i.height, i.width) for i in images], dtype=np.int64),
        file_names=[image_file(source, image) for image in images],
        category_ids=category_ids,
        category_names=[category.name for category in categories],
        groups=groups,
        image_count=image_count,
        ann_ids=ann_ids,
        ann_image=_rows(source, annotations, "image_id", image_ids, "images"),
        ann_category=_rows(source, annotations, "category_id", category_ids, "categories"),
        bbox=np.array([a.bbox for a in annotations], dtype=np.float64).reshape(-1, 4),
        area=_column(annotations, "area", np.float64),
        ignore=_column(annotations, "ignore", bool) | crowd,
        crowd=crowd,
        segmentation=(
            Segmentations([a.segmentation for a in content.annotations])
            if isinstance(content, _MaskFile)
            else None
        ),
        neg=_pairs(source, images, "neg_category_ids", category_ids),
        not_exhaustive=_pairs(source, images, "not_exhaustive_category_ids", category_ids),
        exhaustive=exhaustive,
    )


def image_file(source: str, image: AnnotatedImage) -> str:
    """Return where an image lies in the image folder: its ``file_name``, or the end of its URL.

    LVIS v1 names its images by ``coco_url`` alone, of which the last two parts count. LVIS v0.5 has
    ``file_name``, too, but COCO 2014's (COCO_val2014_...) of images whose URL is COCO 2017's.

    Args:
        source: the annotation file, for the message.
        image: one of its images.

    Raises:
        InputError: the image has neither.
    """
    name, url = image.file_name, image.coco_url
    if url is not None:
        *_, folder, file = url.split("/")
        if name is None or (name.startswith("COCO_") and name != file):
            return f"{folder}/{file}"
    if name is None:
        raise InputError(
            f"{source}: image {image.id} has neither file_name nor coco_url; add one of them"
        )
    return name


def _require_lvis_keys(source: str, images: list[AnnotatedImage]) -> None:
    lacking = [
        f"image {image.id} has no {key}"
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
        for image in images
        if getattr(image, key) is None
    ]
    if lacking:
        raise InputError(
            f"{source}: not {_LVIS}: {lacking[0]}"
            + (f" ({len(lacking)} such faults)" if len(lacking) > 1 else "")
            + "; if every category is annotated in every image, as in COCO, say so with "
            "--exhaustive"
        )


def _groups(
    source: str,
    categories: list[_Category],
    category_ids: NDArray[np.int64],
    exhaustive: bool,
    training: ClassStatistics | None,
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return the (K,) groups and the (K,) training image counts."""
    image_count = np.array(
        [-1 if c.image_count is None else c.image_count for c in categories], dtype=np.int64
    )
    groups = [category.frequency for category in categories]
    if training is not None:
        rows = _lookup(training.ids, category_ids)
        if (rows < 0).any():
            unknown = category_ids[rows < 0]
            raise InputError(
                f"{source}: category {unknown[0]} ({(rows < 0).sum()} such) is not among the "
                f"training categories of {training.source}; give the training annotations of the "
                "same data set"
            )
        image_count = training.image_count[rows].astype(np.int64)
        counted = training.groups[rows].tolist()
        groups = [
            own if own is not None and not exhaustive else other
            for own, other in zip(groups, counted, strict=True)
        ]
    for category, group in zip(categories, groups, strict=True):
        if group is None:
            raise InputError(
                f"{source}: category {category.id} has no frequency (r, c or f); give the "
                "training annotations to count it from (iif: --train-json; train_net.py: "
                "MODEL.IIF.FREQUENCY_FILE)"
            )
        if group not in _GROUPS:
            raise InputError(
                f'{source}: frequency of category {category.id} is {group!r}; it must be "r" '
                '(rare), "c" (common) or "f" (frequent)'
            )
    return np.array(groups, dtype="<U1"), image_count


def _column(structs: Sequence[Any], key: str, dtype: Any) -> NDArray[Any]:
    return np.array([getattr(struct, key) for struct in structs], dtype=dtype)


def _unique_ids(structs: Sequence[Any], what: str) -> NDArray[np.int64]:
    ids = _column(structs, "id", np.int64)
    _refuse_duplicates(ids, what)
    return ids


def _refuse_duplicates(ids: NDArray[np.int64], what: str) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        raise InputError(
            f"{what}: id {unique[counts > 1][0]} occurs more than once; ids must be unique"
        )


def _lookup(known: NDArray[np.int64], ids: ArrayLike) -> NDArray[np.int64]:
    """Return where each id is in the ascending ``known``; -1 where it is not."""
    wanted = np.asarray(ids, dtype=np.int64)
    rows = np.searchsorted(known, wanted)
    found = known[np.minimum(rows, len(known) - 1)] == wanted
    return np.where(found, rows, -1)


def _rows(
    source: str, annotations: Sequence[_Annotation], key: str, known: NDArray, section: str
) -> NDArray[np.int32]:
    ids = _column(annotations, key, np.int64)
    rows = _lookup(known, ids)
    if (rows < 0).any():
        first = int(np.argmax(rows < 0))
        raise InputError(
            f"{source}: annotations: {key} {ids[first]} of the annotation with id "
            f"{annotations[first].id} is not among {section}; add it there or remove the annotation"
        )
    return rows.astype(np.int32)


def _pairs(
    source: str, images: list[AnnotatedImage], key: str, category_ids: NDArray[np.int64]
) -> NDArray[np.int32]:
    lists: list[list[int]] = [getattr(image, key) or [] for image in images]
    image_rows = np.repeat(np.arange(len(images)), [len(entries) for entries in lists])
    ids = np.array([entry for entries in lists for entry in entries], dtype=np.int64)
    category_rows = _lookup(category_ids, ids)
    if (category_rows < 0).any():
        first = int(np.argmax(category_rows < 0))
        raise InputError(
            f"{source}: images: {key} of the image with id {images[image_rows[first]].id} has "
            f"{ids[first]}, which is not among categories; remove it or add the category"
        )
    return np.column_stack([image_rows, category_rows]).astype(np.int32)
