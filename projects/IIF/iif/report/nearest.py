"""What a run detects nearest to an object that it misses, and why it is missed, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from iif.data.annotations import Annotations
from iif.evaluation.matching import BACKGROUND_IOU, ErrorType, Outcome
from iif.evaluation.runs import Run
from iif.evaluation.scenes import SceneObject, detection_object
from iif.report.labels import MISS_REASONS

# Kinds of detections that take or claim an object, here another than the missed one.
_OF_ANOTHER = ("TP", "Loc", "Cls", "Dupe")


@dataclass(frozen=True)
class Nearest:
    """A detection near an object.

    Attributes:
        object: the detection.
        iou: of the two, of the run's IoU type.
    """

    object: SceneObject
    iou: float


def nearest_detection(gt: Annotations, run: Run, row: int) -> Nearest | None:
    """Return the detection that finds an object, or comes nearest to it; None where none overlaps.

    It is the object's true positive; else its best-scored Loc or Cls error; else the detection of
    the highest IoU. Detections of any score count, but those beyond the cap per image.

    Args:
        gt: the annotations, with masks where the run was matched with masks.
        run: its detections with boxes, and with masks likewise.
        row: of the object.
    """
    matches = run.matches
    counted = (matches.outcome != Outcome.CAPPED) & (matches.outcome != Outcome.DEGENERATE)
    rows = np.flatnonzero((run.detections.image == gt.ann_image[row]) & counted)
    if not len(rows):
        return None
    iou = _iou(gt, run, rows, row)
    own = matches.gt_row[rows] == row
    true = own & (matches.outcome[rows] == Outcome.TP)
    wrong = own & np.isin(matches.error_type[rows], (ErrorType.LOC, ErrorType.CLS))
    # The first of these that some detection is; in it the best-scored, of the last the nearest.
    for chosen, by in ((true, iou), (wrong, run.detections.score[rows]), (iou > 0, iou)):
        if chosen.any():
            at = int(np.flatnonzero(chosen)[np.argmax(by[chosen])])
            return Nearest(detection_object(gt, run, int(rows[at])), float(iou[at]))
    return None


def miss_reason(why: str, nearest: Nearest | None) -> str:
    """Return why an object is missed, with the detection that lies nearest.

    Args:
        why: "Loc", "Cls" or "Miss".
        nearest: from `nearest_detection`.
    """
    if nearest is None:
        return MISS_REASONS["None"]
    kind = why
    if why == "Miss":
        kind = "Bkg" if nearest.iou < BACKGROUND_IOU else nearest.object.kind
        kind = "Dupe" if kind in _OF_ANOTHER else kind
    there = nearest.object
    return f"{MISS_REASONS[kind]} ({there.name}, score {there.score:.2f}, IoU {nearest.iou:.2f})"


def _iou(gt: Annotations, run: Run, rows: NDArray[np.int64], row: int) -> NDArray[np.float64]:
    """Return (n,) the IoU of detections with an object."""
    detections = run.detections
    if run.matches.iou_type == "segm":
        assert detections.rle is not None
        masks = [detections.rle[d] for d in rows.tolist()]
        return np.asarray(mask_util.iou(masks, [gt.rle(row)], [0]))[:, 0]
    assert detections.bbox is not None
    return np.asarray(mask_util.iou(detections.bbox[rows], gt.bbox[[row]], [0]))[:, 0]
