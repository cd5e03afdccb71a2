"""Annotations as an evaluation and a training need them: checked, with groups and masks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as mask_utils

from iif.data import rle
from iif.data.annotation_content import decode_content
from iif.data.annotation_file import (
    AnnotationFile,
    annotation_file_sha256,
    read_annotation_file,
    rows_of,
)
from iif.data.annotation_rows import AnnotatedImage, Category
from iif.data.areas import areas
from iif.data.boxes import warn_of_areas, warn_of_corners
from iif.data.faults import Fault, Report, examples, refuse
from iif.data.groups import GROUPS, GroupLimits
from iif.data.masks import is_polygon, polygon_fault
from iif.data.rle import RLEs
from iif.errors import InputError

_LVIS = "an LVIS-format annotation file"


class TrainingCounts(Protocol):
    """What is needed of the training set's statistics (`iif.statistics.ClassStatistics`)."""

    ids: NDArray[np.int64]
    image_count: NDArray[np.int64]
    source: str
    left_out: dict[int, str]

    @property
    def groups(self) -> NDArray[np.str_]:
        """(K,) "r", "c" or "f"."""

    @property
    def group_limits(self) -> GroupLimits | None:
        """The limits between the groups, where they are known."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file with I images, K categories and G ground-truth instances.

    Image rows are in ascending image id, category rows in ascending category id, ground-truth
    rows in the file's order. Boxes are ``XYWH_ABS``: x, y, width and height in pixels.

    Attributes:
        path, sha256: the file.
        image_ids: (I,) int64, ascending.
        image_sizes: (I, 2) int64, height and width in pixels.
        file_names: I paths relative to the image folder; "" where the file names none.
        category_ids: (K,) int64, ascending.
        category_names: K names.
        groups: (K,) "r", "c" or "f"; "" for all of a COCO-format file without training counts.
        group_limits: between the groups, where they were counted; None where the file names them.
        image_count: (K,) int64 training images that show the category; -1 not known.
        ann_ids: (G,) int64.
        ann_image, ann_category: (G,) int32 rows.
        bbox: (G, 4) float64.
        area: (G,) float64 in square pixels, as the file says (LVIS: the mask's area).
        ignore: (G,) bool; ground truth that counts neither when it is found nor when it is missed.
            LVIS: the key ``ignore``. COCO: the key ``iscrowd`` alone, as COCOeval overwrites it.
        crowd: (G,) bool; COCO's regions of many objects, which match any number of detections;
            they are in ``ignore`` too. LVIS has none.
        segmentation: G polygons or RLE dicts, decoded on access; None unless loaded with masks.
        neg: (P, 2) int32, rows of image and category that is verified to be absent from it.
        not_exhaustive: (Q, 2) int32, rows of image and category not all of whose instances in it
            are annotated.
        exhaustive: whether every category is verified in every image (COCO) or only those that
            are annotated or in ``neg`` (LVIS).
        attribution: whom the images are by, where the file says it; else empty.
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
    attribution: str = ""
    group_limits: GroupLimits | None = None
    _rles: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    def image_row(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of these image ids; -1 for an id that is not in the file."""
        return rows_of(self.image_ids, ids)

    def category_row(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the rows of these category ids; -1 for an id that is not in the file."""
        return rows_of(self.category_ids, ids)

    def rle(self, row: int) -> dict[str, Any]:
        """Return the mask of ground truth ``row`` as a compressed RLE for pycocotools.

        Raises:
            InputError: its segmentation is neither polygons of 3 points or more in or near the
                image nor an RLE of the image's size.
        """
        if self.segmentation is None:
            raise ValueError("the annotations were loaded without masks; give masks=True")
        if row not in self._rles:
            self._rles[row] = self.encode(row)
        return self._rles[row]

    def rles(self, rows: NDArray[np.int64]) -> RLEs:
        """Return the masks of ground truth ``rows``, as :meth:`rle` does."""
        texts = [self.rle(row)["counts"] for row in rows.tolist()]
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        sizes = self.image_sizes[self.ann_image[rows]]
        return RLEs(sizes, np.frombuffer(b"".join(texts), np.uint8), ends)

    def encode(self, row: int, *, training: bool = False) -> dict[str, Any]:
        """Return what :meth:`rle` returns, without keeping it: training would keep every mask.

        With ``training``, polygons of fewer than 3 points are left out, as Detectron2 leaves them.
        """
        assert self.segmentation is not None
        height, width = self.image_sizes[self.ann_image[row]].tolist()
        segmentation = self.segmentation[row]
        if training and isinstance(segmentation, list):
            segmentation = [part for part in segmentation if is_polygon(part)]
        place = f"{self.path}: annotations: segmentation of the annotation with id "
        place += f"{self.ann_ids[row]}"
        if isinstance(segmentation, list):
            fault = polygon_fault(segmentation, height, width)
            if fault:
                raise InputError(f"{place}: {fault}; correct the annotation")
            return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
        try:
            return rle.checked(segmentation, height, width)
        except ValueError as error:
            raise InputError(f"{place}: {error}; convert the annotations again") from None


def load_annotations(
    path: str | os.PathLike[str] | Mapping[str, Any],
    *,
    exhaustive: bool | None = None,
    masks: bool = False,
    statistics: TrainingCounts | None = None,
) -> Annotations:
    """Return the annotations of a file, which is decoded once in a process.

    Args:
        path: an LVIS- or COCO-format file, or the content of one.
        exhaustive: whether every category is verified in every image, as in COCO. By default, the
            file is in LVIS's format when one of its images has ``neg_category_ids``, and in COCO's
            otherwise. True refuses a file in LVIS's format. False insists on LVIS's keys:
            ``neg_category_ids`` and ``not_exhaustive_category_ids`` of each image and, without
            ``statistics``, ``frequency`` of each category.
        masks: require a segmentation of each annotation, and give access to them.
        statistics: the training set's counts. They fill ``image_count`` and, when
            ``exhaustive`` or with limits that the user gave, the frequency groups.

    Raises:
        InputError: the file is missing, not JSON (cut off), lacks a key, has an id twice or an
            annotation, negative or not-exhaustive entry of an unknown image or category; or it is
            not of the format that ``exhaustive`` says.
    """
    if isinstance(path, Mapping):
        content, sha256 = decode_content(path)
    else:
        content, sha256 = read_annotation_file(path), annotation_file_sha256(path)
    report = refuse(content.path)
    content.require("annotations", "bbox", *(["segmentation"] if masks else []))
    if exhaustive is None:
        exhaustive = not content.federated
    if not exhaustive:
        _require_lvis_keys(content, report)
    elif content.federated:
        raise InputError(
            f"{content.path}: is in LVIS's format, in which an image says which categories are "
            "verified in it (neg_category_ids), so its annotation is not exhaustive: leave the "
            "choice to the file's content"
        )
    kept = _kept_categories(content, statistics)
    categories = [content.categories[row] for row in np.flatnonzero(kept).tolist()]
    groups, limits, image_count = _groups(content, categories, exhaustive, statistics)
    image_sizes = content.image_sizes()
    area = areas(content)
    warn_of_areas(content.path, area)
    warn_of_corners(content.path, content.bbox, content.ann_image, image_sizes)
    crowd = content.crowd & exhaustive
    category_ids, ann_category = content.category_ids, content.ann_category
    if not kept.all():
        category_ids = category_ids[kept]
        ann_category = (np.cumsum(kept) - 1).astype(np.int32)[ann_category]
    return Annotations(
        path=content.path,
        sha256=sha256,
        image_ids=content.image_ids,
        image_sizes=image_sizes,
        file_names=content.file_names(),
        category_ids=category_ids,
        category_names=[category.name for category in categories],
        groups=groups,
        image_count=image_count,
        ann_ids=content.ann_ids,
        ann_image=content.ann_image,
        ann_category=ann_category,
        bbox=content.bbox,
        area=area,
        ignore=crowd if exhaustive else content.ignore,
        crowd=crowd,
        segmentation=content.segmentation if masks else None,
        neg=_pairs(content, "neg_category_ids", report),
        not_exhaustive=_pairs(content, "not_exhaustive_category_ids", report),
        exhaustive=exhaustive,
        attribution=content.attribution,
        group_limits=limits,
    )


def lvis_faults(content: AnnotationFile, report: Report) -> None:
    """Report what :func:`load_annotations` refuses of LVIS's own keys, with training counts."""
    if content.federated:
        _require_lvis_keys(content, report)
        _check_frequencies(
            content.categories, [c.frequency or "r" for c in content.categories], report
        )
        if "area" in content.faults:
            report(content.faults["area"])
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        _pairs(content, key, report)


def _require_lvis_keys(content: AnnotationFile, report: Report) -> None:
    lacking = [
        (image.id, f"image {image.id} has no {key}")
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
        for image in content.images
        if getattr(image, key) is None
    ]
    if lacking:
        message = (
            f"not {_LVIS}: {lacking[0][1]}"
            + (f" ({len(lacking)} such faults)" if len(lacking) > 1 else "")
            + "; if every category is annotated in every image, as in COCO, say that the "
            "annotation is exhaustive"
        )
        ids = examples(image for image, _ in lacking)
        report(Fault("missing_lvis_keys", message, len(lacking), ids))


def _kept_categories(content: AnnotationFile, training: TrainingCounts | None) -> NDArray[np.bool_]:
    """Return (K,) whether a category of the file is kept.

    The training set decides: a category of a file in COCO's format that is not among the training
    categories and has no annotation is not there. One that the training set only names (its
    ``left_out``) and that is annotated here stays: the model never finds it.
    """
    if training is None or content.federated:
        return np.ones(len(content.categories), bool)
    known = rows_of(training.ids, content.category_ids) >= 0
    annotated = np.bincount(content.ann_category, minlength=len(known)) > 0
    never_seen = [
        f"{category.name!r} (id {category.id})"
        for category, only_here in zip(content.categories, annotated & ~known, strict=True)
        if only_here and category.id in training.left_out
    ]
    if never_seen:
        warnings.warn(
            f"{content.path}: annotates {', '.join(never_seen)}, of which {training.source} has no "
            "annotation: no model learned it, and its AP is 0; put images of it into the training "
            "set",
            stacklevel=3,
        )
    return known | annotated


def _groups(
    content: AnnotationFile,
    categories: Sequence[Category],
    exhaustive: bool,
    training: TrainingCounts | None,
) -> tuple[NDArray[np.str_], GroupLimits | None, NDArray[np.int64]]:
    """Return the (K,) groups, "" where a COCO-format file has none, their limits, and the counts.

    A file in LVIS's format names the groups itself, unless the user gave other limits.
    """
    source = content.path
    image_count = np.array(
        [-1 if c.image_count is None else c.image_count for c in categories], dtype=np.int64
    )
    groups = [category.frequency for category in categories]
    limits = None
    if training is not None:
        ids = np.array([category.id for category in categories], dtype=np.int64)
        rows = rows_of(training.ids, ids)
        seen = rows >= 0
        unknown = [i for i in ids[~seen].tolist() if i not in training.left_out]
        if unknown:
            raise InputError(
                f"{source}: category {unknown[0]} ({len(unknown)} such) is not among the "
                f"training categories of {training.source}; give the training annotations of the "
                "same data set"
            )
        image_count = np.where(seen, training.image_count[rows], 0).astype(np.int64)
        given = training.group_limits is not None and training.group_limits.rule == "given"
        if exhaustive or given or None in groups:
            limits = training.group_limits
            counted = np.where(seen, training.groups[rows], "r").tolist()
            groups = [
                other if exhaustive or given or own is None else own
                for own, other in zip(groups, counted, strict=True)
            ]
    if exhaustive and not all(groups):
        return np.full(len(groups), "", dtype="<U1"), None, image_count
    _check_frequencies(categories, groups, refuse(source))
    return np.array(groups, dtype="<U1"), limits, image_count


def _check_frequencies(
    categories: Sequence[Category], groups: Sequence[str | None], report: Report
) -> None:
    for category, group in zip(categories, groups, strict=True):
        message = ""
        if group is None:
            message = (
                f"category {category.id} has no frequency (r, c or f); give the training "
                "annotations to count it from"
            )
        elif group not in GROUPS:
            message = (
                f'frequency of category {category.id} is {group!r}; it must be "r" (rare), "c" '
                '(common) or "f" (frequent)'
            )
        if message:
            report(Fault("no_frequency", message, examples=(category.id,)))


def _pairs(content: AnnotationFile, key: str, report: Report) -> NDArray[np.int32]:
    """Return (P, 2) rows of image and category, from a list of category ids in each image."""
    images: list[AnnotatedImage] = content.images
    lists: list[list[int]] = [getattr(image, key) or [] for image in images]
    image_rows = np.repeat(np.arange(len(images)), [len(entries) for entries in lists])
    ids = np.array([entry for entries in lists for entry in entries], dtype=np.int64)
    category_rows = rows_of(content.category_ids, ids)
    unknown = category_rows < 0
    if unknown.any():
        wrong = image_rows[unknown].tolist()
        message = (
            f"images: {key} of the image with id {images[wrong[0]].id} has {ids[unknown][0]}, "
            "which is not among categories; remove it or add the category"
        )
        found = examples(images[row].id for row in wrong)
        report(Fault(f"unknown_{key}", message, len(wrong), found))
    return np.column_stack([image_rows, category_rows])[~unknown].astype(np.int32)
