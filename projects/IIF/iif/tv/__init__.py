"""IIF with torchvision's Faster R-CNN and Mask R-CNN: no Detectron2 needed."""

from iif.tv.config import TrainConfig
from iif.tv.model import build_model, maskrcnn_resnet18_fpn_small, replace_predictors
from iif.tv.predictor import add_iif

__all__ = [
    "TrainConfig",
    "add_iif",
    "build_model",
    "maskrcnn_resnet18_fpn_small",
    "replace_predictors",
]
