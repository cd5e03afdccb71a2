"""Long-tail methods for Detectron2: importing it registers its ROI heads; see docs/training.md."""

from iif.d2.config import add_iif_config
from iif.d2.datasets import register_custom_datasets
from iif.d2.evaluator import IIFEvaluator
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.lvis_evaluator import LVISEvaluator
from iif.d2.roi_heads import IIFCascadeROIHeads, IIFRes5ROIHeads, IIFROIHeads
from iif.d2.statistics import statistics_from_config

__all__ = [
    "IIFCascadeROIHeads",
    "IIFEvaluator",
    "IIFFastRCNNOutputLayers",
    "IIFROIHeads",
    "IIFRes5ROIHeads",
    "LVISEvaluator",
    "add_iif_config",
    "register_custom_datasets",
    "statistics_from_config",
]
