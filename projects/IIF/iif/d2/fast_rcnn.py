"""Detectron2's box predictor with IIF.

Shapes, as in ``detectron2.modeling.roi_heads.fast_rcnn``: R regions of interest of all images of
the minibatch, K foreground classes, the background last (index K).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from iif.d2.cosine import CosineClassifier
from iif.d2.inference import fast_rcnn_inference
from iif.d2.statistics import refuse_sigmoid, weights_from_config
from iif.errors import InputError
from iif.logits import IIFLogits, PostHocIIFLogits

logger = logging.getLogger(__name__)

# The legal values of the keys of MODEL.IIF.
APPLY = ("train_and_test", "test")
CLASSIFIER = ("linear", "cosine")
CLASSIFIER_INIT = ("normal", "constant")


def _check_choice(key: str, value: str, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InputError(f"{key} is {value!r}; it must be one of {', '.join(legal)}")


class IIFFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` whose class logits are adjusted by IIF as they are made.

    The loss, the logged accuracy, the probabilities at test time and every caller of
    :meth:`forward` (test-time augmentation, export) see the adjusted logits and no others.
    Post-hoc, the logits are adjusted in evaluation mode alone.
    """

    cls_score: nn.Linear
    iif_logits: IIFLogits | None

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        iif_weights: Tensor | None = None,
        iif_apply: str = "train_and_test",
        cosine_temperature: float | None = None,
        classifier_init: str = "normal",
        fast_inference: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build Detectron2's predictor and, with ``iif_weights``, the adjustment.

        Args:
            input_shape: as for :class:`FastRCNNOutputLayers`.
            iif_weights: (K,) weights from :func:`iif.iif_weights`; None leaves the logits as they
                are, and the predictor equal to Detectron2's.
            iif_apply: one of ``APPLY``: MODEL.IIF.APPLY.
            cosine_temperature: the temperature of a cosine classifier; None for a linear one.
            classifier_init: one of ``CLASSIFIER_INIT``: MODEL.IIF.CLASSIFIER_INIT.
            fast_inference: whether to use :mod:`iif.d2.inference` in place of Detectron2's own.
            kwargs: the other arguments of :class:`FastRCNNOutputLayers`.

        Raises:
            InputError: an argument is not one of its values, or weights are given together with
                the sigmoid or the federated loss.
            ValueError: there is not one weight per class.
        """
        super().__init__(input_shape, **kwargs)
        _check_choice("MODEL.IIF.APPLY", iif_apply, APPLY)
        _check_choice("MODEL.IIF.CLASSIFIER_INIT", classifier_init, CLASSIFIER_INIT)
        self.classifier_init = classifier_init
        self.fast_inference = fast_inference
        if cosine_temperature is not None:
            self.cls_score = CosineClassifier(
                self.cls_score.in_features,
                self.cls_score.out_features,
                temperature=cosine_temperature,
            )
        self._init_classifier()
        self.iif_logits = None
        if iif_weights is not None:
            refuse_sigmoid(self.use_sigmoid_ce)
            if len(iif_weights) != self.num_classes:
                raise ValueError(f"{len(iif_weights)} weights for {self.num_classes} classes")
            self.iif_logits = (PostHocIIFLogits if iif_apply == "test" else IIFLogits)(iif_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        options = cfg.MODEL.IIF
        _check_choice("MODEL.IIF.CLASSIFIER", options.CLASSIFIER, CLASSIFIER)
        return {
            **super().from_config(cfg, input_shape),
            "iif_weights": weights_from_config(cfg),
            "iif_apply": options.APPLY,
            "cosine_temperature": (
                options.COSINE_TEMPERATURE if options.CLASSIFIER == "cosine" else None
            ),
            "classifier_init": options.CLASSIFIER_INIT,
            "fast_inference": options.FAST_INFERENCE,
        }

    def start_from(self, stock: FastRCNNOutputLayers) -> None:
        """Take over the initial values that Detectron2's predictor has drawn."""
        self.load_state_dict(stock.state_dict())
        self._init_classifier()

    def _init_classifier(self) -> None:
        if self.classifier_init == "constant":
            nn.init.constant_(self.cls_score.weight, 0.001)
            nn.init.zeros_(self.cls_score.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adjusted class logits and the box regression deltas.

        Args:
            x: (R, C, H, W) or (R, C) features of the regions.

        Returns:
            Logits (R, K + 1) and deltas (R, 4K), or (R, 4) when they are class-agnostic.
        """
        scores, deltas = super().forward(x)
        if self.iif_logits is not None and not (self.training and self._is_post_hoc):
            scores = self.iif_logits(scores)
        return scores, deltas

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Return the detections of each image and the rows of the proposals that they are from.

        Args:
            predictions: what :meth:`forward` returned.
            proposals: of each image, with the field ``proposal_boxes``.
        """
        if not self.fast_inference:
            return super().inference(predictions, proposals)
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [image.image_size for image in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    @property
    def _is_post_hoc(self) -> bool:
        return isinstance(self.iif_logits, PostHocIIFLogits)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = f"{prefix}iif_logits.weight"
        if self._is_post_hoc and key in state_dict:
            raise InputError(
                "the checkpoint was trained with IIF (it holds its weights), which MODEL.IIF.APPLY "
                "test would apply a second time: set MODEL.IIF.APPLY train_and_test"
            )
        if self.iif_logits is not None and not self._is_post_hoc:
            own = self.iif_logits.weight
            # The checkpoint of a plain model has no weights: those of the configuration stay.
            loaded = state_dict.setdefault(key, own)
            self._warn_of_other_weights(loaded.to(own))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _warn_of_other_weights(self, loaded: Tensor) -> None:
        assert self.iif_logits is not None
        own = self.iif_logits.weight
        if loaded.shape != own.shape or torch.allclose(loaded, own, rtol=1e-5, atol=0):
            return
        row = int((loaded - own).abs().argmax())
        logger.warning(
            "The checkpoint was trained with other IIF weights than the configuration asks for; "
            "the checkpoint's are used. They differ most for class index %d: %.6g in the "
            "checkpoint, %.6g by MODEL.IIF.",
            row,
            loaded[row],
            own[row],
        )
