"""A failed training with torchvision: one line on the process that failed, and none hangs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import make_dataset, tiny_config
from iif.cli import main
from iif.files import write_json


def arguments(root: Path, data: Path, **settings) -> list[str]:
    """Return the arguments of a tiny training into ``root / "out"``."""
    config = tiny_config(**settings)
    write_json(root / "settings.json", {"config": config.to_dict()})
    return [
        *("train", "--train", str(data), "--images", str(data.parent / "images")),
        *("--output", str(root / "out"), "--device", "cpu"),
        *("--config", str(root / "settings.json")),
    ]


def two_processes(command: list[str]) -> list[tuple[int, str]]:
    """Run ``iif`` in two processes of one group; return their exit statuses and stderr.

    Nothing stops one when the other ends, as torchrun would.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "iif.cli", *command],
            env={
                **os.environ,
                **group,
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        # A process that hangs is killed after this time, and the test fails.
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, error) for p, error in zip(processes, errors, strict=True)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_on_one_of_two(tmp_path, workers):
    data = make_dataset(tmp_path / "data", images=8)
    (tmp_path / "data" / "images" / "003.png").write_text("no image")
    ended = two_processes(
        arguments(tmp_path, data, images_per_batch=4, workers=workers, cache_images=False)
    )
    assert sorted(status for status, _ in ended) == [1, 2]
    for rank, (status, error) in enumerate(ended):
        (line,) = [line for line in error.splitlines() if "iif train: " in line]
        assert "Traceback" not in error
        if status == 2:
            assert f"error: rank {rank}: {tmp_path}/data/images/003.png: cannot be read" in line
        else:
            assert f"error: rank {rank}: stopped, because another process of this run" in line
    assert not (tmp_path / "out" / "model_final.pth").exists()


def test_a_diverged_loss_in_two_processes(tmp_path):
    data = make_dataset(tmp_path / "data")
    settings = {"base_lr": 1e9, "warmup_iterations": 0, "clip_gradients": None}
    ended = two_processes(arguments(tmp_path, data, images_per_batch=4, iterations=20, **settings))
    assert [status for status, _ in ended] == [1, 1]
    assert all("Traceback" not in error for _, error in ended)
    told = [f"rank {rank}: the loss is no longer finite" in e for rank, (_, e) in enumerate(ended)]
    assert any(told)
    for own, (_, error) in zip(told, ended, strict=True):
        assert own or "stopped, because another process" in error


def test_a_diverged_loss(tmp_path, capsys):
    data = make_dataset(tmp_path / "data")
    settings = {"base_lr": 1e9, "warmup_iterations": 0, "clip_gradients": None}
    assert main(arguments(tmp_path, data, iterations=20, **settings)) == 1
    error = capsys.readouterr().err
    assert error.startswith("iif train: error: the loss is no longer finite (")
    assert "lower base_lr" in error


def test_amp_on_a_cpu(tmp_path, capsys):
    data = make_dataset(tmp_path / "data")
    assert main(arguments(tmp_path, data, amp=True)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "iif train: error: amp is for GPUs, the device is cpu; set amp=false"
    assert not (tmp_path / "out").exists()
