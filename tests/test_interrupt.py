"""Ctrl-C during a training of either engine: one line at the end, status 130, and it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from helpers_interrupt import start_interruptible
from iif import layout

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def interrupt(command: list[str], reached: Path) -> tuple[int, str]:
    """Send Ctrl-C to all processes of a command when it has made a file.

    Returns:
        The exit status, and what was printed on both streams.
    """
    with tempfile.TemporaryFile("w+") as printed:
        process = start_interruptible(
            [sys.executable, *command],
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not reached.exists() and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            status = process.wait(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
                os.killpg(process.pid, signal.SIGKILL)
        printed.seek(0)
        return status, printed.read()


def test_torchvision(openmoji_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    data = ["--train", str(openmoji_dir / "openmoji_train.json"), "--images", str(openmoji_dir)]
    train = ["-m", "iif.cli", "train", *data, "preset=openmoji", "--device", "cpu"]
    train += ["--output", str(tmp_path)]
    settings = ["workers=2", "cache_images=false", "checkpoint_period=2", "images_per_batch=2"]
    reached = tmp_path / layout.checkpoint(3)
    status, rest = interrupt([*train, *settings, "iterations=2000"], reached)
    assert status == 130, rest
    assert "Traceback" not in rest
    (line,) = [line for line in rest.splitlines() if "interrupted" in line]
    assert line == "iif train: interrupted; go on from the last checkpoint with --resume"
    assert (tmp_path / layout.LAST_CHECKPOINT).is_file()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_detectron2(config_file: Path, tmp_path: Path, processes: int) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    train = ["-m", "iif.d2.train", "--config-file", str(config_file), "--num-gpus", str(processes)]
    train += ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "SOLVER.CHECKPOINT_PERIOD", "2"]
    reached = tmp_path / layout.checkpoint(3)
    status, rest = interrupt([*train, "SOLVER.MAX_ITER", "2000"], reached)
    assert status == 130, rest
    assert "Traceback" not in rest
    (line,) = [line for line in rest.splitlines() if "interrupted" in line]
    assert line == "interrupted; go on with --resume"
