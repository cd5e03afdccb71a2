"""iif.tv.add_method: a long-tail method in torchvision's box head."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from helpers_tv import batch, small_model
from iif import ClassStatistics, InputError, build_method
from iif.methods import Method
from iif.methods.iif import iif_weights
from iif.tv import add_method
from iif.tv.predictor import LongTailPredictor

K = 5
STATISTICS = ClassStatistics(image_count=[1, 2, 5, 10, 90], num_images=100)
WEIGHTS = iif_weights(STATISTICS)


def iif(**options) -> Method:
    return build_method("iif", STATISTICS, options)


def losses_of(model: nn.Module, seed: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(seed)  # regions are sampled
    return model.train()(*batch())


def detections_of(model: nn.Module) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        return model.eval()(batch()[0])


def assert_same_losses(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def assert_same_detections(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert len(a["scores"]) > 0
        for key in ("boxes", "labels", "scores", "masks"):
            assert torch.equal(a[key], b[key]), key


class Recorder(Method):
    """Keeps what it is given; its logits are those of a plain softmax."""

    def __init__(self, statistics: ClassStatistics | None = None) -> None:
        super().__init__(None, statistics)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.seen.append((outputs.detach(), labels))
        return outputs


class TwoStage(Method):
    """A class's probability given an object, times that of an object: K + 2 outputs."""

    name = "two_stage"
    extra_outputs = 1

    def test_logits(self, outputs: Tensor) -> Tensor:
        classes, objectness = outputs[:, :K], outputs[:, K:].log_softmax(-1)
        return torch.cat([classes.log_softmax(-1) + objectness[:, :1], objectness[:, 1:]], dim=1)


class Sigmoid(Method):
    name = "sigmoid"

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class OwnLoss(Method):
    name = "own_loss"

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.sum()


class TestLogits:
    def test_the_methods_logits_and_nothing_else(self):
        plain = FastRCNNPredictor(8, K + 1).eval()
        features = torch.randn(7, 8, 1, 1)
        logits, deltas = plain(features)
        new_logits, new_deltas = LongTailPredictor(plain, iif())(features)
        assert torch.equal(new_logits[:, 0], logits[:, 0])
        assert torch.equal(new_logits[:, 1:], logits[:, 1:] * WEIGHTS.float())
        assert torch.equal(new_deltas, deltas)

    def test_none_is_the_plain_model_bit_for_bit(self):
        plain = small_model()
        model = add_method(copy.deepcopy(plain), build_method("none"))
        assert model.state_dict().keys() == plain.state_dict().keys()
        one, other = losses_of(plain), losses_of(model)
        assert_same_losses(one, other)
        for losses in (one, other):
            sum(losses.values()).backward()
        for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            assert a.grad is None or torch.equal(a.grad, b.grad), name
        assert_same_detections(detections_of(plain), detections_of(model))

    def test_strength_0_changes_nothing(self):
        plain = small_model()
        model = add_method(copy.deepcopy(plain), iif(strength=0))
        assert_same_losses(losses_of(plain), losses_of(model))
        assert_same_detections(detections_of(plain), detections_of(model))

    def test_post_hoc_trains_a_plain_model(self):
        plain = small_model()
        model = add_method(copy.deepcopy(plain), iif(apply="test"))
        assert_same_losses(losses_of(plain), losses_of(model))
        scores = detections_of(plain)[0]["scores"], detections_of(model)[0]["scores"]
        assert not torch.equal(scores[0][:5], scores[1][:5])

    def test_the_loss_sees_the_methods_logits(self):
        plain = small_model()
        model = add_method(copy.deepcopy(plain), iif())
        seen = {}
        model.roi_heads.box_predictor.cls_score.register_forward_hook(
            lambda module, inputs, output: seen.update(logits=output)
        )
        select = model.roi_heads.select_training_samples

        def remember(*args):
            result = select(*args)
            seen["labels"] = torch.cat(result[2])
            return result

        model.roi_heads.select_training_samples = remember
        got = losses_of(model)
        expected = losses_of(plain)
        logits = seen["logits"].clone()
        logits[:, 1:] *= WEIGHTS.float()
        torch.testing.assert_close(
            got["loss_classifier"], nn.functional.cross_entropy(logits, seen["labels"])
        )
        assert not torch.equal(got["loss_classifier"], expected["loss_classifier"])
        for name in ("loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"):
            assert torch.equal(got[name], expected[name]), name

    def test_inference_sees_the_methods_logits(self):
        model = add_method(small_model(box_score_thresh=0.0, box_detections_per_img=1000), iif())
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

    @settings(deadline=None, max_examples=60)
    @given(
        regions=st.integers(0, 6),
        counts=st.lists(st.integers(1, 99), min_size=1, max_size=8),
        seed=st.integers(0, 2**31),
    )
    def test_background_first_and_last_give_the_same_probabilities(self, regions, counts, seed):
        method = build_method("iif", ClassStatistics(image_count=counts, num_images=100))
        torch.manual_seed(seed)
        predictor = FastRCNNPredictor(3, len(counts) + 1).double().eval()
        x = torch.randn(regions, 3, dtype=torch.float64)
        last = method.test_logits(predictor.cls_score(x).roll(-1, dims=1)).softmax(dim=1)
        first = LongTailPredictor(predictor, method)(x)[0].softmax(dim=1)
        torch.testing.assert_close(first, last.roll(1, dims=1), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_narrow_classifier_gives_float32_logits(self, dtype):
        plain = FastRCNNPredictor(8, K + 1).to(dtype).eval()
        x = torch.randn(7, 8, dtype=dtype)
        logits, _ = LongTailPredictor(plain, iif())(x)
        assert logits.dtype == torch.float32
        expected = plain.cls_score(x).float()[:, 1:] * WEIGHTS.float()
        assert torch.equal(logits[:, 1:], expected)


class TestLabels:
    def test_a_method_sees_the_sampled_labels_with_the_background_last(self):
        method = Recorder(STATISTICS)
        model = add_method(small_model(), method)
        heads = model.roi_heads
        sampled, outputs = [], []
        select = heads.select_training_samples
        heads.select_training_samples = lambda *args: sampled.append(select(*args)) or sampled[-1]
        heads.box_predictor.cls_score.register_forward_hook(
            lambda module, inputs, output: outputs.append(output.detach())
        )
        losses_of(model)
        ((seen, labels),) = method.seen
        theirs = torch.cat(sampled[0][2])
        assert set(theirs.tolist()) == {0, 1, K}
        assert torch.equal(labels, torch.where(theirs == 0, K, theirs - 1))
        assert torch.equal(seen[:, K], outputs[0][:, 0])
        assert torch.equal(seen[:, :K], outputs[0][:, 1:])

    def test_labels_are_used_up(self):
        model = add_method(small_model(), Recorder())
        for _ in range(2):
            losses_of(model)
            assert model.roi_heads.box_predictor.labels is None

    def test_evaluation_keeps_nothing(self):
        model = add_method(small_model(), iif()).eval()
        modules = [m for m in model.modules() if type(m).__module__.startswith("iif")]
        assert len(modules) >= 4
        before = [dict(vars(module)) for module in modules]
        detections_of(model)
        for module, held in zip(modules, before, strict=True):
            assert vars(module).keys() == held.keys()
            assert all(vars(module)[key] is value for key, value in held.items())

    def test_training_without_labels_is_an_error(self):
        predictor = LongTailPredictor(FastRCNNPredictor(8, K + 1), iif())
        with pytest.raises(RuntimeError, match="no labels to train on"):
            predictor(torch.randn(2, 8))


class TestExtraOutputs:
    def test_the_classifier_is_drawn_anew(self):
        model = small_model()
        before = model.roi_heads.box_predictor.cls_score
        predictor = add_method(model, TwoStage()).roi_heads.box_predictor
        assert predictor.cls_score is not before
        assert predictor.cls_score.out_features == K + 2
        assert predictor.bbox_pred.out_features == 4 * (K + 1)

    def test_its_own_background_is_last_and_torchvisions_first(self):
        predictor = LongTailPredictor(FastRCNNPredictor(8, K + 1), TwoStage()).eval()
        x = torch.randn(7, 8)
        logits, _ = predictor(x)
        expected = predictor.method.test_logits(predictor.cls_score(x))
        assert torch.equal(logits, expected.roll(1, dims=1))
        torch.testing.assert_close(logits.softmax(-1), logits.exp())

    def test_trains_and_detects(self):
        model = add_method(small_model(), TwoStage())
        losses = losses_of(model)
        losses["loss_classifier"].backward()
        assert model.roi_heads.box_predictor.cls_score.weight.grad.abs().sum(dim=1).all()
        assert len(detections_of(model)[0]["scores"]) > 0


class TestModule:
    def test_returns_the_same_model_and_keeps_the_layers(self):
        model = small_model()
        layer = model.roi_heads.box_predictor.cls_score
        names = list(dict(model.named_parameters()))
        assert add_method(model, iif()) is model
        assert model.roi_heads.box_predictor.cls_score is layer
        assert list(dict(model.named_parameters())) == names
        assert "roi_heads.box_predictor.cls_score.weight" in names

    def test_keeps_hooks_and_settings_of_the_heads(self):
        model = small_model(box_score_thresh=0.3)
        calls = []
        model.roi_heads.register_forward_hook(lambda *args: calls.append(1))
        detections_of(add_method(model, iif()))
        assert calls == [1]
        assert model.roi_heads.score_thresh == 0.3

    def test_buffers_lie_under_method(self):
        new = add_method(small_model(), iif()).state_dict().keys() - small_model().state_dict()
        assert new == {f"roi_heads.box_predictor.method.{buffer}" for buffer in ("scale", "shift")}

    def test_a_plain_checkpoint_loads_and_the_method_stands(self):
        plain = small_model(seed=3)
        model = add_method(small_model(seed=4), iif())
        model.load_state_dict(plain.state_dict())
        expected = add_method(copy.deepcopy(plain), iif())
        assert_same_detections(detections_of(model), detections_of(expected))

    def test_saved_and_loaded_gives_bit_equal_output(self, tmp_path):
        model = add_method(small_model(seed=3), iif())
        torch.save(model.state_dict(), tmp_path / "model.pth")
        other = add_method(small_model(seed=4), iif())
        other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
        assert_same_detections(detections_of(model), detections_of(other))

    def test_a_methods_checkpoint_does_not_pass_for_a_plain_one(self):
        with pytest.raises(RuntimeError, match=r"box_predictor\.method\.scale"):
            small_model().load_state_dict(add_method(small_model(), iif()).state_dict())

    def test_other_weights_of_the_method_are_not_evaluated(self):
        model = add_method(small_model(), iif(variant="base10")).eval()
        with pytest.raises(InputError, match="other values of its buffers"):
            model.load_state_dict(add_method(small_model(), iif()).state_dict())

    @pytest.mark.parametrize(
        "twin",
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies_do_the_same(self, twin):
        model = add_method(small_model(), iif())
        other = twin(model)
        assert other.roi_heads.box_predictor is not model.roi_heads.box_predictor
        assert_same_losses(losses_of(model), losses_of(other))
        assert_same_detections(detections_of(model), detections_of(other))

    def test_follows_the_model_to_its_device(self):
        model = add_method(small_model(), iif()).to("meta")
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
        moved = add_method(small_model().to("meta"), iif())
        assert moved.roi_heads.box_predictor.method.scale.device.type == "meta"

    @pytest.mark.parametrize("name", ["none", "iif"])
    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_torchscript_gives_the_same_detections_and_losses(self, name):
        model = add_method(small_model(), build_method(name, STATISTICS))
        scripted = torch.jit.script(model.eval())
        with torch.no_grad():
            _, detections = scripted(batch()[0])
        assert_same_detections(detections_of(model), detections)
        torch.manual_seed(2)
        losses, _ = torch.jit.script(model.train())(*batch())
        assert_same_losses(losses_of(model), losses)

    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_torchscript_of_many_classes_gives_the_same_detections(self):
        """The scripted model runs torchvision's NMS, the other the one on the best pairs."""
        counts = ClassStatistics(image_count=[1] * 60, num_images=100)
        model = add_method(small_model(60, box_detections_per_img=5), build_method("iif", counts))
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=2)
        scripted = torch.jit.script(model.eval())
        with torch.no_grad():
            _, detections = scripted(batch()[0])
        assert_same_detections(detections_of(model), detections)

    def test_printed_it_names_the_method(self):
        assert "iif, variant=raw" in repr(add_method(small_model(), iif()))


class TestRefusals:
    def test_twice(self):
        model = add_method(small_model(), iif())
        with pytest.raises(InputError, match="has method iif already"):
            add_method(model, build_method("none"))

    def test_another_number_of_classes(self):
        method = build_method("iif", ClassStatistics(image_count=[1, 2, 5, 9], num_images=100))
        with pytest.raises(InputError, match=r"4 classes.*must have 5 outputs.*has 6"):
            add_method(small_model(), method)

    def test_a_model_without_box_head(self):
        model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K + 1)
        with pytest.raises(TypeError, match=r"RetinaNet: .*found none"):
            add_method(model, iif())

    def test_an_own_predictor(self):
        class Own(FastRCNNPredictor):
            def forward(self, x):
                return self.cls_score(x), self.bbox_pred(x)

        model = small_model()
        model.roi_heads.box_predictor = Own(256, K + 1)
        with pytest.raises(TypeError, match="found a Own"):
            add_method(model, iif())

    def test_own_heads(self):
        class Own(RoIHeads):
            pass

        model = small_model()
        model.roi_heads.__class__ = Own
        with pytest.raises(TypeError, match="torchvision's RoIHeads, found a Own"):
            add_method(model, iif())

    METHODS: ClassVar = [
        (
            Sigmoid(),
            "method sigmoid computes its probabilities without a softmax.*RoIHeads hard-code",
        ),
        (OwnLoss(), "method own_loss computes its loss without a softmax.*softmax cross entropy"),
        (build_method("iif", STATISTICS, background=False), "without a background"),
    ]

    @pytest.mark.parametrize(("method", "message"), METHODS)
    def test_a_method_that_torchvision_cannot_train(self, method, message):
        with pytest.raises(InputError, match=message):
            add_method(small_model(), method)


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

    ours = LongTailPredictor(FastRCNNPredictor(channels, K + 1), iif())
    theirs = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=channels),
        box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=K,
        method=iif(),
    )
    with torch.no_grad():
        theirs.cls_score.weight.copy_(ours.cls_score.weight.roll(-1, dims=0))
        theirs.cls_score.bias.copy_(ours.cls_score.bias.roll(-1, dims=0))

    labels = torch.where(rows == K, 0, rows + 1)
    ours.labels = labels
    logits, deltas = ours(features)
    loss, _ = fastrcnn_loss(logits, deltas, [labels], [torch.zeros(regions, 4)])

    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(boxes)
    proposals.gt_boxes = Boxes(boxes)
    proposals.gt_classes = rows
    with EventStorage():
        their_loss = theirs.losses(theirs(features), [proposals])["loss_cls"]
    (their_probabilities,) = theirs.eval().predict_probs(theirs(features), [proposals])

    torch.testing.assert_close(loss, their_loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        ours.eval()(features)[0].softmax(dim=1),
        their_probabilities.roll(1, dims=1),
        rtol=0,
        atol=1e-6,
    )
