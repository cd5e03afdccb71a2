"""The whole report of evaluated runs: from their summaries back to the files they speak of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from iif.data.annotations import Annotations, load_annotations
from iif.data.results import Detections, load_results
from iif.errors import InputError
from iif.evaluation.compare import Comparison, RunInfo, compare
from iif.evaluation.false_positives import FalsePositiveAnalysis, Run, analyse, check_recall
from iif.evaluation.matching import match
from iif.files import sha256_file
from iif.report.crops import MAX_CROPS, Crop, crops_note, make_crops
from iif.report.html import Report
from iif.statistics import ClassStatistics


def build_report(
    gt_path: str | os.PathLike[str],
    summaries: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    max_crops: int = MAX_CROPS,
    recall: float = 0.5,
    bootstrap: int = 1000,
    seed: int = 0,
    train_json: str | os.PathLike[str] | None = None,
) -> Report:
    """Compare evaluated runs, analyse their false positives and cut crops.

    Args:
        gt_path: the annotation file that the runs were evaluated on.
        summaries: of each run its eval_summary.json, or a folder with one; the baseline first.
            The result files are those that the summaries name.
        names: of the runs; default: the names of their folders.
        images: image folder; without it there are no crops.
        max_crops: at most so many crops.
        recall: the matched recall.
        bootstrap: replicates behind the intervals, 0 for none.
        seed: of the bootstrap.
        train_json: training annotations that frequency groups are counted from, for COCO-format
            files without them.

    Raises:
        InputError: a file is missing or malformed, the runs were evaluated differently, or a file
            is not the one that was evaluated.
    """
    check_recall(recall)
    comparison = compare(summaries, names=names, bootstrap=bootstrap, seed=seed)
    results = [find_results(run) for run in comparison.runs]
    gt = _load_ground_truth(gt_path, comparison, train_json)

    # Masks first: what the page leads with, and what crops show.
    iou_types = [iou_type for iou_type in ("segm", "bbox") if iou_type in comparison.iou_types]
    detections = []
    for run, path in zip(comparison.runs, results, strict=True):
        loaded = load_results(path, gt, iou_type=iou_types[0])
        _check_results(run, loaded)
        detections.append(loaded)
    analyses: list[FalsePositiveAnalysis] = []
    crops: list[Crop] = []
    for iou_type in iou_types:
        runs = [
            Run(info.name, d, match(gt, d, iou_type))
            for info, d in zip(comparison.runs, detections, strict=True)
        ]
        analyses.append(analyse(gt, runs, recall=recall))
        if images is not None and iou_type == iou_types[0]:
            crops = make_crops(analyses[0], gt, runs, images, max_crops)
    return Report(comparison, analyses, crops, crops_note(analyses[0], crops, images))


def find_results(run: RunInfo) -> Path:
    """Return the result file that a summary names, or one of its name beside the summary.

    Raises:
        InputError: the summary names none, or there is none.
    """
    if run.results is None:
        raise InputError(
            f"{run.summary}: names no result file (results.path); evaluate the result file with "
            "iif evaluate"
        )
    beside = Path(run.summary).parent / Path(run.results).name
    found = [path for path in (beside, Path(run.results)) if path.is_file()]
    # Of two, the other may be what was evaluated: a folder may have been copied or trained into.
    if len(found) > 1 and not found[0].samefile(found[1]):
        found.sort(key=lambda path: sha256_file(path) != run.results_sha256)
    if found:
        return found[0]
    raise InputError(
        f"{run.results}: no such result file, nor {beside}; put back the file that {run.summary} "
        "was evaluated from"
    )


def _load_ground_truth(
    path: str | os.PathLike[str],
    comparison: Comparison,
    train_json: str | os.PathLike[str] | None,
) -> Annotations:
    gt = load_annotations(
        path,
        exhaustive=comparison.dataset.exhaustive,
        masks="segm" in comparison.iou_types,
        statistics=ClassStatistics.from_json(train_json) if train_json is not None else None,
    )
    if gt.sha256 != comparison.dataset.sha256:
        raise InputError(
            f"{path}: not the annotation file that the runs were evaluated on (SHA-256 "
            f"{gt.sha256[:12]}, in {comparison.runs[0].summary} {comparison.dataset.sha256[:12]}); "
            "give that file with --gt, or evaluate the runs again"
        )
    for row, group in zip(comparison.categories, gt.groups, strict=True):
        if row.group != group:
            raise InputError(
                f"{path}: category {row.id} is in frequency group {group}, but was evaluated in "
                f"group {row.group}; give the --train-json of the evaluation"
            )
    return gt


def _check_results(run: RunInfo, detections: Detections) -> None:
    if run.results_sha256 is not None and detections.sha256 != run.results_sha256:
        raise InputError(
            f"{detections.path}: changed since {run.summary} was made from it (SHA-256 "
            f"{detections.sha256[:12]}, then {run.results_sha256[:12]}); evaluate it again"
        )
