"""Detectron2's ROI heads with the box predictor of a long-tail method."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads
from detectron2.structures import Instances
from torch import Tensor

from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.inference import fast_rcnn_inference
from iif.d2.mask_head import with_predicted_masks
from iif.errors import InputError


@ROI_HEADS_REGISTRY.register()
class IIFROIHeads(StandardROIHeads):
    """:class:`StandardROIHeads` with :class:`IIFFastRCNNOutputLayers`.

    For the same seed every parameter starts as in :class:`StandardROIHeads`, so that a run and
    its baseline differ in the method alone.
    """

    # Constants for TorchScript, which Detectron2 declares for its own class alone.
    mask_on: torch.jit.Final[bool]  # type: ignore[misc]
    keypoint_on: torch.jit.Final[bool]  # type: ignore[misc]

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        heads = super()._init_box_head(cfg, input_shape)
        # The stock predictor has drawn its initial values. Take these over, and draw no further
        # ones: the mask head, built next, then starts as in the stock model too.
        with torch.random.fork_rng(devices=[]):
            predictor = IIFFastRCNNOutputLayers(cfg, heads["box_head"].output_shape)
        predictor.start_from(heads["box_predictor"])
        return {**heads, "box_predictor": predictor}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return super()._init_mask_head(with_predicted_masks(cfg), input_shape)


@ROI_HEADS_REGISTRY.register()
class IIFRes5ROIHeads(Res5ROIHeads):
    """:class:`Res5ROIHeads`, the heads of C4 models, with :class:`IIFFastRCNNOutputLayers`.

    For the same seed every parameter starts as in :class:`Res5ROIHeads`.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        heads = super().from_config(with_predicted_masks(cfg), input_shape)
        stock = heads["box_predictor"]
        with torch.random.fork_rng(devices=[]):  # as in IIFROIHeads
            shape = ShapeSpec(channels=stock.cls_score.in_features, height=1, width=1)
            predictor = IIFFastRCNNOutputLayers(cfg, shape)
        predictor.start_from(stock)
        return {**heads, "box_predictor": predictor}


class IntermediateOutputLayers(IIFFastRCNNOutputLayers):
    """The predictor of a cascade's stage before the last, which hands on one box per region."""

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Return the boxes of each image, (Ri, 4): those of the best foreground class.

        The class is the best of the method's test logits, in training too.
        """
        logits, deltas = predictions
        if deltas.shape[1] > 4:
            if self.training:  # there forward returned the classifier's outputs
                logits = self.method.test_logits(logits.detach())
            best = logits[:, :-1].argmax(dim=1)
            deltas = deltas.view(len(deltas), -1, 4)[torch.arange(len(deltas)), best]
        return super().predict_boxes((logits, deltas), proposals)


@ROI_HEADS_REGISTRY.register()
class IIFCascadeROIHeads(CascadeROIHeads):
    """:class:`CascadeROIHeads` with the box predictor of a long-tail method in each stage.

    Beyond Detectron2's heads it allows class-specific box regression, where a stage hands the box
    of each region's best foreground class on to the next.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        agnostic = cfg.clone()
        agnostic.defrost()
        agnostic.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True  # Detectron2 asserts it
        heads = super()._init_box_head(agnostic, input_shape)
        last = len(heads["box_predictors"]) - 1
        predictors = []
        with torch.random.fork_rng(devices=[]):  # as in IIFROIHeads
            for stage, stock in enumerate(heads["box_predictors"]):
                layers = IIFFastRCNNOutputLayers if stage == last else IntermediateOutputLayers
                shape = heads["box_heads"][stage].output_shape
                predictor = layers(cfg, shape, box2box_transform=stock.box2box_transform)
                if predictor.augmentation is not None:
                    predictor.augmentation.stage = stage
                if cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
                    predictor.start_from(stock)
                predictors.append(predictor)
        _weigh_stages(predictors, cfg.MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS)
        return {**heads, "box_predictors": predictors}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return super()._init_mask_head(with_predicted_masks(cfg), input_shape)

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        final = self.box_predictor[-1]
        if self.training or not final.fast_inference:
            return super()._forward_box(features, proposals, targets)
        # As in Detectron2, whose own method names its slower inference.
        pooled = [features[name] for name in self.box_in_features]
        image_sizes = [image.image_size for image in proposals]
        scores_per_stage = []
        for stage, predictor in enumerate(self.box_predictor):
            predictions = self._run_stage(pooled, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            scores_per_stage.append(predictor.predict_probs(predictions, proposals))
            if predictor is not final:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
        scores = [
            sum(stages) * (1.0 / self.num_cascade_stages)
            for stages in zip(*scores_per_stage, strict=True)
        ]
        detections, _ = fast_rcnn_inference(
            boxes,
            scores,
            image_sizes,
            final.test_score_thresh,
            final.test_nms_thresh,
            final.test_topk_per_image,
        )
        return detections


def _weigh_stages(predictors: Sequence[IIFFastRCNNOutputLayers], weights: Sequence[float]) -> None:
    """Multiply the losses of each stage by its weight; no weights leave them alike."""
    if not weights:
        return
    if len(weights) != len(predictors) or min(weights) < 0:
        raise InputError(
            f"MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS is {tuple(weights)}; give a weight of 0 or more "
            f"for each of the {len(predictors)} stages"
        )
    for predictor, weight in zip(predictors, weights, strict=True):
        predictor.loss_weight = {
            loss: weight * predictor.loss_weight.get(loss, 1.0)
            for loss in ("loss_cls", "loss_box_reg")
        }
