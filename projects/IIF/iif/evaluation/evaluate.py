"""Evaluation of a result file: from annotations and detections to metrics and their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif import layout
from iif.data.annotation_file import forget_annotation_files
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import (
    IOU_TYPES,
    Detections,
    IouType,
    first_row,
    load_results,
    scan_results,
)
from iif.data.sources import ResultFiles, Source, open_sources
from iif.errors import InputError
from iif.evaluation.analyses import Analyses, analyse_matches
from iif.evaluation.analyses_file import remove_analyses, write_analyses
from iif.evaluation.matches_file import save_matches
from iif.evaluation.matching import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    Matches,
    Outcome,
    beyond_caps,
    match,
    match_rows,
    sorted_rows,
)
from iif.evaluation.metrics import (
    FIXED_DETECTIONS,
    FIXED_METRICS,
    average_precision,
    compute_metrics,
    mean_by_group,
    mean_precision,
)
from iif.evaluation.outcomes_file import write_outcomes
from iif.evaluation.overlaps import Overlaps, find_overlaps, has_area
from iif.evaluation.summary_file import (
    SUMMARY_FORMAT,
    TEST_SETTINGS,
    Category,
    Dataset,
    Evaluation,
    Metrics,
    Results,
    Summary,
    read_summary,
    write_summary,
)
from iif.files import together, versions
from iif.progress import progress
from iif.statistics import ClassStatistics


def evaluate_files(
    gt_path: str | os.PathLike[str] | Mapping[str, Any],
    results: ResultFiles,
    *,
    iou_types: Sequence[IouType] | None = None,
    output_dir: str | os.PathLike[str] | None,
    outcomes: bool = False,
    exhaustive: bool | None = None,
    statistics: ClassStatistics | None = None,
    dataset_name: str | None = None,
    test_settings: Mapping[str, float | None] | None = None,
    method: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    ap_fixed: bool = True,
    max_dets: int | None = MAX_DETECTIONS,
    analyses: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's result files; write the summary, the matches and, on request, outcomes.

    The files in ``output_dir`` are ``eval_summary.json``, ``eval_matches.npz`` (for bootstraps and
    curves) and, with ``outcomes``, ``outcomes_bbox.csv`` and ``outcomes_segm.csv``. They are
    written when everything is computed, all of them or none. Outcomes of an earlier evaluation in
    the same folder are removed. What its summary records of the model (method, config,
    test_settings, dataset_name) is kept where it was of the same files and is not given anew.

    Args:
        gt_path: the annotation file in LVIS's or COCO's format, or the content of one.
        results: the result file (LVIS's submission format), or several: their rows count as those
            of one file, in this order. "-" is standard input; pipes and gzip are read, too.
        iou_types: "bbox", "segm" or both; by default those that the first row of all has.
        output_dir: the folder to write to; None to write nothing.
        outcomes: write the outcome and error type of each detection.
        exhaustive: whether every category is verified in every image, as in COCO; False insists
            on LVIS's format. By default the file's content decides.
        statistics: the training set's counts, from which the groups are made where the annotation
            file has none (COCO's format) or the user gave their limits.
        dataset_name: as recorded; by default the annotation file's name.
        test_settings: the model's score_threshold, nms_threshold and detections_per_image, as far
            as they are known.
        method: the long-tail method as it ran, recorded as it is: name, options,
            acts_in_training, and sha256 of its buffers.
        config: the model's configuration, recorded as it is.
        ap_fixed: compute AP-fixed, too.
        max_dets: the cap on an image's detections (LVIS's format) or on those of each category in
            an image (COCO's); None for no cap.
        analyses: also analyse missed objects, errors, curves, confusions, calibration and
            boundaries (`iif.evaluation.analyses`), and write their tables.

    Returns:
        The content of ``eval_summary.json``.

    Raises:
        InputError: a file has a fault, and nothing is written.
    """
    if output_dir is not None and Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise InputError(f"{output_dir}: is a file; give a folder to write to")
    with open_sources(results) as sources, ThreadPoolExecutor(1) as pool:
        chosen = _choose_iou_types(sources, iou_types)
        scanned = [pool.submit(scan_results, source, chosen[-1]) for source in sources]
        gt = load_annotations(
            gt_path, exhaustive=exhaustive, masks="segm" in chosen, statistics=statistics
        )
        if "segm" in chosen:
            gt.rles(np.flatnonzero(has_area(gt.area)))  # while the results are scanned; kept
        detections = load_results(sources, gt, iou_type=chosen[-1], scanned=scanned)
        if "bbox" in chosen and detections.bbox is None:
            # Reading the boxes alone refuses the first row that has none, by its number.
            load_results(sources, gt, iou_type="bbox")
        scanned.clear()
    if "segm" not in chosen and not isinstance(gt_path, Mapping):
        forget_annotation_files(gt_path)  # its text, which masks alone need
    return evaluate(
        gt,
        detections,
        chosen,
        output_dir=output_dir,
        outcomes=outcomes,
        dataset_name=dataset_name,
        test_settings=test_settings,
        method=method,
        config=config,
        ap_fixed=ap_fixed,
        max_dets=max_dets,
        analyses=analyses,
    )


def evaluate(
    gt: Annotations,
    detections: Detections,
    iou_types: Sequence[IouType],
    *,
    output_dir: str | os.PathLike[str] | None,
    outcomes: bool = False,
    dataset_name: str | None = None,
    test_settings: Mapping[str, float | None] | None = None,
    method: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    ap_fixed: bool = True,
    max_dets: int | None = MAX_DETECTIONS,
    analyses: bool = False,
) -> dict[str, Any]:
    """Do what `evaluate_files` does, with annotations and detections that are loaded already.

    Args:
        gt: the annotations, with masks for "segm".
        detections: of a result file, with boxes, masks or both as ``iou_types`` need.
        iou_types: "bbox", "segm" or both, in this order.
        output_dir, outcomes, dataset_name, test_settings, method, config, ap_fixed, max_dets,
            analyses: as for `evaluate_files`.
    """
    matches: dict[IouType, Matches] = {}
    metrics: dict[IouType, dict[str, float | None]] = {}
    per_category: dict[IouType, dict[str, NDArray[np.float64]]] = {}
    analysed: dict[IouType, Analyses] = {}
    steps = progress(
        total=3 * len(iou_types),
        desc="evaluating",
        unit="step",
        leave=False,
    )
    with steps:
        for iou_type in iou_types:
            overlaps = find_overlaps(gt, detections, iou_type)
            steps.update()
            matches[iou_type] = match(
                gt, detections, iou_type, max_dets=max_dets, overlaps=overlaps
            )
            metrics[iou_type], per_category[iou_type] = compute_metrics(
                matches[iou_type], gt, max_dets
            )
            steps.update()
            if ap_fixed:
                ap = fixed_average_precision(gt, detections, overlaps, matches[iou_type])
                per_category[iou_type]["AP-fixed"] = ap
                values = mean_by_group(ap, gt.groups)
                metrics[iou_type] |= dict(zip(FIXED_METRICS, values, strict=True))
            steps.update()
            if analyses:
                analysed[iou_type] = analyse_matches(
                    gt, detections, matches[iou_type], max_dets=max_dets, overlaps=overlaps
                )
    before = _recorded(output_dir, gt, detections)
    if before is not None:
        method = before.method if method is None else method
        config = before.config if config is None else config
        dataset_name = dataset_name or before.dataset.name
        known = {key: v for key, v in (test_settings or {}).items() if v is not None}
        test_settings = before.test_settings | known
    summary = Summary(
        format=SUMMARY_FORMAT,
        versions=versions(),
        dataset=Dataset(
            name=dataset_name or Path(gt.path).stem,
            path=gt.path,
            sha256=gt.sha256,
            num_images=len(gt.image_ids),
            num_annotations=len(gt.ann_ids),
            num_categories=len(gt.category_ids),
            exhaustive=gt.exhaustive,
        ),
        results=Results.of(detections),
        test_settings=dict.fromkeys(TEST_SETTINGS) | dict(test_settings or {}),
        evaluation=Evaluation(max_dets, IOU_THRESHOLDS.round(2).tolist(), gt.group_limits),
        method=None if method is None else dict(method),
        config=None if config is None else dict(config),
        metrics={str(iou_type): values for iou_type, values in metrics.items()},
        per_category=_per_category(gt, matches[iou_types[0]], per_category),
        analyses={str(iou_type): found for iou_type, found in analysed.items()},
    )
    if output_dir is None:
        return msgspec.to_builtins(summary)
    folder = Path(output_dir)
    tables = {iou_type: folder / layout.outcomes(iou_type) for iou_type in IOU_TYPES}
    wanted = list(matches) if outcomes else []
    with together():
        for iou_type in wanted:
            write_outcomes(tables[iou_type], gt, detections, matches[iou_type])
        for iou_type, found in analysed.items():
            write_analyses(folder, gt, detections, matches[iou_type], found)
        save_matches(folder / layout.MATCHES, matches, detections)
        content = write_summary(folder / layout.SUMMARY, summary)
    for iou_type in set(IOU_TYPES) - set(wanted):
        tables[iou_type].unlink(missing_ok=True)
    remove_analyses(folder, kept=list(analysed))
    return content


def _recorded(
    folder: str | os.PathLike[str] | None, gt: Annotations, detections: Detections
) -> Summary | None:
    """Return the summary in a folder, where it is of the same annotations and detections."""
    path = Path(folder or "", layout.SUMMARY)
    if folder is None or not path.is_file() or not detections.sha256:
        return None
    try:
        found = read_summary(path)
    except InputError:  # of another format: it is replaced
        return None
    same = found.dataset.sha256 == gt.sha256 and found.results.sha256 == detections.sha256
    return found if same else None


def fixed_average_precision(
    gt: Annotations, detections: Detections, overlaps: Overlaps, matches: Matches
) -> NDArray[np.float64]:
    """Return the (K,) AP-fixed in percent.

    Only categories in which its caps leave out other detections than those of ``matches`` are
    matched anew.

    Args:
        gt, detections: what was matched.
        overlaps: of them.
        matches: under the cap per image.
    """
    ap = average_precision(matches)
    beyond = beyond_caps(detections, overlaps, None, FIXED_DETECTIONS)
    other = (beyond != (matches.outcome == Outcome.CAPPED)) & overlaps.judged
    changed = np.zeros(len(ap), np.bool_)
    changed[detections.category[other]] = True
    if changed.any():
        wanted = changed[detections.category] & overlaps.judged & ~beyond
        rows, offsets = sorted_rows(detections, overlaps, wanted)
        unused = matches.outcome.copy(), matches.gt_row.copy()
        flags = match_rows(gt, detections, overlaps, rows, offsets, *unused, num_areas=1)
        precision, _ = mean_precision(flags, offsets, matches.num_gt[:1])
        ap[changed] = precision[0].mean(axis=0)[changed]
    return ap


def _choose_iou_types(sources: Sequence[Source], wanted: Sequence[IouType] | None) -> list[IouType]:
    """Return the IoU types in the order of IOU_TYPES, checked against the first result."""
    first, available = first_row(sources)
    if wanted is None:
        if not available:
            raise InputError(
                f"{first.name}: row 0 has neither bbox nor segmentation; give one of them"
            )
        return list(available)
    unknown = [t for t in wanted if t not in IOU_TYPES]
    if unknown or not wanted:
        raise InputError(f"iou_types is {list(wanted)}; it must be of {', '.join(IOU_TYPES)}")
    for iou_type in wanted:
        if iou_type not in available:
            key, remedy = (
                ("segmentation", "boxes alone cannot be evaluated as masks: choose bbox")
                if iou_type == "segm"
                else ("bbox", "choose segm")
            )
            raise InputError(
                f"{first.name}: row 0: {key} is missing; {remedy} as the IoU type, or make the "
                "results again"
            )
    return [t for t in IOU_TYPES if t in wanted]


def _per_category(
    gt: Annotations,
    matches: Matches,
    per_category: Mapping[IouType, Mapping[str, NDArray[np.float64]]],
) -> list[Category]:
    def metrics(iou_type: IouType, k: int) -> Metrics | msgspec.UnsetType:
        if iou_type not in per_category:
            return msgspec.UNSET
        return {
            metric: None if np.isnan(values[k]) else float(values[k])
            for metric, values in per_category[iou_type].items()
        }

    return [
        Category(
            id=int(gt.category_ids[k]),
            name=gt.category_names[k],
            group=str(gt.groups[k]),
            image_count=int(gt.image_count[k]) if gt.image_count[k] >= 0 else None,
            num_gt=int(matches.num_gt[0, k]),
            bbox=metrics("bbox", k),
            segm=metrics("segm", k),
        )
        for k in range(len(gt.category_ids))
    ]
