"""Class-wise NMS that looks at the best-scored pairs alone: the same detections in less time.

Both engines run class-wise NMS on every (region, class) pair that scores above the threshold: up
to 1.2 million boxes an image at LVIS's settings (1,000 regions, 1,203 classes, threshold 1e-4),
of which 300 are returned. But greedy NMS lets only higher-scored boxes suppress a box. So the
survivors among the n best-scored pairs are exactly the survivors of the full run that score as
high, and once there are enough of them the other pairs cannot change the result.

Shapes: R regions, K classes, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

# torchvision's batched_nms separates the classes of few boxes by shifting the boxes, which rounds
# their coordinates, and runs on each class alone only above a number of boxes that depends on the
# device and on torchvision's version. These are the largest such numbers of all versions since
# 0.10; up to here the prefix decides nothing.
SHIFTED_UP_TO_CPU = 1_000
SHIFTED_UP_TO_OTHER = 25_000

# The first prefix holds this many pairs per detection that is asked for, and each next one this
# many times more. Both only steer the time taken.
_PREFIX_PER_DETECTION = 4
_PREFIX_GROWTH = 4


def shifted_up_to(device: torch.device) -> int:
    """Return the number of boxes up to which batched_nms may shift the boxes."""
    return SHIFTED_UP_TO_CPU if device.type == "cpu" else SHIFTED_UP_TO_OTHER


def prefix_nms(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
    *,
    min_size: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Clip the boxes, run NMS within each class, and return the best detections.

    The result is bit-equal to that of batched_nms on all pairs. Among exactly equal scores its
    order is that of an unstable sort of *all* survivors, which no part of them determines: such a
    tie among the detections to return leaves the decision to the caller.

    Args:
        boxes: (R, K, 4) or, class-agnostic, (R, 1, 4) boxes, x0, y0, x1, y1 in pixels.
        scores: (R, K) scores; none of them is infinite.
        image_shape: (height, width) to which the boxes are clipped.
        score_thresh: pairs count that score above it.
        nms_thresh: boxes of a class that overlap by more than this IoU suppress each other.
        topk: the number D of detections to return, above 0.
        min_size: pairs count whose clipped box has both sides at least so long; None: all.

    Returns:
        boxes (D, 4), scores (D,), regions (D,) and classes (D,), best first; None where a part of
        the pairs cannot decide the result (a tie, few boxes, fewer than D survivors, a score that
        is not a number).
    """
    num_classes = scores.shape[1]
    pair_scores = scores.flatten()
    num_candidates = int((pair_scores > score_thresh).sum())
    limit = shifted_up_to(boxes.device)
    if num_candidates <= limit:
        return None
    size = _PREFIX_PER_DETECTION * topk
    many = min_size is None  # whether more than ``limit`` pairs are known to count
    while size < num_candidates:
        # All pairs above the size-th best score: the pairs that equal it are out together.
        best = pair_scores.topk(size, sorted=False)
        if best.values.isnan().any():
            return None
        pairs = best.indices[best.values > best.values.min()].sort().values
        size *= _PREFIX_GROWTH
        rows, classes = pairs // num_classes, pairs % num_classes
        pair_boxes = boxes[rows, classes] if boxes.shape[1] > 1 else boxes[rows, 0]
        pair_boxes = clip_boxes_to_image(pair_boxes, image_shape)
        if min_size is not None:
            large = _is_large(pair_boxes, min_size)
            pairs, rows, classes = pairs[large], rows[large], classes[large]
            pair_boxes = pair_boxes[large]
            if not many and len(pairs) <= limit:  # it takes all boxes to know
                large = _is_large(clip_boxes_to_image(boxes, image_shape), min_size)
                if int(((scores > score_thresh) & large).sum()) <= limit:
                    return None
            many = True
        if len(pairs) < topk:
            continue
        kept = _class_wise_nms(pair_boxes, pair_scores[pairs], classes, nms_thresh)
        if len(kept) < topk:
            continue
        kept_scores, order = pair_scores[pairs[kept]].sort(descending=True)
        decisive = kept_scores[: topk + 1]  # the last returned may tie with the first left out
        if (decisive[1:] == decisive[:-1]).any():
            return None
        kept = kept[order[:topk]]
        return pair_boxes[kept], kept_scores[:topk], rows[kept], classes[kept]
    return None


def _is_large(boxes: Tensor, min_size: float) -> Tensor:
    """Return whether both sides of (..., 4) boxes are at least ``min_size`` long."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return (width >= min_size) & (height >= min_size)


def _class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float) -> Tensor:
    """Return the ascending indices of the boxes that survive NMS within their class."""
    by_class = classes.sort(stable=True).indices
    counts = classes.bincount()
    survivors = [
        members[nms(boxes[members], scores[members], nms_thresh)] if len(members) > 1 else members
        for members in by_class.split(counts[counts > 0].tolist())
    ]
    return torch.cat(survivors).sort().values
