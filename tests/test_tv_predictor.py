"""iif.tv.add_iif: torchvision's box head with IIF."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import fastrcnn_loss

from iif import ClassStatistics, IIFLogits, InputError, iif_weights
from iif.tv import add_iif, maskrcnn_resnet18_fpn_small, replace_predictors
from iif.tv.predictor import IIFFastRCNNPredictor

K = 5
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.5, 7.0], dtype=torch.float64)


def small_model(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return maskrcnn_resnet18_fpn_small(K + 1, min_size=64, max_size=64, **options)


def batch(seed: int = 1) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 10.0, 60.0, 50.0]])
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 4:36, 4:40] = 1
    masks[1, 10:50, 20:60] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, K]), "masks": masks}
    return images, [target, copy.deepcopy(target)]


def losses_of(model: nn.Module, seed: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)  # regions are sampled
    images, targets = batch()
    return model.train()(images, targets)


def detections_of(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        return model.eval()(batch()[0])


def assert_same_detections(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert len(a["scores"]) > 0
        for key in ("boxes", "labels", "scores", "masks"):
            assert torch.equal(a[key], b[key]), key


def test_adjusts_class_logits_and_nothing_else():
    predictor = FastRCNNPredictor(8, K + 1)
    adjusted = IIFFastRCNNPredictor(predictor, WEIGHTS)
    features = torch.randn(7, 8, 1, 1)
    logits, deltas = predictor(features)
    new_logits, new_deltas = adjusted(features)
    assert torch.equal(new_logits[:, 0], logits[:, 0])
    torch.testing.assert_close(new_logits[:, 1:], logits[:, 1:] * WEIGHTS.float())
    assert torch.equal(new_deltas, deltas)


def test_weights_of_one_change_nothing():
    plain = small_model()
    adjusted = add_iif(copy.deepcopy(plain), torch.ones(K))
    expected, got = losses_of(plain), losses_of(adjusted)
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    assert_same_detections(detections_of(plain), detections_of(adjusted))


def test_the_loss_sees_the_adjusted_logits():
    plain = small_model()
    adjusted = add_iif(copy.deepcopy(plain), WEIGHTS)
    seen = {}
    adjusted.roi_heads.box_predictor.cls_score.register_forward_hook(
        lambda module, inputs, output: seen.update(logits=output)
    )
    labels = {}
    select = adjusted.roi_heads.select_training_samples

    def remember(*args):
        result = select(*args)
        labels["labels"] = torch.cat(result[2])
        return result

    adjusted.roi_heads.select_training_samples = remember
    got = losses_of(adjusted)
    expected = losses_of(plain)
    logits = seen["logits"].clone()
    logits[:, 1:] *= WEIGHTS.float()
    torch.testing.assert_close(
        got["loss_classifier"], nn.functional.cross_entropy(logits, labels["labels"])
    )
    assert not torch.equal(got["loss_classifier"], expected["loss_classifier"])
    for name in ("loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"):
        assert torch.equal(got[name], expected[name]), name


def test_inference_sees_the_adjusted_logits():
    model = add_iif(small_model(box_score_thresh=0.0, box_detections_per_img=1000), WEIGHTS)
    seen = {}
    model.roi_heads.box_predictor.cls_score.register_forward_hook(
        lambda module, inputs, output: seen.update(logits=output)
    )
    with torch.no_grad():
        detections = model.eval()(batch()[0][:1])[0]
    logits = seen["logits"].clone()
    logits[:, 1:] *= WEIGHTS.float()
    probabilities = logits.softmax(dim=1)
    for score, label in zip(detections["scores"], detections["labels"], strict=True):
        assert (probabilities[:, label] - score).abs().min() < 1e-6


def test_returns_the_same_model_and_keeps_the_layers():
    model = small_model()
    layer = model.roi_heads.box_predictor.cls_score
    assert add_iif(model, WEIGHTS) is model
    assert model.roi_heads.box_predictor.cls_score is layer
    names = dict(model.named_parameters())
    assert "roi_heads.box_predictor.cls_score.weight" in names
    assert not any("iif" in name for name in names)


def test_a_plain_checkpoint_loads_and_the_given_weights_stand():
    plain = small_model(seed=3)
    model = add_iif(small_model(seed=4), WEIGHTS)
    model.load_state_dict(plain.state_dict())
    expected = add_iif(copy.deepcopy(plain), WEIGHTS)
    assert_same_detections(detections_of(model), detections_of(expected))


def test_saved_and_loaded_gives_bit_equal_output(tmp_path):
    model = add_iif(small_model(seed=3), WEIGHTS)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = add_iif(small_model(seed=4), torch.ones(K))
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    assert_same_detections(detections_of(model), detections_of(other))
    expected = torch.cat([torch.ones(1), WEIGHTS.float()])
    assert torch.equal(other.roi_heads.box_predictor.iif_logits.weight, expected)


def test_an_iif_checkpoint_does_not_pass_for_a_plain_one():
    with pytest.raises(RuntimeError, match=r"box_predictor\.iif_logits\.weight"):
        small_model().load_state_dict(add_iif(small_model(), WEIGHTS).state_dict())


def test_torchscript_gives_the_same_detections():
    model = add_iif(small_model(), WEIGHTS).eval()
    scripted = torch.jit.script(model)
    with torch.no_grad():
        _, detections = scripted(batch()[0])
    assert_same_detections(detections_of(model), detections)


@settings(deadline=None, max_examples=60)
@given(
    regions=st.integers(0, 6),
    weights=st.lists(st.floats(0.01, 20), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_background_first_and_last_give_the_same_probabilities(regions, weights, seed):
    generator = torch.Generator().manual_seed(seed)
    last = torch.randn(regions, len(weights) + 1, generator=generator, dtype=torch.float64) * 5
    first = last.roll(1, dims=1)
    w = torch.tensor(weights, dtype=torch.float64)
    probabilities_last = IIFLogits(w)(last).softmax(dim=1)
    probabilities_first = IIFLogits(w, background="first")(first).softmax(dim=1)
    torch.testing.assert_close(
        probabilities_first, probabilities_last.roll(1, dims=1), rtol=1e-12, atol=1e-12
    )


def test_weights_from_counts_fit():
    statistics = ClassStatistics(image_count=[1, 2, 5, 10, 90], num_images=100)
    model = add_iif(small_model(), iif_weights(statistics, "raw"))
    expected = torch.log(100 / torch.tensor([1.0, 2, 5, 10, 90]))
    torch.testing.assert_close(model.roi_heads.box_predictor.iif_logits.weight[1:], expected)


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_fine_tuning_from_a_model_of_other_classes(name):
    model = get_model(name, weights=None, weights_backbone=None, min_size=64, max_size=64)
    replace_predictors(model, K + 1)
    add_iif(model, WEIGHTS)
    losses = losses_of(model)
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


def test_twice_is_an_error():
    model = add_iif(small_model(), WEIGHTS)
    with pytest.raises(InputError, match="has IIF already"):
        add_iif(model, WEIGHTS)


def test_another_number_of_classes_is_an_error():
    with pytest.raises(InputError, match=r"4 classes.*must have 5 outputs.*has 6"):
        add_iif(small_model(), WEIGHTS[:4])


def test_a_model_without_box_head_is_an_error():
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K + 1)
    with pytest.raises(TypeError, match=r"RetinaNet: .*found none"):
        add_iif(model, WEIGHTS)


def test_an_own_predictor_is_an_error():
    class Own(FastRCNNPredictor):
        def forward(self, x):
            return self.cls_score(x), self.bbox_pred(x)

    model = small_model()
    model.roi_heads.box_predictor = Own(256, K + 1)
    with pytest.raises(TypeError, match="found a Own"):
        add_iif(model, WEIGHTS)


def test_parity_with_detectron2():
    """Same features, weights and ground truth: same loss and probabilities in either engine."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    from iif.d2 import IIFFastRCNNOutputLayers

    torch.manual_seed(0)
    regions, channels = 64, 16
    features = torch.randn(regions, channels)
    rows = torch.randint(0, K + 1, (regions,))  # K is the background, as Detectron2 counts
    boxes = torch.rand(regions, 4) * 30
    boxes[:, 2:] += boxes[:, :2] + 1

    ours = IIFFastRCNNPredictor(FastRCNNPredictor(channels, K + 1), WEIGHTS)
    theirs = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=channels),
        box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=K,
        iif_weights=WEIGHTS,
    )
    with torch.no_grad():
        theirs.cls_score.weight.copy_(ours.cls_score.weight.roll(-1, dims=0))
        theirs.cls_score.bias.copy_(ours.cls_score.bias.roll(-1, dims=0))

    logits, deltas = ours(features)
    labels = torch.where(rows == K, 0, rows + 1)
    loss, _ = fastrcnn_loss(logits, deltas, [labels], [torch.zeros(regions, 4)])

    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(boxes)
    proposals.gt_boxes = Boxes(boxes)
    proposals.gt_classes = rows
    predictions = theirs(features)
    with EventStorage():
        their_loss = theirs.losses(predictions, [proposals])["loss_cls"]
    (their_probabilities,) = theirs.predict_probs(predictions, [proposals])

    torch.testing.assert_close(loss, their_loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        logits.softmax(dim=1), their_probabilities.roll(1, dims=1), rtol=0, atol=1e-6
    )
