"""Detectron2's ROI heads with the IIF box predictor; nothing else differs."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers


@ROI_HEADS_REGISTRY.register()
class IIFROIHeads(StandardROIHeads):
    """:class:`StandardROIHeads` with :class:`IIFFastRCNNOutputLayers`.

    For the same seed every parameter starts as in :class:`StandardROIHeads`, so that a run with
    IIF and its baseline differ in IIF alone.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        heads = super()._init_box_head(cfg, input_shape)
        # The stock predictor has drawn its initial values. Take these over, and draw no further
        # ones: the mask head, built next, then starts as in the stock model too.
        with torch.random.fork_rng(devices=[]):
            predictor = IIFFastRCNNOutputLayers(cfg, heads["box_head"].output_shape)
        predictor.load_state_dict(heads["box_predictor"].state_dict())
        return {**heads, "box_predictor": predictor}
