"""Classifiers, backbones, the loss and the transforms, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from iif import ClassStatistics, InputError, build_method
from iif.classification import ClassifyConfig, CosineClassifier, LearnedCosineClassifier
from iif.classification.loss import class_balanced_weights, classification_loss
from iif.classification.model import ClassificationModel, build_backbone, load_backbone
from iif.classification.se_resnet import se_resnet32
from iif.classification.transforms import (
    Cutout,
    epoch_rows,
    evaluation_transform,
    mixer,
    training_transform,
)

STATISTICS = ClassStatistics(image_count=[60, 30, 9, 1], num_images=100, ids=[0, 1, 2, 3])


class TestCosineClassifiers:
    def test_by_hand(self):
        classifier = CosineClassifier(2, 2)
        with torch.no_grad():
            classifier.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, -2.0]]))
        logits = classifier(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        # |x| / (1 + |x|) = 3/4 and 1/2; cosines 0.6, 0 and 0.8, -1; times 16.
        expected = torch.tensor([[16 * 0.75 * 0.6, 0.0], [16 * 0.5 * 0.8, -16 * 0.5]])
        torch.testing.assert_close(logits, expected)

    @pytest.mark.parametrize("kind", [CosineClassifier, LearnedCosineClassifier])
    def test_features_of_length_0_give_0_and_a_finite_gradient(self, kind):
        classifier = kind(3, 2)
        features = torch.zeros(1, 3, requires_grad=True)
        logits = classifier(features)
        logits.sum().backward()
        assert logits.tolist() == [[0.0, 0.0]]
        assert features.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())

    def test_start_of_the_weights(self):
        torch.manual_seed(0)
        weight = CosineClassifier(25, 4000).weight
        assert weight.abs().max() <= 0.2
        assert weight.abs().max() > 0.199
        assert weight.var().item() == pytest.approx(0.2**2 / 3, rel=0.02)

    def test_the_learned_scale_is_a_square_from_25(self):
        classifier = LearnedCosineClassifier(2, 2)
        fixed = CosineClassifier(2, 2, scale=25.0)
        fixed.load_state_dict({"weight": classifier.weight})
        features = torch.randn(3, 2)
        torch.testing.assert_close(classifier(features), fixed(features))
        classifier(features).sum().backward()
        cosines = fixed(features).sum() / 25
        torch.testing.assert_close(classifier.root.grad, 2 * 5 * cosines.detach())

    def test_the_norm_of_a_weight_does_not_matter(self):
        classifier = CosineClassifier(4, 3)
        features = torch.randn(5, 4)
        before = classifier(features)
        with torch.no_grad():
            classifier.weight[1] *= 7
        torch.testing.assert_close(classifier(features), before)


class TestModels:
    def test_se_resnet32(self):
        torch.manual_seed(0)
        model = se_resnet32().eval()
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        main = [m for m in convolutions if m.kernel_size == (3, 3)]
        assert len(main) == 31  # and the classifier makes 32 layers
        plain = 463_504  # parameters of ResNet-32's convolutions and batch normalisation
        projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
        excitation = 5 * sum(2 * c * (c // 16) + c + c // 16 for c in (16, 32, 64))
        assert sum(p.numel() for p in model.parameters()) == plain + projections + excitation
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 64)

    @pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("se_resnet8", 64)])
    def test_backbones_give_features(self, name, width):
        backbone, features = build_backbone(name)
        assert features == width
        assert backbone.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, width)

    @pytest.mark.parametrize("name", ["seresnet50", "seresnext50_32x4d", "seresnet152"])
    def test_the_papers_backbones_are_timms(self, name):
        pytest.importorskip("timm", reason="timm is not installed")
        with torch.device("meta"):
            backbone, width = build_backbone(name)
            assert width == 2048
            assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 2048)

    def test_an_unknown_backbone(self, monkeypatch):
        with pytest.raises(InputError, match=r"model is 'resnet32'; it must be one of se_resnet32"):
            build_backbone("resnet32")
        monkeypatch.setattr("iif.classification.model.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"without timm \(pip install timm\) it must be"):
            build_backbone("seresnet50")

    @pytest.mark.parametrize("form", ["torchvision", "nested", "parallel", "ours"])
    def test_weights_from_a_file(self, tmp_path, form):
        from torchvision.models import resnet18

        torch.manual_seed(3)
        source = resnet18()
        state = source.state_dict()
        if form == "nested":
            state = {"state_dict": state}
        elif form == "parallel":
            state = {f"module.{key}": value for key, value in state.items()}
        elif form == "ours":
            state = {"model": {f"backbone.{key}": value for key, value in state.items()}}
        torch.save(state, tmp_path / "weights.pth")
        backbone, _ = build_backbone("resnet18")
        load_backbone(backbone, tmp_path / "weights.pth")
        assert torch.equal(backbone.conv1.weight, source.conv1.weight)
        assert torch.equal(backbone.layer4[1].bn2.bias, source.layer4[1].bn2.bias)

    def test_weights_that_do_not_fit(self, tmp_path):
        backbone, _ = build_backbone("resnet18")
        with pytest.raises(InputError, match="no such file; weights takes a file"):
            load_backbone(backbone, tmp_path / "absent.pth")
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(InputError, match="no file of weights"):
            load_backbone(backbone, tmp_path / "text.pth")
        torch.save(build_backbone("resnet34")[0].state_dict(), tmp_path / "larger.pth")
        with pytest.raises(InputError, match="also has"):
            load_backbone(backbone, tmp_path / "larger.pth")
        torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
        with pytest.raises(InputError, match=r"lacks 119 of its tensors, bn1\.weight"):
            load_backbone(backbone, tmp_path / "part.pth")

    def test_a_frozen_backbone_keeps_its_running_statistics(self):
        backbone, width = build_backbone("se_resnet8")
        model = ClassificationModel(
            backbone, nn.Linear(width, 4), build_method("none"), frozen=True
        )
        before = backbone.bn1.running_mean.clone()
        model.train()(torch.randn(4, 3, 8, 8)).sum().backward()
        assert torch.equal(backbone.bn1.running_mean, before)
        assert all(parameter.grad is None for parameter in backbone.parameters())
        assert model.classifier.weight.grad is not None

    def test_post_hoc_is_relative_to_the_mean_for_a_linear_head_alone(self):
        outputs = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
        weights = torch.tensor([math.log(100 / n) for n in (60, 30, 9, 1)])
        for head, expected in (
            (nn.Linear(4, 4), weights * (outputs - 3)),
            (CosineClassifier(4, 4), weights * outputs),
        ):
            method = build_method("iif", STATISTICS, {"apply": "test"}, background=False)
            model = ClassificationModel(nn.Identity(), head, method)
            torch.testing.assert_close(model.method.test_logits(outputs), expected)


class TestLoss:
    OUTPUTS = torch.tensor([[1.0, -1.0, 0.5, 0.0], [0.2, 0.4, -2.0, 3.0], [0.0, 0.0, 1.0, 1.0]])
    LABELS = torch.tensor([0, 3, 1])

    def soft(self, share: float) -> torch.Tensor:
        one_hot = torch.eye(4)[self.LABELS]
        return share * one_hot + (1 - share) * one_hot.roll(1, 0)

    def test_iif_by_hand(self):
        method = build_method("iif", STATISTICS, {"variant": "smooth"}, background=False)
        w = [math.log(101 / (n + 1)) + 1 for n in (60, 30, 9, 1)]
        expected = 0.0
        for row, label in zip(self.OUTPUTS.tolist(), self.LABELS.tolist(), strict=True):
            z = [a * b for a, b in zip(w, row, strict=True)]
            expected -= z[label] - math.log(sum(map(math.exp, z)))
        loss = classification_loss(method, self.OUTPUTS, self.LABELS)
        assert loss.item() == pytest.approx(expected / 3, rel=1e-6)

    @pytest.mark.parametrize("name", ["none", "iif", "logit_adjustment"])
    def test_mixed_images_have_the_loss_of_soft_targets(self, name):
        method = build_method(name, STATISTICS, background=False)
        soft = self.soft(0.7)
        loss = classification_loss(method, self.OUTPUTS, self.LABELS, soft)
        logits = method.training_logits(self.OUTPUTS, self.LABELS)
        torch.testing.assert_close(loss, cross_entropy(logits, soft))

    def test_mixed_with_an_image_of_its_own_class(self):
        soft = torch.eye(4)[self.LABELS]
        method = build_method("none")
        loss = classification_loss(method, self.OUTPUTS, self.LABELS, soft)
        torch.testing.assert_close(loss, cross_entropy(self.OUTPUTS, self.LABELS))

    def test_seesaw_sees_both_labels_and_counts_an_image_once(self):
        method = build_method("seesaw", STATISTICS, background=False).train()
        loss = classification_loss(method, self.OUTPUTS, self.LABELS, self.soft(0.7))
        assert method.seen.tolist() == [1, 1, 0, 1]
        assert method.training
        method.eval()
        partner = self.LABELS.roll(1)
        parts = [
            cross_entropy(method.training_logits(self.OUTPUTS, labels), labels)
            for labels in (self.LABELS, partner)
        ]
        torch.testing.assert_close(loss, 0.7 * parts[0] + 0.3 * parts[1])
        # The factors differ by label: soft targets over one of the logits are not the same.
        one = cross_entropy(method.training_logits(self.OUTPUTS, self.LABELS), self.soft(0.7))
        assert abs(one - loss) > 1e-3

    def test_weighted_mean(self):
        weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
        method = build_method("none")
        loss = classification_loss(method, self.OUTPUTS, self.LABELS, None, weight)
        torch.testing.assert_close(loss, cross_entropy(self.OUTPUTS, self.LABELS, weight))
        mixed = classification_loss(method, self.OUTPUTS, self.LABELS, self.soft(0.7), weight)
        each = -self.OUTPUTS.log_softmax(1)
        shares = self.soft(0.7) * weight
        torch.testing.assert_close(mixed, (shares * each).sum() / shares.sum())

    def test_class_balanced_weights_by_hand(self):
        counts = np.array([500, 5])
        raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in (500, 5)]
        expected = [value / (sum(raw) / 2) for value in raw]
        assert class_balanced_weights(counts).tolist() == pytest.approx(expected)
        assert class_balanced_weights(counts, beta=0.0).tolist() == [1.0, 1.0]


def config(**values) -> ClassifyConfig:
    return ClassifyConfig.from_dict(values)


class TestTransforms:
    def test_cutout_fills_a_square_within_the_image(self):
        torch.manual_seed(0)
        image = torch.ones(3, 12, 10)
        sizes = set()
        for _ in range(200):
            hole = Cutout(4)(image)[0] == 0
            rows, columns = hole.any(1), hole.any(0)
            assert hole.sum() == rows.sum() * columns.sum()
            sizes.add((int(rows.sum()), int(columns.sum())))
        assert image.min() == 1
        # The middle is anywhere, so up to half of the square is cut off at an edge.
        assert sizes == {(h, w) for h in (2, 3, 4) for w in (2, 3, 4)}

    @pytest.mark.parametrize("crop", ["padded", "random_resized", None])
    @pytest.mark.parametrize(
        "policy", ["autoaugment_cifar10", "autoaugment_imagenet", "randaugment"]
    )
    def test_shapes(self, crop, policy):
        settings = config(image_size=16, crop=crop, policy=policy, cutout=4)
        image = Image.new("RGB", (20, 24), (255, 0, 0))
        for transform in (training_transform(settings), evaluation_transform(settings)):
            assert transform(image).shape == (3, 16, 16)

    def test_test_images_are_normalised(self):
        settings = config(image_size=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
        pixels = evaluation_transform(settings)(Image.new("RGB", (4, 4), (255, 0, 51)))
        torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([2.0, -1.0, -0.3]))

    def test_mixers(self):
        images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 4
        assert mixer(config(), 4) is None
        for values in ({"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}):
            mixed, soft = mixer(config(**values), 4)(images, labels)
            assert mixed.shape == images.shape
            torch.testing.assert_close(soft.sum(1), torch.ones(8))
            assert ((soft > 0).sum(1) <= 2).all()


class TestSampling:
    LABELS = np.repeat([0, 1, 2], [900, 90, 10])

    def counts(self, sampling: str) -> np.ndarray:
        generator = np.random.default_rng(0)
        epochs = [epoch_rows(self.LABELS, sampling, generator) for _ in range(30)]
        return np.bincount(self.LABELS[np.concatenate(epochs)]) / (30 * len(self.LABELS))

    def test_each_image_once(self):
        rows = epoch_rows(self.LABELS, "instance_balanced", np.random.default_rng(0))
        assert sorted(rows) == list(range(1000))
        assert rows.tolist() != list(range(1000))

    def test_classes_alike(self):
        assert self.counts("class_balanced") == pytest.approx([1 / 3] * 3, abs=0.01)

    def test_square_root(self):
        roots = np.sqrt([900, 90, 10])
        assert self.counts("square_root") == pytest.approx(roots / roots.sum(), abs=0.01)
