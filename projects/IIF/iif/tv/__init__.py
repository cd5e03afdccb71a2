"""Long-tail methods with torchvision's Faster R-CNN and Mask R-CNN: no Detectron2 needed."""

from iif.tv.checkpoint import Detector, load
from iif.tv.config import TrainConfig
from iif.tv.inference import evaluate
from iif.tv.model import build_model, maskrcnn_resnet18_fpn_small, replace_predictors
from iif.tv.predictor import add_method
from iif.tv.trainer import train

__all__ = [
    "Detector",
    "TrainConfig",
    "add_method",
    "build_model",
    "evaluate",
    "load",
    "maskrcnn_resnet18_fpn_small",
    "replace_predictors",
    "train",
]
