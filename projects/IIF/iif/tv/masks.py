"""torchvision's Mask R-CNN at test: the mask of each detection's own class, not those of all."""

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from iif.mask_logits import one_class_logits


def can_select_masks(heads: RoIHeads) -> bool:
    """Return whether heads at test may compute one mask of each detection.

    The last layer must be torchvision's own: a 1 x 1 convolution with a channel for each class.
    Heads with keypoints, and exporters, run torchvision's computation.
    """
    return (
        type(heads.mask_predictor) is MaskRCNNPredictor
        and not heads.has_keypoint()
        and not heads.training
        and not torch.jit.is_tracing()
    )


def detections_with_masks(
    heads: RoIHeads,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: list[tuple[int, int]],
) -> list[dict[str, Tensor]]:
    """Return what ``RoIHeads.forward`` returns at test, its masks to rounding.

    Args:
        heads: in evaluation mode, for which `can_select_masks` is true.
        features, proposals, image_shapes: as for ``RoIHeads.forward``.

    Returns:
        of each image ``boxes`` (D, 4), ``labels`` (D,), ``scores`` (D,), and ``masks``
        (D, 1, 2H, 2W) probabilities.
    """
    pooled = heads.box_head(heads.box_roi_pool(features, proposals, image_shapes))
    logits, deltas = heads.box_predictor(pooled)
    boxes, scores, labels = heads.postprocess_detections(logits, deltas, proposals, image_shapes)
    x = heads.mask_head(heads.mask_roi_pool(features, boxes, image_shapes))
    predictor: Any = heads.mask_predictor
    x = predictor.relu(predictor.conv5_mask(x))
    classes, last = torch.cat(labels), predictor.mask_fcn_logits
    masks = one_class_logits(x, last.weight[classes], last.bias[classes]).sigmoid()
    return [
        {"boxes": image_boxes, "labels": image_labels, "scores": image_scores, "masks": image_masks}
        for image_boxes, image_labels, image_scores, image_masks in zip(
            boxes, labels, scores, masks.split([len(rows) for rows in labels]), strict=True
        )
    ]
