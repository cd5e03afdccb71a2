"""The confusion matrix of a detector at one score threshold for each category, at IoU 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.curves import BestThreshold
from iif.evaluation.matching import ErrorType, Matches, Outcome
from iif.evaluation.missed import counted_objects


@dataclass(frozen=True)
class ConfusionCell:
    """Objects of one category that are detected as another, or as none.

    Attributes:
        category_id: of the objects; None for background.
        predicted_id: of the detections; None where the objects are missed.
        count: how many; above 0.
    """

    category_id: int | None
    predicted_id: int | None
    count: int


def most_confused(cells: Sequence[ConfusionCell], number: int) -> list[ConfusionCell]:
    """Return the cells of two different categories, most frequent first, at most ``number``."""
    pairs = [
        cell
        for cell in cells
        if None not in (cell.category_id, cell.predicted_id)
        and cell.category_id != cell.predicted_id
    ]
    return sorted(pairs, key=lambda cell: -cell.count)[:number]


def thresholds_of(gt: Annotations, best: Sequence[BestThreshold]) -> NDArray[np.float64]:
    """Return (K,) the thresholds of best F1; infinite for a category that has none."""
    thresholds = np.full(len(gt.category_ids), np.inf)
    for one in best:
        if one.threshold is not None:
            thresholds[gt.category_row([one.category_id])[0]] = one.threshold
    return thresholds


def confusion_matrix(
    gt: Annotations,
    detections: Detections,
    matches: Matches,
    thresholds: NDArray[np.float64] | float,
) -> list[ConfusionCell]:
    """Return the cells of the matrix that are not 0, by category, then predicted category.

    Every object that counts is in one cell of its category's row: that of its true positive; else
    that of the best-scored Cls error on it; else "missed". Every true or false positive that is
    kept is in one cell of its category's column: with the object that it finds or is confused with,
    else with background. Row sums are therefore numbers of objects, column sums numbers of
    detections. Detections of categories that are not verified in their image take no part.

    Args:
        gt: the annotations.
        detections, matches: of a run, with error types.
        thresholds: (K,) for each category, or one for all: detections with this score or a higher
            one are kept.
    """
    num_categories = len(gt.category_ids)
    background = missed = num_categories
    limit = np.broadcast_to(np.asarray(thresholds, np.float64), num_categories)
    kept = detections.score >= limit[detections.category]
    true = kept & (matches.outcome == Outcome.TP)
    false = kept & (matches.outcome == Outcome.FP)
    # An object's cell is decided by its true positive, else by the best-scored confusion.
    deciding = np.flatnonzero(true | (false & (matches.error_type == ErrorType.CLS)))
    deciding = deciding[np.lexsort((-detections.score[deciding], ~true[deciding]))]
    counts = counted_objects(gt)
    deciding = deciding[counts[matches.gt_row[deciding]]]
    objects, first = np.unique(matches.gt_row[deciding], return_index=True)
    deciding = deciding[first]

    predicted = np.full(len(gt.ann_ids), missed)
    predicted[objects] = detections.category[deciding]
    false[deciding] = False
    rows = np.concatenate([gt.ann_category[counts], np.full(false.sum(), background)])
    columns = np.concatenate([predicted[counts], detections.category[false]])
    cells, numbers = np.unique(
        rows.astype(np.int64) * (num_categories + 1) + columns, return_counts=True
    )
    ids: list[int | None] = [*gt.category_ids.tolist(), None]
    return [
        ConfusionCell(ids[cell // (num_categories + 1)], ids[cell % (num_categories + 1)], number)
        for cell, number in zip(cells.tolist(), numbers.tolist(), strict=True)
    ]
