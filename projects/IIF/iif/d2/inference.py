"""Fast R-CNN inference for large vocabularies: Detectron2's detections, bit for bit, in less time.

Detectron2 runs class-wise NMS on every (region, class) pair that scores above the threshold: up
to 1.2 million boxes an image at LVIS's settings (1,000 regions, 1,203 classes, threshold 1e-4),
of which 300 are returned. But greedy NMS lets a box be suppressed by higher-scored boxes alone.
So the survivors among the n best-scored pairs are exactly the survivors of the full run that
score as high, and once there are enough of them the other pairs need never be looked at.

The functions have the names, arguments and results of those they stand in for, in
``detectron2/modeling/roi_heads/fast_rcnn.py``. Shape shorthand: R regions, K classes.
"""

from __future__ import annotations

import torch
from detectron2.modeling.roi_heads import fast_rcnn as stock
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

# torchvision's batched_nms separates the classes of few boxes by shifting the boxes, which rounds
# their coordinates, and runs on each class alone only above a number of boxes that depends on the
# device and on torchvision's version. These are the largest such numbers of all versions since
# 0.10; up to here Detectron2's own function is called, whichever way it then goes.
_SHIFTED_UP_TO_CPU = 1_000
_SHIFTED_UP_TO_OTHER = 25_000

# The first prefix holds this many pairs per detection that is asked for, and each next one this
# many times more. Both only steer the time taken.
_PREFIX_PER_DETECTION = 4
_PREFIX_GROWTH = 4


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Call :func:`fast_rcnn_inference_single_image` for all images."""
    results = [
        fast_rcnn_inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [instances for instances, _ in results], [kept for _, kept in results]


def fast_rcnn_inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """Threshold the scores and run class-wise NMS, as Detectron2's function of the same name.

    The result is bit-equal to Detectron2's: boxes, scores, classes, kept rows and their order.
    Among exactly equal scores Detectron2's order is that of an unstable sort of *all* survivors,
    which no part of them determines; where such a tie is met among the detections to return,
    where all survivors are asked for, while tracing, and for few boxes, the call is handed to
    Detectron2.

    Args:
        boxes: (R, K * 4) or, class-agnostic, (R, 4) boxes, XYXY_ABS in pixels.
        scores: (R, K + 1) probabilities, the background's last.
        image_shape: (height, width) to which the boxes are clipped.
        score_thresh: pairs count that score above it.
        nms_thresh: boxes of a class that overlap by more than this IoU suppress each other.
        topk_per_image: the number of detections to return; negative for all.

    Returns:
        The detections, best first, and the row of each among those rows of ``boxes`` whose
        values (and scores) are all finite.
    """
    if topk_per_image > 0 and not torch.jit.is_tracing():
        result = _from_best_prefix(
            boxes, scores, image_shape, score_thresh, nms_thresh, topk_per_image
        )
        if result is not None:
            return result
    return stock.fast_rcnn_inference_single_image(
        boxes, scores, image_shape, score_thresh, nms_thresh, topk_per_image
    )


def _from_best_prefix(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor] | None:
    """Return the result, or None where a part of the pairs cannot decide it or saves nothing."""
    if not (boxes.sum() + scores.sum()).isfinite():  # it is not where any value is not
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = boxes[finite], scores[finite]
    pair_scores = scores[:, :-1].flatten()  # R * K, the order of Detectron2's candidates
    num_classes = scores.shape[1] - 1
    boxes = boxes.reshape(len(boxes), boxes.shape[1] // 4, 4)

    num_candidates = int((pair_scores > score_thresh).sum())
    size = _PREFIX_PER_DETECTION * topk
    if num_candidates <= _shifted_up_to(boxes.device):
        return None
    while size < num_candidates:
        # All pairs above the size-th best score: the pairs that equal it are out together.
        best = pair_scores.topk(size, sorted=False)
        pairs = best.indices[best.values > best.values.min()].sort().values
        size *= _PREFIX_GROWTH
        if len(pairs) < topk:
            continue
        rows, classes = pairs // num_classes, pairs % num_classes
        pair_boxes = Boxes(boxes[rows, classes] if boxes.shape[1] > 1 else boxes[rows, 0])
        pair_boxes.clip(image_shape)
        kept = _class_wise_nms(pair_boxes.tensor, pair_scores[pairs], classes, nms_thresh)
        if len(kept) < topk:
            continue
        kept_scores, order = pair_scores[pairs[kept]].sort(descending=True)
        decisive = kept_scores[: topk + 1]  # the last returned may tie with the first left out
        if (decisive[1:] == decisive[:-1]).any():
            return None
        kept = kept[order[:topk]]
        result = Instances(image_shape)
        result.pred_boxes = pair_boxes[kept]
        result.scores = kept_scores[:topk]
        result.pred_classes = classes[kept]
        return result, rows[kept]
    return None


def _shifted_up_to(device: torch.device) -> int:
    return _SHIFTED_UP_TO_CPU if device.type == "cpu" else _SHIFTED_UP_TO_OTHER


def _class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float) -> Tensor:
    """Return the ascending indices of the boxes that survive NMS within their class."""
    by_class = classes.sort(stable=True).indices
    counts = classes.bincount()
    survivors = [
        members[nms(boxes[members], scores[members], nms_thresh)] if len(members) > 1 else members
        for members in by_class.split(counts[counts > 0].tolist())
    ]
    return torch.cat(survivors).sort().values
