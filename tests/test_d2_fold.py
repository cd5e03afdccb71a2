"""Folding: a checkpoint that Detectron2 alone runs, with the same detections."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads

from helpers_d2 import tiny_cfg, training_batch
from iif import ClassStatistics, InputError, build_method
from iif.cli import main
from iif.d2.checkpoint import fold, load_model

CASCADE = (
    *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
)
POST_HOC = ("MODEL.IIF.APPLY", "test", "MODEL.IIF.STRENGTH", 0.5)


def save_model(cfg, folder):
    """Write the checkpoint of a model whose classifiers have something to say."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.named_parameters():
        if ".cls_score." in name:
            torch.nn.init.normal_(value, std=0.3)
    DetectionCheckpointer(model, save_dir=str(folder)).save("model")
    return model, str(folder / "model.pth")


def detections_of(model):
    with torch.no_grad():
        return [output["instances"] for output in model.eval()(training_batch())]


@pytest.mark.parametrize("overrides", [(), POST_HOC, CASCADE, (*CASCADE, *POST_HOC)])
def test_detectron2_alone_gives_the_same_detections(overrides, tmp_path):
    cfg = tiny_cfg(*overrides)
    model, weights = save_model(cfg, tmp_path)
    config = fold(cfg, weights, tmp_path / "plain.pth")

    stock_cfg = get_cfg()  # knows no key of IIF's
    stock_cfg.merge_from_file(str(config))
    stock = build_model(stock_cfg)
    assert type(stock.roi_heads) in (StandardROIHeads, CascadeROIHeads)
    assert stock_cfg.MODEL.WEIGHTS.endswith("plain.pth")
    checkpoint = torch.load(stock_cfg.MODEL.WEIGHTS, weights_only=True)
    stock.load_state_dict(checkpoint["model"])  # all keys, and no others

    for expected, found in zip(detections_of(model), detections_of(stock), strict=True):
        assert len(expected) > 5
        assert torch.equal(expected.pred_classes, found.pred_classes)
        torch.testing.assert_close(expected.scores, found.scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            expected.pred_boxes.tensor, found.pred_boxes.tensor, rtol=1e-5, atol=1e-5
        )
        assert torch.equal(expected.pred_masks, found.pred_masks)


def test_it_does_change_the_classifier(tmp_path):
    cfg = tiny_cfg()
    model, weights = save_model(cfg, tmp_path)
    fold(cfg, weights, tmp_path / "plain.pth")
    key = "roi_heads.box_predictor.cls_score.weight"
    folded = torch.load(tmp_path / "plain.pth", weights_only=True)["model"][key]
    before = model.state_dict()[key]
    scale = model.roi_heads.box_predictor.method.scale
    torch.testing.assert_close(folded, before * scale[:, None])
    assert not torch.allclose(folded[:-1], before[:-1])
    assert torch.equal(folded[-1], before[-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.LONG_TAIL.CLASSIFIER", "cosine"), "cosine classifier cannot be folded.*length"),
        (("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead"), "normalised mask predictor"),
        (
            (*CASCADE[:2], "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False),
            "class-specific.*class-agnostic regression only",
        ),
        (("MODEL.LONG_TAIL.METHOD", "none"), "method none cannot be folded"),
        (
            (*POST_HOC[:2], "MODEL.IIF.STRENGTH", 0.0),
            "method iif cannot be folded",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused_with_the_reason(overrides, message, tmp_path):
    cfg = tiny_cfg(*overrides)
    _, weights = save_model(cfg, tmp_path)
    with pytest.raises(InputError, match=message):
        fold(cfg, weights, tmp_path / "plain.pth")
    assert not (tmp_path / "plain.pth").exists()


def test_other_heads_are_refused(tmp_path):
    cfg = tiny_cfg("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    _, weights = save_model(cfg, tmp_path)
    with pytest.raises(InputError, match=r"StandardROIHeads.*IIFROIHeads, IIFCascadeROIHeads"):
        fold(cfg, weights, tmp_path / "plain.pth")


def test_a_checkpoint_that_lacks_parameters_is_refused(tmp_path):
    model, _ = save_model(tiny_cfg(), tmp_path)
    state = model.state_dict()
    del state["roi_heads.box_predictor.cls_score.bias"]
    torch.save({"model": state}, tmp_path / "cut.pth")
    with pytest.raises(InputError, match=r"cut.pth.*1 parameters.*cls_score.bias"):
        load_model(tiny_cfg(), str(tmp_path / "cut.pth"))
    with pytest.raises(InputError, match=r"nothing.pth: no such file"):
        load_model(tiny_cfg(), str(tmp_path / "nothing.pth"))


def test_another_models_checkpoint_is_refused(tmp_path):
    _, weights = save_model(tiny_cfg("MODEL.ROI_BOX_HEAD.FC_DIM", 16), tmp_path)
    with pytest.raises(InputError, match=r"missing or of another shape.*config.yaml"):
        load_model(tiny_cfg(), weights)


def test_the_command(tmp_path, capsys):
    cfg = tiny_cfg()
    _, weights = save_model(cfg, tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    arguments = ["fold", "--config-file", str(tmp_path / "config.yaml"), "--weights", weights]
    assert main([*arguments, "--output", str(tmp_path / "plain.pth"), "MODEL.DEVICE", "cpu"]) == 0
    assert str(tmp_path / "plain.yaml") in capsys.readouterr().out
    assert main([*arguments, "--output", str(tmp_path / "plain.txt")]) == 2
    assert "must end in .pth" in capsys.readouterr().err
    plain = ["MODEL.LONG_TAIL.METHOD", "none"]
    _, weights = save_model(tiny_cfg(*plain), tmp_path)
    assert main([*arguments, "--output", "x.pth", *plain]) == 2
    assert "method none cannot be folded" in capsys.readouterr().err


def test_the_folded_model_needs_no_import_of_this_project(tmp_path):
    cfg = tiny_cfg()
    _, weights = save_model(cfg, tmp_path)
    config = fold(cfg, weights, tmp_path / "plain.pth")
    script = (
        "import sys\n"
        "from detectron2.config import get_cfg\n"
        "from detectron2.engine import DefaultPredictor\n"
        "import numpy as np\n"
        "cfg = get_cfg()\n"
        f"cfg.merge_from_file({str(config)!r})\n"
        "outputs = DefaultPredictor(cfg)(np.zeros((64, 64, 3), np.uint8))\n"
        "assert len(outputs['instances']) > 0\n"
        "assert not any(name.split('.')[0] == 'iif' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=os.environ)


def test_post_hoc_and_trained_adjustments_differ():
    # Otherwise the post-hoc cases above would prove nothing new.
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    statistics = ClassStatistics(image_count=[1, 2], num_images=9)
    trained, post_hoc = (
        build_method("iif", statistics, {"apply": apply}) for apply in ("train_and_test", "test")
    )
    assert not torch.equal(trained.test_logits(logits), post_hoc.test_logits(logits))
