"""Average recall without regard to categories: whether objects are found, whatever they are called.

COCOeval computes it with ``useCats = 0``. Under federated annotation, too, every detection takes
part: recall does not depend on which categories are verified.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType
from iif.evaluation.matching import AREA_RANGES, match
from iif.evaluation.metrics import precision_and_recall, recall_metric
from iif.evaluation.overlaps import find_overlaps, has_area

# Caps on the detections of an image.
CAPS = (1, 10, 100, 300)


def class_agnostic_recall(
    gt: Annotations, detections: Detections, iou_type: IouType
) -> dict[str, float | None]:
    """Return AR@1, AR@10, AR@100 and AR@300 in percent, and each by size (ARs@1, ...).

    Every detection and object is of one category. AR is the mean over IoU 0.5 to 0.95 of the share
    of objects that the best-scored detections of an image find; None without an object.

    Args:
        gt: the annotations, with masks for "segm".
        detections: the detections.
        iou_type: "bbox" or "segm".
    """
    none = np.zeros((0, 2), np.int32)
    one = replace(
        gt,
        category_ids=np.zeros(1, np.int64),
        category_names=["object"],
        groups=np.full(1, "", "<U1"),
        image_count=np.full(1, -1, np.int64),
        ann_category=np.zeros_like(gt.ann_category),
        # Ground truth without an area takes no part by LVIS's rules.
        ignore=gt.ignore | ~has_area(gt.area, gt.exhaustive),
        neg=none,
        not_exhaustive=none,
        exhaustive=True,
    )
    same = replace(detections, category=np.zeros_like(detections.category))
    overlaps = find_overlaps(one, same, iou_type)
    recalls: dict[str, float | None] = {}
    for cap in CAPS:
        matches = match(one, same, iou_type, max_dets=cap, classify_errors=False, overlaps=overlaps)
        _, recall = precision_and_recall(matches)
        for area, values in zip(AREA_RANGES, recall[:, :, 0].mean(axis=1).tolist(), strict=True):
            name = recall_metric(cap, "" if area == "all" else area[0])
            recalls[name] = None if np.isnan(values) else values
    return recalls
