"""torchvision's detection models, built for a data set's classes and with a long-tail method."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import detection as tv_detection
from torchvision.models import get_model, list_models, resnet18
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from iif.augmentation import FeatureAugmentation
from iif.errors import InputError
from iif.methods import Method
from iif.statistics import ClassStatistics
from iif.tv.config import TrainConfig
from iif.tv.predictor import add_method
from iif.tv.weights import build_from_file, build_published, is_file, load_matching, read_state

SMALL_MODEL = "maskrcnn_resnet18_fpn_small"
SMALL_BOX_MODEL = "fasterrcnn_resnet18_fpn_small"


class ClassAgnosticMaskPredictor(MaskRCNNPredictor):
    """A ``MaskRCNNPredictor`` that predicts one mask per region, whatever its class.

    With few training images a class of its own learns no mask; all classes together do.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        """Build the layers; arguments as for ``MaskRCNNPredictor``."""
        super().__init__(in_channels, dim_reduced, 1)
        # As Detectron2. torchvision's initialisation, kaiming by fan-out, is far too wide for one
        # output.
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        nn.init.zeros_(self.mask_fcn_logits.bias)
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, num_classes, 2H, 2W) logits of features (R, C, H, W), alike in all classes."""
        x = self.mask_fcn_logits(self.relu(self.conv5_mask(x)))
        return x.expand(-1, self.num_classes, -1, -1)


def maskrcnn_resnet18_fpn_small(num_classes: int, **options: Any) -> MaskRCNN:
    """A Mask R-CNN for images of about 100 px, small enough to train from scratch on a CPU.

    ResNet-18 with batch normalisation, FPN and mask head of 64 channels, box head of 256, masks
    that do not depend on the class.

    Args:
        num_classes: classes with the background, K + 1.
        options: torchvision's options of ``MaskRCNN``; they override the ones given here.
    """
    channels = 64
    backbone = BackboneWithFPN(
        resnet18(weights=None),
        return_layers={f"layer{stage}": str(stage - 1) for stage in range(1, 5)},
        in_channels_list=[64, 128, 256, 512],
        out_channels=channels,
    )
    levels = ["0", "1", "2", "3"]
    defaults: dict[str, Any] = {
        "min_size": 96,
        "max_size": 96,
        "rpn_anchor_generator": AnchorGenerator(
            sizes=((12,), (24,), (48,), (72,), (96,)), aspect_ratios=((0.5, 1.0, 2.0),) * 5
        ),
        "rpn_pre_nms_top_n_train": 200,
        "rpn_post_nms_top_n_train": 100,
        "rpn_pre_nms_top_n_test": 200,
        "rpn_post_nms_top_n_test": 100,
        "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 64,
        "box_roi_pool": MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=1),
        "box_head": TwoMLPHead(channels * 7**2, 256),
        "box_predictor": FastRCNNPredictor(256, num_classes),
        "mask_roi_pool": MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=1),
        "mask_head": MaskRCNNHeads(channels, (channels, channels), dilation=1),
        "mask_predictor": ClassAgnosticMaskPredictor(channels, channels, num_classes),
    }
    return MaskRCNN(backbone, **{**defaults, **options})


def build_model(
    config: TrainConfig, statistics: ClassStatistics, *, pretrained: bool = True
) -> nn.Module:
    """Build the model of ``config`` for the classes of ``statistics``; label r + 1 is row r.

    Args:
        config: the settings.
        statistics: the classes, and what the method is built from.
        pretrained: False to leave out the published weights, for a model that a checkpoint is
            loaded into (after `freeze_layers`).

    Raises:
        InputError: the model or its published weights are unknown, or the method cannot be built
            from the statistics or trained with torchvision.
    """
    num_classes = len(statistics) + 1
    options: dict[str, Any] = {
        "min_size": config.min_size,
        "max_size": config.max_size,
        "box_score_thresh": config.score_threshold,
        "box_nms_thresh": config.nms_threshold,
        "box_detections_per_img": config.detections_per_image,
    }
    if config.model in (SMALL_MODEL, SMALL_BOX_MODEL):
        model = _build_small(config, num_classes, pretrained, options)
    else:
        model = _build_by_name(config, num_classes, pretrained, options)
    heads: Any = model.roi_heads
    width = heads.box_predictor.cls_score.in_features
    augmentation = config.build_augmentation(statistics, width)
    model = add_method(model, config.build_method(statistics), augmentation)
    heads = model.roi_heads
    heads.predicted_masks_only = config.predicted_masks_only
    return model


def _build_small(
    config: TrainConfig, num_classes: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    file = is_file(config.weights)
    if config.weights_backbone is not None or not (file or config.weights is None):
        raise InputError(
            f"model {config.model} has no published weights; set weights=null, or a file, and "
            "weights_backbone=null"
        )
    model = maskrcnn_resnet18_fpn_small(num_classes, **options)
    if config.model == SMALL_BOX_MODEL:
        drop_masks(model)
    if pretrained and config.weights is not None:
        load_matching(model, read_state(config.weights), config.weights, config.model)
    return model


def method_of(model: nn.Module) -> Method:
    """Return the method that `iif.tv.add_method` gave a model."""
    heads: Any = model.roi_heads
    return heads.box_predictor.method


def augmentation_of(model: nn.Module) -> FeatureAugmentation | None:
    """Return the augmentation that `iif.tv.add_method` gave a model; None without."""
    heads: Any = model.roi_heads
    return heads.box_predictor.augmentation


def has_masks(model: nn.Module) -> bool:
    """Return whether a model predicts masks beside boxes."""
    heads: Any = model.roi_heads
    return heads.has_mask()


def drop_masks(model: nn.Module) -> None:
    """Take the mask head out of a model, in place: it then predicts boxes alone."""
    heads: Any = model.roi_heads
    heads.mask_roi_pool = heads.mask_head = heads.mask_predictor = None


def replace_predictors(model: nn.Module, num_classes: int) -> None:
    """Give a Faster R-CNN or Mask R-CNN new last layers for other classes, in place.

    Args:
        num_classes: classes with the background, K + 1.
    """
    heads: Any = model.roi_heads
    heads.box_predictor = FastRCNNPredictor(heads.box_predictor.cls_score.in_features, num_classes)
    if heads.has_mask():
        deconvolution = heads.mask_predictor.conv5_mask
        heads.mask_predictor = MaskRCNNPredictor(
            deconvolution.in_channels, deconvolution.out_channels, num_classes
        )


def frozen_layers(model: nn.Module) -> dict[str, Any]:
    """Return which parameters are frozen, and which normalisation layers, with their eps.

    torchvision freezes more of a model that it builds with published weights.
    """
    return {
        "parameters": [n for n, p in model.named_parameters() if not p.requires_grad],
        "norms": {n: m.eps for n, m in model.named_modules() if isinstance(m, FrozenBatchNorm2d)},
    }


def freeze_layers(model: nn.Module, frozen: dict[str, Any]) -> None:
    """Freeze what `frozen_layers` returned, in a model that was built without published weights."""
    for name, eps in frozen["norms"].items():
        parent, _, child = name.rpartition(".")
        features = model.get_submodule(name).num_features
        setattr(model.get_submodule(parent), child, FrozenBatchNorm2d(features, eps=eps))
    parameters = set(frozen["parameters"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in parameters)


def _build_by_name(
    config: TrainConfig, num_classes: int, pretrained: bool, options: dict[str, Any]
) -> nn.Module:
    names = [
        name for name in list_models(tv_detection) if "rcnn" in name and "keypoint" not in name
    ]
    if config.model not in names:
        raise InputError(
            f"model is {config.model!r}; it must be one of "
            f"{', '.join([SMALL_MODEL, SMALL_BOX_MODEL, *names])}"
        )
    if config.trainable_backbone_layers is not None and pretrained:
        options["trainable_backbone_layers"] = config.trainable_backbone_layers
    if not pretrained:
        model = get_model(config.model, weights=None, weights_backbone=None, **options)
    elif config.weights is not None and is_file(config.weights):
        model = build_from_file(config.model, config.weights, options)
    else:
        model = build_published(config.model, config.weights, config.weights_backbone, options)
    replace_predictors(model, num_classes)
    return model
