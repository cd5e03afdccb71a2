"""Masks of the predicted class alone, in torchvision: torchvision's masks to rounding."""

from __future__ import annotations

import pytest
import torch

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")

from torchvision.models.detection import maskrcnn_resnet50_fpn

from iif import ClassStatistics, build_method
from iif.tv import TrainConfig, add_method
from iif.tv.model import build_model

STATISTICS = ClassStatistics(
    image_count=[60, 30, 12, 5, 1], num_images=100, names=["a", "b", "c", "d", "e"]
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = {"min_size": 96, "max_size": 96, "box_score_thresh": 0.0, "num_classes": 6}
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("mask_fcn_logits.weight"):
                value.normal_(std=0.02)  # logits of a trained size
            elif name.endswith("mask_fcn_logits.bias"):
                value.normal_()
    return add_method(model, build_method("iif", STATISTICS)).eval()


IMAGES = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def detect(model, only, images=IMAGES):
    model.roi_heads.predicted_masks_only = only
    with torch.no_grad():
        return model(images)


def test_the_detections_equal_those_of_the_full_computation(model):
    found, full = detect(model, True), detect(model, False)
    for one, other in zip(found, full, strict=True):
        assert len(one["scores"]) > 10
        assert one.keys() == other.keys()
        for key in ("boxes", "labels", "scores"):
            assert torch.equal(one[key], other[key])
        torch.testing.assert_close(one["masks"], other["masks"], rtol=0, atol=1e-6)


def test_images_without_detections(model):
    threshold, model.roi_heads.score_thresh = model.roi_heads.score_thresh, 2.0
    try:
        found, full = detect(model, True), detect(model, False)
    finally:
        model.roi_heads.score_thresh = threshold
    for one, other in zip(found, full, strict=True):
        assert len(one["masks"]) == 0
        assert one["masks"].shape == other["masks"].shape


def test_the_last_layer_is_not_run_for_all_classes(model):
    calls = []
    layer = model.roi_heads.mask_predictor.mask_fcn_logits
    hook = layer.register_forward_hook(lambda *_: calls.append("layer"))
    detect(model, True)
    assert calls == []
    detect(model, False)
    assert calls == ["layer"]
    hook.remove()


def test_training_computes_all_classes(model):
    target = {
        "boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]),
        "labels": torch.tensor([2]),
        "masks": torch.ones(1, 64, 96, dtype=torch.uint8),
    }
    model.train()
    losses = model(IMAGES[:1], [target])
    model.eval()
    assert "loss_mask" in losses


def test_scripting_runs_torchvisions_computation(model):
    model.roi_heads.predicted_masks_only = True
    scripted = torch.jit.script(model)
    full = detect(model, False)
    with torch.no_grad():
        _, found = scripted(IMAGES)
    for one, other in zip(found, full, strict=True):
        torch.testing.assert_close(one["masks"], other["masks"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("only", [True, False])
def test_the_setting(only):
    config = TrainConfig(
        model="maskrcnn_resnet50_fpn", weights_backbone=None, predicted_masks_only=only
    )
    assert build_model(config, STATISTICS).roi_heads.predicted_masks_only is only
