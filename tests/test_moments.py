"""`iif moments`: one pass of a plain model over training regions, in both engines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from helpers_tv import make_dataset, run, tiny_config
from iif import InputError, build_method
from iif.cli import main
from iif.data.split import held_out_images
from iif.files import sha256_file
from iif.methods.moments import load_moments

pytest.importorskip("torchvision", reason="torchvision is not installed")

import msgspec

from iif import ClassStatistics
from iif.data.annotations import load_annotations
from iif.tv import load
from iif.tv.dataset import DetectionTargets, training_batches
from iif.tv.moments import gather_moments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", images=12)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(data, folder, tiny_config(method="none", held_out=0.25))
    return folder


class TestTorchvision:
    def test_they_are_those_of_the_logits_that_training_samples(self, data, plain, tmp_path):
        """Collected by hand: the same batches, the same draws, numpy's mean and variance."""
        found = gather_moments(
            plain, data, data.parent / "images", tmp_path / "m.json", iterations=3
        )
        detector = load(plain)
        model, seen = detector.model.train(), []
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        model.roi_heads.mask_roi_pool = model.roi_heads.mask_head = None
        model.roi_heads.mask_predictor = None
        classifier = model.roi_heads.box_predictor.cls_score
        classifier.register_forward_hook(lambda m, i, out: seen.append(out.detach()[:, 1:]))
        annotations = load_annotations(data, statistics=detector.statistics)
        targets = DetectionTargets(annotations, data.parent / "images", masks=False, held_out=0.25)
        config = msgspec.structs.replace(detector.config, iterations=3)
        torch.manual_seed(config.seed)
        with torch.no_grad():
            for batch in training_batches(targets, config, 0):
                model(*batch)
        values = torch.cat(seen).double().numpy()
        assert found.regions == len(values) > 50
        np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.variance, values.var(axis=0, ddof=1), rtol=1e-9)

    def test_the_file_says_what_made_it_and_the_method_takes_it(
        self, data, plain, tmp_path, capsys
    ):
        path = tmp_path / "m.json"
        arguments = [
            "--run",
            str(plain),
            "--json",
            str(data),
            "--images",
            str(data.parent / "images"),
        ]
        arguments += ["--output", str(path), "--device", "cpu"]
        assert main(["moments", "--iterations", "2", "--momentum", "0.1", *arguments]) == 0
        assert "Moments of 4 classes over " in capsys.readouterr().out
        content = json.loads(path.read_text())
        assert (content["engine"], content["iterations"]) == ("torchvision", 2)
        assert content["momentum"] == 0.1
        assert content["checkpoint_sha256"] == sha256_file(plain / "model_final.pth")
        statistics = ClassStatistics.load(plain / "class_statistics.json")
        moments = load_moments(path, statistics)
        method = build_method("logn", statistics, {"moments": str(path)})
        np.testing.assert_allclose(method.scale[:-1], 1 / np.sqrt(moments.variance), rtol=1e-6)

    def test_a_model_trained_under_a_method_is_refused(self, data, tmp_path):
        run(data, tmp_path / "iif", tiny_config(iterations=1))
        with pytest.raises(InputError, match=r"was trained under method iif; give a plain model"):
            gather_moments(
                tmp_path / "iif", data, data.parent / "images", tmp_path / "m.json", iterations=1
            )
        assert not (tmp_path / "m.json").exists()

    def test_no_iteration_is_refused(self, data, plain, tmp_path):
        with pytest.raises(InputError, match="0 iterations see no region"):
            gather_moments(plain, data, data.parent / "images", tmp_path / "m.json", iterations=0)

    def test_held_out_images_are_not_trained_on(self, data):
        annotations = load_annotations(data)
        targets = DetectionTargets(annotations, data.parent / "images", masks=False, held_out=0.25)
        out = held_out_images(annotations.image_ids.tolist(), 0.25)
        assert 0 < out.sum() < len(out)
        assert not set(targets.shown_images) & set(np.flatnonzero(out))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "a plain model is missing"),
            (["--config-file", "c.yaml"], "a plain model is missing"),
            (["--run", "r", "--weights", "w"], "--run is a torchvision model"),
            (["--run", "r"], "--run needs --json and --images"),
        ],
    )
    def test_the_command_needs_one_model(self, arguments, message, capsys):
        assert main(["moments", "--output", "m.json", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_detectron2s_are_those_of_the_sampled_regions(config_file, baseline, tmp_path, capsys):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import EventStorage

    from d2_runs import saved_config
    from iif.d2.checkpoint import load_model
    from iif.d2.loader import train_loader
    from iif.d2.moments import sample_as_training
    from iif.d2.plain import boxes_only, plain_model_config

    weights = str(baseline / "model_final.pth")
    arguments = ["--config-file", str(baseline / "config.yaml"), "--weights", weights]
    path = tmp_path / "moments.json"
    assert main(["moments", "--iterations", "3", "--output", str(path), *arguments]) == 0
    assert "12 classes" in capsys.readouterr().out
    cfg = boxes_only(plain_model_config(saved_config(baseline), weights))
    model, seen = load_model(cfg, weights), []
    model.roi_heads.box_predictor.cls_score.register_forward_hook(
        lambda m, i, out: seen.append(out.detach()[:, :-1])
    )
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    seed_all_rng(cfg.SEED)
    batches = iter(train_loader(cfg))
    sample_as_training(model)
    with torch.no_grad(), EventStorage():
        for _ in range(3):
            model(next(batches))
    assert all(torch.equal(a, b.running_mean) for a, b in zip(before, norms, strict=True))
    values = torch.cat(seen).double().numpy()
    content = json.loads(path.read_text())
    assert content["regions"] == len(values) > 100
    np.testing.assert_allclose(content["mean"], values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(content["variance"], values.var(axis=0, ddof=1), rtol=1e-9)
    assert content["checkpoint_sha256"] == sha256_file(weights)


def test_detectron2_refuses_a_model_trained_under_a_method(iif_run, tmp_path, capsys):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    arguments = ["--config-file", str(iif_run / "config.yaml")]
    arguments += ["--weights", str(iif_run / "model_final.pth")]
    assert main(["moments", "--output", str(tmp_path / "m.json"), *arguments]) == 2
    assert "was trained with method iif, the configuration has none" in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()
