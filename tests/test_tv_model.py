"""iif.tv.model: the last layers of torchvision's models, and the demo's own model."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from torchvision.models import get_model

from helpers_tv import batch, small_model
from iif import ClassStatistics, build_method
from iif.tv import add_method, replace_predictors

K = 5


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_fine_tuning_from_a_model_of_other_classes(name):
    model = get_model(name, weights=None, weights_backbone=None, min_size=64, max_size=64)
    replace_predictors(model, K + 1)
    statistics = ClassStatistics(image_count=[1, 2, 5, 10, 90], num_images=100)
    add_method(model, build_method("iif", statistics))
    losses = model.train()(*batch())
    assert all(loss.isfinite() for loss in losses.values())
    heads = model.roi_heads
    assert heads.box_predictor.cls_score.out_features == K + 1
    assert heads.box_predictor.bbox_pred.out_features == 4 * (K + 1)
    if heads.has_mask():
        assert heads.mask_predictor.mask_fcn_logits.out_channels == K + 1


def test_masks_of_the_demos_model_are_class_agnostic():
    predictor = small_model().roi_heads.mask_predictor
    logits = predictor(torch.randn(3, 64, 14, 14))
    assert logits.shape == (3, K + 1, 28, 28)
    assert torch.equal(logits, logits[:, :1].expand_as(logits))
    logits[:, 2].sum().backward()
    assert predictor.mask_fcn_logits.weight.grad.abs().sum() > 0
