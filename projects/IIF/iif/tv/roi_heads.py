"""torchvision's RoIHeads for a long-tail method: it gets the labels, and many classes cost less.

TorchScript reads the types here at run time, so annotations are not postponed, and it knows no
``super()``: torchvision's own methods are kept under names of their own.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import RoIHeads

from iif.nms import prefix_nms, shifted_up_to
from iif.tv.masks import can_select_masks, detections_with_masks

# Boxes with a shorter side are dropped, as in torchvision's postprocess_detections.
_MIN_SIZE = 1e-2


def _named(function: Any, name: str) -> Callable[..., Any]:
    """Return a function under another name: TorchScript names a method by its ``__name__``."""
    return FunctionType(function.__code__, function.__globals__, name)


class LongTailRoIHeads(RoIHeads):
    """RoIHeads whose box predictor is a `LongTailPredictor`.

    In training the predictor gets the labels of the sampled regions before their features. At
    test the detections are torchvision's, bit for bit, their masks to rounding.

    Attributes:
        predicted_masks_only: whether the mask of each detection's own class is computed at test,
            and not those of all classes. With False masks are torchvision's bit for bit.
    """

    predicted_masks_only = True

    _torchvision_forward = _named(RoIHeads.forward, "_torchvision_forward")
    _torchvision_samples = _named(RoIHeads.select_training_samples, "_torchvision_samples")
    _torchvision_detections = _named(RoIHeads.postprocess_detections, "_torchvision_detections")

    @classmethod
    def taking_over(cls, heads: RoIHeads) -> "LongTailRoIHeads":
        """Return heads with the layers, settings and hooks of ``heads``."""
        new = cls.__new__(cls)
        new.__dict__.update(heads.__dict__)
        return new

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections and losses as torchvision, the loss of virtual features included."""
        if not torch.jit.is_scripting() and self._selects_masks():
            return self._with_predicted_masks(features, proposals, image_shapes), {}
        result, losses = self._torchvision_forward(features, proposals, image_shapes, targets)
        virtual_loss = self.box_predictor.virtual_loss
        if virtual_loss is not None:
            self.box_predictor.virtual_loss = None
            losses["loss_classifier"] = losses["loss_classifier"] + virtual_loss
        return result, losses

    @torch.jit.unused
    def _selects_masks(self) -> bool:
        return self.predicted_masks_only and can_select_masks(self)

    @torch.jit.unused
    def _with_predicted_masks(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        return detections_with_masks(self, features, proposals, image_shapes)

    def select_training_samples(
        self,
        proposals: list[Tensor],
        targets: list[dict[str, Tensor]] | None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Sample regions as torchvision, and hand their labels to the predictor."""
        samples = self._torchvision_samples(proposals, targets)
        self.box_predictor.labels = torch.cat(samples[2])
        return samples

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes, scores and labels of each image, best first, as torchvision's method."""
        if not torch.jit.is_scripting():
            found = self._from_best_pairs(class_logits, box_regression, proposals, image_shapes)
            if found is not None:
                return found
        return self._torchvision_detections(class_logits, box_regression, proposals, image_shapes)

    @torch.jit.unused
    def _from_best_pairs(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]] | None:
        """Return the detections, or None where the best-scored pairs do not decide them."""
        rows = [len(boxes) for boxes in proposals]
        classes = class_logits.shape[1] - 1
        few = min(rows, default=0) * classes <= shifted_up_to(class_logits.device)
        if few or self.detections_per_img < 1 or torch.jit.is_tracing():
            return None
        boxes = self.box_coder.decode(box_regression, proposals)[:, 1:].split(rows)
        scores = F.softmax(class_logits, -1)[:, 1:].split(rows)
        found = []
        for image in zip(boxes, scores, image_shapes, strict=True):
            result = prefix_nms(
                *image,
                self.score_thresh,
                self.nms_thresh,
                self.detections_per_img,
                min_size=_MIN_SIZE,
            )
            if result is None:
                return None
            found.append(result)
        return (
            [boxes for boxes, _, _, _ in found],
            [scores for _, scores, _, _ in found],
            [classes + 1 for _, _, _, classes in found],
        )
