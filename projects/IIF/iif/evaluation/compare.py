"""Comparison of evaluated runs: same data, same settings, intervals on differences.

From ``eval_summary.json`` and the ``eval_matches.npz`` beside it (see docs/evaluation.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iif import layout
from iif.data.groups import GroupLimits
from iif.data.sources import ReadFile
from iif.errors import InputError
from iif.evaluation.at_recall import Interval as Interval
from iif.evaluation.at_recall import RecallRow, recall_rows
from iif.evaluation.bootstrap import percentile_interval
from iif.evaluation.conditions import (
    Conditions,
    common_iou_types,
    refuse_differences,
    same_results_notes,
    setting_notes,
)
from iif.evaluation.grouping import alike_grouped
from iif.evaluation.intervals import Replicates, replicate_metrics, within_fixed_cap
from iif.evaluation.matches_file import load_evaluated
from iif.evaluation.matching import MAX_DETECTIONS, Matches
from iif.evaluation.metrics import average_precision, recall_metric
from iif.evaluation.operating_points import check_recall
from iif.evaluation.summary_file import Summary, find_runs, read_summary

# Of a comparison under the default cap on detections, which names the recall.
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300"),
    *("AP-fixed", "APr-fixed", "APc-fixed", "APf-fixed"),
)
# Categories listed as having gained or lost most.
NUM_EXTREMES = 10


@dataclass(frozen=True)
class RunInfo:
    """Source of a run's figures.

    Attributes:
        name: the run's name.
        summary: path of its eval_summary.json.
        results, results_sha256: the result file that was evaluated (None when not recorded); of
            several the path is None and the hash that of all.
        num_detections: detections in that file.
        test_settings: score_threshold, nms_threshold, detections_per_image; None where unknown.
        files: the result files, where there were several.
    """

    name: str
    summary: str
    results: str | None
    results_sha256: str | None
    num_detections: int | None
    test_settings: dict[str, float | None]
    files: list[ReadFile] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetInfo:
    """The data set that all runs were evaluated on."""

    name: str | None
    path: str | None
    sha256: str
    num_images: int
    num_categories: int
    exhaustive: bool


@dataclass(frozen=True)
class MetricRow:
    """One metric (percent) of every run; None where undefined or not computed.

    Attributes:
        iou_type: "bbox" or "segm".
        metric: "AP", "APr", "AP-fixed", "AR@300", ...
        values: (runs,) the first is the baseline's.
        differences: (runs - 1,) later runs minus the baseline.
        difference_intervals: (runs - 1,) paired bootstrap interval of each difference.
    """

    iou_type: str
    metric: str
    values: list[float | None]
    differences: list[float | None]
    difference_intervals: list[Interval | None]


@dataclass(frozen=True)
class CategoryRow:
    """One category: AP (percent) of every run by IoU type, and later runs minus the baseline.

    Attributes:
        id, name: the category.
        group: "r", "c" or "f"; "" without groups.
        image_count: training images that contain it; None when unknown.
        num_gt: ground-truth instances in the evaluated set.
        ap: IoU type -> (runs,) AP.
        difference: IoU type -> (runs - 1,) difference of AP.
        intervals: IoU type -> (runs - 1,) paired bootstrap interval of each difference; empty
            without a bootstrap. They are not adjusted for the number of categories.
    """

    id: int
    name: str
    group: str
    image_count: int | None
    num_gt: int
    ap: dict[str, list[float | None]]
    difference: dict[str, list[float | None]]
    intervals: dict[str, list[Interval | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the first is the baseline.

    Attributes:
        runs: (runs,).
        dataset: the annotation file that they were evaluated on.
        iou_types: those that every run has.
        metrics: rows in the order of METRICS, box before mask.
        categories: (K,) in the order of ids.
        notes: sentences for the reader: settings that are unknown, IoU types left out, ...
        max_dets: the cap on detections under which all were evaluated; None for no cap.
        replicates: bootstrap replicates behind the intervals; 0 when there are no intervals.
        seed: of the bootstrap.
        at_recall: the runs at equal recall, a row for each IoU type and group; empty where the
            matches are missing.
        group_limits: between rare, common and frequent categories, where they were counted; None
            where the annotation file names the groups, or there are none.
    """

    runs: list[RunInfo]
    dataset: DatasetInfo
    iou_types: list[str]
    metrics: list[MetricRow]
    categories: list[CategoryRow]
    notes: list[str]
    replicates: int
    seed: int
    max_dets: int | None = MAX_DETECTIONS
    at_recall: list[RecallRow] = field(default_factory=list)
    group_limits: GroupLimits | None = None

    @property
    def names(self) -> list[str]:
        """Names of the runs, the baseline's first."""
        return [run.name for run in self.runs]

    @property
    def main_iou_type(self) -> str:
        """The IoU type that rankings of categories use: masks where every run has them."""
        return self.iou_types[-1]

    def extremes(self, run: int = 1) -> tuple[list[CategoryRow], list[CategoryRow]]:
        """Return the categories that gained and that lost most AP in ``run``, the most first.

        Ranked by `main_iou_type`; ties go to the category with more ground truth.
        """
        changed = []
        for row in self.categories:
            difference = row.difference[self.main_iou_type][run - 1]
            if difference:
                changed.append((difference, row))
        gained = sorted((x for x in changed if x[0] > 0), key=lambda x: (-x[0], -x[1].num_gt))
        lost = sorted((x for x in changed if x[0] < 0), key=lambda x: (x[0], -x[1].num_gt))
        return [row for _, row in gained[:NUM_EXTREMES]], [row for _, row in lost[:NUM_EXTREMES]]


def compare(
    paths: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    recall: float = 0.5,
    group_limits: GroupLimits | None = None,
) -> Comparison:
    """Compare evaluated runs; the first is the baseline. One run alone has no differences.

    Args:
        paths: of each run its eval_summary.json, or a folder that has one in it or in its
            ``inference`` folder (Detectron2's layout).
        names: of the runs; default: the names of their folders.
        bootstrap: replicates behind the 95% intervals, 0 for none.
        seed: of the bootstrap.
        recall: at which false positives are compared.
        group_limits: between rare, common and frequent categories; by default those of the runs.
            Runs whose groups differ are compared without them.

    Raises:
        InputError: the recall is out of range, a summary is missing or malformed, two runs were
            evaluated differently (`refuse_differences`), or names are not different or not given
            for all runs; the message names the fault.
    """
    return compare_replicated(
        paths,
        names=names,
        bootstrap=bootstrap,
        seed=seed,
        recall=recall,
        group_limits=group_limits,
    )[0]


def compare_replicated(
    paths: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    recall: float = 0.5,
    group_limits: GroupLimits | None = None,
) -> tuple[Comparison, dict[str, Replicates]]:
    """Return what `compare` returns, and the replicates of its runs by IoU type, as far as made."""
    check_recall(recall)
    found = find_runs(paths, names)
    labels, files = [name for name, _ in found], [file for _, file in found]
    summaries = [read_summary(path) for path in files]
    pairs = list(zip(labels, summaries, strict=True))
    conditions = [(name, Conditions.of_summary(summary)) for name, summary in pairs]
    # Each pair: settings that the baseline does not know can still differ between later runs.
    for one, other in combinations(conditions, 2):
        refuse_differences(one, other)
    summaries, group_notes = alike_grouped(pairs, group_limits)
    pairs = list(zip(labels, summaries, strict=True))
    iou_types, notes = common_iou_types(pairs)
    notes += group_notes
    if len(pairs) > 1:
        notes += setting_notes(pairs) + same_results_notes(pairs)

    replicates: dict[str, Replicates] = {}
    at_recall: list[RecallRow] = []
    matches, fixed, missing = load_all_matches(files, summaries, labels, iou_types)
    wanted = bootstrap if len(pairs) > 1 else 0
    if not missing:
        groups = np.array([row.group for row in summaries[0].per_category])
        num_images = summaries[0].dataset.num_images
        for iou_type in iou_types:
            of_type = [run[iou_type] for run in matches]
            at_recall += recall_rows(
                of_type, groups, num_images, recall=recall, replicates=wanted, seed=seed
            )
        if wanted:
            replicates = replicate_runs(
                matches, fixed, summaries[0], iou_types, replicates=wanted, seed=seed
            )
    if len(pairs) > 1:
        notes += missing if bootstrap else ["no intervals: the bootstrap was turned off."]

    dataset, max_dets = summaries[0].dataset, summaries[0].evaluation.max_dets
    comparison = Comparison(
        runs=[
            RunInfo(
                label,
                str(path),
                summary.results.path,
                summary.results.sha256,
                summary.results.num_detections,
                summary.test_settings,
                summary.results.files or [],
            )
            for label, path, summary in zip(labels, files, summaries, strict=True)
        ],
        dataset=DatasetInfo(
            dataset.name,
            dataset.path,
            dataset.sha256,
            dataset.num_images,
            dataset.num_categories,
            dataset.exhaustive,
        ),
        iou_types=iou_types,
        metrics=[
            _metric_row(iou_type, metric, summaries, replicates.get(iou_type))
            for iou_type in iou_types
            for metric in metric_names(max_dets)
        ],
        categories=_category_rows(summaries, iou_types, replicates),
        notes=notes,
        replicates=bootstrap if replicates else 0,
        seed=seed,
        max_dets=max_dets,
        at_recall=at_recall,
        group_limits=summaries[0].evaluation.group_limits,
    )
    return comparison, replicates


def replicate_runs(
    matches: Sequence[Mapping[str, Matches]],
    fixed: Sequence[Mapping[str, NDArray[np.bool_] | None]],
    summary: Summary,
    iou_types: Sequence[str],
    *,
    replicates: int,
    seed: int,
) -> dict[str, Replicates]:
    """Return the replicates of runs by IoU type, from what `load_all_matches` returns.

    Args:
        matches, fixed: of each run.
        summary: of one of them; all were evaluated alike.
        iou_types: those to replicate.
        replicates, seed: of the bootstrap.
    """
    groups = np.array([row.group for row in summary.per_category])
    return {
        iou_type: replicate_metrics(
            [run[iou_type] for run in matches],
            groups,
            summary.dataset.num_images,
            fixed=[kept[iou_type] for kept in fixed],
            replicates=replicates,
            seed=seed,
        )
        for iou_type in iou_types
    }


def metric_names(max_dets: int | None) -> list[str]:
    """Return METRICS with the recall named by the cap on detections."""
    renamed = {recall_metric(MAX_DETECTIONS): recall_metric(max_dets)}
    return [renamed.get(metric, metric) for metric in METRICS]


def load_all_matches(
    files: Sequence[Path],
    summaries: Sequence[Summary],
    names: Sequence[str],
    iou_types: Sequence[str],
) -> tuple[list[dict[str, Matches]], list[dict[str, NDArray[np.bool_] | None]], list[str]]:
    """Return each run's matches and what AP-fixed takes of them, or notes on what is missing."""
    matches, fixed = [], []
    for file, summary, name in zip(files, summaries, names, strict=True):
        path = file.with_name(layout.MATCHES)
        again = f"evaluate {name} again to make it"
        if not path.is_file():
            return [], [], [f"no intervals: {path} is missing; {again}."]
        detections, stored = load_evaluated(path)
        loaded = {str(iou_type): found for iou_type, found in stored.items()}
        for iou_type in iou_types:
            if iou_type not in loaded:
                return [], [], [f"no intervals: {path} has no {iou_type} matches; {again}."]
            _check_same_evaluation(path, loaded[iou_type], summary)
        matches.append(loaded)
        fixed.append({t: within_fixed_cap(loaded[t], detections) for t in iou_types})
    return matches, fixed, []


def _check_same_evaluation(path: Path, matches: Matches, summary: Summary) -> None:
    """Raise InputError when the matches give another AP than the summary beside them."""
    remedy = f"{path} does not belong to the {layout.SUMMARY} beside it; evaluate the run again"
    images = np.concatenate([matches.image, matches.gt_image])
    if (
        len(matches.category_offsets) - 1 != len(summary.per_category)
        or images.max(initial=-1) >= summary.dataset.num_images
    ):
        raise InputError(remedy)
    ap = average_precision(matches)
    for row, value in zip(summary.per_category, ap, strict=True):
        recorded = row.ap(matches.iou_type)
        expected = np.nan if recorded is None else recorded
        if not np.isclose(value, expected, rtol=0, atol=1e-6, equal_nan=True):
            raise InputError(remedy)


def _metric_row(
    iou_type: str, metric: str, summaries: Sequence[Summary], replicates: Replicates | None
) -> MetricRow:
    values = [summary.metrics[iou_type].get(metric) for summary in summaries]
    difference_intervals: list[Interval | None] = [None] * (len(values) - 1)
    if replicates is not None and metric in replicates.metrics:
        drawn = replicates.metrics[metric]
        difference_intervals = [_interval(run - drawn[0]) for run in drawn[1:]]
    return MetricRow(
        iou_type,
        metric,
        values,
        _differences(values),
        difference_intervals,
    )


def _category_rows(
    summaries: Sequence[Summary], iou_types: Sequence[str], replicates: Mapping[str, Replicates]
) -> list[CategoryRow]:
    rows = []
    per_category = zip(*(summary.per_category for summary in summaries), strict=True)
    for k, same in enumerate(per_category):
        ap = {iou_type: [row.ap(iou_type) for row in same] for iou_type in iou_types}
        first = same[0]
        rows.append(
            CategoryRow(
                first.id,
                first.name,
                first.group,
                first.image_count,
                first.num_gt,
                ap,
                {iou_type: _differences(values) for iou_type, values in ap.items()},
                {
                    iou_type: [_interval(run[:, k] - base[:, k]) for run in later]
                    for iou_type, found in replicates.items()
                    for base, *later in [found.per_category]
                },
            )
        )
    return rows


def _differences(values: Sequence[float | None]) -> list[float | None]:
    """Return later values minus the first; None where either is undefined."""
    first, *later = values
    return [None if first is None or value is None else value - first for value in later]


def _interval(values: np.ndarray) -> Interval | None:
    bounds = percentile_interval(values)
    return bounds and Interval(*bounds)
