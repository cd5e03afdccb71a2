"""Torchvision's training loses nothing: exact resume, checkpoints, logs, one run a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import assert_same_state, make_dataset, run, state, tiny_config
from iif import InputError
from iif.cli import main
from iif.locking import folder_lock
from iif.tv import checkpoint, evaluate, load
from iif.tv.checkpoint import find
from iif.tv.trainer import _step

# All that keeps a state or draws at random: a method that counts, virtual features that adapt to
# held-out images, repeated images, several sizes, mirroring, processes that fetch in advance.
EVERYTHING = {
    "method": "seesaw",
    "fasa": {"enabled": True, "adapt": True, "start_epoch": 1},
    "held_out": 0.2,
    "repeat_threshold": 0.9,
    "min_size": [48, 64],
    "steps": [7],
    "workers": 2,
    "cache_images": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data", images=12)


class Killed(BaseException):
    """Ends a run as a signal does: nothing of the package catches it."""


def kill_at(monkeypatch, iteration: int) -> None:
    """Let the run end in the step of this iteration (from 0 on in this process)."""
    steps = iter(range(1000))

    def step(*args):
        if next(steps) == iteration:
            raise Killed
        return _step(*args)

    monkeypatch.setattr("iif.tv.trainer._step", step)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs have the same final checkpoint, but for the versions that made it."""
    first, second = state(one), state(other)
    assert first["iteration"] == second["iteration"]
    for part in ("model", "optimizer"):
        assert_same_state(first[part], second[part])


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return the folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder, tiny_config(iterations=10, checkpoint_period=3, **EVERYTHING))
    return folder


class TestExactResume:
    @pytest.mark.parametrize("kills", [(1, 4), (5, 1, 2, 3)])
    def test_a_run_that_was_killed_equals_one_that_was_not(
        self, data, whole, tmp_path, monkeypatch, kills
    ):
        config = tiny_config(iterations=10, checkpoint_period=3, **EVERYTHING)
        for iteration in kills:
            with monkeypatch.context() as patch:
                kill_at(patch, iteration)
                with pytest.raises(Killed):
                    run(data, tmp_path, config, resume=True)
        run(data, tmp_path, config, resume=True)
        assert_same_run(whole, tmp_path)

    def test_what_keeps_a_state_has_one(self, whole):
        buffers = state(whole)["model"]
        predictor = "roi_heads.box_predictor."
        assert buffers[f"{predictor}augmentation.iteration"] == 10
        assert not buffers[f"{predictor}augmentation.held_out_loss"].isnan().all()
        counts = [v for k, v in buffers.items() if k.startswith(f"{predictor}method.")]
        assert any(count.sum() > 0 for count in counts)

    @pytest.mark.parametrize("processes", [2, 3])
    def test_several_processes(self, data, tmp_path, processes):
        script = tmp_path / "job.py"
        script.write_text(
            "import sys\n"
            "import torch.distributed as dist\n"
            "from helpers_tv import run, tiny_config\n"
            "from pathlib import Path\n"
            "from test_tv_resume import EVERYTHING\n"
            "data, out = map(Path, sys.argv[1:])\n"
            "dist.init_process_group('gloo')\n"
            "options = {**EVERYTHING, 'images_per_batch': 6, 'workers': 1}\n"
            "run(data, out / 'whole', tiny_config(iterations=5, **options))\n"
            "run(data, out / 'parts', tiny_config(iterations=2, **options))\n"
            "run(data, out / 'parts', tiny_config(iterations=5, **options), resume=True)\n"
            "dist.destroy_process_group()\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc_per_node={processes}", str(script), str(data), str(tmp_path)),
            ],
            env={**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert_same_run(tmp_path / "whole", tmp_path / "parts")


def python_path() -> str:
    """Return PYTHONPATH with the tests' folder in front."""
    paths = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)


@pytest.fixture
def ended(whole, tmp_path):
    """Return a copy of the unbroken run's folder."""
    folder = tmp_path / "ended"
    shutil.copytree(whole, folder)
    return folder


CONFIG = tiny_config(iterations=10, checkpoint_period=3, **EVERYTHING)


class TestCheckpoints:
    def test_a_final_save_that_was_killed_is_made_again(self, data, whole, ended):
        (ended / "model_0000009.pth").write_bytes((ended / "model_final.pth").read_bytes())
        (ended / "model_final.pth").write_bytes(b"cut off")
        (ended / "last_checkpoint").write_text("model_0000009.pth")
        run(data, ended, CONFIG, resume=True)
        assert (ended / "last_checkpoint").read_text() == "model_final.pth"
        assert_same_run(whole, ended)

    def test_a_run_that_ended_is_not_written_again(self, data, ended):
        before = (ended / "model_final.pth").stat().st_mtime_ns
        run(data, ended, CONFIG, resume=True)
        assert (ended / "model_final.pth").stat().st_mtime_ns == before

    def test_a_final_checkpoint_that_was_cut_off_is_not_evaluated(self, data, ended, tmp_path):
        val = make_dataset(tmp_path / "val", images=3, seed=1)
        options = {"val_json": val, "val_image_root": val.parent / "images"}
        content = (ended / "model_final.pth").read_bytes()
        (ended / "model_final.pth").write_bytes(content[: len(content) // 4])
        with pytest.raises(InputError, match=r"model_final\.pth: not a checkpoint .* or cut off"):
            run(data, ended, CONFIG, resume=True, **options)
        with pytest.raises(InputError, match=r"model_final\.pth: not a checkpoint .* or cut off"):
            evaluate(ended, data, data.parent / "images", ended, device="cpu")
        assert not (ended / "inference").exists()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "last_checkpoint: is empty; write the name of a checkpoint"),
            (" \n", "last_checkpoint: is empty"),
            ("model_0000099.pth", "last_checkpoint: names 'model_0000099.pth', which is not there"),
            ("\0\0\0", "last_checkpoint: names .*, which is not there"),
        ],
    )
    def test_a_last_checkpoint_that_names_none(self, data, ended, text, message):
        (ended / "last_checkpoint").write_text(text)
        with pytest.raises(InputError, match=message):
            run(data, ended, CONFIG, resume=True)
        with pytest.raises(InputError, match=message):
            load(ended)

    @pytest.mark.parametrize("full", ["checkpoint", "last_checkpoint"])
    def test_a_full_disk_leaves_the_last_good_checkpoint(
        self, data, whole, tmp_path, monkeypatch, full
    ):
        original, written = checkpoint.atomic_write, []

        @contextlib.contextmanager
        def write(path, mode="w"):
            written.append(mode)
            second = written.count(mode) == 2  # the second checkpoint, or what names it
            with original(path, mode) as f:
                yield Full(f) if second and (mode == "wb") == (full == "checkpoint") else f

        config = tiny_config(iterations=10, checkpoint_period=3, **EVERYTHING)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "atomic_write", write)
            message = r"model_0000005\.pth: cannot be written \(No space left on device\): "
            with pytest.raises(InputError, match=message + r"the last .* model_0000002\.pth;"):
                run(data, tmp_path, config)
        assert find(tmp_path).name == "model_0000002.pth"
        assert torch.load(find(tmp_path), weights_only=True)["iteration"] == 3
        assert list(tmp_path.glob(".iif-*")) == []
        run(data, tmp_path, config, resume=True)
        assert_same_run(whole, tmp_path)


class Full:
    """A file on a disk that has no more room."""

    def __init__(self, f) -> None:
        self._f, self._room = f, 10

    def write(self, data) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._f.write(data)

    def flush(self) -> None:
        self._f.flush()


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def logged(data, tmp_path_factory):
    """Return a run that ended at 20, lost some 5 iterations, and went on to 40."""
    folder = tmp_path_factory.mktemp("logged")
    options = {"method": "none", "checkpoint_period": 15}
    run(data, folder, tiny_config(iterations=30, **options), val_json=data)
    (folder / "last_checkpoint").write_text("model_0000014.pth")
    with (folder / "metrics.json").open("a") as f:
        f.write('{"iteration": 30, "total_l')
    run(data, folder, tiny_config(iterations=40, **options), resume=True)
    return folder


class TestLogs:
    def test_metrics_are_named_as_detectron2s(self, logged):
        for line in metrics(logged):
            losses = {key for key in line if "loss" in key}
            assert {"total_loss", "loss_classifier", "loss_mask"} <= losses
            rest = {"iteration", "lr", "time", "data_time", "eta_seconds"}
            assert line.keys() == losses | rest
            assert line["total_loss"] == pytest.approx(
                sum(line[key] for key in losses - {"total_loss"}), rel=1e-5
            )

    def test_each_iteration_is_there_once(self, logged):
        assert [line["iteration"] for line in metrics(logged)] == [19, 39]
        assert metrics(logged)[-1]["eta_seconds"] == 0

    def test_detectron2_writes_the_same_names(self, tmp_path):
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
        from detectron2.utils.events import EventStorage, JSONWriter

        from iif import layout

        with EventStorage(19) as storage:
            storage.put_scalar("lr", 0.1)
            JSONWriter(str(tmp_path / layout.METRICS)).write()
        assert metrics(tmp_path) == [{"iteration": 19, "lr": 0.1}]

    def test_the_log_is_appended(self, logged):
        lines = (logged / "log.txt").read_text().splitlines()
        told = [line for line in lines if line.startswith("[")]
        iterations = [line.split("iter: ")[1].split()[0] for line in told if "iter: " in line]
        assert iterations == ["19", "29", "19", "39"]
        assert "eta: 0:00:00  iter: 39  loss_classifier: " in told[-2]
        assert told[-1].endswith("] Saved model_final.pth after 40 iterations")
        assert sum("Resuming model_0000014.pth after 15 iterations" in line for line in told) == 1
        assert any(line.startswith("AP  ") for line in lines)  # the table of the evaluation

    def test_the_log_says_how_a_run_failed(self, data, tmp_path):
        config = tiny_config(iterations=20, base_lr=1e9, warmup_iterations=0, clip_gradients=None)
        with pytest.raises(FloatingPointError):
            run(data, tmp_path, config)
        last = (tmp_path / "log.txt").read_text().splitlines()[-1]
        assert "Stopped by FloatingPointError('the loss is no longer finite" in last

    def test_an_evaluation_has_a_log_of_its_own(self, data, logged, tmp_path):
        evaluate(logged, data, data.parent / "images", tmp_path, device="cpu")
        log = (tmp_path / "inference" / "log.txt").read_text()
        assert "Evaluating on 12 images" in log
        assert not (tmp_path / "log.txt").exists()


class TestOneRunAFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        """Return a folder that another run holds: a lock is that of an open file."""
        with folder_lock(tmp_path / "out"):
            yield tmp_path / "out"

    @pytest.fixture(autouse=True)
    def _needs_locks(self):
        pytest.importorskip("fcntl", reason="this platform has no file locks")

    def test_training(self, data, folder, capsys):
        images = str(data.parent / "images")
        assert (
            main(["train", "--train", str(data), "--images", images, "--output", str(folder)]) == 2
        )
        (error,) = capsys.readouterr().err.splitlines()
        assert f"{folder}: process {os.getpid()} on " in error
        assert "is writing into it; wait until it has ended, or take another output" in error
        assert [path.name for path in folder.iterdir()] == [".lock"]

    def test_evaluation(self, data, whole, folder):
        with pytest.raises(InputError, match="is writing into it"):
            evaluate(whole, data, data.parent / "images", folder, device="cpu")
        assert not (folder / "inference").exists()

    def test_tuning(self, data, folder, tmp_path):
        from iif.tv.tuning import tune_all

        run(data, tmp_path / "plain", tiny_config(iterations=1, method="none"))
        with pytest.raises(InputError, match="is writing into it"):
            tune_all(
                tmp_path / "plain", data, data.parent / "images", folder, fraction=0.3, device="cpu"
            )
        assert [path.name for path in folder.iterdir()] == [".lock"]

    def test_what_a_killed_run_left_is_taken_over(self, data, tmp_path):
        left = {"process": 4_000_000, "host": "elsewhere", "since": "yesterday"}
        (tmp_path / ".lock").write_text(json.dumps(left))
        with pytest.warns(UserWarning, match="process 4000000 on elsewhere .* taking over"):
            run(data, tmp_path, tiny_config(iterations=1))
        assert (tmp_path / "model_final.pth").is_file()

    def test_a_run_that_ended_while_the_input_was_read(self, data, tmp_path, monkeypatch):
        from iif.tv import trainer

        original = trainer.DetectionTargets

        def slow(*args, **options):
            (tmp_path / "last_checkpoint").write_text("model_final.pth")
            return original(*args, **options)

        monkeypatch.setattr(trainer, "DetectionTargets", slow)
        with pytest.raises(InputError, match="holds checkpoints of an earlier run"):
            run(data, tmp_path)
