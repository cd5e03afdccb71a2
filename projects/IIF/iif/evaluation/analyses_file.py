"""The tables of an evaluation's analyses: missed objects, curves, thresholds, confusion matrix."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iif import layout
from iif.data.annotations import Annotations
from iif.data.results import IOU_TYPES, Detections
from iif.evaluation.analyses import Analyses
from iif.evaluation.confusion import confusion_matrix, thresholds_of
from iif.evaluation.curves import curve
from iif.evaluation.matching import Matches
from iif.evaluation.missed import Found, found_objects
from iif.files import atomic_write

MISSED_COLUMNS = ("annotation_id", "image_id", "category_id", "area", "cause")
CURVE_COLUMNS = ("category_id", "recall", "precision", "f1", "threshold")
THRESHOLD_COLUMNS = ("category_id", "threshold", "precision", "recall", "f1")
CONFUSION_COLUMNS = ("category_id", "predicted_id", "count")
# A category's curve has one row where it first reaches each of these recalls, and its last point.
_CURVE_RECALLS = np.arange(1, 101) / 100


def write_analyses(
    folder: Path, gt: Annotations, detections: Detections, matches: Matches, found: Analyses
) -> None:
    """Write the tables of one IoU type into a folder: see docs/evaluation.md for the columns."""
    missed, curves, thresholds, confusion = (
        folder / name for name in layout.analyses(matches.iou_type)
    )
    fate = found_objects(gt, detections, matches)
    image_ids, category_ids = gt.image_ids.tolist(), gt.category_ids.tolist()
    _write(
        missed,
        MISSED_COLUMNS,
        (
            (
                int(gt.ann_ids[g]),
                image_ids[gt.ann_image[g]],
                category_ids[gt.ann_category[g]],
                float(gt.area[g]),
                Found(fate[g]).label,
            )
            for g in np.flatnonzero(fate > Found.FOUND)
        ),
    )
    _write(curves, CURVE_COLUMNS, _curve_rows(matches, category_ids))
    _write(
        thresholds,
        THRESHOLD_COLUMNS,
        (
            (t.category_id, _cell(t.threshold), t.precision, t.recall, t.f1)
            for t in found.thresholds
        ),
    )
    _write(
        confusion,
        CONFUSION_COLUMNS,
        (
            (
                "background" if cell.category_id is None else cell.category_id,
                "missed" if cell.predicted_id is None else cell.predicted_id,
                cell.count,
            )
            for cell in confusion_matrix(
                gt, detections, matches, thresholds_of(gt, found.thresholds)
            )
        ),
    )


def remove_analyses(folder: Path, kept: Sequence[str] = ()) -> None:
    """Remove the tables of an earlier evaluation, but those of the IoU types in ``kept``."""
    for iou_type in IOU_TYPES:
        if iou_type not in kept:
            for name in layout.analyses(iou_type):
                (folder / name).unlink(missing_ok=True)


def _curve_rows(matches: Matches, category_ids: Sequence[int]) -> Iterable[tuple[Any, ...]]:
    for category, category_id in enumerate(category_ids):
        found = curve(matches, category)
        if found is None or not len(found.recall):
            continue
        first = np.searchsorted(found.recall, _CURVE_RECALLS)
        shown = np.unique(np.append(first[first < len(found.recall)], len(found.recall) - 1))
        for point in shown.tolist():
            values = (found.recall, found.precision, found.f1)
            yield (
                category_id,
                *(100 * float(v[point]) for v in values),
                float(found.threshold[point]),
            )


def _cell(value: float | None) -> Any:
    return "" if value is None else value


def _write(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    with atomic_write(path) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
