"""``outcomes_bbox.csv`` and ``outcomes_segm.csv``: the outcome of each detection."""

from __future__ import annotations

import os
from typing import IO, Any

import msgspec

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.matching import ErrorType, Matches, Outcome
from iif.files import atomic_write
from iif.progress import progress

OUTCOME_COLUMNS = ("row", "image_id", "category_id", "score", "outcome", "error_type", "gt_id")

_ROWS_AT_ONCE = 200_000


def write_outcomes(
    path: str | os.PathLike[str],
    gt: Annotations,
    detections: Detections,
    matches: Matches,
) -> None:
    """Write the outcome of each detection as CSV, in the result file's order.

    The columns are OUTCOME_COLUMNS. ``row`` is the row in the result file, from 0; ``error_type``
    is empty except for false positives; ``gt_id`` is empty where no ground truth decided.
    """
    labels = [outcome.name for outcome in Outcome]
    types = [error_type.label for error_type in ErrorType]
    ann_ids = [*gt.ann_ids.tolist(), ""]  # the last is that of gt_row -1
    image_ids, category_ids = gt.image_ids.tolist(), gt.category_ids.tolist()
    bar = progress(
        total=len(detections),
        desc=f"writing {os.path.basename(path)}",
        unit="row",
        unit_scale=True,
        delay=1,
    )
    with atomic_write(path, "wb") as f, bar:
        f.write(",".join(OUTCOME_COLUMNS).encode() + b"\n")
        for start in range(0, len(detections), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            rows = zip(
                range(start, len(detections)),
                map(image_ids.__getitem__, detections.image[part].tolist()),
                map(category_ids.__getitem__, detections.category[part].tolist()),
                detections.score[part].tolist(),
                map(labels.__getitem__, matches.outcome[part].tolist()),
                map(types.__getitem__, matches.error_type[part].tolist()),
                map(ann_ids.__getitem__, matches.gt_row[part].tolist()),
                strict=False,
            )
            _write_csv_rows(f, list(rows))
            bar.update(len(detections.score[part]))


def _write_csv_rows(f: IO[bytes], rows: list[tuple[Any, ...]]) -> None:
    # Numbers and bare words only: JSON without its brackets and quotes is CSV, and msgspec
    # formats it ten times faster than the csv module.
    text = msgspec.json.encode(rows)
    f.write(text[2:-2].translate(None, b'"').replace(b"],[", b"\n") + b"\n")
