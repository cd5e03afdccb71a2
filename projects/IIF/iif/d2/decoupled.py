"""Decoupled training: the classifier alone learns, all else stays as it was loaded."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.errors import InputError


def freeze_all_but_classifier(model: nn.Module) -> nn.Module:
    """Freeze every parameter and statistic of ``model`` except the box classifiers (cls_score).

    BatchNorm is replaced by :class:`FrozenBatchNorm2d`, which neither uses nor gathers the
    batch's statistics in training mode. Call it before a checkpoint is loaded or after.

    Returns:
        The model.

    Raises:
        InputError: the model has no box predictor of this project.
    """
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    model.requires_grad_(False)
    predictors = [m for m in model.modules() if isinstance(m, IIFFastRCNNOutputLayers)]
    if not predictors:
        raise InputError(
            "MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY needs MODEL.ROI_HEADS.NAME IIFROIHeads, "
            "IIFCascadeROIHeads or IIFRes5ROIHeads"
        )
    for predictor in predictors:
        predictor.cls_score.requires_grad_(True)
    return model
