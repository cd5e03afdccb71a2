"""The official COCO evaluator (pycocotools' COCOeval): the tests' reference for COCO's format."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def coco_style(content: dict[str, Any]) -> dict[str, Any]:
    """Take the keys that are LVIS's alone from an annotation file's content, in place."""
    keys = ("neg_category_ids", "not_exhaustive_category_ids", "frequency", "image_count")
    for item in (*content["images"], *content["categories"]):
        for key in keys:
            item.pop(key, None)
    return content


def coco_evaluate(
    gt: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    max_dets: int = 300,
    **params: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate as COCOeval does; return what `precision_and_recall` returns.

    Args:
        gt: the annotation file's content.
        results: the detections; not changed.
        iou_type: for "segm" the boxes are taken away, or COCOeval would use their area.
        max_dets: the cap on the detections of an image and category.
        params: further parameters of COCOeval, ``useCats`` for one.
    """
    left_out = "bbox" if iou_type == "segm" else "segmentation"
    rows = [{k: v for k, v in row.items() if k != left_out} for row in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(gt)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(rows), iou_type)
        evaluator.params.maxDets = [max_dets]
        for key, value in params.items():
            setattr(evaluator.params, key, value)
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][..., 0], evaluator.eval["recall"][..., 0]
    precision = np.where(precision == -1, np.nan, precision).mean(axis=1)  # over recalls
    recall = np.where(recall == -1, np.nan, recall)
    return 100 * precision.transpose(2, 0, 1), 100 * recall.transpose(2, 0, 1)
