"""tools/check_gpu.py: its steps, what it skips, and its verdicts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "tools" / "check_gpu.py"
BOTH = ("torchvision", "detectron2")
PER_ENGINE = ("train", "resume", "evaluate", "AMP", "two processes")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_gpu", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_gpu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_gpu"]


def skipped(tool, tmp_path, device, engines, gpus) -> dict[str, str]:
    steps = tool.steps(tmp_path, device, engines, gpus)
    return {step.name: step.skip for step in steps if step.skip}


def test_every_engine_takes_the_same_steps(tool, tmp_path):
    names = [step.name for step in tool.steps(tmp_path, "cuda", BOTH, 2)]
    assert names[0] == "data set"
    assert names[1:11] == [f"{engine}: {name}" for engine in BOTH for name in PER_ENGINE]
    assert len(set(names)) == len(names)


def test_every_benchmark_that_takes_a_device_is_run(tool, tmp_path):
    folder = PATH.parents[1] / "benchmarks"
    takes = {path.stem for path in folder.glob("*.py") if '"--device"' in path.read_text()}
    steps = list(tool.steps(tmp_path, "cuda", BOTH, 2))[11:]
    assert {Path(step.command[1]).stem for step in steps} == takes
    assert all(step.command[2:4] == ("--device", "cuda") for step in steps)


@pytest.mark.parametrize("gpus", [1, 2])
def test_two_processes_need_two_gpus(tool, tmp_path, gpus):
    found = skipped(tool, tmp_path, "cuda", BOTH, gpus)
    two = {f"{engine}: two processes": "there is one GPU" for engine in BOTH}
    assert found == (two if gpus == 1 else {})


def test_on_the_processor_amp_alone_is_left_out(tool, tmp_path):
    found = skipped(tool, tmp_path, "cpu", BOTH, 0)
    assert found == {f"{engine}: AMP": "AMP is for GPUs" for engine in BOTH}


def test_an_engine_that_is_missing(tool, tmp_path):
    found = skipped(tool, tmp_path, "cuda", ("torchvision",), 2)
    assert {f"detectron2: {name}" for name in PER_ENGINE} <= found.keys()
    assert not any("torchvision" in name for name in found)


def command(tool, code: str, **options):
    return tool.Step("a step", (sys.executable, "-c", code), **options)


@pytest.mark.parametrize(
    ("code", "verdict", "reason"),
    [
        ("", "ok", ""),
        ("print('all is lost'); raise SystemExit(3)", "FAILED", "exit status 3, see 01.txt: all"),
        ("import time; time.sleep(60)", "FAILED", "took more than 2 seconds"),
    ],
)
def test_verdicts(tool, tmp_path, monkeypatch, code, verdict, reason):
    if "sleep" in code:
        monkeypatch.setattr(tool, "LIMIT", 2)
    found = tool.run(command(tool, code), tmp_path / "01.txt")
    assert (found.step, found.verdict) == ("a step", verdict)
    assert found.reason.startswith(reason)


def test_a_step_that_writes_nothing_has_failed(tool, tmp_path):
    found = tool.run(command(tool, "", file=tmp_path / "summary.json"), tmp_path / "01.txt")
    assert found.verdict == "FAILED"
    assert "summary.json is missing" in found.reason


def test_a_step_that_cannot_be_done_is_not_begun(tool, tmp_path):
    step = command(tool, "raise SystemExit(3)", skip="there is one GPU")
    assert tool.run(step, tmp_path / "01.txt") == tool.Verdict(
        "a step", "skipped", reason="there is one GPU"
    )
    assert not (tmp_path / "01.txt").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_exit_status_and_the_table(tool, tmp_path, monkeypatch, capsys, fails):
    def steps(folder, device, engines, gpus):
        yield command(tool, f"raise SystemExit({int(fails)})")
        yield command(tool, "", skip="there is one GPU")

    monkeypatch.setattr(tool, "steps", steps)
    assert tool.main(["--device", "cpu", "--output", str(tmp_path / "new")]) == fails
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[1].split()[2] == ("FAILED" if fails else "ok")
    assert table[2].split()[2:] == ["skipped", "0", "s", "there", "is", "one", "GPU"]


def test_a_folder_that_holds_something_is_refused(tool, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit):
        tool.main(["--device", "cpu", "--output", str(tmp_path)])
    assert "holds something; give a new folder" in capsys.readouterr().err


def test_without_a_gpu(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit):
        tool.main(["--output", str(tmp_path / "new")])
    assert "torch finds no GPU here; --device cpu runs the same" in capsys.readouterr().err


def test_the_steps_can_be_listed(tool, capsys):
    assert tool.main(["--device", "cpu", "--list"]) == 0
    assert "AMP (skipped: AMP is for GPUs)" in capsys.readouterr().out
