"""Data sets named in the configuration: registered with Detectron2 and checked before training."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pycocotools.mask
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from iif.data.annotation_file import (
    AnnotationFile,
    Category,
    annotation_file_sha256,
    read_annotation_file,
)
from iif.data.masks import (
    Form,
    check_polygons,
    is_polygon,
    mask_forms,
    polygon_fault,
    rle_areas,
)
from iif.data.names import image_paths
from iif.errors import InputError
from iif.statistics import ClassStatistics

logger = logging.getLogger(__name__)


# An RLE, or polygons whose numbers become float.
_SEGMENTATION = msgspec.json.Decoder(list[list[float]] | dict[str, Any] | None)


def load_instances(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Load an LVIS- or COCO-format file as Detectron2's standard data set dicts.

    Category ids may be any; they are mapped to 0 to K - 1 in ascending order, where the training
    set's classes are known those of them alone. The classes' names and the mapping are put into
    the metadata of data set ``name``. The image-level
    ``neg_category_ids`` and ``not_exhaustive_category_ids`` keep the ids of the file, as in
    Detectron2's own LVIS loader.

    Raises:
        InputError: the file cannot be read or contradicts itself.
    """
    content = read_annotation_file(json_file)
    content.require("bbox")
    _check_rles(content, mask_forms(content))
    metadata = MetadataCatalog.get(name)
    set_classes(metadata, _classes(content, metadata), json_file)
    to_contiguous = metadata.thing_dataset_id_to_contiguous_id
    contiguous = np.array([to_contiguous.get(i, -1) for i in content.category_ids.tolist()])
    metadata.evaluator_type = evaluator_type(content)
    records = _records(content, image_root)
    annotations = zip(
        content.ann_image.tolist(),
        contiguous[content.ann_category].tolist(),
        content.bbox.tolist(),
        content.crowd.astype(int).tolist(),
        strict=True,
    )
    without_mask = 0
    for row, (image, category, bbox, crowd) in enumerate(annotations):
        if category < 0:  # of a test set, of which the training set shows none
            continue
        instance: dict[str, Any] = {
            "bbox": bbox,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category,
            "iscrowd": crowd,
        }
        segmentation = _segmentation(content, row)
        if segmentation == []:
            without_mask += 1
            continue
        if segmentation is not None:
            instance["segmentation"] = segmentation
        records[image]["annotations"].append(instance)
    if without_mask:
        logger.warning(
            "%s: left out %d annotations whose polygons have fewer than 3 points",
            json_file,
            without_mask,
        )
    return records


def _classes(content: AnnotationFile, metadata: Metadata) -> list[Category]:
    """Return a file's categories that are, or should be, classes of the model.

    Where the training set's are known, categories of a file in COCO's format that are not among
    them have no annotation, or none that was trained on (``left_out`` of the statistics).
    """
    known = metadata.get("thing_dataset_id_to_contiguous_id")
    if known is None or content.federated:
        return content.categories
    left_out = metadata.get("left_out", ())
    annotated = np.bincount(content.ann_category, minlength=len(content.categories)) > 0
    return [
        category
        for category, has_any in zip(content.categories, annotated.tolist(), strict=True)
        if category.id in known or (has_any and category.id not in left_out)
    ]


def evaluator_type(content: AnnotationFile) -> str:
    """Return the name under which Detectron2's own tools evaluate a file of this format."""
    return "lvis" if content.federated else "coco"


def _guess_evaluator_type(json_file: str) -> str | None:
    """Return the same from the first mention of LVIS's key, without parsing; None without a file.

    Detectron2's tools may ask before a data set is loaded; loading sets what the content says.
    """
    if not os.path.isfile(json_file) or not os.path.getsize(json_file):
        return None
    key, end = b'"neg_category_ids"', b""
    with open(json_file, "rb") as f:
        while block := f.read(1 << 24):
            if key in end + block:
                return "lvis"
            end = block[1 - len(key) :]
    return "coco"


def _records(content: AnnotationFile, image_root: str) -> list[dict[str, Any]]:
    """Return Detectron2's dict of each image, without annotations yet."""
    records = []
    ids = content.image_ids.tolist()
    paths = image_paths(content.path, ids, content.file_names(), image_root)
    sizes = content.image_sizes().tolist()
    for image, path, (height, width) in zip(content.images, paths, sizes, strict=True):
        record: dict[str, Any] = {
            "file_name": path,
            "height": height,
            "width": width,
            "image_id": image.id,
            "annotations": [],
        }
        if content.federated:
            record["neg_category_ids"] = image.neg_category_ids or []
            record["not_exhaustive_category_ids"] = image.not_exhaustive_category_ids or []
        records.append(record)
    return records


def _segmentation(content: AnnotationFile, row: int) -> list[list[float]] | dict[str, Any] | None:
    """Return an annotation's valid polygons or RLE; None for no mask, [] for no valid polygon."""
    try:
        segmentation = _SEGMENTATION.decode(content.segmentation.text(row) or b"null")
    except msgspec.DecodeError as error:
        raise InputError(
            f"{content.path}: segmentation of the annotation with id {content.ann_ids[row]} is "
            f"neither polygons nor an RLE ({error})"
        ) from None
    if isinstance(segmentation, dict):
        if isinstance(segmentation.get("counts"), list):
            return pycocotools.mask.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    if not segmentation:
        return None
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
    image = content.images[content.ann_image[row]]
    fault = polygons and polygon_fault(polygons, image.height or 0, image.width or 0)
    if fault:
        raise InputError(
            f"{content.path}: segmentation of the annotation with id {content.ann_ids[row]}: "
            f"{fault}; correct the annotation"
        )
    return polygons


def set_classes(metadata: Metadata, categories: Sequence[Category], source: str) -> None:
    """Put class names and the mapping of category ids into a data set's metadata.

    Args:
        metadata: of the data set.
        categories: ascending by id.
        source: where the categories come from, for the message.

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


def register_custom_datasets(cfg: CfgNode, statistics: ClassStatistics | None = None) -> None:
    """Register the data sets of ``DATASETS.CUSTOM`` with Detectron2. Idempotent.

    Args:
        cfg: the configuration.
        statistics: those of the training set. Their names become the data sets' class names, so
            that detections can be drawn without the annotation file, and their counts those that
            the federated loss samples classes by, where it is used.

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
        guess = _guess_evaluator_type(json_file)
        if guess is not None:
            metadata.evaluator_type = guess
        if statistics is not None:
            ids = statistics.ids.tolist()
            categories = [Category(i, n) for i, n in zip(ids, statistics.names, strict=True)]
            set_classes(metadata, categories, statistics.source)
            metadata.set(left_out=tuple(statistics.left_out))
    if statistics is not None and cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS:
        _set_image_counts(cfg.DATASETS.TRAIN, statistics)


def _set_image_counts(names: Sequence[str], statistics: ClassStatistics) -> None:
    """Put ``class_image_count``, as LVIS's metadata have it, into metadata that lack it.

    Detectron2's federated loss takes it from there when the model is built, for evaluation too.
    """
    counts = [
        {"id": category, "image_count": count}
        for category, count in zip(
            statistics.ids.tolist(), statistics.image_count.tolist(), strict=True
        )
    ]
    for name in names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("class_image_count") is None:
            metadata.set(class_image_count=counts)


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
    """Check that Detectron2 can train masks on a data set.

    Masks are checked in every data set that has an annotation file, whether they are there and in
    the right form in those of ``DATASETS.CUSTOM``. Crowds and what has no valid polygon are not
    trained on.

    Args:
        name: of the data set.
        key: the configuration key that names it, for messages.
        mask_format: INPUT.MASK_FORMAT.

    Raises:
        InputError: an annotation has no mask, a broken one, or an RLE where polygons are needed.
    """
    path = annotation_file(name, key)
    if path is None:
        return
    content = read_annotation_file(path)
    content.require("annotations")
    forms = mask_forms(content)
    place = f"{key}: data set {name!r}: "
    _check_rles(content, forms, place)
    try:
        check_polygons(content, np.flatnonzero((forms == Form.POLYGONS) & ~content.crowd))
    except InputError as error:
        raise InputError(f"{place}{error}") from None
    if not MetadataCatalog.get(name).get("custom", False):
        return
    for form, fault in (
        (Form.NONE, "no mask; set MODEL.MASK_ON False to do without masks"),
        (Form.RLE, "an RLE as its mask; set INPUT.MASK_FORMAT bitmask"),
    ):
        rows = np.flatnonzero((forms == form) & ~content.crowd)
        if len(rows) and (form == Form.NONE or mask_format == "polygon"):
            raise InputError(
                f"{key}: data set {name!r}: annotation {content.ann_ids[rows[0]]} of {path} has "
                f"{fault}"
            )


def _check_rles(content: AnnotationFile, forms: NDArray[np.int8], place: str = "") -> None:
    """Refuse a broken RLE, crowds apart: Detectron2 would train on whatever it decodes to."""
    rows = np.flatnonzero((forms == Form.RLE) & ~content.crowd)
    try:
        rle_areas(content, rows)
    except InputError as error:
        raise InputError(f"{place}{error}") from None


def refuse_test_set(cfg: CfgNode, name: str, consequence: str) -> None:
    """Refuse a data set whose annotations are those of one of ``DATASETS.TEST``.

    Args:
        cfg: the configuration.
        name: a data set that has an annotation file.
        consequence: what must not be done on a test set, for the message.

    Raises:
        InputError: names both data sets.
    """
    path = MetadataCatalog.get(name).json_file
    for test in cfg.DATASETS.TEST:
        test_path = MetadataCatalog.get(test).get("json_file")
        there = test_path is not None and os.path.isfile(test_path)
        if test == name or (
            there and annotation_file_sha256(test_path) == annotation_file_sha256(path)
        ):
            raise InputError(
                f"{name!r} has the annotations of {test!r} of DATASETS.TEST: {consequence} the "
                "data that the result is measured on"
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
    header = read_annotation_file(path)
    classes = _classes(header, metadata) if metadata.get("custom", False) else header.categories
    if len(classes) != num_classes:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but data set {name!r} ({path}) has "
            f"{len(classes)} categories: set MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}"
        )
    if metadata.get("custom", False):
        set_classes(metadata, classes, path)
        metadata.evaluator_type = evaluator_type(header)
    names = header.file_names()
    first = image_paths(path, header.image_ids.tolist(), names, metadata.image_root)[0]
    if not os.path.isfile(first):
        raise InputError(
            f"{key}: data set {name!r}: the first image of {path} is not there: {first}; "
            f"{_remedy(metadata)}"
        )
