"""All faults of a result file: those that the reader refuses, and what looks odd."""

from __future__ import annotations

import os
import warnings

import msgspec
import numpy as np

from iif.data.annotations import Annotations, load_annotations
from iif.data.boxes import are_corners, boxes_beyond
from iif.data.faults import Fault, Report, examples
from iif.data.results import available_iou_types, check_results
from iif.data.sources import open_sources
from iif.statistics import ClassStatistics


class ResultContent(msgspec.Struct):
    """What a result file holds: detections, of them sound ones, and what can be evaluated."""

    path: str
    detections: int
    sound: int
    images: int
    categories: int
    iou_types: list[str]


def check_result_file(
    path: str | os.PathLike[str], gt: Annotations, report: Report
) -> ResultContent:
    """Report what the evaluation refuses of a result file, and what looks odd.

    Raises:
        InputError: the file cannot be read to its end as a JSON list of objects.
    """
    iou_types = available_iou_types(path)
    with open_sources(path) as (source,):
        number, parts = check_results(source, gt, iou_types, report)
    image = np.concatenate([np.zeros(0, np.int32), *(part.image for part in parts)])
    category = np.concatenate([np.zeros(0, np.int32), *(part.category for part in parts)])
    score = np.concatenate([np.zeros(0), *(part.score for part in parts)])
    boxes = [part.bbox for part in parts if part.bbox is not None]
    if boxes and len(boxes) == len(parts):
        bbox = np.concatenate(boxes)
        beyond = float(boxes_beyond(bbox, gt.image_sizes[image]).mean()) if len(bbox) else 0.0
        if are_corners(beyond):
            message = f"{beyond:.0%} of the boxes reach beyond the right or lower edge"
            report(Fault("result_corners", f"{message}; if they are two corners, convert them"))
        rows = np.column_stack([image, category, score, bbox])
        copies = len(rows) - len(np.unique(rows, axis=0))
        if copies:
            message = "the same image, category, score and box; remove the copies"
            report(Fault("same_detections", message, copies))
    outside = int(((score < 0) | (score > 1)).sum())
    if outside:
        message = f"from {score.min():g} to {score.max():g}"
        report(Fault("scores_above_1", message, outside))
    bare = np.setdiff1d(np.arange(len(gt.image_ids)), image)
    if len(bare):
        ids = gt.image_ids[bare].tolist()
        report(Fault("no_detection", "nothing is detected there", len(ids), examples(ids)))
    return ResultContent(
        path=os.fspath(path),
        detections=number,
        sound=len(image),
        images=len(np.unique(image)),
        categories=len(np.unique(category)),
        iou_types=list(iou_types),
    )


def annotations_for_results(
    path: str | os.PathLike[str], statistics: ClassStatistics | None
) -> Annotations:
    """Return the annotations that results are checked against; their oddities are told already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_annotations(path, statistics=statistics)
