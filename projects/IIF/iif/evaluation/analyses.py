"""What an evaluation finds beside AP and AR: what matches tell, and what needs boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.calibration import Calibration, calibrations
from iif.evaluation.class_agnostic import class_agnostic_recall
from iif.evaluation.confusion import (
    ConfusionCell,
    confusion_matrix,
    most_confused,
    thresholds_of,
)
from iif.evaluation.curves import (
    BestThreshold,
    Curve,
    best_thresholds,
    curve,
    precision_at_recalls,
)
from iif.evaluation.matching import MAX_DETECTIONS, Matches
from iif.evaluation.metrics import compute_metrics
from iif.evaluation.missed import (
    ErrorImpact,
    MissedRow,
    error_impacts,
    found_objects,
    missed_rows,
)
from iif.evaluation.overlaps import Overlaps

# Confused pairs in the summary.
NUM_CONFUSIONS = 1000


@dataclass(frozen=True, eq=False)
class Findings:
    """What the matches of a run tell, without its boxes and masks; K categories, G ground truths.

    Attributes:
        found: (G,) what became of each ground truth: a `iif.evaluation.missed.Found`.
        missed, error_impact, thresholds, calibration: as in `Analyses`.
        curves: (K,) precision, recall and F1 over the threshold; None without ground truth.
        precision: (K, 101) interpolated precision in percent at recalls 0, 0.01, ..., 1; NaN
            without ground truth.
        confusion: all cells of the confusion matrix at the best thresholds that are not 0.
    """

    found: NDArray[np.uint8]
    missed: list[MissedRow]
    error_impact: list[ErrorImpact]
    thresholds: list[BestThreshold]
    curves: list[Curve | None]
    precision: NDArray[np.float64]
    confusion: list[ConfusionCell]
    calibration: list[Calibration]


def findings_of(gt: Annotations, detections: Detections, matches: Matches) -> Findings:
    """Return what the matches of a run tell.

    Args:
        gt: the annotations.
        detections: of the run; their boxes and masks are not used.
        matches: of these detections, with error types.
    """
    found, best = found_objects(gt, detections, matches), best_thresholds(gt, matches)
    return Findings(
        found=found,
        missed=missed_rows(gt, found),
        error_impact=error_impacts(gt, detections, matches),
        thresholds=best,
        curves=[curve(matches, k) for k in range(len(gt.category_ids))],
        precision=precision_at_recalls(matches),
        confusion=confusion_matrix(gt, detections, matches, thresholds_of(gt, best)),
        calibration=calibrations(gt, matches),
    )


@dataclass(frozen=True)
class Analyses:
    """Analyses of one IoU type as plain values; docs/evaluation.md has the definitions.

    Attributes:
        missed: found and missed objects, a row for all and for each frequency group.
        error_impact: TIDE's dAP, rows likewise.
        thresholds: the score threshold of best F1 of each category with ground truth.
        confusion: pairs of categories that are confused most at these thresholds, at most
            NUM_CONFUSIONS; the whole matrix is a table of its own.
        calibration: rows likewise; empty where a score is not from 0 to 1.
        class_agnostic_recall: by name ("AR@100", "ARs@100", ...), percent.
        boundary: Boundary AP and AR by name, percent; None for boxes.
    """

    missed: list[MissedRow]
    error_impact: list[ErrorImpact]
    thresholds: list[BestThreshold]
    confusion: list[ConfusionCell]
    calibration: list[Calibration]
    class_agnostic_recall: dict[str, float | None]
    boundary: dict[str, float | None] | None


def analyse_matches(
    gt: Annotations,
    detections: Detections,
    matches: Matches,
    *,
    max_dets: int | None = MAX_DETECTIONS,
    overlaps: Overlaps | None = None,
) -> Analyses:
    """Make every analysis of a run.

    Args:
        gt: the annotations, with masks for "segm".
        detections: of the run.
        matches: of these detections, with error types.
        max_dets: the cap of the matches, for Boundary AP.
        overlaps: of the detections, from `find_overlaps`, where they were found already.
    """
    found = findings_of(gt, detections, matches)
    boundary = None
    if matches.iou_type == "segm":
        from iif.evaluation.boundary import match_boundaries

        lower = match_boundaries(gt, detections, max_dets=max_dets, overlaps=overlaps)
        boundary, _ = compute_metrics(lower, gt, max_dets)
    return Analyses(
        missed=found.missed,
        error_impact=found.error_impact,
        thresholds=found.thresholds,
        confusion=most_confused(found.confusion, NUM_CONFUSIONS),
        calibration=found.calibration,
        class_agnostic_recall=class_agnostic_recall(gt, detections, matches.iou_type),
        boundary=boundary,
    )
