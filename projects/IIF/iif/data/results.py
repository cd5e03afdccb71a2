"""Result files in LVIS's submission format, which is COCO's: read as arrays, and written.

A result file is a JSON list with one object for each detection::

    {"image_id": 1, "category_id": 3, "score": 0.9, "bbox": [x, y, width, height],
     "segmentation": {"size": [height, width], "counts": "..."}}

A file of LVIS's size (19,809 images with 300 boxes each) has about 700 MB, and as Python objects
would take several gigabytes; so it is read, decoded and turned into arrays block by block.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.rle import FAULTS, RLEs, from_runs
from iif.errors import InputError
from iif.files import Id, atomic_write

IouType = Literal["bbox", "segm"]
IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")

_RESULTS = "a JSON list of detections (LVIS's submission format)"
# A block holds many rows, and no row is longer than a block.
_BLOCK_BYTES = 8 << 20
_TAIL_BYTES = 1 << 16
_JSON_SPACE = b" \t\r\n"
_SPACE = re.compile(r"[ \t\r\n]*")
_GAP = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_JSON = json.JSONDecoder()


class _Rle(msgspec.Struct, gc=False):
    size: tuple[Id, Id]
    counts: str | list[Id]


class _Row(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    score: float
    bbox: tuple[float, float, float, float] | None = None


class _MaskRow(_Row, gc=False):
    segmentation: _Rle | None = None


class _Keys(msgspec.Struct):
    bbox: Any = None
    segmentation: Any = None


@dataclass(frozen=True, eq=False)
class Detections:
    """The D detections of a result file, in the file's order.

    Attributes:
        path, sha256: the file.
        image, category: (D,) int32 rows of the annotations.
        score: (D,) float64, finite.
        bbox: (D, 4) float64, XYWH_ABS; None when a row has none.
        rle: D masks, whose runs were checked; None unless they were asked for.
        mask_area: (D,) int64 pixels of each mask, or None.
    """

    path: str
    sha256: str
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    score: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    rle: Sequence[dict[str, Any]] | None = None
    mask_area: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number D of detections."""
        return len(self.score)


def load_results(
    path: str | os.PathLike[str],
    gt: Annotations,
    *,
    iou_type: IouType = "bbox",
) -> Detections:
    """Read a result file and check every row.

    Args:
        path: the result file.
        gt: the annotations that it was made for.
        iou_type: "bbox" leaves the masks aside; "segm" needs a mask in every row and keeps the
            boxes, too, where all rows have one.

    Raises:
        InputError: the file is missing, not JSON (cut off), not a list; a row lacks a key or has
            an unknown image or category, a score that is not finite, or an RLE that does not
            describe a mask of its image's size. The message names file, row (from 0) and key.
    """
    source = os.fspath(path)
    digest = hashlib.sha256()
    parts = [
        _Part.of(rows, first_row, source, gt, iou_type)
        for first_row, rows in _decoded(source, _ROW_TYPES[iou_type], digest)
    ]
    masks = _join_masks(parts, gt) if iou_type == "segm" else None
    has_boxes = all(part.bbox is not None for part in parts)
    return Detections(
        path=source,
        sha256=digest.hexdigest(),
        image=_join(parts, "image", np.zeros(0, np.int32)),
        category=_join(parts, "category", np.zeros(0, np.int32)),
        score=_join(parts, "score", np.zeros(0)),
        bbox=_join(parts, "bbox", np.zeros((0, 4))) if has_boxes else None,
        rle=masks,
        mask_area=_join(parts, "mask_area", np.zeros(0, np.int64)) if masks is not None else None,
    )


def available_iou_types(path: str | os.PathLike[str]) -> tuple[IouType, ...]:
    """Return what the first row of a result file can be evaluated as; both for an empty list.

    Raises:
        InputError: as :func:`load_results`, for the file's first block.
    """
    for _, rows in _decoded(os.fspath(path), _Keys, hashlib.sha256()):
        if rows:
            keys = {"bbox": rows[0].bbox, "segm": rows[0].segmentation}
            return tuple(t for t in IOU_TYPES if keys[t] is not None)
    return IOU_TYPES


def write_results(path: str | os.PathLike[str], results: Sequence[dict[str, Any]]) -> None:
    """Write detections in LVIS's submission format, whole or not at all.

    Args:
        path: the file to write.
        results: dicts with ``image_id``, ``category_id``, ``score`` and ``bbox``
            ``[x, y, width, height]`` and, for masks, ``segmentation`` as a compressed RLE
            ``{"size": [height, width], "counts": ...}`` (str, or bytes as from pycocotools).

    Raises:
        ValueError: a score is not finite.
    """
    encoder = msgspec.json.Encoder(enc_hook=lambda scalar: scalar.item())
    with atomic_write(path, "wb") as f:
        f.write(b"[")
        for row, result in enumerate(results):
            if not math.isfinite(result["score"]):
                raise ValueError(f"result {row} has score {result['score']}; it must be finite")
            f.write(b",\n" if row else b"\n")
            f.write(encoder.encode(_with_text_counts(result)))
        f.write(b"\n]\n")


def _with_text_counts(result: dict[str, Any]) -> dict[str, Any]:
    rle = result.get("segmentation")
    if rle is None or not isinstance(rle["counts"], bytes):
        return result
    return result | {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}


_ROW_TYPES: dict[IouType, type[_Row]] = {"bbox": _Row, "segm": _MaskRow}


@dataclass
class _Part:
    """The detections of one block of the file."""

    image: NDArray[np.int32]
    category: NDArray[np.int32]
    score: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    counts: NDArray[np.uint8] | None = None
    lengths: NDArray[np.int64] | None = None
    mask_area: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, rows: list[Any], first_row: int, source: str, gt: Annotations, iou_type: IouType
    ) -> _Part:
        def refuse(wrong: NDArray[np.bool_], key: str, fault: str) -> None:
            if wrong.any():
                row = int(np.argmax(wrong))
                value = getattr(rows[row], key)
                raise _row_error(source, first_row + row, key, fault.format(value))

        score = np.fromiter(map(attrgetter("score"), rows), np.float64, len(rows))
        refuse(~np.isfinite(score), "score", "is {}; it must be a finite number")
        found = {}
        for key, lookup in (("image_id", gt.image_row), ("category_id", gt.category_row)):
            ids = np.fromiter(map(attrgetter(key), rows), np.int64, len(rows))
            found[key] = lookup(ids).astype(np.int32)
            refuse(
                found[key] < 0,
                key,
                f"{{}} is not in {gt.path}; evaluate with the annotations of the data set that "
                "the results were made for",
            )
        part = cls(found["image_id"], found["category_id"], score, _boxes(rows))
        if iou_type == "bbox" and part.bbox is None:
            lacking = np.array([row.bbox is None for row in rows])
            refuse(lacking, "bbox", "is missing; give [x, y, width, height] or evaluate segm alone")
        if iou_type == "segm":
            lacking = np.array([row.segmentation is None for row in rows], dtype=bool)
            refuse(
                lacking,
                "segmentation",
                "is missing: boxes alone cannot be evaluated as masks; evaluate with "
                "--iou-type bbox, or make the results again with masks",
            )
            part._add_masks(rows, first_row, source, gt)
        return part

    def _add_masks(
        self, rows: list[_MaskRow], first_row: int, source: str, gt: Annotations
    ) -> None:
        expected = gt.image_sizes[self.image]
        texts = []
        for i, row in enumerate(rows):
            assert row.segmentation is not None
            height, width = expected[i].tolist()
            if row.segmentation.size != (height, width):
                raise _row_error(
                    source,
                    first_row + i,
                    "segmentation.size",
                    f"is {list(row.segmentation.size)} but image {row.image_id} is "
                    f"{[height, width]} (height, width); make the masks in the image's size",
                )
            counts = row.segmentation.counts
            if isinstance(counts, list):
                try:
                    texts.append(from_runs(counts, height, width))
                except ValueError as error:
                    raise _mask_error(source, first_row + i, str(error)) from None
            else:
                texts.append(counts.encode())
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.counts = np.frombuffer(b"".join(texts), np.uint8)
        self.mask_area = RLEs(expected, self.counts, np.cumsum(self.lengths)).areas()
        if (self.mask_area < 0).any():
            bad = int(np.argmax(self.mask_area < 0))
            raise _mask_error(source, first_row + bad, FAULTS[int(self.mask_area[bad])])


def _boxes(rows: list[_Row]) -> NDArray[np.float64] | None:
    boxes = [row.bbox for row in rows if row.bbox is not None]
    if len(boxes) < len(rows):
        return None
    flat = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    return flat.reshape(-1, 4)


def _join(parts: list[_Part], key: str, empty: NDArray[Any]) -> NDArray[Any]:
    """Concatenate one column and let go of its parts, so that two columns never exist twice."""
    joined = np.concatenate([empty] + [getattr(part, key) for part in parts])
    for part in parts:
        setattr(part, key, None)
    return joined


def _join_masks(parts: list[_Part], gt: Annotations) -> RLEs:
    sizes = gt.image_sizes[np.concatenate([np.zeros(0, np.int32)] + [p.image for p in parts])]
    ends = np.cumsum(_join(parts, "lengths", np.zeros(0, np.int64)))
    return RLEs(sizes, _join(parts, "counts", np.zeros(0, np.uint8)), ends)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _decoded(source: str, row_type: type[Any], digest: _Hash) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows block by block, each block with the number of its first row."""
    decoder = msgspec.json.Decoder(list[row_type])  # type: ignore[valid-type]
    first_row = 0
    rest = b""
    for block, last in _blocks(source, digest):
        rest += block
        text = _without_comma(rest, source, first_row) if first_row else rest
        cut = len(text) if last else _last_gap(text)
        try:
            if not cut and len(text) > _BLOCK_BYTES:
                rows, cut = _decode_leniently(text, row_type, source, first_row, last)
            else:
                rows = decoder.decode(b"[" + text[:cut] + b"]")
        except msgspec.ValidationError as error:
            raise _validation_error(source, first_row, error) from None
        except msgspec.DecodeError:
            rows, cut = _decode_leniently(text, row_type, source, first_row, last)
        if rows:
            yield first_row, rows
            first_row += len(rows)
            rest = text[cut:]


def _without_comma(text: bytes, source: str, row: int) -> bytes:
    """Return the text behind the comma that separates it from the row before."""
    text = text.lstrip(_JSON_SPACE)
    if text[:1] not in (b",", b""):
        raise _malformed_error(source, row, "expected ',' before it")
    return text[1:]


def _blocks(source: str, digest: _Hash) -> Iterator[tuple[bytes, bool]]:
    """Yield the inside of the file's list in blocks, and with each whether it is the last."""
    try:
        f = open(source, "rb")  # noqa: SIM115 - closed by the with statement below
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; expected {_RESULTS}") from None
    except IsADirectoryError:
        raise InputError(f"{source}: is a folder; expected {_RESULTS}") from None
    size = os.fstat(f.fileno()).st_size
    bar = tqdm(
        desc=f"reading {os.path.basename(source)}",
        total=size,
        unit="B",
        unit_scale=True,
        delay=1,
        disable=None,
    )
    with f, bar:
        # Both ends before the rest: a file that was cut off is refused at once, however large.
        f.seek(max(0, size - _TAIL_BYTES))
        tail = f.read().rstrip(_JSON_SPACE)
        f.seek(0)
        block = f.read(_BLOCK_BYTES)
        head = block.lstrip(_JSON_SPACE)
        if not head:
            raise InputError(f"{source}: is empty; a model without any detection gives []")
        if not head.startswith(b"["):
            raise InputError(
                f"{source}: begins with {head[:1].decode(errors='replace')!r}; expected {_RESULTS}"
            )
        if not tail.endswith(b"]"):
            raise InputError(
                f"{source}: does not end with the list's closing ']': the file is cut off; copy or "
                "make it again"
            )
        inside = head[1:]
        while block:
            digest.update(block)
            bar.update(len(block))
            block = f.read(_BLOCK_BYTES)
            if block.strip(_JSON_SPACE):
                yield inside, False
                inside = block
        yield inside.rstrip(_JSON_SPACE)[:-1], True


def _last_gap(text: bytes) -> int:
    """Return where the last of the gaps "}, {" between objects begins its comma; 0 for none.

    A gap may lie within a row, in a list of objects or a string; the text before it is no JSON
    then, as a bracket or a quote stays open.
    """
    for start in (max(0, len(text) - _TAIL_BYTES), 0):
        gaps = list(_GAP.finditer(text, start))
        if gaps:
            return gaps[-1].start() + 1
    return 0


def _decode_leniently(
    text: bytes, row_type: type[Any], source: str, first_row: int, last: bool
) -> tuple[list[Any], int]:
    """Decode row by row what msgspec refuses: NaN and Infinity, which Python's json writes.

    A box that is not finite is no error (the detection is degenerate); a score is, further on.

    Args:
        text: rows with commas between; when not ``last`` the end of one may be missing.
        row_type: what each row must be.
        source, first_row: for messages.
        last: whether ``text`` reaches the list's end.

    Returns:
        The rows and how many bytes they take.

    Raises:
        InputError: names the row that is not JSON.
    """
    # One character for each byte, so that positions agree; no value that is read has others.
    string = text.decode("latin-1")
    rows: list[Any] = []
    at = used = 0
    while True:
        try:
            value, at = _JSON.raw_decode(string, _SPACE.match(string, at).end())  # type: ignore[union-attr]
        except json.JSONDecodeError as error:
            if not last and used + _BLOCK_BYTES > len(text):
                return rows, used
            raise _malformed_error(source, first_row + len(rows), error.msg) from None
        try:
            rows.append(msgspec.convert(value, row_type))
        except msgspec.ValidationError as error:
            raise _validation_error(source, first_row + len(rows), error) from None
        used = at
        at = _SPACE.match(string, at).end()  # type: ignore[union-attr]
        if at == len(string):
            return rows, used
        if string[at] != ",":
            raise _malformed_error(source, first_row + len(rows), "expected ',' before it")
        at += 1


def _validation_error(source: str, first_row: int, error: msgspec.ValidationError) -> InputError:
    """Turn msgspec's "Expected `int`, got `str` - at `$[3].image_id`" into our words."""
    fault, _, place = str(error).partition(" - at `$")
    match = re.match(r"(?:\[(\d+)\])?\.?(.*?)`?$", place)
    row = first_row + int(match[1] or 0) if match else first_row
    key = match[2] if match else ""
    missing = re.match(r"Object missing required field `(.*)`", fault)
    if missing:
        key = f"{key}.{missing[1]}" if key else missing[1]
        fault = "is missing"
    return _row_error(
        source,
        row,
        key or "the row",
        f"{fault[0].lower()}{fault[1:]}; a row is an object with image_id and category_id (whole "
        "numbers), score (a number) and bbox [x, y, width, height] or segmentation (an RLE)",
    )


def _malformed_error(source: str, row: int, fault: str) -> InputError:
    return InputError(f"{source}: row {row}: not valid JSON ({fault}); make the results again")


def _mask_error(source: str, row: int, fault: str) -> InputError:
    return _row_error(
        source, row, "segmentation", f"{fault}; make the RLE again (pycocotools.mask.encode)"
    )


def _row_error(source: str, row: int, key: str, fault: str) -> InputError:
    return InputError(f"{source}: row {row}: {key} {fault}")
