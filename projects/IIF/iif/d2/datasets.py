"""Data sets named in the configuration: registered with Detectron2 and checked before training."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import pycocotools.mask
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode

from iif.data.annotations import AnnotatedImage, image_file
from iif.errors import InputError
from iif.files import read_json

logger = logging.getLogger(__name__)


class Category(msgspec.Struct, gc=False):
    """A category of an annotation file."""

    id: int
    name: str


class _Skipped(msgspec.Struct, gc=False):
    """An annotation none of whose fields is wanted."""


class Header(msgspec.Struct):
    """An annotation file without the content of its annotations; those of test sets have none."""

    images: list[AnnotatedImage]
    categories: list[Category]
    annotations: list[_Skipped] | None = None

    @property
    def annotated(self) -> bool:
        """Whether there is anything to evaluate with."""
        return bool(self.annotations)

    @property
    def federated(self) -> bool:
        """Whether the file is in LVIS's format: it says which categories were verified where."""
        return any(image.neg_category_ids is not None for image in self.images)


class Annotation(msgspec.Struct):
    """An annotated instance."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    segmentation: list[list[float]] | dict[str, Any] | None = None
    iscrowd: int = 0


class AnnotationFile(Header):
    """An annotation file."""

    annotations: list[Annotation]  # type: ignore[assignment]


class _Mask(msgspec.Struct, gc=False):
    """The mask of an annotation."""

    id: int
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: int = 0


class _Masks(msgspec.Struct):
    annotations: list[_Mask] = []


_WHAT = "an LVIS- or COCO-format annotation file"


def read_header(path: str) -> Header:
    """Return the images and categories (ascending by id) of an annotation file.

    Raises:
        InputError: the file cannot be read, or has no images or no categories.
    """
    return _checked(path, read_json(path, Header, what=_WHAT))


def _checked(path: str, header: Header) -> Header:
    for key in ("images", "categories"):
        if not getattr(header, key):
            raise InputError(f"{path}: {key} is empty; expected {_WHAT}")
    header.categories.sort(key=lambda category: category.id)
    return header


def load_instances(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Load an LVIS- or COCO-format file as Detectron2's standard data set dicts.

    Category ids may be any; they are mapped to 0 to K - 1 in ascending order. The classes' names
    and the mapping are put into the metadata of data set ``name``. The image-level
    ``neg_category_ids`` and ``not_exhaustive_category_ids`` keep the ids of the file, as in
    Detectron2's own LVIS loader.

    Raises:
        InputError: the file cannot be read or contradicts itself.
    """
    content = read_json(json_file, AnnotationFile, what=_WHAT)
    _checked(json_file, content)
    set_classes(MetadataCatalog.get(name), content.categories, json_file)
    to_contiguous = {category.id: i for i, category in enumerate(content.categories)}
    records = {
        image.id: _record(image, image_root, json_file, federated=content.federated)
        for image in sorted(content.images, key=lambda image: image.id)
    }
    without_mask = 0
    for annotation in content.annotations:
        if annotation.image_id not in records or annotation.category_id not in to_contiguous:
            raise InputError(
                f"{json_file}: annotation {annotation.id} is of image {annotation.image_id} and "
                f"category {annotation.category_id}, which are not both in the file"
            )
        instance = _instance(annotation, to_contiguous[annotation.category_id], json_file)
        if instance is None:
            without_mask += 1
        else:
            records[annotation.image_id]["annotations"].append(instance)
    if without_mask:
        logger.warning(
            "%s: left out %d annotations whose polygons have fewer than 3 points",
            json_file,
            without_mask,
        )
    return list(records.values())


def _record(
    image: AnnotatedImage, image_root: str, json_file: str, *, federated: bool
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "file_name": os.path.join(image_root, image_file(json_file, image)),
        "height": image.height,
        "width": image.width,
        "image_id": image.id,
        "annotations": [],
    }
    if federated:
        record["neg_category_ids"] = image.neg_category_ids or []
        record["not_exhaustive_category_ids"] = image.not_exhaustive_category_ids or []
    return record


def _instance(annotation: Annotation, category: int, json_file: str) -> dict[str, Any] | None:
    """Return Detectron2's dict of an annotation, None when no polygon of it is valid."""
    if len(annotation.bbox) != 4:
        raise InputError(
            f"{json_file}: the bbox of annotation {annotation.id} is {annotation.bbox}; "
            "it must be [x, y, width, height]"
        )
    instance: dict[str, Any] = {
        "bbox": annotation.bbox,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "iscrowd": annotation.iscrowd,
    }
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict):
        if isinstance(segmentation.get("counts"), list):
            segmentation = pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
        instance["segmentation"] = segmentation
    elif segmentation:
        polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
        if not polygons:
            return None
        instance["segmentation"] = polygons
    return instance


def set_classes(metadata: Metadata, categories: Sequence[Category], source: str) -> None:
    """Put class names and the mapping of category ids into a data set's metadata.

    Raises:
        InputError: the metadata already has other classes: those that a model is trained on.
    """
    names = [category.name for category in categories]
    ids = {category.id: i for i, category in enumerate(categories)}
    known = metadata.get("thing_classes")
    if known is not None and (
        list(known) != names or metadata.get("thing_dataset_id_to_contiguous_id", ids) != ids
    ):
        raise InputError(
            f"{source}: its categories are not those of the training set "
            f"({_first_difference(known, names)})"
        )
    metadata.set(thing_classes=names, thing_dataset_id_to_contiguous_id=ids)


def _first_difference(known: Sequence[str], names: Sequence[str]) -> str:
    if len(known) != len(names):
        return f"{len(names)} categories instead of {len(known)}"
    for i, (old, new) in enumerate(zip(known, names, strict=True)):
        if old != new:
            return f"category {i + 1} is {new!r} instead of {old!r}"
    return "the same names under other ids"


def register_custom_datasets(cfg: CfgNode) -> None:
    """Register the data sets of ``DATASETS.CUSTOM`` with Detectron2; again does no harm.

    Where ``cfg`` holds class frequencies (that of a trained model) their names become the data
    sets' class names, so that detections can be drawn without the annotation file.

    Raises:
        InputError: an entry is malformed, or its name is taken.
    """
    for entry in cfg.DATASETS.CUSTOM:
        if len(entry) != 3 or not all(isinstance(part, str) and part for part in entry):
            raise InputError(
                f"DATASETS.CUSTOM: {entry!r} is not [name, annotation file, image folder]"
            )
        name = entry[0]
        json_file, image_root = (os.path.expandvars(os.path.expanduser(p)) for p in entry[1:])
        if name in DatasetCatalog:
            if not MetadataCatalog.get(name).get("custom", False):
                raise InputError(
                    f"DATASETS.CUSTOM: a data set {name!r} exists already; take another name"
                )
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(
            name, lambda j=json_file, r=image_root, n=name: load_instances(j, r, n)
        )
        metadata = MetadataCatalog.get(name)
        metadata.set(json_file=json_file, image_root=image_root, custom=True)
        trained = cfg.MODEL.IIF.FREQUENCY
        if len(trained.NAMES):
            categories = [Category(*c) for c in zip(trained.IDS, trained.NAMES, strict=True)]
            set_classes(metadata, categories, "MODEL.IIF.FREQUENCY")


def annotation_file(name: str, key: str) -> str | None:
    """Return the annotation file of a data set, None for one registered from Python without one.

    Args:
        name: of the data set.
        key: the configuration key that names it, for messages.

    Raises:
        InputError: there is no such data set (the nearest names are given), or no such file.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? Otherwise name" if near else "name"
        raise InputError(
            f"{key}: there is no data set {name!r}; {hint} its files in DATASETS.CUSTOM"
        )
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file")
    if path is not None and not os.path.isfile(path):
        raise InputError(f"{key}: data set {name!r}: no such file {path}; {_remedy(metadata)}")
    return path


def check_masks(name: str, key: str, mask_format: str) -> None:
    """Check that Detectron2 can train masks on a data set of ``DATASETS.CUSTOM``.

    Args:
        name: of the data set.
        key: the configuration key that names it, for messages.
        mask_format: INPUT.MASK_FORMAT.

    Raises:
        InputError: an annotation, crowds apart, has no mask, or an RLE where polygons are needed.
    """
    if not MetadataCatalog.get(name).get("custom", False):
        return
    path = annotation_file(name, key)
    assert path is not None  # those of DATASETS.CUSTOM have one
    for annotation in read_json(path, _Masks, what=_WHAT).annotations:
        if annotation.iscrowd:
            continue
        start = bytes(memoryview(annotation.segmentation)[:4])
        if start == b"null" or start.replace(b" ", b"") == b"[]":
            fault = "no mask; set MODEL.MASK_ON False to do without masks"
        elif start.startswith(b"{") and mask_format == "polygon":
            fault = "an RLE as its mask; set INPUT.MASK_FORMAT bitmask"
        else:
            continue
        raise InputError(
            f"{key}: data set {name!r}: annotation {annotation.id} of {path} has {fault}"
        )


def _remedy(metadata: Metadata) -> str:
    if metadata.get("custom", False):
        return "correct its entry in DATASETS.CUSTOM"
    return (
        "set the environment variable DETECTRON2_DATASETS to the folder of Detectron2's data sets"
    )


def check_dataset(name: str, key: str, num_classes: int) -> None:
    """Check that a data set can be read and has ``num_classes`` classes.

    Data sets that were registered from Python without an annotation file are taken as they are.

    Args:
        name: of the data set.
        key: the configuration key that names it, for messages.
        num_classes: MODEL.ROI_HEADS.NUM_CLASSES.

    Raises:
        InputError: the data set is unknown, its annotation file or images are missing, or it has
            other classes.
    """
    path = annotation_file(name, key)
    if path is None:
        return
    metadata = MetadataCatalog.get(name)
    header = read_header(path)
    if len(header.categories) != num_classes:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but data set {name!r} ({path}) has "
            f"{len(header.categories)} categories: set MODEL.ROI_HEADS.NUM_CLASSES "
            f"{len(header.categories)}"
        )
    if metadata.get("custom", False):
        set_classes(metadata, header.categories, path)
    first = os.path.join(metadata.image_root, image_file(path, header.images[0]))
    if not os.path.isfile(first):
        raise InputError(
            f"{key}: data set {name!r}: the first image of {path} is not there: {first}; "
            f"{_remedy(metadata)}"
        )
