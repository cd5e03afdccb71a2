"""Verified false positives, compared at equal recall.

Under LVIS's federated annotation a category is verified in some images only; a detection elsewhere
is unverifiable, never a false positive. Scores of two runs have different scales, so the primary
comparison is made per category at matched recall; docs/evaluation.md has the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.evaluation.fixed_cuts import FixedCut, count_fixed_cuts
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, ErrorType, Matches, Outcome
from iif.evaluation.operating_points import check_recall, num_kept, select_kept
from iif.evaluation.overlaps import has_area
from iif.evaluation.runs import Run

GROUPS = ("all", "r", "c", "f")
ERROR_TYPES = tuple(error_type.label for error_type in ErrorType if error_type.label)
CURVE_RECALLS = np.arange(1, 20) / 20


@dataclass(frozen=True)
class RunFalsePositives:
    """One run's part of the analysis; K categories in the order of ids.

    Attributes:
        name: the run's name.
        path, sha256, num_detections: the result file.
        outcomes: outcome name ("CAPPED", ..., "FP") -> detections in the whole file.
        error_types: error type -> false positives in the whole file.
        max_recall: (K,) highest recall that the run reaches; NaN without ground truth.
        threshold: (K,) score at which it reaches the matched recall; NaN where it does not.
        true_positives: (K,) with a score at or above the threshold.
        false_positives: (K, 5) with a score at or above the threshold, by ERROR_TYPES.
        curve: group -> (recalls,) false positives per 1,000 verified images, mean over the
            categories that every run brings to that recall; NaN where there is none.
    """

    name: str
    path: str
    sha256: str
    num_detections: int
    outcomes: dict[str, int]
    error_types: dict[str, int]
    max_recall: NDArray[np.float64]
    threshold: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    curve: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Confusion:
    """Cls errors at matched recall: objects of ``gt_category`` detected as ``predicted``.

    Attributes:
        gt_category, predicted: category rows.
        counts: (runs,) number of such errors.
    """

    gt_category: int
    predicted: int
    counts: list[int]


@dataclass(frozen=True)
class GroupRow:
    """False positives at matched recall over one frequency group; lists are (runs,).

    Attributes:
        group: "all", "r", "c" or "f".
        categories: those with ground truth.
        matched: those of them that every run brings to the recall; all sums are over these.
        reached: categories that each run reaches.
        total: sum of false positives.
        mean: mean per category; NaN when matched is 0.
        per_1000: per 1,000 verified images of the category, mean over categories.
        by_type: (runs, 5) sums by ERROR_TYPES.
    """

    group: str
    categories: int
    matched: int
    reached: list[int]
    total: list[int]
    mean: list[float]
    per_1000: list[float]
    by_type: list[list[int]]


@dataclass(frozen=True)
class FalsePositiveAnalysis:
    """False positives of one run, or of several with the baseline first.

    Attributes:
        dataset: path, sha256, num_images, num_categories, exhaustive.
        iou_type: "bbox" or "segm"; matching is at IoU 0.5.
        recall: the matched recall.
        category_ids, category_names, category_groups, num_gt, verified_images: (K,).
        matched: (K,) bool, categories that every run brings to the recall.
        coverage: group -> share of image-category cells that are verified, 0 to 1.
        runs: (runs,).
        groups: one row each of GROUPS.
        curve_recalls: (recalls,); curve_categories: group -> (recalls,) categories behind a point.
        fixed_cuts: the same cut in every run, by rank in the image and by score.
        confusions: most frequent first.
    """

    dataset: dict[str, str | int | bool]
    iou_type: str
    recall: float
    category_ids: NDArray[np.int64]
    category_names: list[str]
    category_groups: NDArray[np.str_]
    num_gt: NDArray[np.int64]
    verified_images: NDArray[np.int64]
    matched: NDArray[np.bool_]
    coverage: dict[str, float]
    runs: list[RunFalsePositives]
    groups: list[GroupRow]
    curve_recalls: NDArray[np.float64]
    curve_categories: dict[str, NDArray[np.int64]]
    fixed_cuts: list[FixedCut]
    confusions: list[Confusion]

    @property
    def names(self) -> list[str]:
        """Names of the runs, the baseline's first."""
        return [run.name for run in self.runs]


def analyse(gt: Annotations, runs: Sequence[Run], *, recall: float = 0.5) -> FalsePositiveAnalysis:
    """Count the false positives of runs on the same ground truth, the baseline first.

    Args:
        gt: the annotations.
        runs: matched with one IoU type.
        recall: the matched recall, above 0 and up to 1. The default asks for half of a category's
            instances: low enough that most categories reach it in both runs, the rare ones (a
            few instances) too, and high enough to leave the handful of easiest ones behind.

    Raises:
        InputError: the recall is out of range.
    """
    check_recall(recall)
    groups, num_gt = gt.groups, runs[0].matches.num_gt[0]
    members = {group: (groups == group) | (group == "all") for group in GROUPS}
    verified = verified_images(gt)
    kept = [num_kept(run.matches, [recall])[0] for run in runs]
    matched = np.all([k >= 0 for k in kept], axis=0)
    curve, curve_categories = _curves(runs, members, verified)
    parts = []
    for run, keep, points in zip(runs, kept, curve, strict=True):
        parts.append(_run_part(run, keep, points))
    return FalsePositiveAnalysis(
        dataset={
            "path": gt.path,
            "sha256": gt.sha256,
            "num_images": len(gt.image_ids),
            "num_categories": len(gt.category_ids),
            "exhaustive": gt.exhaustive,
        },
        iou_type=runs[0].matches.iou_type,
        recall=recall,
        category_ids=gt.category_ids,
        category_names=gt.category_names,
        category_groups=groups,
        num_gt=num_gt,
        verified_images=verified,
        matched=matched,
        coverage={
            group: float(verified[chosen].sum() / max(1, len(gt.image_ids) * chosen.sum()))
            for group, chosen in members.items()
        },
        runs=parts,
        groups=[
            _group_row(group, chosen & (num_gt > 0), matched, parts, verified)
            for group, chosen in members.items()
        ],
        curve_recalls=CURVE_RECALLS,
        curve_categories=curve_categories,
        fixed_cuts=count_fixed_cuts(runs, members),
        confusions=_confusions(gt, runs, kept, matched),
    )


def verified_images(gt: Annotations) -> NDArray[np.int64]:
    """Return (K,) the number of images in which each category is verified.

    Verified means annotated there or listed in the image's ``neg_category_ids``; everything is
    where annotation is exhaustive.
    """
    num_images, num_categories = len(gt.image_ids), len(gt.category_ids)
    if gt.exhaustive:
        return np.full(num_categories, num_images, np.int64)
    # Ground truth without an area verifies nothing, in matching as here.
    real = has_area(gt.area)
    image = np.concatenate([gt.ann_image[real], gt.neg[:, 0]]).astype(np.int64)
    category = np.concatenate([gt.ann_category[real], gt.neg[:, 1]])
    cells = np.unique(image * num_categories + category)
    return np.bincount(cells % num_categories, minlength=num_categories)


def _run_part(
    run: Run, kept: NDArray[np.int64], curve: dict[str, NDArray[np.float64]]
) -> RunFalsePositives:
    matches, detections = run.matches, run.detections
    flags, offsets, num_gt = matches.flags[0, 0], matches.category_offsets, matches.num_gt[0]
    num_categories = len(num_gt)
    category, at_point = select_kept(matches, kept)
    last = offsets[:-1] + kept - 1
    threshold = np.full(num_categories, np.nan)
    threshold[kept >= 0] = matches.score[last[kept >= 0]]
    true, false = at_point & (flags == TRUE_POSITIVE), at_point & (flags == FALSE_POSITIVE)
    cells = category[false] * len(ERROR_TYPES) + _error_type(matches)[false]
    by_type = np.bincount(cells, minlength=num_categories * len(ERROR_TYPES))
    found = np.bincount(category[flags == TRUE_POSITIVE], minlength=num_categories)
    outcomes = np.bincount(matches.outcome, minlength=len(Outcome))
    errors = np.bincount(matches.error_type, minlength=len(ErrorType))
    return RunFalsePositives(
        name=run.name,
        path=detections.path,
        sha256=detections.sha256,
        num_detections=len(detections.score),
        outcomes={outcome.name: int(outcomes[outcome]) for outcome in Outcome},
        error_types={t.label: int(errors[t]) for t in ErrorType if t != ErrorType.NONE},
        max_recall=np.where(num_gt > 0, found / np.maximum(num_gt, 1), np.nan),
        threshold=threshold,
        true_positives=np.bincount(category[true], minlength=num_categories),
        false_positives=by_type.reshape(num_categories, len(ERROR_TYPES)),
        curve=curve,
    )


def _error_type(matches: Matches) -> NDArray[np.int64]:
    """Return (V,) column of ERROR_TYPES of the detections that count; -1 without an error."""
    return matches.error_type[matches.rows].astype(np.int64) - ErrorType.LOC


def _group_row(
    group: str,
    chosen: NDArray[np.bool_],
    matched: NDArray[np.bool_],
    runs: Sequence[RunFalsePositives],
    verified: NDArray[np.int64],
) -> GroupRow:
    counted = chosen & matched
    counts = [run.false_positives[counted] for run in runs]
    totals = [c.sum(axis=1) for c in counts]
    return GroupRow(
        group=group,
        categories=int(chosen.sum()),
        matched=int(counted.sum()),
        reached=[int((chosen & ~np.isnan(run.threshold)).sum()) for run in runs],
        total=[int(total.sum()) for total in totals],
        mean=[_mean(total) for total in totals],
        per_1000=[_mean(1000 * total / verified[counted]) for total in totals],
        by_type=[c.sum(axis=0).tolist() for c in counts],
    )


def _curves(
    runs: Sequence[Run], members: Mapping[str, NDArray[np.bool_]], verified: NDArray[np.int64]
) -> tuple[list[dict[str, NDArray[np.float64]]], dict[str, NDArray[np.int64]]]:
    """Return each run's curve by group, and by group the number of categories at each recall."""
    kept = [num_kept(run.matches, CURVE_RECALLS) for run in runs]
    reached = np.all([k >= 0 for k in kept], axis=0)
    curves = []
    for run, keep in zip(runs, kept, strict=True):
        false = np.concatenate([[0], np.cumsum(run.matches.flags[0, 0] == FALSE_POSITIVE)])
        start = run.matches.category_offsets[:-1]
        count = false[start + keep.clip(0)] - false[start]
        rate = 1000 * count / np.maximum(verified, 1)
        curves.append(
            {
                group: np.array(
                    [_mean(row[r & chosen]) for row, r in zip(rate, reached, strict=True)]
                )
                for group, chosen in members.items()
            }
        )
    return curves, {group: reached[:, chosen].sum(axis=1) for group, chosen in members.items()}


def _confusions(
    gt: Annotations,
    runs: Sequence[Run],
    kept: Sequence[NDArray[np.int64]],
    matched: NDArray[np.bool_],
) -> list[Confusion]:
    num_categories = len(matched)
    counts = np.zeros((len(runs), num_categories * num_categories), np.int64)
    for i, (run, keep) in enumerate(zip(runs, kept, strict=True)):
        matches = run.matches
        predicted, at_point = select_kept(matches, keep)
        confused = at_point & matched[predicted]
        confused &= _error_type(matches) == ERROR_TYPES.index("Cls")
        true = gt.ann_category[matches.gt_row[matches.rows[confused]]].astype(np.int64)
        np.add.at(counts[i], true * num_categories + predicted[confused], 1)
    total = counts.sum(axis=0)
    pairs = np.flatnonzero(total)
    pairs = pairs[np.argsort(-total[pairs], kind="stable")]
    return [
        Confusion(int(pair // num_categories), int(pair % num_categories), counts[:, pair].tolist())
        for pair in pairs
    ]


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else math.nan
