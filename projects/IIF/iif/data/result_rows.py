"""The rows of a result file that are read one by one: checked, and turned into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.faults import Fault, Report, examples
from iif.data.rle import FAULTS, RLEs, from_runs
from iif.files import Id

ROW = (
    "an object with image_id and category_id (whole numbers), score (a number) and bbox "
    "[x, y, width, height] or segmentation (an RLE)"
)


class _Rle(msgspec.Struct, gc=False):
    size: tuple[Id, Id]
    counts: str | list[Id]


class Row(msgspec.Struct, gc=False):
    """A detection."""

    image_id: Id
    category_id: Id
    score: float
    bbox: tuple[float, float, float, float] | None = None


class MaskRow(Row, gc=False):
    """A detection with a mask."""

    segmentation: _Rle | None = None


ROW_TYPES: dict[Literal["bbox", "segm"], type[Row]] = {"bbox": Row, "segm": MaskRow}


def convert_rows(
    values: Sequence[dict[str, Any]],
    first_row: int,
    iou_type: Literal["bbox", "segm"],
    report: Report,
) -> tuple[list[Any], list[int]]:
    """Return the objects that are rows, with their numbers; report the others."""
    rows, numbers = [], []
    for number, value in enumerate(values, first_row):
        try:
            rows.append(msgspec.convert(value, ROW_TYPES[iou_type]))
            numbers.append(number)
        except msgspec.ValidationError as error:
            fault, _, place = str(error).partition(" - at `$.")
            message = f"row {number}: {place.rstrip('`') or 'the row'}: {fault}; a row is {ROW}"
            report(Fault("malformed_rows", message, examples=(number,)))
    return rows, numbers


def rows_with_boxes(rows: Sequence[Row], numbers: Sequence[int], report: Report) -> list[int]:
    """Return the places of the rows that have a box; report the others."""
    lacking = np.array([row.bbox is None for row in rows], dtype=bool)
    _report(rows, numbers, lacking, "bbox", _NO_BOX, report)
    return np.flatnonzero(~lacking).tolist()


_NO_BOX = "is missing; give [x, y, width, height] or evaluate segm alone"
_NO_MASK = (
    "is missing: boxes alone cannot be evaluated as masks; give bbox as the IoU type, or make the "
    "results again with masks"
)


def _report(
    rows: Sequence[Any],
    numbers: Sequence[int],
    wrong: NDArray[np.bool_],
    key: str,
    fault: str,
    report: Report,
) -> None:
    """Report the rows that are wrong; "{}" in ``fault`` stands for the first one's value."""
    places = np.flatnonzero(wrong).tolist()
    if places:
        value = getattr(rows[places[0]], key)
        message = f"row {numbers[places[0]]}: {key} {fault.format(value)}"
        found = examples(numbers[place] for place in places)
        report(Fault(f"results_{key}", message, len(places), found))


@dataclass
class Part:
    """The detections of one block of the file: what `iif.data.results.Detections` has of them."""

    image: NDArray[np.int32]
    category: NDArray[np.int32]
    score: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    counts: NDArray[np.uint8] | None = None
    lengths: NDArray[np.int64] | None = None
    mask_area: NDArray[np.int64] | None = None

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Any],
        numbers: Sequence[int],
        gt: Annotations,
        iou_type: Literal["bbox", "segm"],
        report: Report,
    ) -> Part:
        """Check the decoded rows and turn them into arrays.

        Args:
            rows: of `ROW_TYPES`.
            numbers: of the rows in the file.
            gt: the annotations.
            iou_type: "segm" reads the masks.
            report: is handed the faults; what has one is left out.
        """
        sound = np.ones(len(rows), bool)

        def check(wrong: NDArray[np.bool_], key: str, fault: str) -> None:
            _report(rows, numbers, wrong, key, fault, report)
            sound[wrong] = False

        score = np.fromiter(map(attrgetter("score"), rows), np.float64, len(rows))
        check(~np.isfinite(score), "score", "is {}; it must be a finite number")
        found = {}
        for key, lookup in (("image_id", gt.image_row), ("category_id", gt.category_row)):
            ids = np.fromiter(map(attrgetter(key), rows), np.int64, len(rows))
            found[key] = lookup(ids).astype(np.int32)
            check(
                found[key] < 0,
                key,
                f"{{}} is not in {gt.path}; evaluate with the annotations of the data set that "
                "the results were made for",
            )
        boxes = _boxes(rows)
        if iou_type == "bbox" and boxes is None:
            check(np.array([row.bbox is None for row in rows]), "bbox", _NO_BOX)
        if iou_type == "segm":
            lacking = np.array([row.segmentation is None for row in rows], dtype=bool)
            check(lacking, "segmentation", _NO_MASK)
        image, category = found["image_id"], found["category_id"]
        if not sound.all():
            places = np.flatnonzero(sound)
            rows, numbers = ([of[i] for i in places.tolist()] for of in (rows, numbers))
            image, category, score = image[places], category[places], score[places]
            boxes = _boxes(rows)
        part = cls(image, category, score, boxes)
        if iou_type == "segm":
            part._add_masks(rows, numbers, gt, report)
        return part

    def _add_masks(
        self, rows: Sequence[Any], numbers: Sequence[int], gt: Annotations, report: Report
    ) -> None:
        expected = gt.image_sizes[self.image]
        texts, sound = [], []
        for i, row in enumerate(rows):
            height, width = expected[i].tolist()
            if row.segmentation.size != (height, width):
                message = (
                    f"row {numbers[i]}: segmentation.size is {list(row.segmentation.size)} but "
                    f"image {row.image_id} is {[height, width]} (height, width); make the masks in "
                    "the image's size"
                )
                report(Fault("results_size", message, examples=(numbers[i],)))
                continue
            counts = row.segmentation.counts
            if isinstance(counts, list):
                try:
                    texts.append(from_runs(counts, height, width))
                except ValueError as error:
                    report(_mask_fault(numbers[i], str(error)))
                    continue
            else:
                texts.append(counts.encode(errors="surrogatepass"))
            sound.append(i)
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.counts = np.frombuffer(b"".join(texts), np.uint8)
        self.mask_area = RLEs(expected[sound], self.counts, np.cumsum(self.lengths)).areas()
        for bad in np.flatnonzero(self.mask_area < 0).tolist():
            report(_mask_fault(numbers[sound[bad]], FAULTS[int(self.mask_area[bad])]))


def _boxes(rows: Sequence[Any]) -> NDArray[np.float64] | None:
    boxes = [row.bbox for row in rows if row.bbox is not None]
    if len(boxes) < len(rows):
        return None
    flat = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
    return flat.reshape(-1, 4)


def _mask_fault(number: int, fault: str) -> Fault:
    message = f"row {number}: segmentation {fault}; make the RLE again (pycocotools.mask.encode)"
    return Fault("results_segmentation", message, examples=(number,))
