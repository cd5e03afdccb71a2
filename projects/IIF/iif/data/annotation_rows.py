"""The rows of an annotation file: the schema, and their decoding block by block.

In COCO's format a whole number may be written as a float (1.0), as pandas and MATLAB write ids; a
file in LVIS's format must have whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data.faults import Fault, Report, examples
from iif.files import Id

WHAT = "an LVIS- or COCO-format annotation file"

# Annotations that exist as Python objects at a time.
_BLOCK = 1 << 15
# Keys of whole numbers.
_WHOLE = ("id", "image_id", "category_id", "height", "width", "iscrowd", "ignore", "image_count")


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


_Row = TypeVar("_Row")


def decode_rows(
    texts: Sequence[msgspec.Raw],
    row_type: type[_Row],
    section: str,
    report: Report,
    *,
    whole_floats: bool,
) -> Iterator[tuple[NDArray[np.int64], list[_Row], int]]:
    """Yield the rows of a section block by block.

    Args:
        texts: the JSON text of each row.
        row_type: a msgspec.Struct to decode each into.
        section: its key in the file, for messages.
        report: is handed each row that is not of ``row_type``; such rows are left out.
        whole_floats: whether a whole number may be written as a float.

    Yields:
        (B,) numbers of the rows in the file, the rows, and how many of them have such a float.
    """
    decoder = msgspec.json.Decoder(list[row_type])  # type: ignore[valid-type]
    one = msgspec.json.Decoder(row_type)
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        try:
            rows = decoder.decode(b"[" + b",".join(block) + b"]")
        except msgspec.ValidationError:
            numbers, rows, mended = [], [], 0
            for number, text in enumerate(block, start):
                try:
                    rows.append(one.decode(text))
                except msgspec.ValidationError as error:
                    try:
                        if not whole_floats:
                            raise
                        rows.append(one.decode(_with_whole_numbers(text)))
                        mended += 1
                    except msgspec.ValidationError:
                        report(_malformed(error, section, number))
                        continue
                numbers.append(number)
            yield np.array(numbers, np.int64), rows, mended
        else:
            yield np.arange(start, start + len(rows)), rows, 0


def _with_whole_numbers(text: msgspec.Raw) -> bytes:
    """Return a row's text with 1 for 1.0 under the keys of whole numbers."""
    values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    for key in _WHOLE:
        number = msgspec.json.decode(values[key]) if key in values else None
        if isinstance(number, float) and number.is_integer():
            values[key] = msgspec.Raw(b"%d" % int(number))
    return msgspec.json.encode(values)


def _malformed(error: msgspec.ValidationError, section: str, row: int) -> Fault:
    fault, _, place = str(error).partition(" - at `$")
    message = f"not {WHAT}: {fault} - at `$.{section}[{row}]{place.rstrip('`')}`"
    return Fault(f"malformed_{section}", message, examples=(row,))


def missing(key: str, section: str, rows: Sequence[int]) -> Fault:
    """Return the fault of rows that lack a key, in msgspec's words."""
    message = f"Object missing required field `{key}` - at `$.{section}[{rows[0]}]`"
    return Fault(f"missing_{key}", message, len(rows), examples(rows))


def decode_columns(
    texts: Sequence[msgspec.Raw], report: Report, *, whole_floats: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, Fault], int]:
    """Decode the annotations.

    Args:
        texts, report, whole_floats: as of `decode_rows`.

    Returns:
        the columns ``row`` (number in the file), ``id``, ``image_id``, ``category_id``, ``bbox``,
        ``area``, ``ignore`` and ``iscrowd``, NaN where a box has not four numbers or there is no
        area; by optional key the fault of the annotations that lack it; and how many have a float
        for a whole number.
    """
    keys = ("id", "image_id", "category_id", "ignore", "iscrowd")
    number = len(texts)
    columns: dict[str, NDArray[Any]] = {
        "row": np.empty(number, np.int64),
        "id": np.empty(number, np.int64),
        "image_id": np.empty(number, np.int64),
        "category_id": np.empty(number, np.int64),
        "bbox": np.empty((number, 4)),
        "area": np.empty(number),
        "ignore": np.empty(number, bool),
        "iscrowd": np.empty(number, bool),
    }
    boxless: list[int] = []
    unmasked: list[int] = []
    odd_box = ""
    used = mended = 0
    for numbers, block, floats in decode_rows(
        texts, _Annotation, "annotations", report, whole_floats=whole_floats
    ):
        mended += floats
        rows = slice(used, used + len(block))
        used = rows.stop
        columns["row"][rows] = numbers
        for key in keys:
            columns[key][rows] = [getattr(annotation, key) or 0 for annotation in block]
        columns["area"][rows] = [np.nan if a.area is None else a.area for a in block]
        boxes: list[Sequence[float]] = []
        for row, annotation in zip(numbers.tolist(), block, strict=True):
            if annotation.segmentation is _NONE:
                unmasked.append(row)
            box = annotation.bbox
            if box is not None and len(box) == 4:
                boxes.append(box)
                continue
            boxes.append([np.nan] * 4)
            if not boxless and box is not None:
                odd_box = (
                    f"annotations[{row}].bbox: the bbox of annotation {annotation.id} is {box}; "
                    "it must be [x, y, width, height]"
                )
            boxless.append(row)
        flat = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
        columns["bbox"][rows] = flat.reshape(-1, 4)
    columns = {key: column[:used] for key, column in columns.items()}
    faults = {}
    if boxless:
        fault = missing("bbox", "annotations", boxless)
        message = odd_box or fault.message
        faults["bbox"] = Fault("missing_bbox", message, fault.number, fault.examples)
    if unmasked:
        faults["segmentation"] = missing("segmentation", "annotations", unmasked)
    if len(without := columns["row"][np.isnan(columns["area"])].tolist()):
        faults["area"] = missing("area", "annotations", without)
    return columns, faults, mended
