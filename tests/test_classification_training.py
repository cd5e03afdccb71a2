"""iif classify: from image files to the evaluation summary, on tiny sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_classification import COUNTS, make_cifar10, make_folder, state, tiny_config
from helpers_tv import assert_same_state
from iif import InputError
from iif.classification import (
    ClassifyConfig,
    Predictions,
    evaluate,
    load,
    load_data,
    train,
)
from iif.classification.counts import held_out_rows
from iif.classification.inference import classifier_outputs
from iif.classification.trainer import learning_rate
from iif.cli import main
from iif.files import read_json
from iif.methods import METHODS

EVERYTHING = {
    "mixup": 0.2,
    "cutmix": 1.0,
    "policy": "autoaugment_cifar10",
    "cutout": 4,
    "sampling": "class_balanced",
    "reweight_from": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("classes"))


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """A short plain run."""
    output = tmp_path_factory.mktemp("plain") / "run"
    config = tiny_config(folder, second_stage={"epochs": 1, "base_lr": 0.2})
    train(config, output, device="cpu")
    return output


def run(folder, output, **values):
    return train(tiny_config(folder, **values), output, device="cpu")


class TestEndToEnd:
    def test_a_cifar_set_is_learned_and_evaluated(self, tmp_path, monkeypatch):
        make_cifar10(tmp_path / "data", monkeypatch)
        config = ClassifyConfig.from_dict(
            {
                "root": str(tmp_path / "data"),
                "data": "cifar10",
                "imbalance_factor": 4,
                "model": "se_resnet8",
                "classifier": "cosine",
                "method": "iif",
                "crop": None,
                "flip": False,
                "epochs": 12,
                "images_per_batch": 8,
                "schedule": "cosine",
                "workers": 0,
            }
        )
        summary = train(config, tmp_path / "out", device="cpu")
        assert summary.metrics["top1"] >= 50  # chance is 10
        assert summary.method["name"] == "iif"
        assert summary.config["engine"] == "classification"
        written = read_json(tmp_path / "out/inference/eval_summary.json", dict, what="")
        assert written["metrics"]["top1"] == summary.metrics["top1"]
        predictions = Predictions.load(tmp_path / "out/inference/predictions.npz")
        assert len(predictions) == 20
        assert predictions.images[3] == "test/000003"

    def test_every_method_trains_or_says_why_not(self, folder, tmp_path, plain):
        moments = tmp_path / "moments.json"
        main(["moments", "--run", str(plain), "--output", str(moments), "--iterations", "2"])
        options = {"iif": {"variant": "smooth"}, "logn": {"moments": str(moments)}}
        refused = {}
        for name in METHODS:
            try:
                run(
                    folder,
                    tmp_path / name,
                    method=name,
                    epochs=1,
                    **{key: value for key, value in options.items() if key == name},
                )
            except InputError as error:
                refused[name] = str(error)
        assert refused.keys() == {"fracal", "eqlv2"}
        assert "image classification, which has no boxes" in refused["fracal"]
        assert "defined for detection" in refused["eqlv2"]
        assert state(tmp_path / "seesaw")["model"]["method.seen"].sum() == 20

    @pytest.mark.parametrize("variant", ["raw", "smooth", "prob", "normit", "gombit", "base2"])
    def test_variants_post_hoc(self, plain, tmp_path, variant):
        config = load(plain).config.override(
            ["method=iif", "iif.apply=test", f"iif.variant={variant}", "iif.nonpositive=clamp"]
        )
        summary = evaluate(plain, tmp_path, config, device="cpu")
        assert summary.method["options"]["variant"] == variant

    def test_the_command_line(self, folder, tmp_path, capsys):
        pytest.importorskip("yaml", reason="PyYAML is not installed")
        settings = tmp_path / "c.yaml"
        settings.write_text(
            f"data: folder\nroot: {folder}\ntrain: train\ntest: test\nmodel: se_resnet8\n"
            "image_size: 8\nimages_per_batch: 4\nepochs: 2\nsteps: []\nworkers: 0\n"
            "second_stage: {epochs: 1, base_lr: 0.5}\n"
        )
        one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
        assert main(["classify", str(settings), "base_lr=0.05", "--output", one]) == 0
        second = ["classify", one, "method=iif", "epochs=2", "--second-stage", "--output", two]
        assert main(second) == 0
        assert state(tmp_path / "two")["epoch"] == 2  # what is given overrides second_stage
        assert load(two).config.base_lr == 0.5
        post_hoc = ["classify", one, "method=iif", "iif.apply=test", "--eval-only"]
        assert main([*post_hoc, "--output", three]) == 0
        assert capsys.readouterr().out.count("top1") == 3
        assert main([*second[:-1], one]) == 2
        assert "earlier run; resume it" in capsys.readouterr().err
        assert main(["classify", one, "--eval-only", "--resume", "--output", three]) == 2
        assert main(["classify", one, "method=iif", "--eval-only", "--output", three]) == 2
        assert "use it post-hoc (apply test)" in capsys.readouterr().err


class TestResume:
    @pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["plain", "everything"])
    @pytest.mark.parametrize("method", ["none", "seesaw"])
    def test_resumed_run_equals_an_uninterrupted_one(self, folder, tmp_path, values, method):
        run(folder, tmp_path / "whole", epochs=4, method=method, **values)
        interrupted = tmp_path / "interrupted"
        interrupted.mkdir()
        shutil.copy(tmp_path / "whole" / "model_0000001.pth", interrupted)
        (interrupted / "last_checkpoint").write_text("model_0000001.pth")
        config = tiny_config(folder, epochs=4, method=method, **values)
        train(config, interrupted, device="cpu", resume=True)
        whole, parts = state(tmp_path / "whole"), state(interrupted)
        assert whole["epoch"] == parts["epoch"] == 4
        assert_same_state(whole["model"], parts["model"])
        assert_same_state(whole["optimizer"], parts["optimizer"])

    def test_worker_processes_change_nothing(self, folder, tmp_path):
        run(folder, tmp_path / "alone", epochs=1, **EVERYTHING | {"reweight_from": None})
        run(folder, tmp_path / "two", epochs=1, workers=2, **EVERYTHING | {"reweight_from": None})
        assert_same_state(state(tmp_path / "alone")["model"], state(tmp_path / "two")["model"])

    def test_the_seed_decides(self, folder, tmp_path):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            run(folder, tmp_path / name, epochs=1, seed=seed)
        a, b, c = (state(tmp_path / name)["model"]["classifier.weight"] for name in "abc")
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_a_finished_run_is_evaluated_again(self, folder, plain, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(plain, copy)
        shutil.rmtree(copy / "inference")
        config = load(copy).config
        summary = train(config, copy, device="cpu", resume=True)
        assert summary.metrics == evaluate(plain, tmp_path / "again", device="cpu").metrics

    def test_other_settings_data_and_methods_are_refused(self, folder, plain, tmp_path):
        config = load(plain).config
        with pytest.raises(InputError, match="holds checkpoints of an earlier run; resume it"):
            train(config, plain, device="cpu")
        with pytest.raises(InputError, match=r"with base_lr=0\.05, now it is 0\.1; resume with"):
            train(config.override(["base_lr=0.1"]), plain, device="cpu", resume=True)
        with pytest.raises(InputError, match="with method none, the configuration has iif"):
            train(config.override(["method=iif"]), plain, device="cpu", resume=True)
        other = make_folder(tmp_path / "other")
        os.remove(other / "train" / "ape" / "00.png")
        with pytest.raises(InputError, match="was trained on other data"):
            train(config.override([f"root={other}"]), plain, device="cpu", resume=True)


class TestSecondStage:
    def test_the_classifier_alone_is_trained_from_the_runs(self, plain, tmp_path):
        config = load(plain).config.override(["method=iif", "iif.variant=smooth"])
        train(config.of_second_stage(), tmp_path / "two", start=plain, device="cpu")
        before, after = state(plain), state(tmp_path / "two")
        for key, value in before["model"].items():
            assert torch.equal(value, after["model"][key]) == key.startswith("backbone."), key
        assert after["start"]["checkpoint"] == str(plain / "model_final.pth")
        assert after["long_tail_method"]["name"] == "iif"
        summary = evaluate(tmp_path / "two", tmp_path / "again", device="cpu")
        assert summary.method["name"] == "iif"

    def test_from_a_run_under_a_method(self, folder, tmp_path):
        run(folder, tmp_path / "one", method="seesaw", epochs=1)
        config = tiny_config(folder, method="iif", freeze_backbone=True, epochs=1)
        train(config, tmp_path / "two", start=tmp_path / "one", device="cpu")
        assert "method.seen" not in state(tmp_path / "two")["model"]

    def test_from_another_model(self, folder, plain, tmp_path):
        config = tiny_config(folder, classifier="cosine")
        with pytest.raises(InputError, match="has classifier=linear, the settings have cosine"):
            train(config, tmp_path / "out", start=plain, device="cpu")


def test_two_processes(folder, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from helpers_classification import tiny_config\n"
        "from iif.classification import train\n"
        f"config = tiny_config(Path({os.fspath(folder)!r}), method='seesaw', mixup=0.2)\n"
        "summary = train(config, sys.argv[1], device='cpu')\n"
        "sys.stdout.write(f'SUMMARY {summary is not None}\\n')\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node=2", str(script), str(tmp_path / "out")),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")])
            ),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("SUMMARY"))
    assert said == ["SUMMARY False", "SUMMARY True"]
    # Counted over both processes: five batches of four in each of two epochs.
    assert state(tmp_path / "out")["model"]["method.seen"].sum() == 40
    both = Predictions.load(tmp_path / "out/inference/predictions.npz")
    evaluate(tmp_path / "out", tmp_path / "alone", device="cpu")
    alone = Predictions.load(tmp_path / "alone/inference/predictions.npz")
    assert both.images == alone.images
    assert np.array_equal(both.labels, alone.labels)
    np.testing.assert_allclose(both.probability, alone.probability, atol=1e-5)


class TestSettings:
    def test_learning_rates_by_hand(self):
        values = {"base_lr": 0.1, "epochs": 4, "warmup_epochs": 1, "warmup_factor": 0.001}
        steps = ClassifyConfig.from_dict(
            {**values, "schedule": "steps", "steps": [2, 3], "step_factor": 0.01}
        )
        rates = [learning_rate(steps, i, 10) for i in (0, 5, 10, 19, 20, 30)]
        assert rates == pytest.approx([1e-4, 0.05005, 0.1, 0.1, 1e-3, 1e-5])
        cosine = ClassifyConfig.from_dict({**values, "schedule": "cosine"})
        assert learning_rate(cosine, 20, 10) == pytest.approx(0.05)
        assert learning_rate(cosine, 0, 10) == pytest.approx(1e-4)
        assert learning_rate(cosine, 39, 10) < 2e-4

    def test_held_out_images_are_not_trained_on_but_count(self, folder, tmp_path):
        run(folder, tmp_path / "out", held_out=0.4, epochs=1, images_per_batch=2, method="seesaw")
        content = state(tmp_path / "out")
        assert content["statistics"]["image_count"] == list(COUNTS.values())
        # 12, 6, 3 and 1 images, of which 5, 2, 1 and 0 are held out: 14 in seven batches.
        assert content["model"]["method.seen"].tolist() == [7, 4, 2, 1]

    def test_cached_images_change_nothing(self, folder, tmp_path):
        run(folder, tmp_path / "files", epochs=1)
        run(folder, tmp_path / "memory", epochs=1, cache_images=True)
        assert_same_state(state(tmp_path / "files")["model"], state(tmp_path / "memory")["model"])

    def test_channels_last(self, folder, plain, tmp_path):
        run(folder, tmp_path / "out", channels_last=True)
        one, other = state(plain)["model"], state(tmp_path / "out")["model"]
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)

    def test_bad_settings(self, folder, tmp_path):
        with pytest.raises(InputError, match="amp is for GPUs"):
            run(folder, tmp_path, amp=True)
        with pytest.raises(InputError, match="the backbone is untrained; start from a run"):
            run(folder, tmp_path, freeze_backbone=True)
        with pytest.raises(InputError, match="has 22 images to train on, fewer than images_per"):
            run(folder, tmp_path, images_per_batch=23)
        with pytest.raises(FloatingPointError, match=r"no longer finite .*lower base_lr"):
            run(folder, tmp_path / "out", base_lr=1e12, warmup_epochs=0, epochs=3)
        assert not (tmp_path / "out" / "model_final.pth").exists()

    def test_a_class_without_an_image_is_refused_by_its_name(self, folder, tmp_path):
        lines = {"train.txt": "train/ape/00.png 0\n", "test.txt": "test/ape/00.png 0\n"}
        for name, text in lines.items():
            (tmp_path / name).write_text(text)
        values = {
            "data": "lists",
            "train": str(tmp_path / "train.txt"),
            "test": str(tmp_path / "test.txt"),
            "num_classes": 2,
            "images_per_batch": 1,
        }
        with pytest.raises(InputError, match=r"class '1' \(id 1: 0 images\) was"):
            run(folder, tmp_path / "out", method="logit_adjustment", **values)

    def test_not_a_checkpoint(self, tmp_path):
        with pytest.raises(InputError, match="holds no checkpoint"):
            load(tmp_path)
        torch.save({"format": "other"}, tmp_path / "model.pth")
        with pytest.raises(InputError, match="not a checkpoint that iif classify wrote"):
            load(tmp_path / "model.pth")

    def test_evaluating_on_other_classes(self, plain, tmp_path):
        other = make_folder(tmp_path / "other")
        shutil.rmtree(other / "train" / "dog")
        shutil.rmtree(other / "test" / "dog")
        with pytest.raises(InputError, match="other classes than"):
            evaluate(plain, tmp_path / "out", load(plain).config.override([f"root={other}"]))

    def test_the_events(self, plain):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(plain))
        events.Reload()
        assert [event.step for event in events.Scalars("loss")] == [5, 10]
        content = json.loads((plain / "classification.json").read_text())
        assert content["config"]["model"] == "se_resnet8"

    def test_settings_of_a_run_read_back(self, folder, plain):
        config = load(plain).config
        assert config == tiny_config(folder, second_stage={"epochs": 1, "base_lr": 0.2})
        assert len(load_data(config).test) == 8


class TestTuning:
    def test_the_best_of_every_post_hoc_method_by_the_mean_of_the_classes(
        self, folder, plain, tmp_path, capsys
    ):
        out = tmp_path / "tuned"
        assert main(["tune", "--all", str(plain), "--fraction", "0.5", "--output", str(out)]) == 0
        printed = capsys.readouterr().out
        result = json.loads((out / "tuning.json").read_text())
        # Half of 12, 6 and 3 images; of one image none can be held out.
        assert result["num_images"] == 6 + 3 + 2
        assert result["seen_in_training"] is True
        assert "were trained on" in printed
        values = [trial["metrics"]["mean_class"] for trial in result["trials"]]
        assert result["best"] == values.index(max(values))
        assert {trial["method"] for trial in result["trials"]} >= {"none", "iif"}
        assert {skip["method"] for skip in result["skipped"]} == {"fracal", "logn"}
        # Each trial is what evaluating the run under it gives, here on the same images.
        data = load_data(load(plain).config)
        row, trial = next(
            (n, t)
            for n, t in enumerate(result["trials"])
            if (t["method"], t["value"]) == ("iif", 1)
        )
        assert values[row] == pytest.approx(accuracy_of(plain, data, trial["options"]))

    def test_a_folded_classifier_predicts_the_same(self, plain, tmp_path):
        from iif.classification.tuning import _fold
        from iif.tuning import candidates

        classifier = load(plain)
        tried, _ = candidates(classifier.statistics, {}, background=False)
        candidate = next(
            c for c in tried if (c.setting.method, c.setting.value) == ("logit_adjustment", 1.0)
        )
        path = _fold(tmp_path, plain / "model_final.pth", classifier.config, candidate)
        outputs = torch.randn(5, 64)
        plain_outputs = classifier.model.classifier(outputs)
        torch.testing.assert_close(
            load(path).model.classifier(outputs), candidate.method.test_logits(plain_outputs)
        )

    def test_a_run_under_a_method_is_refused(self, folder, tmp_path, capsys):
        run(folder, tmp_path / "run", method="seesaw", epochs=1)
        for command in (["tune", "--all"], ["moments", "--run"]):
            assert main([*command, str(tmp_path / "run"), "--output", str(tmp_path / "x")]) == 2
            assert "was trained under method seesaw" in capsys.readouterr().err

    def test_moments_of_one_epoch_by_hand(self, folder, plain, tmp_path):
        from iif.classification.tuning import gather_moments

        config = tiny_config(folder, crop=None, flip=False, images_per_batch=22, epochs=1)
        train(config, tmp_path / "run", device="cpu")
        moments = gather_moments(
            tmp_path / "run", tmp_path / "moments.json", iterations=1, device="cpu"
        )
        classifier, data = load(tmp_path / "run"), load_data(config)
        outputs = classifier_outputs(classifier.model, data.train, config, torch.device("cpu"))
        assert moments.regions == 22
        assert moments.mean == pytest.approx(outputs.mean(0).tolist(), abs=1e-5)
        assert moments.variance == pytest.approx(outputs.var(0).tolist(), rel=1e-4)


def accuracy_of(run_folder, data, options) -> float:
    """Mean accuracy of the classes, in percent, under IIF on the half that is held out."""
    classifier = load(run_folder)
    rows = np.flatnonzero(held_out_rows(data.train.labels, 0.5))
    images = data.train.part(rows)
    outputs = classifier_outputs(classifier.model, images, classifier.config, torch.device("cpu"))
    weights = torch.log(22 / torch.tensor([12.0, 6.0, 3.0, 1.0]))
    assert options["apply"] == "test"
    predicted = (weights * (outputs - outputs.mean(1, keepdim=True))).argmax(1).numpy()
    right = predicted == images.labels
    return 100 * np.mean([right[images.labels == label].mean() for label in range(3)])
