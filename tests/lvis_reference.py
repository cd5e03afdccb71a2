"""The official LVIS evaluator (lvis 0.5.3), made to run on current numpy: the tests' reference."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lvis import LVIS, LVISEval, LVISResults


@contextlib.contextmanager
def removed_alias() -> Iterator[None]:
    """Supply ``np.float``, which numpy removed in 1.24 and lvis 0.5.3 still uses."""
    np.float = float
    try:
        yield
    finally:
        del np.float


def lvis_evaluate(
    gt_path: str | Path, results: list[dict[str, Any]], iou_type: str, max_dets: int = 300
) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Evaluate as Detectron2 does and return what `compute_metrics` returns.

    Args:
        gt_path: the annotation file.
        results: the detections; not changed.
        max_dets: the cap on an image's detections, -1 for none.
        iou_type: for "segm" the boxes are taken away, or lvis would use their area.
    """
    left_out = "bbox" if iou_type == "segm" else "segmentation"
    results = [{k: v for k, v in result.items() if k != left_out} for result in results]
    gt = LVIS(str(gt_path))
    with removed_alias(), warnings.catch_warnings(action="ignore"):
        evaluator = LVISEval(gt, LVISResults(gt, results, max_dets), iou_type)
        evaluator.run()
    metrics = {k: None if v == -1 else 100 * v for k, v in evaluator.get_results().items()}

    def by_category(values: np.ndarray) -> np.ndarray:
        defined = np.where(values == -1, np.nan, values)
        return 100 * defined.mean(axis=tuple(range(values.ndim - 1)))

    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    per_category = {
        "AP": by_category(precision[..., 0]),
        "AP50": by_category(precision[:1, ..., 0]),
        "AR@300": by_category(recall[..., 0]),
    }
    return metrics, per_category
