"""From evaluated runs to their report, step by step: comparison, false positives, pictures, page.

The command line and the demo call these steps one after the other. What a step has read and
matched, an `AnalysedRuns`, is handed to the next.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from iif import layout
from iif.data.annotations import Annotations, load_annotations
from iif.data.groups import GroupLimits
from iif.data.results import IOU_TYPES, Detections, IouType, load_results
from iif.data.sources import ReadFile, ResultFiles
from iif.errors import InputError
from iif.evaluation.analyses import Findings, findings_of
from iif.evaluation.compare import Comparison, RunInfo, compare, compare_replicated
from iif.evaluation.false_positives import FalsePositiveAnalysis, analyse
from iif.evaluation.matches_file import load_evaluated
from iif.evaluation.matching import MAX_DETECTIONS, Matches, match
from iif.evaluation.operating_points import check_recall
from iif.evaluation.runs import Run, load_runs
from iif.evaluation.scenes import Scene
from iif.evaluation.seeds import SeedComparison, pool_runs
from iif.files import sha256_file
from iif.report import pictures
from iif.report.comparison_plots import save_plots
from iif.report.crops import MAX_CROPS, Crop, make_crops
from iif.report.html import Report
from iif.report.pooled import find_row, method_names
from iif.report.run_details import read_details
from iif.report.text import save_comparison_tables
from iif.statistics import ClassStatistics

# More runs than this are compared in one table, and the rest of the page is about two of them.
MAX_RUNS = 5


@dataclass(frozen=True)
class AnalysedRuns:
    """Runs on the same ground truth and the analysis of their false positives.

    Attributes:
        gt: the annotations.
        runs: detections and matches of each run, the baseline first.
        analysis: their false positives at matched recall.
        matches: of each run by IoU type, where they were read; else they are made when needed.
    """

    gt: Annotations
    runs: list[Run]
    analysis: FalsePositiveAnalysis
    matches: Sequence[Mapping[IouType, Matches]] = ()


def save_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a comparison's tables and plots into a folder; return the paths."""
    return save_comparison_tables(comparison, folder) + save_plots(comparison, folder)


def analyse_results(
    gt: Annotations,
    results: Mapping[str, ResultFiles],
    *,
    iou_type: IouType | None = None,
    recall: float = 0.5,
) -> AnalysedRuns:
    """Match result files and count their false positives.

    Args:
        gt: the annotations, with masks for "segm".
        results: name of each run -> its result file or files, the baseline first.
        iou_type: default "segm" where every file has masks, else "bbox".
        recall: the matched recall.

    Raises:
        InputError: a result file is malformed, or the recall is out of range.
    """
    check_recall(recall)
    runs = load_runs(gt, results, iou_type=iou_type)
    return AnalysedRuns(gt, runs, analyse(gt, runs, recall=recall))


def analyse_compared(
    gt_path: str | os.PathLike[str],
    comparison: Comparison,
    *,
    recall: float = 0.5,
    train_json: str | os.PathLike[str] | None = None,
    pictures: bool = True,
) -> AnalysedRuns:
    """Count the false positives of compared runs, from the matches that their evaluations stored.

    Those of masks where every run was evaluated with masks, else those of boxes. Where a run's
    matches are missing, its result file is read and matched.

    Args:
        gt_path: the annotation file that the runs were evaluated on.
        comparison: the runs. The result files are those that their summaries name.
        recall: the matched recall.
        train_json: the training annotations that the frequency groups were counted from; default:
            the groups and counts that the summaries record.
        pictures: whether pictures will be made, for which the result files are read.

    Raises:
        InputError: a file is missing or malformed, or is not the one that was evaluated.
    """
    check_recall(recall)
    stored = [Path(run.summary).with_name(layout.MATCHES) for run in comparison.runs]
    anew = not all(path.is_file() for path in stored)
    paths = [find_results(run) for run in comparison.runs] if anew or pictures else []
    gt = _load_ground_truth(gt_path, comparison, train_json)
    iou_type: IouType = "segm" if "segm" in comparison.iou_types else "bbox"
    matches: list[dict[IouType, Matches]] = []
    runs: list[Run] = []
    for info, path in zip(comparison.runs, stored, strict=True):
        found = None
        if not anew:
            found, of_run = load_evaluated(path)
            _check_stored(path, info, comparison, found, of_run)
            matches.append(of_run)
        if found is None or pictures:
            found = load_results(paths[len(runs)], gt, iou_type=iou_type)
            _check_results(info, found)
        of_type = (
            match(gt, found, iou_type, max_dets=comparison.max_dets)
            if anew
            else matches[-1][iou_type]
        )
        runs.append(Run(info.name, found, of_type))
    return AnalysedRuns(gt, runs, analyse(gt, runs, recall=recall), matches)


def save_pictures(
    analysed: AnalysedRuns,
    scenes: Sequence[Scene],
    images: Sequence[Path],
    folder: str | os.PathLike[str],
    draw_panel: pictures.Drawer,
    *,
    error_types: Sequence[str] | None = None,
) -> list[Path]:
    """Draw scenes of analysed runs; return the paths of the PNG files.

    Args:
        analysed: the runs.
        scenes: chosen by `iif.evaluation.scenes.choose_scenes`.
        images: (I,) file of every image row, from `iif.data.images.find_images`.
        folder: where the PNG files go.
        draw_panel: draws one panel.
        error_types: those that the scenes were chosen by; default all.

    Raises:
        InputError: an image cannot be read or has another size than the annotations say.
    """
    subtitle = pictures.subtitle_of(analysed.analysis, error_types)
    names = analysed.analysis.names
    return pictures.save_pictures(scenes, names, images, folder, draw_panel, subtitle=subtitle)


def make_report(
    comparison: Comparison | None,
    analysed: AnalysedRuns | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    max_crops: int = MAX_CROPS,
    everything: Comparison | None = None,
    pooled: SeedComparison | None = None,
) -> Report:
    """Return the page's content: the comparison, the false positives and crops around them.

    What the runs' folders tell of their training is read, too.

    Args:
        comparison: metrics; None for a page about false positives alone.
        analysed: the same runs.
        images: image folder; without it there are no crops.
        max_crops: at most so many crops.
        everything, pooled: all runs, where ``comparison`` is of two of them; see `PageRuns`.

    Raises:
        InputError: an image is missing, cannot be read or has another size; a file of a run's
            folder is malformed.
    """
    analyses: list[FalsePositiveAnalysis] = []
    findings: list[Findings] = []
    crops: list[Crop] = []
    attribution = ""
    if analysed is not None:
        analysis, gt, runs = analysed.analysis, analysed.gt, analysed.runs
        analyses.append(analysis)
        attribution = gt.attribution
        findings = [findings_of(gt, run.detections, run.matches) for run in runs]
        if images is not None:
            found = [of_run.found for of_run in findings]
            crops = make_crops(analysis, gt, runs, images, max_crops, found)
        others = set(comparison.iou_types if comparison is not None else ()) - {analysis.iou_type}
        for other in IOU_TYPES:
            if other in others:
                stored = [m[other] for m in analysed.matches]
                cap = MAX_DETECTIONS if comparison is None else comparison.max_dets
                others_runs = [
                    Run(r.name, r.detections, m)
                    for r, m in zip(
                        runs,
                        stored or [match(gt, r.detections, other, max_dets=cap) for r in runs],
                        strict=True,
                    )
                ]
                analyses.append(analyse(gt, others_runs, recall=analysis.recall))
    details = read_details(everything or comparison) if comparison is not None else []
    return Report(
        comparison,
        analyses,
        crops,
        images=images is not None,
        attribution=attribution,
        details=details,
        everything=everything,
        pooled=pooled,
        findings=findings,
    )


@dataclass(frozen=True)
class PageRuns:
    """Compared runs as the page shows them.

    Attributes:
        comparison: of the runs that the page is about.
        everything: of all runs, where that is another.
        pooled: all runs by method, over their seeds, where the page is about two of them.
    """

    comparison: Comparison
    everything: Comparison | None = None
    pooled: SeedComparison | None = None


def compare_for_page(
    runs: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    recall: float = 0.5,
    group_limits: GroupLimits | None = None,
) -> PageRuns:
    """Compare runs; of more than MAX_RUNS, or of several seeds a method, choose two for the page.

    They are the first run, and of the method of the highest mean AP (the second-highest, where the
    first run's has the highest) the run of the same seed, else its first.

    Args:
        runs, names, bootstrap, seed, recall, group_limits: as for `iif.evaluation.compare.compare`.
    """
    options: dict[str, Any] = {
        "bootstrap": bootstrap,
        "seed": seed,
        "recall": recall,
        "group_limits": group_limits,
    }
    comparison, replicates = compare_replicated(runs, names=names, **options)
    details = read_details(comparison)
    methods = method_names(details)
    several = len(set(methods)) < len(methods) or len(methods) > MAX_RUNS
    if not several or len(methods) < 3 or len(set(methods)) < 2:
        return PageRuns(comparison)
    pooled = pool_runs(comparison, replicates, methods)
    row = find_row(pooled, comparison.main_iou_type)
    means = row.means if row is not None else [None] * len(pooled.methods)
    known = [-1.0 if mean is None else mean for mean in means]
    method = pooled.methods[max(range(1, len(known)), key=lambda i: (known[i], -i))]
    own = [i for i, name in enumerate(methods) if name == method]
    same = [i for i in own if details[i].seed == details[0].seed]
    chosen = [0, (same or own)[0]]
    pair = compare(
        [comparison.runs[i].summary for i in chosen],
        names=[comparison.names[i] for i in chosen],
        **options,
    )
    return PageRuns(pair, comparison, pooled)


def find_annotations(comparison: Comparison) -> Path:
    """Return the annotation file that the runs were evaluated on, as their summaries name it.

    Raises:
        InputError: no summary names one that is still there.
    """
    recorded, summary = comparison.dataset.path, comparison.runs[0].summary
    if recorded is not None:
        found = [path for path in _resolved(recorded, Path(summary)) if path.is_file()]
        if len(found) > 1:
            found.sort(key=lambda path: sha256_file(path) != comparison.dataset.sha256)
        if found:
            return found[0]
    raise InputError(
        f"{summary}: the annotation file that it names, {recorded}, is not there; give the "
        "annotation file that the runs were evaluated on"
    )


def _resolved(recorded: str, summary: Path) -> list[Path]:
    """Return where a recorded path may lie: as it is, and under each folder above the summary."""
    path = Path(recorded)
    if path.is_absolute():
        return [path]
    return list(dict.fromkeys([path, *(parent / path for parent in summary.absolute().parents)]))


def find_results(run: RunInfo) -> list[Path]:
    """Return the result files that a summary names, or those of their names beside the summary.

    A relative path is looked for in the working directory, then in each folder above the summary.

    Raises:
        InputError: the summary names none, or one of them is not there.
    """
    files = run.files or [ReadFile(run.results, str(run.results_sha256), run.num_detections or 0)]
    return [_find_file(run, file) for file in files]


def _find_file(run: RunInfo, file: ReadFile) -> Path:
    if file.path is None:
        raise InputError(
            f"{run.summary}: names no result file (results.path): the detections came from a pipe "
            "or from memory; evaluate a result file with iif evaluate"
        )
    beside = Path(run.summary).parent / Path(file.path).name
    places = [beside, *_resolved(file.path, Path(run.summary))]
    found = [path for path in places if path.is_file()]
    # A folder may have been copied, or trained into again: of two files, the one that was
    # evaluated counts.
    if any(not found[0].samefile(other) for other in found[1:]):
        found.sort(key=lambda path: sha256_file(path) != file.sha256)
    if found:
        return found[0]
    raise InputError(
        f"{file.path}: no such result file, nor {beside}; put back the file that {run.summary} "
        "was evaluated from"
    )


def _load_ground_truth(
    path: str | os.PathLike[str],
    comparison: Comparison,
    train_json: str | os.PathLike[str] | None,
) -> Annotations:
    recorded = _Recorded(comparison)
    statistics: ClassStatistics | _Recorded = recorded
    if train_json is not None:
        statistics = ClassStatistics.from_json(train_json)
        if comparison.group_limits is not None:
            limits = [comparison.group_limits.rare, comparison.group_limits.common]
            statistics = statistics.replace(group_limits=limits)
    gt = load_annotations(
        path,
        exhaustive=comparison.dataset.exhaustive,
        masks="segm" in comparison.iou_types,
        statistics=statistics,
    )
    if gt.sha256 != comparison.dataset.sha256:
        raise InputError(
            f"{path}: not the annotation file that the runs were evaluated on (SHA-256 "
            f"{gt.sha256[:12]}, in {comparison.runs[0].summary} {comparison.dataset.sha256[:12]}); "
            "give that file, or evaluate the runs again"
        )
    if not all(recorded.groups):  # a COCO file without counts, or runs whose groups differ
        return replace(gt, groups=recorded.groups)
    for row, group in zip(comparison.categories, gt.groups, strict=True):
        if row.group != group:
            raise InputError(
                f"{path}: category {row.id} is in frequency group {group}, but was evaluated in "
                f"group {row.group}; give the training annotations that were given then"
            )
    return gt


class _Recorded:
    """The training set's groups and counts as a summary records them."""

    def __init__(self, comparison: Comparison) -> None:
        rows = comparison.categories
        self.left_out: dict[int, str] = {}
        self.source = comparison.runs[0].summary
        self.ids = np.array([row.id for row in rows], np.int64)
        counts = [-1 if row.image_count is None else row.image_count for row in rows]
        self.image_count = np.array(counts, np.int64)
        self.groups = np.array([row.group for row in rows])
        self.group_limits = comparison.group_limits


def _check_results(run: RunInfo, detections: Detections) -> None:
    if run.results_sha256 is not None and detections.sha256 != run.results_sha256:
        raise InputError(
            f"{detections.path}: changed since {run.summary} was made from it (SHA-256 "
            f"{detections.sha256[:12]}, then {run.results_sha256[:12]}); evaluate it again"
        )


def _check_stored(
    path: Path,
    run: RunInfo,
    comparison: Comparison,
    detections: Detections,
    matches: Mapping[IouType, Matches],
) -> None:
    """Raise InputError for matches of another evaluation than the summary's."""
    num_gt = [row.num_gt for row in comparison.categories]
    for iou_type in IOU_TYPES:
        if iou_type in comparison.iou_types and (
            iou_type not in matches
            or matches[iou_type].num_gt[0].tolist() != num_gt
            or run.results_sha256 not in (None, detections.sha256)
        ):
            raise InputError(
                f"{path} does not belong to {run.summary}: they were made from different files or "
                "IoU types; evaluate the run again"
            )
