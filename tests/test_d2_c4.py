"""The heads of C4 models (Res5ROIHeads) under a long-tail method."""

from __future__ import annotations

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers_d2 import tiny_cfg, training_batch
from iif.d2 import IIFFastRCNNOutputLayers, IIFRes5ROIHeads
from iif.d2.checkpoint import fold
from iif.d2.decoupled import freeze_all_but_classifier
from iif.d2.mask_head import PredictedClassMaskHead

C4 = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
    *("MODEL.RESNETS.OUT_FEATURES", ["res4"]),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16, 32, 64]]),
    *("MODEL.RPN.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["res4"]),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 8),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
)


def build(heads, *overrides):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*C4, "MODEL.ROI_HEADS.NAME", heads, *overrides))


def test_it_starts_and_detects_as_detectron2s_heads():
    stock = build("Res5ROIHeads")
    ours = build("IIFRes5ROIHeads", "MODEL.LONG_TAIL.METHOD", "none")
    assert isinstance(ours.roi_heads, IIFRes5ROIHeads)
    assert isinstance(ours.roi_heads.mask_head, PredictedClassMaskHead)
    expected = stock.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())
    assert ours.state_dict().keys() == expected.keys()
    with torch.no_grad():
        found, wanted = (
            model.eval().inference(training_batch(2), do_postprocess=False)
            for model in (ours, stock)
        )
    for one, other in zip(found, wanted, strict=True):
        assert len(one) > 3
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        torch.testing.assert_close(one.pred_masks, other.pred_masks, rtol=0, atol=1e-6)


def test_a_method_acts_in_training_and_at_test():
    model = build("IIFRes5ROIHeads")
    predictor = model.roi_heads.box_predictor
    assert isinstance(predictor, IIFFastRCNNOutputLayers)
    assert predictor.method.name == "iif"
    plain = build("Res5ROIHeads")
    losses = []
    for each in (model, plain):
        torch.manual_seed(1)
        with EventStorage():
            losses.append(each.train()(training_batch(2)))
    assert losses[0]["loss_cls"] != losses[1]["loss_cls"]
    assert losses[0]["loss_box_reg"] == losses[1]["loss_box_reg"]
    sum(losses[0].values()).backward()
    assert predictor.cls_score.weight.grad.abs().sum() > 0


def test_decoupled():
    model = freeze_all_but_classifier(build("IIFRes5ROIHeads"))
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    assert names == {f"roi_heads.box_predictor.cls_score.{part}" for part in ("weight", "bias")}


def test_fold_gives_detectron2s_heads(tmp_path):
    torch.manual_seed(0)
    cfg = tiny_cfg(*C4, "MODEL.ROI_HEADS.NAME", "IIFRes5ROIHeads", "MODEL.IIF.APPLY", "test")
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    weights = tmp_path / "plain.pth"
    torch.save({"model": model.state_dict()}, weights)
    path = fold(cfg, str(weights), tmp_path / "folded.pth")
    assert "NAME: Res5ROIHeads" in path.read_text()
    stock = build("Res5ROIHeads").eval()
    stock.load_state_dict(torch.load(tmp_path / "folded.pth", weights_only=True)["model"])
    x = torch.randn(4, 512)
    with torch.no_grad():
        expected = model.eval().roi_heads.box_predictor(x)[0].softmax(1)
        found = stock.roi_heads.box_predictor(x)[0].softmax(1)
    torch.testing.assert_close(found, expected)
