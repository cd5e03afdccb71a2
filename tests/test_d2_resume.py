"""A resumed Detectron2 training equals an unbroken one, bit for bit."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2 import engine
from detectron2.data import build_detection_train_loader
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler

from helpers_d2 import TINY
from iif.d2 import register_custom_datasets
from iif.d2.checkpoint import saved_seed
from iif.d2.config import load_config
from iif.d2.hooks import drop_metrics
from iif.d2.stream import BatchSampler, TrainingLoader, seed_random
from iif.d2.train import run

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "kill_and_resume.py"
SAMPLERS = ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]


def _module():
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _module()


def write_config(data: Path, **overrides) -> Path:
    """Write the tool's configuration with the tests' tiny model."""
    tiny = json.loads(json.dumps(TINY["MODEL"]))
    del tiny["ROI_HEADS"]
    nodes = {f"MODEL__{key}": value for key, value in tiny.items() if key != "MASK_ON"}
    heads = {
        "NAME": "IIFROIHeads",
        "NUM_CLASSES": tool.CLASSES,
        "IN_FEATURES": ["p2", "p3"],
        "BATCH_SIZE_PER_IMAGE": 32,
    }
    own = {"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[0.5, 1.0, 2.0]], "MODEL__ROI_HEADS": heads}
    return tool.write_config(data, **nodes, **own, **overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume") / "data"
    tool.write_data(folder)
    write_config(folder)
    return folder


@pytest.fixture
def cfg(data):
    """A configuration without held-out images: Detectron2's own loader knows none."""
    cfg = load_config(str(data / "config.yaml"), ["DATASETS.HELD_OUT", "0.0"])
    register_custom_datasets(cfg)
    return cfg


def first(loader, count):
    return list(itertools.islice(iter(loader), count))


def ids(batches):
    return [[image["image_id"] for image in batch] for batch in batches]


def assert_same_batches(one, other):
    assert ids(one) == ids(other)
    for image, same in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        assert torch.equal(image["image"], same["image"])
        boxes = [i["instances"].gt_boxes.tensor for i in (image, same)]
        assert torch.equal(*boxes)


class TestStream:
    @given(
        groups=st.lists(st.integers(0, 1), min_size=2, max_size=12),
        batch_size=st.integers(1, 4),
        start=st.integers(0, 9),
        grouped=st.booleans(),
    )
    def test_it_goes_on_at_any_batch(self, groups, batch_size, start, grouped):
        sampler = TrainingSampler(len(groups), seed=3)
        kinds = groups if grouped else None
        whole = first(BatchSampler(sampler, batch_size, kinds), start + 4)
        assert first(BatchSampler(sampler, batch_size, kinds, start=start), 4) == whole[start:]

    @given(groups=st.lists(st.integers(0, 1), min_size=2, max_size=12), batch=st.integers(1, 4))
    def test_groups_are_filled_as_detectron2s(self, groups, batch):
        sampler = TrainingSampler(len(groups), seed=3)
        images = (
            {"width": 2 - g, "height": 1.5, "index": i} for i, g in _numbered(groups, sampler)
        )
        expected = first(AspectRatioGroupedDataset(images, batch), 5)
        found = first(BatchSampler(sampler, batch, groups), 5)
        assert [[i for _, i in b] for b in found] == [[d["index"] for d in b] for b in expected]

    def test_positions_are_those_of_the_stream_of_all_processes(self, monkeypatch):
        seen = []
        for rank in range(2):
            monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
            monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
            sampler = TrainingSampler(7, seed=0)
            seen += itertools.chain(*first(BatchSampler(sampler, 3), 4))
        monkeypatch.undo()
        whole = list(itertools.islice(TrainingSampler(7, seed=0), 24))
        assert sorted(seen) == list(enumerate(whole))

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize(("grouping", "workers"), [(False, 2), (True, 0)])
    def test_the_order_is_detectron2s(self, cfg, sampler, grouping, workers):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.6
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
        cfg.DATALOADER.NUM_WORKERS = workers
        own = first(TrainingLoader(cfg), 12)
        np.random.seed(cfg.SEED)  # as Detectron2's default_setup
        assert ids(own) == ids(first(build_detection_train_loader(cfg), 12))
        if grouping:
            kinds = [{image["width"] > image["height"] for image in batch} for batch in own]
            assert all(len(kind) == 1 for kind in kinds)
            assert len(set(map(frozenset, kinds))) == 2

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_neither_workers_nor_the_start_matter(self, cfg, sampler):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.6
        parts = []
        for workers, start in ((0, 0), (1, 4), (3, 4)):
            cfg.DATALOADER.NUM_WORKERS = workers
            loader = TrainingLoader(cfg)
            loader.start = start
            parts.append(first(loader, 10 - start))
        assert_same_batches(parts[0][4:], parts[1])
        assert_same_batches(parts[1], parts[2])
        sizes = {tuple(image["image"].shape[1:]) for batch in parts[0] for image in batch}
        assert len(sizes) > 3  # augmentation differs from image to image

    def test_each_batch_seeds_what_the_model_draws(self, cfg):
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = TrainingLoader(cfg)
        loader.start = 3
        drawn = []
        for _ in itertools.islice(loader, 2):
            drawn.append((torch.rand(2).tolist(), np.random.rand()))
        for iteration, values in enumerate(drawn, 3):
            seed_random(1, iteration, 0)
            assert values == (torch.rand(2).tolist(), np.random.rand())
        # The rule of the torchvision engine.
        torch.manual_seed(int(np.random.SeedSequence([1, 3, 0]).generate_state(1)[0]))
        assert torch.rand(2).tolist() == drawn[0][0]

    def test_positions_and_iterations_have_different_seeds(self):
        states = []
        for key in ({"position": 5}, {}):
            seed_random(1, *([] if key else [5]), **key)
            states.append(torch.rand(1).item())
        assert states[0] != states[1]

    def test_another_stream_is_told(self, cfg, caplog):
        loader = TrainingLoader(cfg)
        loader.load_state_dict({**loader.state_dict(), "SOLVER.IMS_PER_BATCH": 4})
        assert "SOLVER.IMS_PER_BATCH is 2, and was 4 when the checkpoint" in caplog.text
        assert len([r for r in caplog.records if r.name == "iif.d2.stream"]) == 1


def _numbered(groups, sampler):
    return ((index, groups[index]) for index in sampler)


def test_metrics_are_cut_where_the_training_goes_on(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i}) for i in (19, 39, 59)]
    path.write_text("\n".join(lines) + '\n{"iterat')
    drop_metrics(path, 50)
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    path.write_text(lines[0] + '\n{"iterat' + lines[1] + "\n")
    drop_metrics(path, 50)
    assert path.read_text() == lines[0] + "\n"


def test_a_slow_iteration_is_logged(data, tmp_path, monkeypatch):
    short = ("SOLVER.MAX_ITER", "3", "DATASETS.TEST", "()")
    for silence, expected in ((0.0, ["0", "1", "2"]), (1e9, ["2"])):
        monkeypatch.setattr("iif.d2.hooks.SILENCE", silence)
        assert train(data, tmp_path / str(silence), *short) == 0
        log = (tmp_path / str(silence) / "log.txt").read_text()
        told = re.findall(r" iter: (\d+) .*total_loss", log)
        assert list(dict.fromkeys(told)) == expected


class Killed(BaseException):
    """Ends a run as a signal does: nothing of the package catches it."""


def kill_at(monkeypatch, step):
    """End the run in this step, from 0 on, of the process."""
    steps, original = itertools.count(), engine.SimpleTrainer.run_step

    def run_step(self):
        if next(steps) == step:
            raise Killed
        original(self)

    monkeypatch.setattr(engine.SimpleTrainer, "run_step", run_step)


def train(data, folder, *overrides):
    options = ["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "9", *overrides]
    return run(["--resume", "--config-file", str(data / "config.yaml"), *options])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(data, folder) == 0
    return folder


def assert_same_run(one, other):
    assert list(tool.differences(one, other)) == []


class TestRuns:
    def test_a_run_that_was_killed_twice_equals_one_that_was_not(
        self, data, whole, tmp_path, monkeypatch
    ):
        for step in (3, 4):
            with monkeypatch.context() as patch:
                kill_at(patch, step)
                with pytest.raises(Killed):
                    train(data, tmp_path)
        assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
        assert train(data, tmp_path) == 0
        assert_same_run(whole, tmp_path)

    def test_what_keeps_a_state_has_one(self, whole):
        checkpoint = torch.load(whole / "model_final.pth", weights_only=True)
        predictor = "roi_heads.box_predictor."
        assert checkpoint["model"][f"{predictor}augmentation.iteration"] == 9
        assert not checkpoint["model"][f"{predictor}augmentation.held_out_loss"].isnan().all()
        counts = [v for k, v in checkpoint["model"].items() if k.startswith(f"{predictor}method.")]
        assert any(count.sum() > 0 for count in counts)
        assert checkpoint["stream"]["SEED"] == 1

    def test_without_workers(self, data, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            kill_at(patch, 3)
            with pytest.raises(Killed):
                train(data, tmp_path, "DATALOADER.NUM_WORKERS", "1")
        assert train(data, tmp_path, "DATALOADER.NUM_WORKERS", "0") == 0
        assert_same_run(whole, tmp_path)

    def test_a_seed_that_was_drawn_is_kept(self, data, tmp_path, monkeypatch):
        quick = ("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "5", "SEED", "-1")
        with monkeypatch.context() as patch:
            kill_at(patch, 3)
            with pytest.raises(Killed):
                train(data, tmp_path / "killed", *quick)
        seed = saved_seed(str(tmp_path / "killed"))
        assert seed is not None
        assert f"SEED: {seed}\n" in (tmp_path / "killed" / "config.yaml").read_text()
        assert train(data, tmp_path / "killed", *quick) == 0
        assert train(data, tmp_path / "whole", *quick[:-1], str(seed)) == 0
        states = [
            tool._flat(torch.load(tmp_path / name / "model_final.pth", weights_only=True))
            for name in ("killed", "whole")
        ]
        assert states[0].keys() == states[1].keys()
        assert all(tool._equal(v, states[1][k]) for k, v in states[0].items())
        assert train(data, tmp_path / "other", "SOLVER.MAX_ITER", "1", *quick[:2], *quick[4:]) == 0
        assert saved_seed(str(tmp_path / "other")) != seed

    def test_two_processes(self, data, tmp_path):
        both = ["--num-gpus", "2", "--dist-url", "auto"]
        command = [sys.executable, str(ROOT / "train_net.py"), "--resume", *both]
        command += ["--config-file", str(data / "config.yaml")]
        batch = ["SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"]
        # Rates that do not depend on MAX_ITER.
        rates = ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", "0"]
        for folder, iterations in (("whole", 5), ("parts", 3), ("parts", 5)):
            done = subprocess.run(
                [
                    *command,
                    *("OUTPUT_DIR", str(tmp_path / folder), "SOLVER.MAX_ITER", str(iterations)),
                    *(*rates, *batch),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        found = list(tool.differences(tmp_path / "whole", tmp_path / "parts"))
        # The first part has a line of its own last iteration.
        assert found == ["metrics.json: iterations [4, 5] and [2, 4, 5]"]


def test_a_run_that_is_killed_outright(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "4", "--output", str(tmp_path / "runs")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nkill ") == 4
    assert done.stdout.endswith("verdict: equal to the unbroken run\n")
