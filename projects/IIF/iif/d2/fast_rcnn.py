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
from torch import Tensor

from iif.d2.frequency import refuse_sigmoid, weights_from_config
from iif.logits import IIFLogits

logger = logging.getLogger(__name__)


class IIFFastRCNNOutputLayers(FastRCNNOutputLayers):
    """:class:`FastRCNNOutputLayers` whose class logits are adjusted by IIF as they are made.

    The loss, the logged accuracy, the probabilities at test time and every caller of
    :meth:`forward` (test-time augmentation, export) see the adjusted logits and no others.
    """

    iif_logits: IIFLogits | None

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, iif_weights: Tensor | None = None, **kwargs: Any
    ) -> None:
        """Build Detectron2's predictor and, with ``iif_weights``, the adjustment.

        Args:
            input_shape: as for :class:`FastRCNNOutputLayers`.
            iif_weights: (K,) weights from :func:`iif.iif_weights`; None leaves the logits as they
                are, and the predictor equal to Detectron2's.
            kwargs: the other arguments of :class:`FastRCNNOutputLayers`.

        Raises:
            InputError: weights are given together with the sigmoid or the federated loss.
            ValueError: there is not one weight per class.
        """
        super().__init__(input_shape, **kwargs)
        self.iif_logits = None
        if iif_weights is not None:
            refuse_sigmoid(self.use_sigmoid_ce)
            if len(iif_weights) != self.num_classes:
                raise ValueError(f"{len(iif_weights)} weights for {self.num_classes} classes")
            self.iif_logits = IIFLogits(iif_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        return {
            **super().from_config(cfg, input_shape),
            "iif_weights": weights_from_config(cfg),
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the adjusted class logits and the box regression deltas.

        Args:
            x: (R, C, H, W) or (R, C) features of the regions.

        Returns:
            Logits (R, K + 1) and deltas (R, 4K), or (R, 4) when they are class-agnostic.
        """
        scores, deltas = super().forward(x)
        if self.iif_logits is not None:
            scores = self.iif_logits(scores)
        return scores, deltas

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.iif_logits is not None:
            key = f"{prefix}iif_logits.weight"
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
