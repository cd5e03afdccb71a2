"""The cosine classifier, the normalised mask predictor and the classifier's initial values."""

from __future__ import annotations

import copy

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from helpers_d2 import tiny_cfg, training_batch
from iif import InputError
from iif.d2.cosine import CosineClassifier, CosineConv2d

COSINE = ("MODEL.LONG_TAIL.CLASSIFIER", "cosine")


def build(*overrides: object, seed: int = 3):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*overrides))


def test_the_classifier_by_hand():
    layer = CosineClassifier(2, 3, temperature=8.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5], [-3.0, -4.0]]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    # (3, 4) has length 5 and the cosines 3/5, 4/5 and -1 with the weights.
    found = layer(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    torch.testing.assert_close(found, torch.tensor([[4.8, 7.4, -8.0]] * 2), rtol=1e-5, atol=0)


def test_the_mask_predictor_by_hand():
    layer = CosineConv2d(2, 1, temperature=20.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0]).view(1, 2, 1, 1))
        layer.bias.fill_(-1.0)
    x = torch.tensor([[7.0, 0.0], [0.0, 2.0], [5.0, 5.0], [1.0, -1.0]])  # four places
    found = layer(x.T.reshape(1, 2, 2, 2))
    half = 20 / 2**0.5
    expected = torch.tensor([half - 1, half - 1, 19.0, -1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_feature_of_zeros_scores_the_bias():
    layer = CosineClassifier(4, 3, temperature=20.0)
    found = layer(torch.zeros(1, 4, requires_grad=True))
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    found.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_both_from_the_configuration():
    model = build(
        *COSINE,
        *("MODEL.LONG_TAIL.COSINE_TEMPERATURE", 12.0),
        *("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead", "MODEL.LONG_TAIL.MASK_TEMPERATURE", 30.0),
    )
    classifier, mask = model.roi_heads.box_predictor.cls_score, model.roi_heads.mask_head.predictor
    assert isinstance(classifier, CosineClassifier)
    assert isinstance(mask, CosineConv2d)
    assert (classifier.temperature, mask.temperature) == (12.0, 30.0)
    with EventStorage():
        losses = model(training_batch())
    sum(losses.values()).backward()
    assert classifier.weight.grad.abs().sum() > 0
    assert mask.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        assert len(model(training_batch(1))[0]["instances"]) > 0


def test_parameters_start_and_are_named_as_those_of_the_plain_model():
    plain = build().state_dict()
    cosine = build(*COSINE, "MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead").state_dict()
    assert plain.keys() == cosine.keys()
    for name, value in plain.items():
        if name != "roi_heads.mask_head.predictor.weight":
            assert torch.equal(value, cosine[name]), name


def test_the_normalised_mask_predictor_starts_as_the_authors():
    """Kaiming by fan-out: standard deviation (2 / K) ** 0.5, for 1,203 classes 0.0408."""
    torch.manual_seed(0)
    layer = CosineConv2d(256, 1203, temperature=20.0)
    assert layer.weight.std().item() == pytest.approx((2 / 1203) ** 0.5, rel=1e-2)
    assert (layer.bias == 0).all()


@pytest.mark.parametrize(
    ("std", "least", "most"), [(None, 0.05, 0.5), (0.001, 45, 90)], ids=["ours", "too-short"]
)
def test_one_step_turns_a_class_by_a_fraction_of_a_degree(std, least, most):
    """A normalised weight's length sets its step; at Detectron2's plain start it is 40 times less.

    64 regions of as many classes, their masks a square, one step of SGD at LVIS's rate.
    """
    torch.manual_seed(0)
    layer = CosineConv2d(256, 1203, temperature=20.0)
    if std is not None:
        torch.nn.init.normal_(layer.weight, std=std)
    before = layer.weight.detach().flatten(1).clone()
    rows = torch.arange(64)
    masks = torch.zeros(64, 28, 28)
    masks[:, 7:21, 7:21] = 1
    logits = layer(torch.randn(64, 256, 28, 28).relu())[rows, rows]
    torch.nn.functional.binary_cross_entropy_with_logits(logits, masks).backward()
    torch.optim.SGD(layer.parameters(), lr=0.02).step()
    after = layer.weight.detach().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(before.double(), after.double())[:64]
    turned = torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).median()
    assert least < turned < most


def test_a_learned_mask_temperature():
    names = ("MODEL.ROI_MASK_HEAD.NAME", "CosineMaskHead")
    values = ("MODEL.LONG_TAIL.MASK_TEMPERATURE", 20.25)
    fixed = build(*names, *values)
    learned = build(*names, *values, "MODEL.LONG_TAIL.LEARN_MASK_TEMPERATURE", True)
    key = "roi_heads.mask_head.predictor.t"
    state = learned.state_dict()
    assert state.pop(key).item() == 4.5
    assert all(torch.equal(value, state[name]) for name, value in fixed.state_dict().items())
    with EventStorage():
        losses = [sum(model.train()(training_batch()).values()) for model in (fixed, learned)]
    losses[1].backward()
    assert learned.get_parameter(key).grad.abs() > 0
    x = torch.randn(2, 16, 3, 3)
    layers = [model.roi_heads.mask_head.predictor for model in (fixed, learned)]
    torch.testing.assert_close(layers[0](x), layers[1](x))
    with torch.no_grad():
        layers[1].t.fill_(3.0)
    torch.testing.assert_close(
        layers[1](x) - layers[1].bias.view(1, -1, 1, 1), layers[0](x) * 9 / 20.25
    )


def test_iif_multiplies_the_cosine_logits():
    plain, iif = build(*COSINE, "MODEL.LONG_TAIL.METHOD", "none"), build(*COSINE)
    plain.eval()
    iif.eval()
    x = torch.randn(6, 32)
    expected = plain.roi_heads.box_predictor(x)[0] * iif.roi_heads.box_predictor.method.scale
    torch.testing.assert_close(iif.roi_heads.box_predictor(x)[0], expected)


@pytest.mark.parametrize("heads", ["IIFROIHeads", "IIFCascadeROIHeads"])
def test_the_authors_constant_start(heads):
    overrides = ("MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    normal = build(*overrides)
    constant = build(*overrides, "MODEL.LONG_TAIL.CLASSIFIER_INIT", "constant")
    for name, value in constant.state_dict().items():
        if name.endswith("cls_score.weight"):
            assert (value == 0.001).all()
            assert not torch.equal(value, normal.state_dict()[name])
        else:
            assert torch.equal(value, normal.state_dict()[name]), name
            assert not name.endswith("cls_score.bias") or (value == 0).all()


@pytest.mark.parametrize("heads", ["IIFROIHeads", "IIFCascadeROIHeads"])
def test_the_bias_of_the_authors_softmax_baselines(heads):
    bias = ("MODEL.LONG_TAIL.CLASSIFIER_BIAS", -6.5, "MODEL.ROI_HEADS.NAME", heads)
    agnostic = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    for start in ("normal", "constant"):
        state = build(*bias, *agnostic, "MODEL.LONG_TAIL.CLASSIFIER_INIT", start).state_dict()
        found = [value for name, value in state.items() if name.endswith("cls_score.bias")]
        assert found
        assert all((value == -6.5).all() for value in found)


@pytest.mark.parametrize(
    ("key", "legal"),
    [
        ("LONG_TAIL.CLASSIFIER", "linear, cosine"),
        ("LONG_TAIL.CLASSIFIER_INIT", "normal, constant"),
        ("IIF.APPLY", "train_and_test, test"),
    ],
)
def test_a_wrong_choice_is_refused(key, legal):
    with pytest.raises(InputError, match=rf"MODEL.{key} is 'x'.*{legal}"):
        build(f"MODEL.{key}", "x")


def test_deep_copies_keep_the_temperature():
    layer = CosineClassifier(4, 3, temperature=5.0)
    x = torch.randn(2, 4)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "temperature=5.0" in repr(layer)
