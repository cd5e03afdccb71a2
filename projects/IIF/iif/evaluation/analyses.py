"""What an evaluation finds beside AP and AR, as plain values for ``eval_summary.json``."""

from __future__ import annotations

from dataclasses import dataclass

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
from iif.evaluation.curves import BestThreshold, best_thresholds
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


@dataclass(frozen=True)
class Analyses:
    """Analyses of one IoU type; docs/evaluation.md has the definitions.

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
    best = best_thresholds(gt, matches)
    boundary = None
    if matches.iou_type == "segm":
        from iif.evaluation.boundary import match_boundaries

        lower = match_boundaries(gt, detections, max_dets=max_dets, overlaps=overlaps)
        boundary, _ = compute_metrics(lower, gt, max_dets)
    return Analyses(
        missed=missed_rows(gt, found_objects(gt, detections, matches)),
        error_impact=error_impacts(gt, detections, matches),
        thresholds=best,
        confusion=most_confused(
            confusion_matrix(gt, detections, matches, thresholds_of(gt, best)), NUM_CONFUSIONS
        ),
        calibration=calibrations(gt, matches),
        class_agnostic_recall=class_agnostic_recall(gt, detections, matches.iou_type),
        boundary=boundary,
    )
