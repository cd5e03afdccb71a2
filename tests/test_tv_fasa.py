"""FASA in torchvision: the seam, adaptation on held-out images, resuming, two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from torch.nn import functional as F

from helpers_tv import (
    CATEGORY_IDS,
    assert_same_state,
    batch,
    make_dataset,
    run,
    small_model,
    state,
    tiny_config,
)
from iif import ClassStatistics, InputError, build_method
from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.tv import add_method, load
from iif.tv.augmentation import Adaptation, iterations_per_epoch
from iif.tv.dataset import DetectionTargets
from iif.tv.model import augmentation_of

STATISTICS = ClassStatistics(
    image_count=[60, 30, 12, 5, 1], num_images=100, instance_count=[90, 40, 12, 7, 2]
)
ON = {"enabled": True, "adapt": False, "epoch_length": 2}
PREFIX = "roi_heads.box_predictor.augmentation."


def build(start=1, method="iif", **options):
    """Return a model whose virtual features begin with epoch ``start`` of 2 iterations."""
    model = small_model()
    settings = FasaOptions(enabled=True, epoch_length=2, start_epoch=start, **options)
    width = model.roi_heads.box_predictor.cls_score.in_features
    fasa = FeatureAugmentation(STATISTICS.instance_count, width, options=settings)
    fasa.chance.fill_(1)
    torch.manual_seed(7)
    return add_method(model, build_method(method, STATISTICS), fasa).train()


def step(model):
    torch.manual_seed(1)
    return model(*batch())


class TestSeam:
    def test_without_it_nothing_changes(self):
        plain = add_method(small_model(), build_method("iif", STATISTICS)).train()
        assert augmentation_of(plain) is None
        augmented = build(start=9)
        found, expected = step(augmented), step(plain)
        for name, loss in expected.items():
            assert torch.equal(found[name], loss), name

    @pytest.mark.parametrize("method", ["none", "iif", "seesaw"])
    def test_the_loss_is_raised_by_the_virtual_features_cross_entropy(self, method):
        model = build(method=method)
        losses, plain = step(model), step(build(start=9, method=method))
        predictor = model.roi_heads.box_predictor
        assert predictor.virtual_loss is None  # nothing is left on the module
        predictor.augmentation.iteration.zero_()
        virtual, classes = predictor.augmentation.draw()
        assert classes.tolist() == [0, 4]  # the classes of the batch
        outputs = predictor.cls_score(virtual)
        if not predictor.extra_outputs:
            outputs = outputs.roll(-1, dims=1)  # torchvision has the background first
        logits = predictor.method.eval().training_logits(outputs, classes)
        added = 0.1 * F.cross_entropy(logits, classes)
        for name, loss in losses.items():
            expected = plain[name] + added if name == "loss_classifier" else plain[name]
            torch.testing.assert_close(loss, expected)

    def test_only_the_classifier_learns_from_virtual_features(self):
        def gradients(model):
            sum(step(model).values()).backward()
            return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

        augmented, plain = gradients(build()), gradients(build(start=9))
        changed = {key for key, grad in plain.items() if not torch.equal(grad, augmented[key])}
        classifier = "roi_heads.box_predictor.cls_score."
        assert changed == {classifier + "weight", classifier + "bias"}

    def test_evaluation_and_torchscript_see_nothing_of_it(self):
        model = build()
        step(model)
        plain = add_method(small_model(), build_method("iif", STATISTICS))
        kept = {k: v for k, v in model.state_dict().items() if not k.startswith(PREFIX)}
        plain.load_state_dict(kept)
        images = batch()[0]
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.no_grad():
            found, expected = model.eval()(images), plain.eval()(images)
            _, scripted = torch.jit.script(model)(images)
        for one, two, three in zip(found, expected, scripted, strict=True):
            assert torch.equal(one["scores"], two["scores"])
            assert torch.equal(one["boxes"], two["boxes"])
            torch.testing.assert_close(three["scores"], two["scores"])
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)


class TestConfig:
    def test_the_settings_are_a_node(self):
        config = tiny_config().override(
            ["fasa.enabled=true", "fasa.weight=0.5", "fasa.adapt=false"]
        )
        assert config.fasa == FasaOptions(enabled=True, weight=0.5, adapt=False)
        assert config.to_dict()["fasa"]["weight"] == 0.5
        assert tiny_config().fasa == FasaOptions()

    @pytest.mark.parametrize(
        ("fasa", "message"),
        [
            ({"weight": -1}, r"fasa\.weight is -1; it must be a number, 0 or more"),
            ({"start_epoch": 0}, r"fasa\.start_epoch is 0; it must be a whole number, 1 or more"),
            ({"enabled": True}, "set held_out, 0.01 for instance, or fasa.adapt=false"),
        ],
    )
    def test_bad_settings(self, fasa, message):
        with pytest.raises(InputError, match=message):
            tiny_config(fasa=fasa)

    def test_a_method_with_its_own_loss(self):
        with pytest.raises(InputError, match="method eqlv2 computes its loss without a softmax"):
            build(method="eqlv2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", images=24)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Return the output folder of a run of 3 epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(data, folder, tiny_config(**TestTraining.SETTINGS))
    return folder


class TestTraining:
    SETTINGS = {  # noqa: RUF012 (not changed)
        "fasa": {"enabled": True, "epoch_length": 3, "clip": False},
        "held_out": 0.3,
        "iterations": 9,
        "checkpoint_period": 5,
    }

    def test_all_epochs_are_followed(self, trained):
        final = state(trained)["model"]
        assert final[PREFIX + "iteration"].item() == 9
        assert final[PREFIX + "seen"].all()
        assert torch.isfinite(final[PREFIX + "held_out_loss"]).all()
        statistics = ClassStatistics.load(trained / "class_statistics.json")
        inverse = 1 / statistics.instance_count
        # Two adaptations: the first epoch only stores.
        factor = final[PREFIX + "chance"].numpy() / (inverse / inverse.sum())
        for value in factor:
            assert min(abs(value - x) for x in (1.21, 0.99, 0.81)) < 1e-5

    def test_a_resumed_run_equals_an_unbroken_one(self, data, trained, tmp_path):
        config = tiny_config(**self.SETTINGS)
        short = tiny_config(**{**self.SETTINGS, "iterations": 5})
        run(data, tmp_path / "run", short)
        run(data, tmp_path / "run", config, resume=True)
        found, expected = state(tmp_path / "run"), state(trained)
        assert_same_state(found["model"], expected["model"])
        assert_same_state(found["optimizer"], expected["optimizer"])

    def test_resuming_with_other_settings_is_refused(self, data, trained):
        other = {**self.SETTINGS, "fasa": {**self.SETTINGS["fasa"], "weight": 0.2}}
        with pytest.raises(InputError, match=r"has fasa=.*'weight': 0.1.*'weight': 0.2"):
            run(data, trained, tiny_config(**other), resume=True)
        with pytest.raises(InputError, match=r"has fasa=.*'enabled': True.*'enabled': False"):
            run(data, trained, tiny_config(**{**self.SETTINGS, "fasa": {}}), resume=True)

    def test_a_loaded_model_has_nothing_of_it(self, trained):
        detector = load(trained)
        assert augmentation_of(detector.model) is None
        assert not any(key.startswith(PREFIX) for key in detector.model.state_dict())
        assert detector.config.fasa.enabled

    def test_adapting_to_the_evaluated_set_is_refused(self, data, tmp_path):
        with pytest.raises(InputError, match="must not adapt to the data that the result"):
            run(data, tmp_path / "run", tiny_config(**self.SETTINGS), val_json=data)

    def test_holding_out_no_image_is_refused(self, data, tmp_path):
        with pytest.raises(InputError, match="holds out no annotated image"):
            run(data, tmp_path / "run", tiny_config(**{**self.SETTINGS, "held_out": 1e-9}))

    def test_two_processes_train_together(self, data, tmp_path):
        script = (
            "import sys\n"
            "from pathlib import Path\n"
            "from helpers_tv import run, tiny_config\n"
            f"run(Path({str(data)!r}), Path(sys.argv[1]), tiny_config(**{self.SETTINGS!r}))\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node=2", "--no-python", sys.executable, "-c", script),
                str(tmp_path / "run"),
            ],
            check=True,
            env=environment,
            capture_output=True,
            timeout=170,
        )
        final = state(tmp_path / "run")["model"]
        assert final[PREFIX + "iteration"].item() == 9
        assert torch.isfinite(final[PREFIX + "held_out_loss"]).all()


def test_the_held_out_loss_is_that_of_ground_truth_boxes(data):
    from iif.data.annotations import load_annotations

    statistics = ClassStatistics.from_json(data)
    torch.manual_seed(0)
    model = small_model(len(CATEGORY_IDS))
    fasa = FeatureAugmentation(statistics.instance_count, 256, options=FasaOptions(epoch_length=2))
    add_method(model, build_method("none"), fasa).train()
    adaptation = Adaptation(load_annotations(data), data.parent / "images", 0.4, statistics.groups)
    seen = []
    hook = model.roi_heads.box_predictor.cls_score.register_forward_hook(
        lambda module, inputs, outputs: seen.append(outputs)
    )
    adaptation.follow(model, torch.device("cpu"))
    hook.remove()
    assert model.training
    labels = torch.cat([adaptation.data[row, False][1]["labels"] for row in adaptation.rows])
    losses = F.cross_entropy(
        torch.cat(seen), labels, reduction="none"
    ).numpy()  # label 0: background
    for c in range(len(CATEGORY_IDS)):
        own = labels.numpy() == c + 1
        group = np.isin(
            labels.numpy() - 1, np.flatnonzero(statistics.groups == statistics.groups[c])
        )
        expected = losses[own if own.sum() >= 10 else group].mean()
        assert fasa.held_out_loss[c].item() == pytest.approx(expected, rel=1e-5)


def test_an_epoch_is_the_training_set_once(data):
    from iif.data.annotations import load_annotations

    annotations = load_annotations(data)
    targets = DetectionTargets(annotations, data.parent / "images", masks=False)
    assert iterations_per_epoch(targets, tiny_config(images_per_batch=5)) == 5
    # f = 1, 1/2, 1/3, 1/4: an image's factor is that of its rarest class, sqrt(1 / f).
    factors = [max(s**0.5 for s in (1, 2, 3, 4) if i % s == 0) for i in range(24)]
    config = tiny_config(images_per_batch=5, repeat_threshold=1.0)
    assert iterations_per_epoch(targets, config) == int(np.ceil(sum(factors) / 5))
