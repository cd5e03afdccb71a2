"""The probabilities that each engine's box predictor gives under a method, on given features."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from iif.d2 import IIFFastRCNNOutputLayers
from iif.methods import Method
from iif.tv import add_method


def detectron2_probabilities(method: Method, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return (R, K + 1) of features (R, C), the background last."""
    predictor = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=x.shape[1]),
        method=method,
        num_classes=len(weight) - 1 - method.extra_outputs,
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    ).eval()
    proposals = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(len(x), 4)))
    with torch.no_grad():
        predictor.cls_score.weight.copy_(weight)
        predictor.cls_score.bias.copy_(bias)
        return predictor.predict_probs(predictor(x), [proposals])[0]


def torchvision_probabilities(method: Method, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return the same; torchvision's RoIHeads take the softmax of what the predictor returns."""
    num_columns = len(weight) - method.extra_outputs
    backbone = torch.nn.Conv2d(3, 4, 1)
    backbone.out_channels = 4
    model = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
        box_head=torch.nn.Flatten(),
        box_predictor=FastRCNNPredictor(x.shape[1], num_columns),
    )
    predictor = add_method(model, method).eval().roi_heads.box_predictor
    with torch.no_grad():
        if not method.extra_outputs:  # torchvision's classifier has the background first
            weight, bias = weight.roll(1, dims=0), bias.roll(1)
        predictor.cls_score.weight.copy_(weight)
        predictor.cls_score.bias.copy_(bias)
        logits, _ = predictor(x)
        return logits.softmax(dim=-1).roll(-1, dims=1)
