"""Masks of the predicted class alone, in Detectron2: Detectron2's masks to rounding."""

from __future__ import annotations

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances

from helpers_d2 import tiny_cfg, training_batch
from iif.d2.cosine import CosineMaskHead
from iif.d2.mask_head import PredictedClassMaskHead
from iif.mask_logits import one_class_logits

HEADS = {
    "standard": (),
    "cascade": (
        *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ),
    "cosine": ("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead"),
    "learned": (
        *("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead"),
        *("MODEL.LONG_TAIL.LEARN_MASK_TEMPERATURE", True),
    ),
    "agnostic": ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
}


def instances(*classes: list[int]) -> list[Instances]:
    found = []
    for image_classes in classes:
        image = Instances((64, 64))
        image.pred_classes = torch.tensor(image_classes, dtype=torch.int64)
        found.append(image)
    return found


def test_the_selected_convolution_by_hand():
    weight = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).view(2, 2, 1, 1)
    x = torch.tensor([[[[1.0, 2.0]], [[5.0, 0.5]]], [[[1.0, 0.0]], [[0.0, 4.0]]]])
    found = one_class_logits(x, weight, torch.tensor([0.5, -1.0]))
    assert found.tolist() == [[[[11.5, 3.5]]], [[[2.0, -5.0]]]]


@pytest.mark.parametrize("name", HEADS)
def test_the_masks_equal_those_of_the_full_computation(name):
    torch.manual_seed(1)
    model = build_model(tiny_cfg(*HEADS[name])).eval()
    head = model.roi_heads.mask_head
    assert isinstance(head, PredictedClassMaskHead)
    torch.nn.init.normal_(head.predictor.weight, std=0.02)  # logits up to 20: features reach 500
    torch.nn.init.normal_(head.predictor.bias, std=0.3)
    masks = []
    for only in (True, False):
        head.predicted_only = only
        with torch.no_grad():
            outputs = model.inference(training_batch(2), do_postprocess=False)
        assert min(len(image) for image in outputs) > 3
        masks.append([image.pred_masks for image in outputs])
    for one, full in zip(*masks, strict=True):
        assert one.shape == full.shape
        torch.testing.assert_close(one, full, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [PredictedClassMaskHead, CosineMaskHead])
def test_at_many_classes(kind):
    """Of 1,203 classes, in images with and without detections."""
    torch.manual_seed(0)
    temperature = {"temperature": 20.0} if kind is CosineMaskHead else {}
    head = kind(ShapeSpec(channels=32), num_classes=1203, conv_dims=[32, 32], **temperature).eval()
    if kind is PredictedClassMaskHead:
        torch.nn.init.normal_(head.predictor.weight, std=0.3)
    x = torch.randn(5, 32, 14, 14)
    classes = ([0, 1202, 7], [], [600, 7])
    with torch.no_grad():
        found = [image.pred_masks for image in head(x, instances(*classes))]
        head.predicted_only = False
        full = [image.pred_masks for image in head(x, instances(*classes))]
    assert [len(masks) for masks in found] == [3, 0, 2]
    for one, all_classes in zip(found, full, strict=True):
        torch.testing.assert_close(one, all_classes, rtol=0, atol=1e-6)
    with torch.no_grad():
        head.predicted_only = True
        (empty,) = head(x[:0], instances([]))
    assert empty.pred_masks.shape == (0, 1, 28, 28)


def test_the_last_layer_is_not_run_for_all_classes():
    head = PredictedClassMaskHead(ShapeSpec(channels=8), num_classes=1203, conv_dims=[8, 8]).eval()
    calls = []
    head.predictor.register_forward_hook(lambda *_: calls.append("predictor"))
    x = torch.randn(2, 8, 14, 14)
    head(x, instances([3, 4]))
    assert calls == []
    head.predicted_only = False
    head(x, instances([3, 4]))
    assert calls == ["predictor"]


def test_the_option_switches_it_off():
    key = "MODEL.LONG_TAIL.PREDICTED_MASKS_ONLY"
    assert build_model(tiny_cfg()).roi_heads.mask_head.predicted_only
    assert not build_model(tiny_cfg(key, False)).roi_heads.mask_head.predicted_only


def test_parameters_start_as_in_detectron2s_head():
    states = []
    for kind in (MaskRCNNConvUpsampleHead, PredictedClassMaskHead):
        torch.manual_seed(0)
        states.append(kind(ShapeSpec(channels=8), num_classes=5, conv_dims=[8, 8]).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_other_mask_heads_are_left_alone():
    cfg = tiny_cfg("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    assert type(build_model(cfg).roi_heads.mask_head) is MaskRCNNConvUpsampleHead
