"""Configurations of a model that was trained without a method, to be used under others."""

from __future__ import annotations

from detectron2.config import CfgNode

from iif.d2.checkpoint import STOCK_HEADS
from iif.methods import BASELINE


def plain_model_config(cfg: CfgNode, weights: str) -> CfgNode:
    """Return the configuration of a plain model, with heads that take a method.

    Args:
        cfg: its own configuration; Detectron2's heads are replaced by those of their kind here,
            which are equal to them without a method.
        weights: its checkpoint.
    """
    heads = {stock: own for own, stock in STOCK_HEADS.items()}
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.LONG_TAIL.METHOD = BASELINE
    cfg.MODEL.ROI_HEADS.NAME = heads.get(cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NAME)
    return cfg


def boxes_only(cfg: CfgNode) -> CfgNode:
    """Return the configuration without the heads for masks and keypoints."""
    cfg = cfg.clone()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.KEYPOINT_ON = False
    return cfg
