"""The cascade heads against Detectron2's, and class-specific regression between stages."""

from __future__ import annotations

import copy

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from helpers_d2 import STATISTICS, tiny_cfg, training_batch
from iif import ClassStatistics, InputError
from iif.d2 import IIFFastRCNNOutputLayers
from iif.d2.roi_heads import IntermediateOutputLayers
from iif.methods import Affine, Options
from iif.methods.iif import iif_weights


def cascade_cfg(*overrides: object, name: str = "IIFCascadeROIHeads", agnostic: bool = True):
    return tiny_cfg(
        *("MODEL.ROI_HEADS.NAME", name),
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic),
        *overrides,
    )


def build(cfg, seed: int = 3):
    torch.manual_seed(seed)
    return build_model(cfg)


def train_and_detect(model) -> dict[str, torch.Tensor]:
    """Return losses, gradients and detections of one small batch."""
    torch.manual_seed(7)
    batch = training_batch()
    with EventStorage():
        losses = model(copy.deepcopy(batch))
    sum(losses.values()).backward()
    gradients = {f"grad {name}": p.grad for name, p in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        instances = model(batch)[0]["instances"]
    assert len(instances) > 0
    return {
        **losses,
        **gradients,
        **{k: getattr(v, "tensor", v) for k, v in instances.get_fields().items()},
    }


@pytest.mark.parametrize("fast", [True, False])
def test_without_iif_it_is_detectron2s_cascade_bit_for_bit(fast):
    stock = train_and_detect(build(cascade_cfg(name="CascadeROIHeads")))
    ours = train_and_detect(
        build(cascade_cfg("MODEL.LONG_TAIL.METHOD", "none", "MODEL.LONG_TAIL.FAST_INFERENCE", fast))
    )
    assert stock.keys() == ours.keys()
    for key, value in stock.items():
        assert torch.equal(value, ours[key]), key


def test_every_stage_has_the_weights():
    model = build(cascade_cfg())
    expected = iif_weights(STATISTICS).float()
    assert len(model.roi_heads.box_predictor) == 3
    for predictor, scale in zip(model.roi_heads.box_predictor, (10, 20, 30), strict=True):
        assert torch.equal(predictor.method.scale[:-1], expected)
        assert predictor.box2box_transform.weights[0] == scale


def test_fast_inference_changes_nothing():
    model = build(cascade_cfg()).eval()
    for predictor in model.roi_heads.box_predictor:
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
    batch = training_batch()
    results = []
    for fast in (True, False):
        model.roi_heads.box_predictor[-1].fast_inference = fast
        with torch.no_grad():
            results.append(model(batch)[0]["instances"])
    assert len(results[0]) > 0
    assert torch.equal(results[0].scores, results[1].scores)
    assert torch.equal(results[0].pred_boxes.tensor, results[1].pred_boxes.tensor)


def test_class_specific_regression_trains_and_detects():
    model = build(cascade_cfg(agnostic=False))
    found = train_and_detect(model)
    for stage in range(3):
        predictor = model.roi_heads.box_predictor[stage]
        assert predictor.bbox_pred.out_features == 4 * 5
        assert found[f"grad roi_heads.box_predictor.{stage}.bbox_pred.weight"].abs().sum() > 0
        assert found[f"loss_cls_stage{stage}"].isfinite()
    first, second = (model.roi_heads.box_predictor[k].bbox_pred.weight for k in (0, 1))
    assert not torch.equal(first, second)


def test_a_stage_hands_on_the_box_of_the_best_foreground_class():
    arguments = {"box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), "num_classes": 2}
    intermediate = IntermediateOutputLayers(ShapeSpec(channels=4), **arguments)
    final = IIFFastRCNNOutputLayers(ShapeSpec(channels=4), **arguments)
    proposals = Instances((100, 100), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]] * 2)))
    scores = torch.tensor([[1.0, 2.0, 9.0], [3.0, 2.0, 9.0]])  # the background's is the best
    deltas = torch.tensor([[0.0, 0, 0, 0, 0.5, 0, 0, 0], [0.1, 0, 0, 0, 0, 0, 0, 0]])
    (boxes,) = intermediate.eval().predict_boxes((scores, deltas), [proposals])
    expected = torch.tensor([[5.0, 0, 15, 10], [1.0, 0, 11, 10]])
    torch.testing.assert_close(boxes, expected)
    assert final.predict_boxes((scores, deltas), [proposals])[0].shape == (2, 8)


def test_in_training_the_best_class_is_that_of_the_test_logits():
    statistics = ClassStatistics(image_count=[1, 1], num_images=2)
    scale = torch.tensor([10.0, 1.0])
    method = Affine(Options(), statistics, scale, torch.zeros(2), phase="test")
    stage = IntermediateOutputLayers(
        ShapeSpec(channels=4),
        method=method,
        num_classes=2,
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    ).train()
    proposals = Instances((100, 100), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]])))
    outputs = torch.tensor([[1.0, 2.0, 9.0]], requires_grad=True)  # 10 * 1 is above 2
    deltas = torch.tensor([[0.1, 0, 0, 0, 0.5, 0, 0, 0]])
    (boxes,) = stage.predict_boxes((outputs, deltas), [proposals])
    torch.testing.assert_close(boxes, torch.tensor([[1.0, 0, 11, 10]]))
    assert not boxes.requires_grad
    # In evaluation forward has adjusted the logits already: not twice.
    (boxes,) = stage.eval().predict_boxes((outputs.detach(), deltas), [proposals])
    torch.testing.assert_close(boxes, torch.tensor([[5.0, 0, 15, 10]]))


def test_stage_loss_weights_multiply_the_losses():
    weights = (1.0, 0.5, 0.25)
    losses = []
    for value in ((), weights):
        model = build(cascade_cfg("MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS", value))
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model(training_batch()))
    for stage, weight in enumerate(weights):
        for name in (f"loss_cls_stage{stage}", f"loss_box_reg_stage{stage}"):
            torch.testing.assert_close(losses[1][name], weight * losses[0][name])
    assert losses[1]["loss_mask"] == losses[0]["loss_mask"]


@pytest.mark.parametrize("weights", [(1.0, 0.5), (1.0, 0.5, -0.25)])
def test_wrong_stage_loss_weights_are_refused(weights):
    with pytest.raises(InputError, match=r"STAGE_LOSS_WEIGHTS is .*each of the 3 stages"):
        build(cascade_cfg("MODEL.LONG_TAIL.STAGE_LOSS_WEIGHTS", weights))
