"""One pass of torchvision's network over images, and what each of many methods detects in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from iif.evaluation.tuning import FoundBoxes
from iif.methods import Method
from iif.progress import progress
from iif.tv.dataset import DetectionImages, image_loader


@torch.no_grad()
def find_boxes(
    model: nn.Module, images: DetectionImages, methods: Sequence[Method], device: torch.device
) -> list[FoundBoxes]:
    """Return the boxes found under each method; the network runs once an image.

    Backbone, proposals and box head do; of each method only the logits differ.

    Args:
        model: a plain model that `iif.tv.add_method` gave a method.
        images: those to look at.
        methods: those to try.
        device: the model's.
    """
    detector: Any = model.eval()
    heads, transform = detector.roi_heads, detector.transform
    moved = [method.to(device).eval() for method in methods]
    found = [FoundBoxes() for _ in methods]
    heads.box_predictor.method = Method()  # whose logits are the classifier's outputs
    loader = image_loader(images, device)
    for row, image in enumerate(progress(loader, desc="detecting", total=len(images))):
        batch, _ = transform([image.to(device)])
        sizes = batch.image_sizes
        features = detector.backbone(batch.tensors)
        if isinstance(features, torch.Tensor):
            features = OrderedDict([("0", features)])
        proposals, _ = detector.rpn(batch, features)
        pooled = heads.box_roi_pool(features, proposals, sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        outputs = logits.roll(-1, dims=1)  # a method sees the background last
        for method, boxes in zip(moved, found, strict=True):
            adjusted = method.test_logits(outputs).roll(1, dims=1)
            (corners,), (scores,), (labels,) = heads.postprocess_detections(
                adjusted, deltas, proposals, sizes
            )
            (whole,) = transform.postprocess([{"boxes": corners}], sizes, [tuple(image.shape[-2:])])
            boxes.add(row, whole["boxes"].cpu(), scores.cpu(), (labels - 1).cpu())
    return found
