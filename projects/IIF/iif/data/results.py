"""Result files in LVIS's submission format, which is COCO's: read as arrays, and written.

A result file is a JSON list with one object for each detection::

    {"image_id": 1, "category_id": 3, "score": 0.9, "bbox": [x, y, width, height],
     "segmentation": {"size": [height, width], "counts": "..."}}

A file of LVIS's size (19,809 images with 300 boxes each) has about 700 MB and would take several
gigabytes as Python objects. Therefore it is read, decoded and turned into arrays block by block.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data.annotation_file import rows_of
from iif.data.annotations import Annotations
from iif.data.json_rows import JsonList
from iif.data.rle import FAULTS, RLEs, from_runs
from iif.errors import InputError
from iif.files import Id, atomic_write

if TYPE_CHECKING:
    from iif.data.scanner import ScannedRows

IouType = Literal["bbox", "segm"]
IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")

# A smaller file is read row by row before the scanner is compiled or loaded.
_SCANNED_BYTES = 32 << 20
_MOST_TABLE = 1 << 24

_RESULTS = "a JSON list of detections (LVIS's submission format)"
_ROW = (
    "an object with image_id and category_id (whole numbers), score (a number) and bbox "
    "[x, y, width, height] or segmentation (an RLE)"
)


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
        rle: D masks, whose runs were checked; None unless loaded for "segm".
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
    scanned: Future[ScannedRows | None] | None = None,
) -> Detections:
    """Read a result file and check every row.

    Args:
        path: the result file.
        gt: the annotations that it was made for.
        iou_type: "bbox" skips the masks; "segm" requires a mask in every row and also keeps the
            boxes when every row has one.
        scanned: of `scan_results`, where it was begun before the annotations were read.

    Raises:
        InputError: the file is missing, not JSON (cut off), not a list; a row lacks a key or has
            an unknown image or category, a score that is not finite, or an RLE that does not
            describe a mask of its image's size. The message names file, row (from 0) and key.
    """
    source = os.fspath(path)
    rows = scan_results(path, iou_type) if scanned is None else scanned.result()
    found = None if rows is None else _detections(source, rows, gt)
    if found is not None:
        return found
    digest = hashlib.sha256()
    file = _json_list(source)
    parts = [
        _Part.from_rows(rows, first_row, file, gt, iou_type)
        for first_row, rows in file.blocks(_ROW_TYPES[iou_type], digest)
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


def scan_results(path: str | os.PathLike[str], iou_type: IouType) -> ScannedRows | None:
    """Scan a large result file in threads; None for what :func:`load_results` reads row by row."""
    try:
        if os.path.getsize(path) < _SCANNED_BYTES:
            return None
    except OSError:
        return None
    from iif.data.scanner import scan  # numba: a second, which a small file need not wait for

    return scan(path, masks=iou_type == "segm")


def _detections(source: str, rows: ScannedRows, gt: Annotations) -> Detections | None:
    """Return scanned rows as detections; None where one has a fault."""
    image, category = (
        _rows_of(gt.image_ids, rows.image_id),
        _rows_of(gt.category_ids, rows.category_id),
    )
    if image is None or category is None:
        return None
    masks = mask_area = None
    if rows.sizes is not None:
        assert rows.counts is not None
        assert rows.ends is not None
        sizes = gt.image_sizes[image]
        masks = RLEs(sizes, rows.counts, rows.ends)
        mask_area = masks.areas()
        if (rows.sizes != sizes).any() or (mask_area < 0).any():
            return None
    return Detections(source, rows.sha256, image, category, rows.score, rows.bbox, masks, mask_area)


def _rows_of(known: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Return the row in ``known`` of each id, by a table; None where an id is unknown."""
    size = int(ids.max()) + 1
    if size > _MOST_TABLE:
        rows = rows_of(known, ids).astype(np.int32)
    else:
        table = np.full(size, -1, np.int32)
        listed = np.flatnonzero((known >= 0) & (known < size))
        table[known[listed]] = listed
        rows = table[ids]
    return rows if rows.min() >= 0 else None


def available_iou_types(path: str | os.PathLike[str]) -> tuple[IouType, ...]:
    """Return the IoU types that the first row of a result file has; both for an empty list.

    Raises:
        InputError: as :func:`load_results`, for the file's first block.
    """
    for _, rows in _json_list(os.fspath(path)).blocks(_Keys):
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


def _json_list(source: str) -> JsonList:
    return JsonList(
        source, what=_RESULTS, row=_ROW, if_empty="a model without any detection gives []"
    )


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
    def from_rows(
        cls, rows: list[Any], first_row: int, file: JsonList, gt: Annotations, iou_type: IouType
    ) -> _Part:
        """Check the decoded rows and turn them into arrays."""

        def refuse(wrong: NDArray[np.bool_], key: str, fault: str) -> None:
            if wrong.any():
                row = int(np.argmax(wrong))
                value = getattr(rows[row], key)
                raise file.row_error(first_row + row, key, fault.format(value))

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
                "is missing: boxes alone cannot be evaluated as masks; give bbox as the IoU type, "
                "or make the results again with masks",
            )
            part._add_masks(rows, first_row, file, gt)
        return part

    def _add_masks(
        self, rows: list[_MaskRow], first_row: int, file: JsonList, gt: Annotations
    ) -> None:
        expected = gt.image_sizes[self.image]
        texts = []
        for i, row in enumerate(rows):
            assert row.segmentation is not None
            height, width = expected[i].tolist()
            if row.segmentation.size != (height, width):
                raise file.row_error(
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
                    raise _mask_error(file, first_row + i, str(error)) from None
            else:
                texts.append(counts.encode())
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.counts = np.frombuffer(b"".join(texts), np.uint8)
        self.mask_area = RLEs(expected, self.counts, np.cumsum(self.lengths)).areas()
        if (self.mask_area < 0).any():
            bad = int(np.argmax(self.mask_area < 0))
            raise _mask_error(file, first_row + bad, FAULTS[int(self.mask_area[bad])])


def _boxes(rows: list[_Row]) -> NDArray[np.float64] | None:
    boxes = [row.bbox for row in rows if row.bbox is not None]
    if len(boxes) < len(rows):
        return None
    flat = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    return flat.reshape(-1, 4)


def _join(parts: list[_Part], key: str, empty: NDArray[Any]) -> NDArray[Any]:
    """Concatenate one column and free its parts, so that only one column exists twice at a time."""
    joined = np.concatenate([empty] + [getattr(part, key) for part in parts])
    for part in parts:
        setattr(part, key, None)
    return joined


def _join_masks(parts: list[_Part], gt: Annotations) -> RLEs:
    sizes = gt.image_sizes[np.concatenate([np.zeros(0, np.int32)] + [p.image for p in parts])]
    ends = np.cumsum(_join(parts, "lengths", np.zeros(0, np.int64)))
    return RLEs(sizes, _join(parts, "counts", np.zeros(0, np.uint8)), ends)


def _mask_error(file: JsonList, row: int, fault: str) -> InputError:
    return file.row_error(
        row, "segmentation", f"{fault}; make the RLE again (pycocotools.mask.encode)"
    )
