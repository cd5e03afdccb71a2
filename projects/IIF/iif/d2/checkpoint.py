"""Models from a configuration and a checkpoint, and checkpoints for Detectron2 alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from iif.d2.cosine import CosineClassifier, CosineMaskHead
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.errors import InputError
from iif.files import atomic_write
from iif.logits import PostHocIIFLogits

# IIF's ROI heads and those of Detectron2 that take a folded checkpoint.
_STOCK_HEADS = {"IIFROIHeads": "StandardROIHeads", "IIFCascadeROIHeads": "CascadeROIHeads"}


class StrictCheckpointer(DetectionCheckpointer):
    """Raises InputError where a parameter of the model would keep its random initial value."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = [key for key, *_ in incompatible.incorrect_shapes]
        faults = [*incompatible.missing_keys, *shapes]
        if faults:
            raise InputError(
                f"{self.file}: does not fit the configuration: {len(faults)} parameters are "
                f"missing or of another shape, among them {faults[0]}; give a checkpoint of the "
                "whole model, and its own config.yaml"
            )
        super()._log_incompatible_keys(incompatible)

    def _load_file(self, filename: str) -> Any:
        self.file = filename
        return super()._load_file(filename)


def load_model(cfg: CfgNode, weights: str) -> Any:
    """Build the model that ``cfg`` describes, in evaluation mode, with a checkpoint's weights.

    Raises:
        InputError: there is no such file, or it lacks parameters of the model.
    """
    if "://" not in weights and not PathManager.isfile(weights):
        raise InputError(f"{weights}: no such file; give a checkpoint (.pth)")
    model = build_model(cfg).eval()
    StrictCheckpointer(model).load(weights)
    return model


def fold(cfg: CfgNode, weights: str, output: str | os.PathLike[str]) -> Path:
    """Write IIF into the linear classifiers of a checkpoint, for Detectron2 without this project.

    With IIF's weights w, each class's row W_c of the classifier and its bias b_c become w_c W_c
    and w_c b_c or, for post-hoc IIF, w_c (W_c - W_background) and w_c (b_c - b_background).

    Args:
        cfg: the model's configuration.
        weights: its checkpoint.
        output: the checkpoint to write; its configuration goes beside it, as ``.yaml``.

    Returns:
        The path of the configuration, which needs no key of IIF's.

    Raises:
        InputError: there is no IIF to fold, or a part of the model is not Detectron2's; the
            message says which and why.
    """
    checkpoint = Path(output)
    if checkpoint.suffix != ".pth":
        raise InputError(f"{output}: the name of a checkpoint must end in .pth")
    _refuse_config(cfg)
    model = load_model(cfg, weights)
    predictors = [m for m in model.modules() if isinstance(m, IIFFastRCNNOutputLayers)]
    for module in model.modules():
        _refuse_module(module)
    if not any(predictor.iif_logits for predictor in predictors):
        raise InputError(
            "the configuration has no IIF to fold: MODEL.IIF.VARIANT is "
            f"{cfg.MODEL.IIF.VARIANT!r} and STRENGTH {cfg.MODEL.IIF.STRENGTH}"
        )
    for predictor in predictors:
        fold_predictor(predictor)
    with atomic_write(checkpoint, "wb") as f:
        torch.save({"model": model.state_dict()}, f)
    config = checkpoint.with_suffix(".yaml")
    with atomic_write(config) as f:
        f.write(_stock_config(cfg, checkpoint).dump())
    return config


@torch.no_grad()
def fold_predictor(predictor: IIFFastRCNNOutputLayers) -> None:
    """Write the adjustment of a linear classifier's logits into its parameters, in place."""
    adjustment, classifier = predictor.iif_logits, predictor.cls_score
    assert adjustment is not None
    weight, bias = classifier.weight.double(), classifier.bias.double()
    if isinstance(adjustment, PostHocIIFLogits):
        weight, bias = weight - weight[-1], bias - bias[-1]
    scale = adjustment.weight.double()
    classifier.weight.copy_(scale[:, None] * weight)
    classifier.bias.copy_(scale * bias)
    predictor.iif_logits = None


def _refuse_config(cfg: CfgNode) -> None:
    name = cfg.MODEL.ROI_HEADS.NAME
    if name not in _STOCK_HEADS:
        raise InputError(
            f"MODEL.ROI_HEADS.NAME is {name!r}; IIF can be folded for {', '.join(_STOCK_HEADS)}"
        )
    if name == "IIFCascadeROIHeads" and not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise InputError(
            "this cascade cannot be folded: its box regression is class-specific, and Detectron2's "
            "CascadeROIHeads allow class-agnostic regression only"
        )


def _refuse_module(module: nn.Module) -> None:
    if isinstance(module, CosineClassifier):
        raise InputError(
            "the cosine classifier cannot be folded: it divides each region's feature and each "
            "class's weight by their length, so that scaling a weight changes nothing, and the "
            "linear layer of Detectron2's predictor divides by no length"
        )
    if isinstance(module, CosineMaskHead):
        raise InputError(
            "this model cannot be folded: its normalised mask predictor (CosineMaskHead) is not "
            "part of Detectron2"
        )


def _stock_config(cfg: CfgNode, checkpoint: Path) -> CfgNode:
    stock = cfg.clone()
    stock.defrost()
    stock.MODEL.ROI_HEADS.NAME = _STOCK_HEADS[cfg.MODEL.ROI_HEADS.NAME]
    stock.MODEL.WEIGHTS = str(checkpoint)
    _drop_unknown_keys(stock, get_cfg())
    return stock


def _drop_unknown_keys(node: CfgNode, known: CfgNode) -> None:
    for key in list(node):
        if key not in known:
            del node[key]
        elif isinstance(node[key], CfgNode):
            _drop_unknown_keys(node[key], known[key])
