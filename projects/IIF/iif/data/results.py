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
from iif.data.boxes import warn_of_corners
from iif.data.json_rows import JsonList
from iif.data.rle import FAULTS, RLEs, from_runs
from iif.data.sources import ReadFile, ResultFiles, Source, combined_sha256, open_sources
from iif.errors import InputError
from iif.files import Id, atomic_write

if TYPE_CHECKING:
    from iif.data.scanner import ScannedRows

IouType = Literal["bbox", "segm"]
IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")

# A smaller file is read row by row before the scanner is compiled or loaded.
_SCANNED_BYTES = 32 << 20
_MOST_TABLE = 1 << 24
_FIRST_BYTES = 1 << 20

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
    """The D detections of a run, in the order of its result files and of their rows.

    Attributes:
        path: the file; of several their names, for messages.
        sha256: of the file; of several `combined_sha256`.
        image, category: (D,) int32 rows of the annotations.
        score: (D,) float64, finite.
        bbox: (D, 4) float64, XYWH_ABS; None when a row has none.
        rle: D masks, whose runs were checked; None unless loaded for "segm".
        mask_area: (D,) int64 pixels of each mask, or None.
        files: what was read; none of detections that come from memory.
    """

    path: str
    sha256: str
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    score: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    rle: Sequence[dict[str, Any]] | None = None
    mask_area: NDArray[np.int64] | None = None
    files: tuple[ReadFile, ...] = ()

    def __len__(self) -> int:
        """Return the number D of detections."""
        return len(self.score)


def load_results(
    results: ResultFiles,
    gt: Annotations,
    *,
    iou_type: IouType = "bbox",
    scanned: Sequence[Future[ScannedRows | None]] | None = None,
) -> Detections:
    """Read the result files of a run and check every row.

    Several files give what one file with all of their rows would give. An image's detections may
    lie in several.

    Args:
        results: one result file or several, as `iif.data.sources.open_sources` takes them.
        gt: the annotations that they were made for.
        iou_type: "bbox" skips the masks; "segm" requires a mask in every row and also keeps the
            boxes when every row has one.
        scanned: of `scan_results`, of each file, where it was begun before the annotations were
            read.

    Raises:
        InputError: a file is missing, not JSON (cut off), not a list; a row lacks a key or has
            an unknown image or category, a score that is not finite, or an RLE that does not
            describe a mask of its image's size. The message names file, row (from 0) and key.
    """
    with open_sources(results) as sources:
        return _joined(
            [
                _load(
                    source,
                    scan_results(source, iou_type) if scanned is None else scanned[i].result(),
                    gt,
                    iou_type,
                )
                for i, source in enumerate(sources)
            ]
        )


def _load(
    source: Source, rows: ScannedRows | None, gt: Annotations, iou_type: IouType
) -> Detections:
    found = None if rows is None else _detections(source, rows, gt)
    if found is None:
        found = _row_by_row(source, gt, iou_type)
    if found.bbox is not None:
        warn_of_corners(source.name, found.bbox, found.image, gt.image_sizes)
    return found


def _row_by_row(source: Source, gt: Annotations, iou_type: IouType) -> Detections:
    digest = hashlib.sha256() if source.sha256 is None else None
    file = _json_list(source)
    parts = [
        _Part.from_rows(rows, first_row, file, gt, iou_type)
        for first_row, rows in file.blocks(_ROW_TYPES[iou_type], digest)
    ]
    masks = _join_masks(parts, gt) if iou_type == "segm" else None
    has_boxes = all(part.bbox is not None for part in parts)
    image = _join(parts, "image", np.zeros(0, np.int32))
    sha256 = source.sha256 if digest is None else digest.hexdigest()
    return Detections(
        path=source.name,
        sha256=str(sha256),
        image=image,
        category=_join(parts, "category", np.zeros(0, np.int32)),
        score=_join(parts, "score", np.zeros(0)),
        bbox=_join(parts, "bbox", np.zeros((0, 4))) if has_boxes else None,
        rle=masks,
        mask_area=_join(parts, "mask_area", np.zeros(0, np.int64)) if masks is not None else None,
        files=(_read_file(source, str(sha256), len(image)),),
    )


def _read_file(source: Source, sha256: str, num_detections: int) -> ReadFile:
    return ReadFile(source.name if source.lasting else None, sha256, num_detections)


def _joined(parts: list[Detections]) -> Detections:
    """Return the detections of several files as those of one; takes the list's content away."""
    if len(parts) == 1:
        return parts[0]
    files = tuple(file for part in parts for file in part.files)
    names = ", ".join(part.path for part in parts)
    keys = ("image", "category", "score", "bbox", "rle", "mask_area")
    columns = {key: [getattr(part, key) for part in parts] for key in keys}
    parts.clear()

    def join(key: str) -> Any:
        # One column at a time exists twice.
        pieces = columns.pop(key)
        return None if any(piece is None for piece in pieces) else np.concatenate(pieces)

    masks = columns.pop("rle")
    return Detections(
        path=names,
        sha256=combined_sha256(files),
        image=join("image"),
        category=join("category"),
        score=join("score"),
        bbox=join("bbox"),
        rle=None if any(piece is None for piece in masks) else RLEs.joined(masks),
        mask_area=join("mask_area"),
        files=files,
    )


def scan_results(source: Source, iou_type: IouType) -> ScannedRows | None:
    """Scan a large result file in threads; None for what :func:`load_results` reads row by row."""
    try:
        if os.path.getsize(source.path) < _SCANNED_BYTES:
            return None
    except OSError:
        return None
    from iif.data.scanner import scan  # numba: a second, which a small file need not wait for

    return scan(source.path, masks=iou_type == "segm", sha256=source.sha256)


def _detections(source: Source, rows: ScannedRows, gt: Annotations) -> Detections | None:
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
    file = _read_file(source, rows.sha256, len(image))
    return Detections(
        *(source.name, rows.sha256, image, category, rows.score, rows.bbox, masks, mask_area),
        files=(file,),
    )


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


def available_iou_types(results: ResultFiles) -> tuple[IouType, ...]:
    """Return the IoU types that the first row of a run's result files has; both without a row.

    Raises:
        InputError: as :func:`load_results`, for a file's first block.
    """
    with open_sources(results) as sources:
        return first_row(sources)[1]


def first_row(sources: Sequence[Source]) -> tuple[Source, tuple[IouType, ...]]:
    """Return the first of the files that has a row, and the IoU types of that row.

    Without a row: the first file and both IoU types.

    Raises:
        InputError: as :func:`load_results`, for a file's first block.
    """
    for source in sources:
        for _, rows in _json_list(source, _FIRST_BYTES).blocks(_Keys):
            if rows:
                keys = {"bbox": rows[0].bbox, "segm": rows[0].segmentation}
                return source, tuple(t for t in IOU_TYPES if keys[t] is not None)
    return sources[0], IOU_TYPES


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


def _json_list(source: Source, block_bytes: int | None = None) -> JsonList:
    return JsonList(
        source.name,
        what=_RESULTS,
        row=_ROW,
        if_empty="a model without any detection gives []",
        block_bytes=block_bytes,
        text=source.path,
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
                texts.append(counts.encode(errors="surrogatepass"))
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
