"""Detections that are in memory already: arrays, a table or a list of rows, checked as a file's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import IOU_TYPES, Detections, IouType
from iif.data.rle import FAULTS, RLEs, from_runs
from iif.errors import InputError

# What messages call results that come from no file.
SOURCE = "results"
_REQUIRED = ("image_id", "category_id", "score")
_KEYS = (*_REQUIRED, "bbox", "segmentation")
# The columns of pycocotools' (D, 7) table of boxes (COCO.loadNumpyAnnotations).
_TABLE = "image_id, x, y, width, height, score, category_id"


def detections_of(
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]] | NDArray[Any],
    gt: Annotations,
    iou_types: Sequence[IouType] | None = None,
) -> tuple[Detections, list[IouType]]:
    """Return detections given in memory, and the IoU types that they can be evaluated by.

    Args:
        results: one of

            - columns: ``image_id``, ``category_id`` and ``score``, (D,) each, with ``bbox``,
              (D, 4) x, y, width and height in pixels, with ``segmentation``, D RLE dicts of their
              images' sizes, or both;
            - a (D, 7) table of image_id, x, y, width, height, score, category_id, as pycocotools
              takes it;
            - rows as a result file has them: dicts with these keys.
        gt: the annotations.
        iou_types: "bbox", "segm" or both; by default those that the results have.

    Raises:
        InputError: a column is missing or of another length, an image or category is unknown, a
            score is not finite, or an RLE does not describe a mask of its image's size. The
            message names the row (from 0) and the key.
    """
    columns = _columns(results)
    number = len(columns["score"])
    for key, column in columns.items():
        if len(column) != number:
            raise InputError(f"{SOURCE}: {len(column)} of {key} for {number} of score")
    unknown = [t for t in iou_types or () if t not in IOU_TYPES]
    if unknown:
        raise InputError(f"iou_types has {unknown[0]!r}; it must be of {', '.join(IOU_TYPES)}")
    keys: dict[IouType, str] = {"bbox": "bbox", "segm": "segmentation"}
    chosen: list[IouType] = [t for t, key in keys.items() if iou_types is None or t in iou_types]
    present = [t for t in chosen if keys[t] in columns or number == 0]
    for iou_type in chosen:
        if iou_types is not None and iou_type not in present:
            raise InputError(f"{SOURCE}: {keys[iou_type]} is missing; it is needed for {iou_type}")
    if not present:
        raise InputError(f"{SOURCE}: neither bbox nor segmentation is given; give one of them")

    score = _numbers(columns, "score", np.float64)
    _refuse(~np.isfinite(score), columns["score"], "score", "is {}; it must be a finite number")
    image, category = (
        _known_rows(columns, key, lookup, gt.path)
        for key, lookup in (("image_id", gt.image_row), ("category_id", gt.category_row))
    )
    bbox = None
    if "bbox" in columns or "bbox" in present:
        bbox = _boxes(columns.get("bbox", ()), number)
    masks = area = None
    if "segm" in present:
        masks = _masks(columns.get("segmentation", ()), gt.image_sizes[image])
        area = masks.areas()
        _refuse(area < 0, area, "segmentation", "is no RLE: {}", FAULTS)
    return Detections("", "", image, category, score, bbox, masks, area), present


def _columns(results: Any) -> dict[str, Any]:
    if isinstance(results, Mapping):
        columns = dict(results)
    elif isinstance(results, np.ndarray):
        if results.ndim != 2 or results.shape[1] != 7:
            raise InputError(f"{SOURCE}: is {results.shape}; a table must be (D, 7): {_TABLE}")
        image_id, *_, score, category_id = results.T
        columns = {"image_id": image_id, "category_id": category_id, "score": score}
        columns["bbox"] = results[:, 1:5]
    else:
        rows = list(results)
        # What the first row has is given in every row.
        first = rows[0] if rows else dict.fromkeys(_REQUIRED, 0)
        columns = {
            key: [_value(row, number, key) for number, row in enumerate(rows)]
            for key in _KEYS
            if first.get(key) is not None
        }
    for key in _REQUIRED:
        if key not in columns:
            raise InputError(f"{SOURCE}: {key} is missing")
    return {key: columns[key] for key in _KEYS if columns.get(key) is not None}


def _value(row: Mapping[str, Any], number: int, key: str) -> Any:
    if row.get(key) is None:
        raise InputError(f"{SOURCE}: row {number}: {key} is missing")
    return row[key]


def _numbers(columns: Mapping[str, Any], key: str, dtype: type) -> NDArray[Any]:
    try:
        values = np.asarray(columns[key])
        if dtype is np.int64 and values.dtype.kind == "f" and (values != np.rint(values)).any():
            raise ValueError("ids are whole numbers")
        return values.astype(dtype).reshape(len(columns["score"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{SOURCE}: {key} is not one number for each row ({error})") from None


def _boxes(values: Any, number: int) -> NDArray[np.float64]:
    try:
        boxes = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        boxes = np.empty(0)
    if number and boxes.shape != (number, 4):
        raise InputError(f"{SOURCE}: bbox is not ({number}, 4): x, y, width, height in each row")
    return boxes.reshape(number, 4)


def _known_rows(columns: Mapping[str, Any], key: str, lookup: Any, path: str) -> NDArray[np.int32]:
    ids = _numbers(columns, key, np.int64)
    rows = lookup(ids).astype(np.int32)
    _refuse(rows < 0, ids, key, f"{{}} is not in {path}; evaluate with the annotations of the data")
    return rows


def _masks(rles: Sequence[Mapping[str, Any]], sizes: NDArray[np.int64]) -> RLEs:
    texts = []
    for row, (rle, size) in enumerate(zip(rles, sizes.tolist(), strict=True)):
        place = f"{SOURCE}: row {row}: segmentation"
        if not isinstance(rle, Mapping) or "counts" not in rle or "size" not in rle:
            raise InputError(f'{place} is not an RLE {{"size": [height, width], "counts": ...}}')
        if list(rle["size"]) != size:
            raise InputError(
                f"{place}: size is {list(rle['size'])} but the image is {size} (height, width); "
                "make the masks in the image's size"
            )
        counts = rle["counts"]
        try:
            if isinstance(counts, str):
                counts = counts.encode()
            texts.append(counts if isinstance(counts, bytes) else from_runs(counts, *size))
        except (TypeError, ValueError) as error:
            raise InputError(f"{place}: {error}") from None
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    return RLEs(sizes, np.frombuffer(b"".join(texts), np.uint8), ends)


def _refuse(
    wrong: NDArray[np.bool_], values: Any, key: str, fault: str, words: Mapping[int, str] = {}
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        value = words.get(int(values[row])) if words else values[row]
        raise InputError(f"{SOURCE}: row {row}: {key} {fault.format(value)}")
