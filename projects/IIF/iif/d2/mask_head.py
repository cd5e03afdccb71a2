"""Detectron2's mask head that computes, at inference, the mask of the predicted class alone.

The stock head computes the masks of all K classes and keeps one of each detection: at LVIS's 1,203
classes that is the greater part of the mask head's time and memory. Here the last layer, a 1 x 1
convolution, is applied with the weights of each detection's class. There are no postponed
annotations here: TorchScript reads types at run time.
"""

from typing import Any, Dict, List  # noqa: UP035 (TorchScript reads these)

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import Tensor

from iif.mask_logits import one_class_logits


@ROI_MASK_HEAD_REGISTRY.register()
class PredictedClassMaskHead(MaskRCNNConvUpsampleHead):
    """:class:`MaskRCNNConvUpsampleHead` that computes one mask of each detection at inference.

    The masks are the stock head's to rounding. Training, tracing, scripting and class-agnostic
    masks run the stock computation.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, predicted_only: bool = True, **kwargs: Any
    ) -> None:
        """Build Detectron2's head.

        Args:
            input_shape: as for :class:`MaskRCNNConvUpsampleHead`.
            predicted_only: False to compute the masks of all classes.
            kwargs: the other arguments of :class:`MaskRCNNConvUpsampleHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.predicted_only = predicted_only

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:  # noqa: UP006
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        return {
            **super().from_config(cfg, input_shape),
            "predicted_only": cfg.MODEL.LONG_TAIL.PREDICTED_MASKS_ONLY,
        }

    def forward(  # type: ignore[no-untyped-def]
        self,
        x: Tensor,
        instances: List[Instances],  # noqa: UP006
    ):
        """Return the loss in training; at inference ``instances`` with the field ``pred_masks``.

        Args:
            x: (B, C, H, W) features of all regions.
            instances: of each image, B in all; at inference with the field ``pred_classes``.
        """
        if not torch.jit.is_scripting() and self._selects_classes():
            return self._predicted_masks(x, instances)
        # Detectron2's own lines: TorchScript knows no super().
        x = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    @torch.jit.unused
    def _selects_classes(self) -> bool:
        """Return whether the last layer is computed for the predicted classes alone."""
        return (
            self.predicted_only
            and not self.training
            and not torch.jit.is_tracing()
            and self.predictor.out_channels > 1
        )

    @torch.jit.unused
    def _predicted_masks(self, x: Tensor, instances: Any) -> Any:
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        logits = self.class_logits(x, cat([image.pred_classes for image in instances]))
        masks = logits.sigmoid().split([len(image) for image in instances])
        for image, image_masks in zip(instances, masks, strict=True):
            image.pred_masks = image_masks
        return instances

    @torch.jit.unused
    def class_logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """Return (B, 1, 2H, 2W) logits of one class of each region.

        Args:
            x: (B, C, 2H, 2W), what the last layer gets.
            classes: (B,) from 0 to K - 1.
        """
        predictor: Any = self.predictor
        return one_class_logits(x, predictor.weight[classes], predictor.bias[classes])


_STOCK_NAME = MaskRCNNConvUpsampleHead.__name__


def with_predicted_masks(cfg: CfgNode) -> CfgNode:
    """Return ``cfg`` with :class:`PredictedClassMaskHead` in the place of the stock mask head."""
    if cfg.MODEL.ROI_MASK_HEAD.NAME != _STOCK_NAME:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_MASK_HEAD.NAME = PredictedClassMaskHead.__name__
    return cfg
