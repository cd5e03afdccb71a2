"""The box predictor and the ROI heads against Detectron2's own."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from helpers_d2 import STATISTICS, tiny_cfg, training_batch
from iif import ClassStatistics, InputError, build_method
from iif.d2 import IIFFastRCNNOutputLayers, IIFROIHeads, add_iif_config
from iif.d2.config import load_config
from iif.d2.method import method_from_config
from iif.d2.statistics import statistics_from_config
from iif.methods import Affine, Method, Options
from iif.methods.iif import iif_weights

K = 5


def proposals_for(num_regions: int, seed: int, training: bool = True) -> list[Instances]:
    rng = torch.Generator().manual_seed(seed)

    def boxes(n: int) -> Boxes:
        corners = torch.rand(n, 2, generator=rng) * 30
        return Boxes(torch.cat([corners, corners + 5 + torch.rand(n, 2, generator=rng) * 30], 1))

    split = num_regions // 2
    result = []
    for n in (split, num_regions - split):
        instances = Instances((70, 70))
        instances.proposal_boxes = boxes(n)
        if training:
            instances.gt_boxes = boxes(n)
            instances.gt_classes = torch.randint(0, K + 1, (n,), generator=rng)
        result.append(instances)
    return result


def predictors(weights: torch.Tensor | None, **kwargs: object) -> tuple:
    """Return the stock predictor and IIF's with the same parameters."""
    arguments = {
        "box2box_transform": Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        "num_classes": K,
        "test_score_thresh": 0.0001,
        **kwargs,
    }
    stock = FastRCNNOutputLayers(ShapeSpec(channels=8), **arguments)
    torch.nn.init.normal_(stock.cls_score.weight)
    torch.nn.init.normal_(stock.cls_score.bias)
    method = None
    if weights is not None:
        zero = torch.zeros_like(weights)
        method = Affine(Options(), STATISTICS, weights, zero, phase="train_and_test")
    ours = IIFFastRCNNOutputLayers(ShapeSpec(channels=8), method=method, **arguments)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def run_predictor(predictor, features, proposals) -> tuple[dict, dict]:
    """Return the losses and the gradients of all parameters and of the features."""
    features = features.clone().requires_grad_()
    with EventStorage() as storage:
        losses = predictor.losses(predictor(features), copy.deepcopy(proposals))
        logged = {k: v[0] for k, v in storage.latest().items()}
    predictor.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in predictor.named_parameters()}
    return {**losses, **logged}, {**gradients, "features": features.grad}


@settings(max_examples=25)
@given(num_regions=st.integers(0, 40), seed=st.integers(0, 10_000), agnostic=st.booleans())
def test_without_iif_the_predictor_is_detectron2s_bit_for_bit(num_regions, seed, agnostic):
    torch.manual_seed(seed)
    stock, ours = predictors(None, cls_agnostic_bbox_reg=agnostic)
    features = torch.randn(num_regions, 8)
    proposals = proposals_for(num_regions, seed)
    for expected, found in zip(
        run_predictor(stock, features, proposals),
        run_predictor(ours, features, proposals),
        strict=True,
    ):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found[key])), key
    stock.eval()
    ours.eval()
    for expected, found in zip(
        stock.inference(stock(features), proposals),
        ours.inference(ours(features), proposals),
        strict=True,
    ):
        for a, b in zip(expected, found, strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b)
            else:
                assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
                assert torch.equal(a.scores, b.scores)
                assert torch.equal(a.pred_classes, b.pred_classes)
    assert ours.state_dict().keys() == stock.state_dict().keys()


@settings(max_examples=25)
@given(num_regions=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_loss_accuracy_and_probabilities_use_the_same_adjusted_logits(num_regions, seed):
    torch.manual_seed(seed)
    weights = torch.rand(K) * 5 + 0.1
    stock, ours = predictors(weights)
    features = torch.randn(num_regions, 8)
    proposals = proposals_for(num_regions, seed)
    classes = torch.cat([p.gt_classes for p in proposals])
    logits = stock(features)[0].detach()
    adjusted = torch.cat([logits[:, :K] * weights, logits[:, K:]], dim=1)

    values, _ = run_predictor(ours, features, proposals)
    torch.testing.assert_close(values["loss_cls"], F.cross_entropy(adjusted, classes))
    assert values["fast_rcnn/cls_accuracy"] == pytest.approx(
        (adjusted.argmax(1) == classes).float().mean().item()
    )
    stock_values, _ = run_predictor(stock, features, proposals)
    ours.eval()
    probabilities = torch.cat(ours.predict_probs(ours(features), proposals))
    torch.testing.assert_close(probabilities, adjusted.softmax(1))
    assert torch.equal(values["loss_box_reg"], stock_values["loss_box_reg"])


def test_one_region_by_hand():
    stock, ours = predictors(torch.tensor([2.0, 3.0, 1.0, 1.0, 1.0]))
    with torch.no_grad():
        for predictor in (stock, ours):
            predictor.cls_score.weight.zero_()
            predictor.cls_score.bias.copy_(torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, -1.0]))
    logits, _ = ours.eval()(torch.zeros(1, 8))
    assert logits.tolist() == [[2.0, 1.5, 0.0, 0.0, 0.0, -1.0]]
    # e^2 / (e^2 + e^1.5 + 3 + e^-1) = 7.38906 / 15.23862
    probability = ours.predict_probs((logits, None), [proposals_for(2, 0)[0]])[0]
    assert probability[0, 0].item() == pytest.approx(0.484890, abs=1e-6)


def stock_cfg(*overrides):
    return tiny_cfg("MODEL.ROI_HEADS.NAME", "StandardROIHeads", *overrides)


def build(cfg, seed=3):
    torch.manual_seed(seed)
    return build_model(cfg)


@pytest.mark.parametrize(
    "overrides",
    [("MODEL.LONG_TAIL.METHOD", "none"), (), ("MODEL.IIF.VARIANT", "base10")],
    ids=["none", "raw", "base10"],
)
def test_a_model_starts_as_detectron2s_for_the_same_seed(overrides):
    stock = build(stock_cfg())
    ours = build(tiny_cfg(*overrides))
    assert isinstance(ours.roi_heads, IIFROIHeads)
    expected, found = dict(stock.named_parameters()), dict(ours.named_parameters())
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_without_iif_a_model_trains_and_detects_as_detectron2s():
    batch = training_batch()
    outcomes = []
    for cfg in (stock_cfg(), tiny_cfg("MODEL.LONG_TAIL.METHOD", "none")):
        model = build(cfg)
        torch.manual_seed(7)
        with EventStorage():
            losses = model(copy.deepcopy(batch))
        sum(losses.values()).backward()
        gradients = {f"grad {n}": p.grad for n, p in model.named_parameters()}
        model.eval()
        with torch.no_grad():
            instances = model(batch)[0]["instances"]
        outputs = {k: getattr(v, "tensor", v) for k, v in instances.get_fields().items()}
        assert len(instances) > 0
        outcomes.append({**losses, **gradients, **outputs})
    stock, ours = outcomes
    assert stock.keys() == ours.keys()
    for key, value in stock.items():
        assert torch.equal(value, ours[key]), key


def test_the_weights_are_those_of_the_configuration():
    for variant, count_by in (("raw", "image"), ("base10", "instance")):
        model = build(tiny_cfg("MODEL.IIF.VARIANT", variant, "MODEL.IIF.COUNT_BY", count_by))
        found = model.roi_heads.box_predictor.method.scale
        expected = iif_weights(STATISTICS, variant, count_by).float()
        assert torch.equal(found, torch.cat([expected, torch.ones(1)]))


def test_num_images_of_the_configuration_goes_before_that_of_the_source():
    cfg = tiny_cfg("MODEL.LONG_TAIL.NUM_IMAGES", 1000)
    found = build(cfg).roi_heads.box_predictor.method.scale[:K]
    np.testing.assert_allclose(found, np.log(1000 / STATISTICS.image_count), rtol=1e-6)


def test_counts_survive_the_configuration_file(tmp_path):
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    assert statistics_from_config(cfg).to_dict() == STATISTICS.to_dict()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.IIF.VARIANT", "row"],
            r"VARIANT is 'row'.*raw, smooth, prob, normit, gombit",
        ),
        (["MODEL.IIF.COUNT_BY", "box"], r"MODEL\.IIF\.COUNT_BY.*'box'.*image, instance"),
        (["MODEL.IIF.ZERO_COUNT", "no"], r"MODEL\.IIF\.ZERO_COUNT.*'no'.*error, clamp"),
        (["MODEL.IIF.NONPOSITIVE", "no"], r"MODEL\.IIF\.NONPOSITIVE.*'no'.*error, clamp"),
        (["MODEL.IIF.VARIANT", "none"], r"is a method: set MODEL\.LONG_TAIL\.METHOD none"),
        (["MODEL.LONG_TAIL.METHOD", "iff"], r"MODEL\.LONG_TAIL\.METHOD is 'iff'.*none, iif"),
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True], "softmax.*USE_SIGMOID_CE"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", 6], "NUM_CLASSES is 6.*set.*NUM_CLASSES 5"),
        (["MODEL.IIF.VARIANT", "prob"], "prob weight by image of class 'a'"),
    ],
)
def test_a_wrong_value_is_refused_when_the_model_is_built(overrides, message):
    with pytest.raises(InputError, match=message):
        build(tiny_cfg(*overrides))


def test_the_federated_loss_is_refused_by_its_name():
    with pytest.raises(InputError, match=r"softmax.*USE_FED_LOSS"):
        method_from_config(tiny_cfg("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True))


def test_without_counts_and_training_set_the_model_is_refused():
    with pytest.raises(InputError, match=r"DATASETS.TRAIN is empty.*MODEL.LONG_TAIL.STATISTICS"):
        build(tiny_cfg(statistics=None))


def test_built_in_lvis_needs_no_file_to_count_by_image():
    cfg = tiny_cfg(
        "MODEL.ROI_HEADS.NUM_CLASSES", 1203, "DATASETS.TRAIN", ("lvis_v1_train",), statistics=None
    )
    weight = build(cfg).roi_heads.box_predictor.method.scale
    assert weight[0].item() == pytest.approx(7.355740938246138, rel=1e-6)


@pytest.mark.parametrize("file", [{}, {"json_file": "/nowhere/train.json"}])
def test_counts_in_the_metadata_need_no_file(request, file):
    name = "counts_without_a_file"
    DatasetCatalog.register(name, list)
    request.addfinalizer(lambda: (DatasetCatalog.remove(name), MetadataCatalog.remove(name)))
    counts = [{"id": i + 1, "image_count": n} for i, n in enumerate(STATISTICS.image_count)]
    MetadataCatalog.get(name).set(thing_classes=STATISTICS.names, class_image_count=counts, **file)
    cfg = tiny_cfg(*("DATASETS.TRAIN", (name,), "MODEL.LONG_TAIL.NUM_IMAGES", 100), statistics=None)
    found = statistics_from_config(cfg)
    assert found.image_count.tolist() == STATISTICS.image_count.tolist()
    assert found.num_images == 100


def checkpoint_of(model, path, save_dir):
    DetectionCheckpointer(model, save_dir=str(save_dir)).save(path)
    return str(save_dir / f"{path}.pth")


class Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.add(record.getMessage())


@pytest.fixture
def warned():
    """Collect warnings, also of loggers that do not propagate once Detectron2 set them up."""
    collector = Collector()
    names = ("iif", "fvcore", "detectron2", "")
    for name in names:
        logging.getLogger(name).addHandler(collector)
    yield collector.messages
    for name in names:
        logging.getLogger(name).removeHandler(collector)


def test_a_plain_checkpoint_loads_without_a_word_and_keeps_the_weights(tmp_path, warned):
    path = checkpoint_of(build(stock_cfg(), seed=1), "plain", tmp_path)
    model = build(tiny_cfg(), seed=2)
    DetectionCheckpointer(model).load(path)
    assert warned == set()
    expected = iif_weights(STATISTICS).float()
    assert torch.equal(model.roi_heads.box_predictor.method.scale[:K], expected)
    stock = build(stock_cfg(), seed=1)
    for name, value in stock.named_parameters():
        assert torch.equal(value, dict(model.named_parameters())[name])


def test_training_takes_the_configurations_method_whatever_the_checkpoint_holds(tmp_path, warned):
    path = checkpoint_of(build(tiny_cfg()), "raw", tmp_path)
    model = build(tiny_cfg("MODEL.IIF.VARIANT", "base10"))
    DetectionCheckpointer(model).load(path)
    expected = iif_weights(STATISTICS, "base10").float()
    assert torch.equal(model.roi_heads.box_predictor.method.scale[:K], expected)
    assert warned == set()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.IIF.VARIANT", "base10"), "method iif.*other values of its buffers"),
        (("MODEL.LONG_TAIL.METHOD", "none"), "method none.*buffers of another method"),
        (("MODEL.IIF.APPLY", "test"), "method iif.*buffers of another method"),
    ],
)
def test_even_detectron2s_checkpointer_evaluates_no_other_method(overrides, message, tmp_path):
    """As DefaultPredictor loads: in evaluation mode, without a look at the record."""
    path = checkpoint_of(build(tiny_cfg()), "raw", tmp_path)
    model = build(tiny_cfg(*overrides)).eval()
    with pytest.raises(InputError, match=message):
        DetectionCheckpointer(model).load(path)
    DetectionCheckpointer(build(tiny_cfg()).eval()).load(path)


def test_the_same_weights_load_without_a_word(tmp_path, warned):
    path = checkpoint_of(build(tiny_cfg()), "raw", tmp_path)
    DetectionCheckpointer(build(tiny_cfg(), seed=9)).load(path)
    assert warned == set()


def test_test_time_augmentation_scores_with_adjusted_logits():
    cfg = tiny_cfg(
        *("TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.FLIP", False, "DATASETS.TEST", ("tta_test",))
    )
    MetadataCatalog.get("tta_test").thing_classes = STATISTICS.names
    model = build(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.3)
    batch = [{k: v for k, v in training_batch(1)[0].items() if k != "instances"}]
    with torch.no_grad():
        plain = model(batch)[0]["instances"]
        augmented = GeneralizedRCNNWithTTA(cfg, model)(batch)[0]["instances"]
    # One scale that is the image's own: augmentation then must not change the detections.
    assert len(plain) > 0
    torch.testing.assert_close(augmented.scores, plain.scores)
    assert torch.equal(augmented.pred_classes, plain.pred_classes)


def test_two_training_sets_are_counted_together():
    from iif.d2.statistics import _add

    total = _add(STATISTICS, STATISTICS)
    assert total.num_images == 200
    assert total.image_count.tolist() == [120, 60, 24, 10, 2]
    assert total.instance_count.tolist() == [180, 80, 24, 14, 4]
    other = ClassStatistics(image_count=[1, 1, 1, 1, 1], num_images=5, names=list("vwxyz"))
    with pytest.raises(InputError, match="categories differ"):
        _add(STATISTICS, other)


def test_a_method_of_other_classes_is_refused():
    statistics = ClassStatistics(image_count=[1, 2, 3], num_images=9)
    with pytest.raises(InputError, match="built for 3 classes, but the classifier has 5"):
        IIFFastRCNNOutputLayers(
            ShapeSpec(channels=8),
            method=build_method("iif", statistics),
            num_classes=K,
            box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        )


class Sigmoid(Method):
    """A head without softmax and with an output more, to test what the engine owes a method."""

    extra_outputs = 1

    def training_logits(self, outputs, labels):
        return outputs[:, :-1]

    def test_logits(self, outputs):
        return outputs[:, :-1]

    def probabilities(self, logits):
        return logits.sigmoid() * 0.5

    def loss(self, outputs, labels):
        return (outputs[:, -1] - labels).square().mean()


def test_a_methods_own_outputs_probabilities_and_loss_are_used():
    torch.manual_seed(0)
    predictor = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=8),
        method=Sigmoid(),
        num_classes=K,
        loss_weight={"loss_cls": 2.0},
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    )
    assert predictor.cls_score.out_features == K + 2
    features, proposals = torch.randn(12, 8), proposals_for(12, 0)
    labels = torch.cat([p.gt_classes for p in proposals])
    losses, _ = run_predictor(predictor, features, proposals)
    expected = 2 * (predictor.cls_score(features)[:, -1] - labels).square().mean()
    torch.testing.assert_close(losses["loss_cls"], expected)
    predictor.eval()
    logits, _ = predictor(features)
    assert logits.shape == (12, K + 1)
    found = torch.cat(predictor.predict_probs((logits, None), proposals))
    torch.testing.assert_close(found, logits.sigmoid() * 0.5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CLASSIFIER", "CLASSIFIER"),
        ("COSINE_TEMPERATURE", "COSINE_TEMPERATURE"),
        ("NUM_IMAGES", "NUM_IMAGES"),
        ("FREQUENCY_FILE", "STATISTICS"),
        ("FREQUENCY.NUM_IMAGES", "STATISTICS"),
    ],
)
def test_an_old_key_is_answered_with_the_new_one(old, new, tmp_path):
    (tmp_path / "old.yaml").write_text(f"MODEL:\n  IIF:\n    {old.split('.')[0]}: 1\n")
    for arguments in ((str(tmp_path / "old.yaml"), []), ("", [f"MODEL.IIF.{old}", 1])):
        with pytest.raises(
            InputError, match=rf"MODEL.IIF.{old.split('.')[0]}.*MODEL.LONG_TAIL.{new}"
        ):
            load_config(*arguments)
