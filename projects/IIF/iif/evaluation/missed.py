"""Missed objects, and what each type of error costs in AP as TIDE defines it (arXiv 2008.08115).

Matching is at IoU 0.5. Detections of categories that are not verified in their image take no part,
neither as errors nor as their remedy. Names and shapes are those of `iif.evaluation.matching`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.curves import interpolated_precision
from iif.evaluation.matching import AREA_RANGES, ErrorType, Matches, Outcome
from iif.evaluation.overlaps import has_area

GROUPS = ("all", "r", "c", "f")
# TIDE's main errors, in its order.
MAIN_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")


class Found(IntEnum):
    """What became of a ground truth. Rules are tested in this order; the first that holds decides.

    A false positive's ground truth is the one that decided its error type.
    """

    NOT_COUNTED = 0  # ignored, or of an area that takes no part
    FOUND = 1  # by a true positive
    LOC = 2  # missed; a Loc error of higher score than any Cls error is of this object
    CLS = 3  # missed; a Cls error is of this object
    MISS = 4  # missed, without either: TIDE's Miss

    @property
    def label(self) -> str:
        """ "Found", "Loc", "Cls" or "Miss"; "" where it does not count."""
        return "" if self is Found.NOT_COUNTED else self.name.capitalize()


@dataclass(frozen=True)
class MissedRow:
    """Ground truth of one frequency group, found and missed.

    Attributes:
        group: "all", "r", "c" or "f".
        objects: ground truth that counts.
        found: those that a true positive takes.
        loc, cls, miss: the others: a detection of the category lies near (IoU 0.1 to 0.5), one of
            another category lies on the object, or neither.
    """

    group: str
    objects: int
    found: int
    loc: int
    cls: int
    miss: int


@dataclass(frozen=True)
class ErrorImpact:
    """What AP50 would gain if one type of error were repaired, and no other: TIDE's dAP.

    Attributes:
        group: "all", "r", "c" or "f"; means are over its categories.
        ap50: AP at IoU 0.5 in percent, None without a category that has ground truth.
        gains: each of MAIN_ERRORS -> percentage points, 0 where a repair lowers AP; None likewise.
        false_positives, false_negatives: TIDE's special errors: the gain when every false positive
            scored below every true one, and when no object were missed.
        counts: each of MAIN_ERRORS -> errors, by the category of the detection or missed object.
    """

    group: str
    ap50: float | None
    gains: dict[str, float | None]
    false_positives: float | None
    false_negatives: float | None
    counts: dict[str, int]


def found_objects(gt: Annotations, detections: Detections, matches: Matches) -> NDArray[np.uint8]:
    """Return (G,) what became of each ground truth: a `Found`.

    Args:
        gt: the annotations.
        detections, matches: of a run, with error types.
    """
    return _fates(gt, detections, matches)[0]


def counted_objects(gt: Annotations) -> NDArray[np.bool_]:
    """Return (G,) which ground truth counts at every size."""
    low, high = AREA_RANGES["all"]
    outside = (gt.area < low) | (gt.area > high)
    return has_area(gt.area, gt.exhaustive) & ~gt.ignore & ~outside


def missed_rows(gt: Annotations, found: NDArray[np.uint8]) -> list[MissedRow]:
    """Count found and missed ground truth for each of GROUPS, from `found_objects`."""
    rows = []
    for group, chosen in _members(gt):
        counts = np.bincount(found[chosen[gt.ann_category]], minlength=len(Found))
        _, *known = counts.tolist()
        rows.append(MissedRow(group, sum(known), *known))
    return rows


def error_impacts(gt: Annotations, detections: Detections, matches: Matches) -> list[ErrorImpact]:
    """Compute dAP for each type of error and each of GROUPS.

    Main errors are repaired as TIDE repairs them. Cls: the detection takes the object's category.
    Loc: the detection fits the object. Of several such errors of one object the best-scored is
    repaired, and none where the object is found already; the others are removed. Both, Dupe, Bkg:
    the detection is removed. Miss: the object is removed from the ground truth.

    TIDE also averages over categories that have detections and no ground truth (AP 0); here, as in
    AP, such a category counts nowhere.

    Args:
        gt, detections, matches: as for `found_objects`.
    """
    num_categories = len(gt.category_ids)
    found, repaired = _fates(gt, detections, matches)
    num_gt = np.bincount(gt.ann_category[found > 0], minlength=num_categories)
    missing = {
        kind: np.bincount(gt.ann_category[kind(found)], minlength=num_categories)
        for kind in (_is_missed, _is_miss)
    }
    rows = matches.rows
    outcome, category = matches.outcome[rows], detections.category[rows].astype(np.int64)
    error, true = matches.error_type[rows], outcome == Outcome.TP
    true_category = np.append(gt.ann_category, 0)  # the last is that of gt_row -1
    counted = true | (outcome == Outcome.FP)
    curve = _Curve(category, matches.score, true, counted, num_gt)
    plain = curve.average_precision()
    fixed: dict[str, NDArray[np.float64]] = {}
    for name in MAIN_ERRORS[:-1]:
        own = error == ErrorType[name.upper()]
        right = own & repaired[rows]
        target = np.where(right, true_category[matches.gt_row[rows]], category)
        fixed[name] = _Curve(
            target.astype(np.int64), matches.score, true | right, counted & (~own | right), num_gt
        ).average_precision()
    fixed["Miss"] = curve.average_precision(num_gt - missing[_is_miss])
    perfect = _Curve(category, true.astype(np.float64), true, counted, num_gt).average_precision()
    complete = curve.average_precision(num_gt - missing[_is_missed])
    impacts = []
    for group, chosen in _members(gt):
        base = _mean(plain, chosen)

        def gain(
            ap: NDArray[np.float64], chosen: NDArray = chosen, base: float | None = base
        ) -> float | None:
            value = _mean(ap, chosen)
            return None if base is None else (0.0 if value is None else value) - base

        gains = {name: gain(ap) for name, ap in fixed.items()}
        counts = {
            name: int((chosen[category] & (error == ErrorType[name.upper()])).sum())
            for name in MAIN_ERRORS[:-1]
        }
        impacts.append(
            ErrorImpact(
                group=group,
                ap50=base,
                gains={k: None if v is None else max(v, 0.0) for k, v in gains.items()},
                false_positives=gain(perfect),
                false_negatives=gain(complete),
                counts=counts | {"Miss": int(missing[_is_miss][chosen].sum())},
            )
        )
    return impacts


def _fates(
    gt: Annotations, detections: Detections, matches: Matches
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return (G,) a `Found`, and (D,) whether repairing a detection makes it a true positive."""
    found = np.where(counted_objects(gt), Found.MISS, Found.NOT_COUNTED).astype(np.uint8)
    found[matches.gt_row[matches.outcome == Outcome.TP]] = Found.FOUND
    repaired = np.zeros(len(detections), np.bool_)
    wrong = np.isin(matches.error_type, [ErrorType.LOC, ErrorType.CLS])
    # In the order of matching within an image: by falling score, then the file's order.
    wrong_rows = np.flatnonzero(wrong)
    wrong_rows = wrong_rows[np.argsort(-detections.score[wrong_rows], kind="stable")]
    wrong_rows = wrong_rows[found[matches.gt_row[wrong_rows]] == Found.MISS]
    objects, first = np.unique(matches.gt_row[wrong_rows], return_index=True)
    repaired[wrong_rows[first]] = True
    types = matches.error_type[wrong_rows[first]]
    found[objects] = np.where(types == ErrorType.LOC, Found.LOC, Found.CLS)
    return found, repaired


def _is_missed(found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return found > Found.FOUND


def _is_miss(found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return found == Found.MISS


class _Curve:
    """Precision and recall of every category at IoU 0.5, for one set of detections."""

    def __init__(
        self,
        category: NDArray[np.int64],
        score: NDArray[np.float64],
        true: NDArray[np.bool_],
        counted: NDArray[np.bool_],
        num_gt: NDArray[np.int64],
    ) -> None:
        kept = np.flatnonzero(counted)
        order = kept[np.lexsort((-score[kept], category[kept]))]
        self._true = true[order]
        self._num_gt = num_gt
        self._offsets = np.searchsorted(category[order], np.arange(len(num_gt) + 1))

    def average_precision(self, num_gt: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return (K,) AP in percent; NaN for a category that has nothing to average, as in TIDE.

        Args:
            num_gt: (K,) objects left; by default all. A category that had objects and has none
                left has AP 0 where it still has detections.
        """
        left = self._num_gt if num_gt is None else num_gt
        ap = np.full(len(left), np.nan)
        for k in np.flatnonzero(self._num_gt):
            true = self._true[self._offsets[k] : self._offsets[k + 1]]
            if left[k] == 0 and not len(true):
                continue
            ap[k] = 0.0
            if left[k]:
                ap[k] = 100 * interpolated_precision(true, left[k]).mean()
        return ap


def _members(gt: Annotations) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for group in GROUPS:
        yield group, (gt.groups == group) | (group == "all")


def _mean(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float | None:
    defined = values[chosen & ~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
