"""The official LVIS evaluator (lvis 0.5.3), made to run on current numpy: the tests' reference."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from lvis import LVIS, LVISEval, LVISResults


@contextlib.contextmanager
def _removed_alias() -> Iterator[None]:
    """Supply ``np.float``, which numpy removed in 1.24 and lvis 0.5.3 still uses."""
    np.float = float
    try:
        yield
    finally:
        del np.float


def lvis_evaluate(
    gt_path: str, results: list[dict[str, Any]], iou_type: str
) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Evaluate as Detectron2 does and return what `compute_metrics` returns.

    Args:
        gt_path: the annotation file.
        results: the detections; they are changed.
        iou_type: for "segm" the boxes are taken away, or lvis would use their area.
    """
    logging.getLogger("lvis.results").setLevel(logging.ERROR)
    if iou_type == "segm":
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    gt = LVIS(str(gt_path))
    with _removed_alias():
        evaluator = LVISEval(gt, LVISResults(gt, results), iou_type)
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
