"""A failed Detectron2 training: one line on the rank that failed, and no other rank hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import torch
from detectron2 import engine

from d2_runs import entries
from iif import layout
from iif.d2.train import run

ROOT = Path(__file__).parents[1]


def command(config_file, folder, *overrides, processes=1):
    """Return the command line of a tiny training."""
    several = ["--num-gpus", str(processes), "--dist-url", "auto"]
    options = ["SOLVER.IMS_PER_BATCH", "4", "OUTPUT_DIR", str(folder), *map(str, overrides)]
    return [*several, "--config-file", str(config_file), *options]


def two_processes(arguments, **options):
    """Train in two processes; a run that hangs is ended, and the test fails."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train_net.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def errors(done):
    """Return the lines that tell an error; assert that none tells a traceback."""
    assert "Traceback" not in done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if "error: " in line]


def assert_no_traceback(folder):
    """Assert that Detectron2 has logged none in a run of this process."""
    log = (folder / layout.LOG).read_text()
    assert "Starting training" in log
    assert "Traceback" not in log


@pytest.fixture
def broken(openmoji_dir, tmp_path):
    """Return DATASETS.CUSTOM of a copy of the data set that has broken images, and their folder."""
    folder = tmp_path / "data"
    shutil.copytree(openmoji_dir, folder)
    return str(entries(folder)), folder


def break_images(folder, split, number=1):
    """Cut off images of a split but for the first; return their paths."""
    content = json.loads((folder / f"openmoji_{split}.json").read_text())
    paths = [folder / image["file_name"] for image in content["images"][1 : number + 1]]
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    return paths


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(config_file, broken, tmp_path, capfd, workers):
    custom, folder = broken
    paths = break_images(folder, "train", 39)
    options = ("DATASETS.CUSTOM", custom, "DATALOADER.NUM_WORKERS", workers)
    assert run(command(config_file, tmp_path / "out", *options)) == 2
    captured = capfd.readouterr()
    (line,) = captured.err.strip().splitlines()[-1:]
    pattern = r"error: (.*): cannot be used \((.*)\); mend it, or take image \d+ out of the annot"
    match = re.match(pattern, line)
    assert match
    assert Path(match[1]) in paths
    assert "truncated" in match[2].lower() or "cannot identify" in match[2]
    assert_no_traceback(tmp_path / "out")
    assert not (tmp_path / "out" / "inference").exists()


def test_a_test_image_that_cannot_be_read(config_file, broken, tmp_path, capfd):
    custom, folder = broken
    (path,) = break_images(folder, "val")
    options = ("DATASETS.CUSTOM", custom, "DATALOADER.NUM_WORKERS", 1, "SOLVER.MAX_ITER", 1)
    assert run(command(config_file, tmp_path / "out", *options)) == 2
    captured = capfd.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith(f"error: {path}: cannot be used (")
    assert_no_traceback(tmp_path / "out")
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_an_image_that_one_of_two_processes_cannot_read(config_file, broken, tmp_path):
    custom, folder = broken
    (path,) = break_images(folder, "train")
    options = ("DATASETS.CUSTOM", custom)
    done = two_processes(command(config_file, tmp_path / "out", *options, processes=2))
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = errors(done)
    assert re.match(rf"rank [01]: error: {re.escape(str(path))}: cannot be used \(", line)
    assert not (tmp_path / "out" / "model_final.pth").exists()


DIVERGED = ("SOLVER.BASE_LR", 1e12, "SOLVER.WARMUP_ITERS", 0)
REMEDY = "lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or set SOLVER.CLIP_GRADIENTS.ENABLED"


def test_a_diverged_loss(config_file, tmp_path, capfd):
    assert run(command(config_file, tmp_path / "out", *DIVERGED)) == 1
    captured = capfd.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "nfinite or NaN" in line or "Training has diverged" in line
    assert REMEDY in line
    assert_no_traceback(tmp_path / "out")
    assert not (tmp_path / "out" / "model_final.pth").exists()


def test_a_diverged_loss_in_two_processes(config_file, tmp_path):
    done = two_processes(command(config_file, tmp_path / "out", *DIVERGED, processes=2))
    assert done.returncode == 1, done.stdout + done.stderr
    lines = errors(done)
    assert lines  # both may diverge in the same iteration
    assert all(re.match(r"rank [01]: error: ", line) and REMEDY in line for line in lines)


def test_a_loss_that_diverges_in_the_last_iteration_is_not_evaluated(
    config_file, tmp_path, monkeypatch, capfd
):
    original = engine.SimpleTrainer.run_step

    def run_step(self):
        original(self)
        if self.iter == 1:
            raise FloatingPointError("Loss became infinite or NaN at iteration=1!\nloss_dict = {}")

    monkeypatch.setattr(engine.SimpleTrainer, "run_step", run_step)
    assert run(command(config_file, tmp_path / "out", "SOLVER.MAX_ITER", 2)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: Loss became infinite or NaN at iteration=1! loss_dict = {}; ")
    assert not (tmp_path / "out" / "inference").exists()


def test_a_process_that_is_killed(config_file, tmp_path):
    """As by a system that is short of memory."""
    folder = tmp_path / "out"
    arguments = command(config_file, folder, "SOLVER.MAX_ITER", 100_000, processes=2)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_net.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and "iter: 19 " not in _text(folder / layout.LOG):
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.is_file():
            pytest.skip("this platform does not list a process's children")
        victims = [pid for pid in children.read_text().split() if _is_rank(pid)]
        os.kill(int(victims[-1]), signal.SIGKILL)
        error = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == 1, error
    (line,) = [line for line in error.splitlines() if "error: " in line]
    assert re.match(r"error: process [01] was ended by SIGKILL .* go on with --resume", line)
    assert "Traceback" not in error


def _text(path):
    return path.read_text() if path.is_file() else ""


def _is_rank(pid):
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_mixed_precision_without_a_gpu(config_file, tmp_path, capfd):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert run(command(config_file, tmp_path / "out", "SOLVER.AMP.ENABLED", True)) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: SOLVER.AMP.ENABLED is True, but Detectron2's mixed precision")
    assert line.endswith("set SOLVER.AMP.ENABLED False")
    assert not (tmp_path / "out").exists()


def test_several_processes_on_the_cpu_of_a_machine_with_gpus(
    config_file, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = command(config_file, tmp_path / "out", "MODEL.DEVICE", "cpu", processes=2)
    assert run(arguments) == 2
    assert "hide the GPUs (CUDA_VISIBLE_DEVICES=)" in capfd.readouterr().err


def test_an_unknown_sampler(config_file, tmp_path, capfd):
    assert run(command(config_file, tmp_path / "out", "DATALOADER.SAMPLER_TRAIN", "Sampler")) == 2
    assert "DATALOADER.SAMPLER_TRAIN is 'Sampler'; it must be one of Tra" in capfd.readouterr().err


def test_an_interrupted_run(config_file, tmp_path, monkeypatch, capfd):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.SimpleTrainer, "run_step", interrupt)
    assert run(command(config_file, tmp_path / "out")) == 130
    assert capfd.readouterr().err.endswith("interrupted; go on with --resume\n")
