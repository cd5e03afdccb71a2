"""The official evaluators on the same files: lvis 0.5.3 and pycocotools' COCOeval."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import load_annotations
from iif.data.results import IouType, load_results
from iif.data.sources import ResultFiles, Source, open_sources
from iif.errors import InputError
from iif.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, MAX_DETECTIONS, match
from iif.evaluation.metrics import precision_and_recall

# In percentage points. The two differ by rounding alone.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verification:
    """The largest difference between this evaluator and the official one, in percentage points.

    Attributes:
        iou_type: "bbox" or "segm".
        evaluator: name of the official evaluator.
        cells: values of precision and recall compared: area ranges x IoU thresholds x categories,
            those that are undefined left out.
        difference: the largest; infinite where one is defined and the other is not.
        place: where it is: measure, area range, IoU threshold, category id; "" where all are equal.
    """

    iou_type: str
    evaluator: str
    cells: int
    difference: float
    place: str

    @property
    def equal(self) -> bool:
        """Whether the difference is within TOLERANCE."""
        return self.difference <= TOLERANCE


def verify(
    gt_path: str | os.PathLike[str],
    results: ResultFiles,
    iou_types: Sequence[IouType],
    *,
    max_dets: int | None = MAX_DETECTIONS,
) -> list[Verification]:
    """Compare precision and recall with those of the official evaluator, cell by cell.

    LVIS's format: lvis, with the alias of ``float`` that NumPy removed in 1.24 supplied for the
    call. COCO's: COCOeval. Both take far more time and memory than this project's evaluator. As in
    Detectron2, boxes are taken from the rows for mask AP, or their area would be that of the mask.

    Args:
        gt_path: the annotation file.
        results: the result file, or several, as `iif.data.sources.open_sources` takes them.
        iou_types: those to compare.
        max_dets: the cap on detections; None for no cap.

    Raises:
        InputError: a file has a fault, lvis is not installed, or the result file is empty (lvis
            and COCOeval fail on it).
    """
    with open_sources(results) as sources:
        return [_verify(gt_path, sources, iou_type, max_dets) for iou_type in iou_types]


def _verify(
    gt_path: str | os.PathLike[str],
    sources: list[Source],
    iou_type: IouType,
    max_dets: int | None,
) -> Verification:
    gt = load_annotations(gt_path, masks=iou_type == "segm")
    detections = load_results(sources, gt, iou_type=iou_type)
    if not len(detections):
        raise InputError(
            f"{detections.path}: the official evaluators fail on an empty list; AP is 0"
        )
    matches = match(gt, detections, iou_type, max_dets=max_dets, classify_errors=False)
    ours = precision_and_recall(matches)
    rows = []
    for source in sources:
        with open(source.path, "rb") as f:
            rows += json.load(f)
    left_out = "bbox" if iou_type == "segm" else "segmentation"
    for row in rows:
        row.pop(left_out, None)
    run = _coco if gt.exhaustive else _lvis
    theirs = run(os.fspath(gt_path), rows, iou_type, max_dets)
    name = "COCOeval (pycocotools)" if gt.exhaustive else "lvis"
    return _compared(iou_type, name, ours, theirs, gt.category_ids)


def _compared(
    iou_type: str,
    evaluator: str,
    ours: Sequence[NDArray[np.float64]],
    theirs: Sequence[NDArray[np.float64]],
    category_ids: NDArray[np.int64],
) -> Verification:
    a, b = np.stack(ours), np.stack(theirs)
    defined = ~np.isnan(a) & ~np.isnan(b)
    difference = np.where(np.isnan(a) == np.isnan(b), 0.0, np.inf)
    difference[defined] = abs(a[defined] - b[defined])
    at = np.unravel_index(np.argmax(difference), difference.shape)
    worst = float(difference[at])
    place = ""
    if worst > 0:
        measure, area, iou, category = (int(i) for i in at)
        place = (
            f"{('precision', 'recall')[measure]}, {list(AREA_RANGES)[area]}, "
            f"IoU {IOU_THRESHOLDS[iou]:.2f}, category {category_ids[category]}"
        )
    return Verification(iou_type, evaluator, int(defined.sum()), worst, place)


def _lvis(
    gt_path: str, rows: list[dict[str, Any]], iou_type: str, max_dets: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        from lvis import LVIS, LVISEval, LVISResults
    except ImportError:
        raise InputError("verifying needs the official evaluator: pip install lvis") from None

    with _removed_alias(), warnings.catch_warnings(action="ignore"):
        gt = LVIS(gt_path)
        results = LVISResults(gt, rows, max_dets=-1 if max_dets is None else max_dets)
        evaluator = LVISEval(gt, results, iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
    return _percent(evaluator.eval["precision"], evaluator.eval["recall"])


def _coco(
    gt_path: str, rows: list[dict[str, Any]], iou_type: str, max_dets: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(gt_path)
        for annotation in gt.anns.values():
            annotation.setdefault("iscrowd", 0)  # COCOeval fails without it
        evaluator = COCOeval(gt, gt.loadRes(rows), iou_type)
        evaluator.params.maxDets = [len(rows) if max_dets is None else max_dets]
        evaluator.evaluate()
        evaluator.accumulate()
    return _percent(evaluator.eval["precision"][..., 0], evaluator.eval["recall"][..., 0])


def _percent(
    precision: NDArray[np.float64], recall: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (A, T, K) as `precision_and_recall`, from (T, R, K, A) and (T, K, A) with -1."""
    mean = np.where(precision == -1, np.nan, precision).mean(axis=1)
    highest = np.where(recall == -1, np.nan, recall)
    return 100 * mean.transpose(2, 0, 1), 100 * highest.transpose(2, 0, 1)


@contextlib.contextmanager
def _removed_alias() -> Iterator[None]:
    """Supply ``np.float``, which lvis 0.5.3 uses, where NumPy has removed it."""
    if "float" in np.__dict__:  # numpy before 1.24
        yield
        return
    np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del np.float  # type: ignore[attr-defined]
