"""IIF on the logits of a model that was trained without it."""

from __future__ import annotations

import copy

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers_d2 import STATISTICS, tiny_cfg, training_batch
from iif import InputError
from iif.d2.checkpoint import MethodCheckpointer
from iif.methods.iif import iif_weights

POST_HOC = ("MODEL.IIF.APPLY", "test")


def build(*overrides: object, seed: int = 3):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*overrides))


def losses_of(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    with EventStorage():
        return model.train()(copy.deepcopy(training_batch()))


def detections_of(model) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        instances = model.eval()(training_batch())[0]["instances"]
    return {k: getattr(v, "tensor", v) for k, v in instances.get_fields().items()}


def sharpen(model):
    """Give the classifier of an untrained model something to say."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for tensor in model.roi_heads.box_predictor.cls_score.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
    return model


def test_training_is_the_baselines_bit_for_bit():
    plain, post_hoc = build("MODEL.LONG_TAIL.METHOD", "none"), build(*POST_HOC)
    expected, found = losses_of(plain), losses_of(post_hoc)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_inference_weights_the_logits_relative_to_the_background():
    plain = sharpen(build("MODEL.LONG_TAIL.METHOD", "none")).eval()
    post_hoc = sharpen(build(*POST_HOC, "MODEL.IIF.STRENGTH", 0.5)).eval()
    x = torch.randn(5, 32)
    logits = plain.roi_heads.box_predictor(x)[0]
    weights = iif_weights(STATISTICS).float().sqrt()
    expected = torch.cat([weights * (logits[:, :-1] - logits[:, -1:]), torch.zeros(5, 1)], dim=1)
    torch.testing.assert_close(post_hoc.roi_heads.box_predictor(x)[0], expected)
    assert not torch.equal(detections_of(plain)["scores"], detections_of(post_hoc)["scores"])


def test_strength_0_is_the_baseline_bit_for_bit():
    expected = detections_of(sharpen(build("MODEL.LONG_TAIL.METHOD", "none")))
    found = detections_of(sharpen(build(*POST_HOC, "MODEL.IIF.STRENGTH", 0.0)))
    assert len(expected["scores"]) > 0
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_strength_is_an_exponent_of_the_weights_in_training_too():
    model = build("MODEL.IIF.STRENGTH", 0.25)
    expected = (iif_weights(STATISTICS) ** 0.25).float()
    assert torch.equal(model.roi_heads.box_predictor.method.scale[:-1], expected)


@pytest.mark.parametrize("strength", [-0.5, float("inf"), float("nan")])
def test_a_wrong_strength_is_refused(strength):
    with pytest.raises(InputError, match=r"MODEL.IIF.STRENGTH is .*; it must be a number, 0 or"):
        build("MODEL.IIF.STRENGTH", strength)


def test_its_checkpoint_is_a_plain_models():
    plain, post_hoc = build("MODEL.LONG_TAIL.METHOD", "none"), build(*POST_HOC)
    assert plain.state_dict().keys() == post_hoc.state_dict().keys()


def test_a_checkpoint_trained_with_iif_is_refused(tmp_path):
    DetectionCheckpointer(build(), save_dir=str(tmp_path)).save("iif")
    with pytest.raises(InputError, match=r"under method iif.*hold buffers of another method"):
        DetectionCheckpointer(build(*POST_HOC).eval()).load(str(tmp_path / "iif.pth"))
    MethodCheckpointer(build(), save_dir=str(tmp_path)).save("iif")
    with pytest.raises(InputError, match=r"trained with iif.apply train_and_test.*has test"):
        MethodCheckpointer(build(*POST_HOC), evaluate=True).load(str(tmp_path / "iif.pth"))
