"""Evaluate a result file and write what it came to: ``eval_summary.json`` and its companions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iif.data.annotations import Annotations, load_annotations
from iif.data.results import IOU_TYPES, Detections, IouType, available_iou_types, load_results
from iif.errors import InputError
from iif.evaluation.matching import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    ErrorType,
    Matches,
    Outcome,
    Overlaps,
    find_overlaps,
    match,
    save_matches,
)
from iif.evaluation.metrics import METRICS, average_precision, compute_metrics, mean_by_group
from iif.evaluation.tables import number, text_table
from iif.files import atomic_write, versions, write_json
from iif.statistics import ClassStatistics

SUMMARY_FORMAT = "iif-eval-summary/1"
SUMMARY_FILE = "eval_summary.json"
MATCHES_FILE = "eval_matches.npz"
# Dave et al., arXiv 2102.01066: so many detections of a category over the whole set.
FIXED_DETECTIONS = 10_000
FIXED_METRICS = ("AP-fixed", "APr-fixed", "APc-fixed", "APf-fixed")
TEST_SETTINGS = ("score_threshold", "nms_threshold", "detections_per_image")
OUTCOME_COLUMNS = ("row", "image_id", "category_id", "score", "outcome", "error_type", "gt_id")

_CSV_ROWS = 200_000
_TITLES = {"bbox": "box", "segm": "mask"}


def evaluate_files(
    gt_path: str | os.PathLike[str],
    results_path: str | os.PathLike[str],
    *,
    iou_types: Sequence[IouType] | None = None,
    output_dir: str | os.PathLike[str],
    outcomes: bool = False,
    exhaustive: bool = False,
    train_json: str | os.PathLike[str] | None = None,
    statistics: ClassStatistics | None = None,
    dataset_name: str | None = None,
    test_settings: Mapping[str, float | None] | None = None,
    config: Mapping[str, Any] | None = None,
    ap_fixed: bool = True,
) -> dict[str, Any]:
    """Evaluate a result file; write the summary, the matches and, if asked, every outcome.

    ``output_dir`` gets ``eval_summary.json``, ``eval_matches.npz`` (for bootstraps and curves) and
    with ``outcomes`` ``outcomes_bbox.csv`` / ``outcomes_segm.csv``, after all was computed and
    each whole or not at all. Outcomes that an earlier evaluation left there are removed.

    Args:
        gt_path: the annotation file, LVIS-format unless ``exhaustive``.
        results_path: the result file (LVIS's submission format).
        iou_types: "bbox", "segm" or both; by default what the result file's first row has.
        output_dir: the folder to write to.
        outcomes: write the outcome and error type of each detection.
        exhaustive: every category is verified in every image, as in COCO.
        train_json: training annotations to count the frequency groups from, where the annotation
            file has none (COCO-format).
        statistics: the same counts, already counted.
        dataset_name: as recorded; by default the annotation file's name.
        test_settings: the model's score_threshold, nms_threshold and detections_per_image, as far
            as they are known.
        config: the model's configuration, recorded as it is.
        ap_fixed: compute AP-fixed, too.

    Returns:
        The content of ``eval_summary.json``.

    Raises:
        InputError: a fault in a file; nothing is written then.
    """
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise InputError(f"{output_dir}: is a file; give a folder to write to")
    chosen = _choose_iou_types(results_path, iou_types)
    if train_json is not None:
        statistics = ClassStatistics.from_json(train_json)
    gt = load_annotations(
        gt_path, exhaustive=exhaustive, masks="segm" in chosen, statistics=statistics
    )
    detections = load_results(results_path, gt, iou_type=chosen[-1])
    if "bbox" in chosen and detections.bbox is None:
        # Read for boxes alone, the first row that has none is refused by its number.
        load_results(results_path, gt, iou_type="bbox")
    matches: dict[IouType, Matches] = {}
    metrics: dict[IouType, dict[str, float | None]] = {}
    per_category: dict[IouType, dict[str, NDArray[np.float64]]] = {}
    steps = tqdm(
        total=3 * len(chosen),
        desc="evaluating",
        unit="step",
        leave=False,
        disable=None,
    )
    with steps:
        for iou_type in chosen:
            overlaps = find_overlaps(gt, detections, iou_type)
            steps.update()
            matches[iou_type] = match(
                gt, detections, iou_type, classify_errors=outcomes, overlaps=overlaps
            )
            metrics[iou_type], per_category[iou_type] = compute_metrics(matches[iou_type], gt)
            steps.update()
            if ap_fixed:
                ap = _fixed_ap(gt, detections, iou_type, overlaps)
                per_category[iou_type]["AP-fixed"] = ap
                values = mean_by_group(ap, gt.groups)
                metrics[iou_type] |= dict(zip(FIXED_METRICS, values, strict=True))
            steps.update()
    summary = {
        "format": SUMMARY_FORMAT,
        "versions": versions(),
        "dataset": {
            "name": dataset_name or Path(gt_path).stem,
            "path": os.fspath(gt_path),
            "sha256": gt.sha256,
            "num_images": len(gt.image_ids),
            "num_annotations": len(gt.ann_ids),
            "num_categories": len(gt.category_ids),
            "exhaustive": exhaustive,
        },
        "results": {
            "path": os.fspath(results_path),
            "sha256": detections.sha256,
            "num_detections": len(detections),
        },
        "test_settings": {key: (test_settings or {}).get(key) for key in TEST_SETTINGS},
        "evaluation": {
            "max_dets": MAX_DETECTIONS,
            "iou_thresholds": IOU_THRESHOLDS.round(2).tolist(),
        },
        "config": config,
        "metrics": metrics,
        "per_category": _per_category(gt, matches[chosen[0]], per_category),
    }
    folder = Path(output_dir)
    for iou_type in IOU_TYPES:
        path = folder / f"outcomes_{iou_type}.csv"
        if outcomes and iou_type in matches:
            write_outcomes(path, gt, detections, matches[iou_type])
        else:
            path.unlink(missing_ok=True)
    save_matches(folder / MATCHES_FILE, matches)
    write_json(folder / SUMMARY_FILE, summary)
    return summary


def format_summary(summary: Mapping[str, Any]) -> str:
    """Return the metrics of a summary as a text table, an undefined one as "-"."""
    metrics: Mapping[str, Mapping[str, float | None]] = summary["metrics"]
    names = [m for m in (*METRICS, *FIXED_METRICS) if any(m in of for of in metrics.values())]
    table = text_table(
        ["metric (%)", *(_TITLES[iou_type] for iou_type in metrics)],
        [[name, *(number(of.get(name)) for of in metrics.values())] for name in names],
    )
    dataset, results = summary["dataset"], summary["results"]
    return (
        f"{dataset['name']}: {dataset['num_images']:,} images, "
        f"{dataset['num_annotations']:,} annotations, {dataset['num_categories']:,} categories; "
        f"{results['num_detections']:,} detections\n{table}"
    )


def write_outcomes(
    path: str | os.PathLike[str],
    gt: Annotations,
    detections: Detections,
    matches: Matches,
) -> None:
    """Write the outcome of each detection as CSV, in the result file's order.

    The columns are OUTCOME_COLUMNS: ``row`` is the row in the result file, from 0; ``error_type``
    is empty but for false positives, and ``gt_id`` where no ground truth decided the outcome.
    """
    labels = [outcome.name for outcome in Outcome]
    types = [error_type.label for error_type in ErrorType]
    ann_ids = [*gt.ann_ids.tolist(), ""]  # the last is that of gt_row -1
    image_ids, category_ids = gt.image_ids.tolist(), gt.category_ids.tolist()
    bar = tqdm(
        total=len(detections),
        desc=f"writing {os.path.basename(path)}",
        unit="row",
        unit_scale=True,
        delay=1,
        disable=None,
    )
    with atomic_write(path, "wb") as f, bar:
        f.write(",".join(OUTCOME_COLUMNS).encode() + b"\n")
        for start in range(0, len(detections), _CSV_ROWS):
            part = slice(start, start + _CSV_ROWS)
            rows = zip(
                range(start, len(detections)),
                map(image_ids.__getitem__, detections.image[part].tolist()),
                map(category_ids.__getitem__, detections.category[part].tolist()),
                detections.score[part].tolist(),
                map(labels.__getitem__, matches.outcome[part].tolist()),
                map(types.__getitem__, matches.error_type[part].tolist()),
                map(ann_ids.__getitem__, matches.gt_row[part].tolist()),
                strict=False,
            )
            _write_csv_rows(f, list(rows))
            bar.update(len(detections.score[part]))


def _write_csv_rows(f: IO[bytes], rows: list[tuple[Any, ...]]) -> None:
    # Numbers and bare words only, so JSON without its brackets and quotes is CSV; msgspec
    # formats it ten times faster than the csv module.
    text = msgspec.json.encode(rows)
    f.write(text[2:-2].translate(None, b'"').replace(b"],[", b"\n") + b"\n")


def _fixed_ap(
    gt: Annotations, detections: Detections, iou_type: IouType, overlaps: Overlaps
) -> NDArray[np.float64]:
    """Return the (K,) AP-fixed in percent."""
    matches = match(
        gt,
        detections,
        iou_type,
        max_dets=None,
        max_dets_per_category=FIXED_DETECTIONS,
        classify_errors=False,
        overlaps=overlaps,
    )
    return average_precision(matches)


def _choose_iou_types(
    results_path: str | os.PathLike[str], wanted: Sequence[IouType] | None
) -> list[IouType]:
    """Return the IoU types in the order of IOU_TYPES, checked against the first result."""
    available = available_iou_types(results_path)
    if wanted is None:
        if not available:
            raise InputError(
                f"{results_path}: row 0 has neither bbox nor segmentation; give one of them"
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
                f"{results_path}: row 0: {key} is missing; {remedy} as the IoU type, or make the "
                "results again"
            )
    return [t for t in IOU_TYPES if t in wanted]


def _per_category(
    gt: Annotations,
    matches: Matches,
    per_category: Mapping[IouType, Mapping[str, NDArray[np.float64]]],
) -> list[dict[str, Any]]:
    return [
        {
            "id": int(gt.category_ids[k]),
            "name": gt.category_names[k],
            "frequency": str(gt.groups[k]),
            "image_count": (int(gt.image_count[k]) if gt.image_count[k] >= 0 else None),
            "num_gt": int(matches.num_gt[0, k]),
        }
        | {
            iou_type: {
                metric: None if np.isnan(values[k]) else float(values[k])
                for metric, values in columns.items()
            }
            for iou_type, columns in per_category.items()
        }
        for k in range(len(gt.category_ids))
    ]
