"""TorchScript tracing and ONNX export by Detectron2's exporters, against the eager model."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes

from helpers_d2 import tiny_cfg, training_batch

MODELS = {
    "iif": (),
    "post-hoc": ("MODEL.IIF.APPLY", "test"),
    "cosine": (
        *("MODEL.LONG_TAIL.CLASSIFIER", "cosine"),
        *("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead"),
    ),
    "cascade": (
        *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
    ),
}


def detect(model, inputs):
    """Run a model as Detectron2's tools/deploy/export_model.py does."""
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


def make_adapter(*overrides: object) -> TracingAdapter:
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*overrides)).eval()
    for name, value in model.named_parameters():
        if ".cls_score." in name:
            torch.nn.init.normal_(value, std=0.3)
    return TracingAdapter(model, [{"image": image_of(64)}], detect).eval()


def image_of(size: int) -> torch.Tensor:
    return training_batch(1, size=size, seed=size)[0]["image"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_torchscript_gives_the_eager_models_detections(name):
    adapter = make_adapter(*MODELS[name])
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (image_of(64),), check_trace=False)
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    stored.seek(0)
    loaded = torch.jit.load(stored)
    for size in (64, 96):  # not the traced size alone
        with torch.no_grad():
            expected, found = adapter(image_of(size)), loaded(image_of(size))
        assert len(expected[0]) > 5
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b)


# As in Detectron2's tools/deploy/export_model.py --export-method scripting.
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": torch.Tensor,
    "pred_boxes": Boxes,
    "scores": torch.Tensor,
    "pred_classes": torch.Tensor,
    "pred_masks": torch.Tensor,
}
SCRIPTED = {
    "Detectron2's own": ("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    "none": ("MODEL.LONG_TAIL.METHOD", "none"),
    "Detectron2's inference": ("MODEL.LONG_TAIL.FAST_INFERENCE", False),
    **{name: MODELS[name] for name in ("iif", "post-hoc", "cosine")},
}


@pytest.mark.parametrize("name", SCRIPTED)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripting_gives_the_eager_models_detections(name):
    """It passes for Detectron2's own heads with this torch, so it must for ours."""
    model = make_adapter(*SCRIPTED[name]).model
    scripted = scripting_with_instances(model, FIELDS)
    for size in (64, 96):
        inputs = [{"image": image_of(size)}]
        with torch.no_grad():
            model.roi_heads.mask_head.predicted_only = True
            single = model.inference(inputs, do_postprocess=False)[0]
            model.roi_heads.mask_head.predicted_only = False  # as in a scripted model
            expected = model.inference(inputs, do_postprocess=False)[0]
            found = scripted.inference(inputs, do_postprocess=False)[0]
        assert len(expected) > 5
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        assert torch.equal(found.pred_masks, expected.pred_masks)
        torch.testing.assert_close(found.pred_masks, single.pred_masks, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["iif", "cascade"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_gives_the_eager_models_detections(name, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    adapter = make_adapter(*MODELS[name])
    path = str(tmp_path / "model.onnx")
    # The exporter based on torch.export stops at a data-dependent branch of Detectron2's RPN.
    torch.onnx.export(adapter, (image_of(64),), path, opset_version=16, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    expected = adapter(image_of(64))
    found = session.run(None, {image.name: image_of(64).numpy()})
    assert len(expected[0]) > 5
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a.numpy(), rtol=1e-4, atol=1e-3)


def test_the_exported_scores_are_adjusted():
    """Otherwise the comparisons above would not notice an adjustment that is lost everywhere."""
    with torch.no_grad():
        adjusted = make_adapter()(image_of(64))
        plain = make_adapter("MODEL.LONG_TAIL.METHOD", "none")(image_of(64))
    assert adjusted[3].shape != plain[3].shape or not torch.equal(adjusted[3], plain[3])
