"""iif quickstart: every step on a tiny OpenMoji data set."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import pytest
from tqdm import tqdm

pytest.importorskip("torchvision", reason="torchvision is not installed")

from iif import InputError
from iif.cli import main
from iif.demo.plan import OpenMojiSettings
from iif.demo.quickstart import Demo, _follow, _train_runs, quickstart
from iif.locking import folder_lock

DEMO = Demo(OpenMojiSettings(categories=8, train=24, val=12, image_size=64), iterations=2)
OUTPUTS = (
    "weights.csv",
    "weights.png",
    "baseline/inference/lvis_instances_results.json",
    "baseline/inference/eval_summary.json",
    "iif/inference/eval_summary.json",
    "comparison/comparison.json",
    "comparison/ap_by_group.png",
    "false_positives/false_positives.json",
    "report.html",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart") / "demo"
    report = quickstart(out, engine="torchvision", demo=DEMO)
    return out, report


def summary(out, run) -> dict:
    return json.loads((out / run / "inference/eval_summary.json").read_text())


class TestTorchvision:
    def test_everything_is_written(self, done):
        out, report = done
        assert report == out.resolve() / "report.html"
        assert [name for name in OUTPUTS if not (out / name).exists()] == []

    def test_the_report_names_the_makers_of_the_drawings(self, done):
        footer = done[1].read_text(encoding="utf-8").split("<footer")[1]
        assert "OpenMoji" in footer
        assert "CC BY-SA 4.0" in footer

    def test_the_runs_differ_in_their_method_alone(self, done):
        baseline, iif = (summary(done[0], run)["config"] for run in ("baseline", "iif"))
        assert {k for k in iif if iif[k] != baseline[k]} == {"method"}
        assert (baseline["method"], iif["method"]) == ("none", "iif")
        assert iif["iif"]["variant"] == "raw"

    def test_of_the_checkpoints_the_final_one_is_left(self, done):
        for run in ("baseline", "iif"):
            assert [path.name for path in (done[0] / run).glob("*.pth")] == ["model_final.pth"]
            assert (done[0] / run / "last_checkpoint").read_text() == "model_final.pth"

    def test_again_repeats_no_training(self, done, capsys):
        out, report = done
        models = [out / run / "model_final.pth" for run in ("baseline", "iif")]
        before = [model.stat().st_mtime_ns for model in models]
        report.unlink()
        quickstart(out, engine="auto", demo=DEMO)
        assert [model.stat().st_mtime_ns for model in models] == before
        assert report.exists()
        printed = capsys.readouterr().out
        assert "Engine: torchvision (as begun in this folder)" in printed
        assert printed.count("done before") == 2
        assert "APr" in printed
        assert f"Report:          {report}" in printed

    def test_an_interrupted_evaluation_is_made_again(self, done):
        out, _ = done
        path = out / "iif/inference/eval_summary.json"
        before = json.loads(path.read_text())
        model = (out / "iif/model_final.pth").stat().st_mtime_ns
        path.unlink()
        quickstart(out, engine="torchvision", demo=DEMO)
        assert json.loads(path.read_text())["metrics"] == before["metrics"]
        assert (out / "iif/model_final.pth").stat().st_mtime_ns == model

    def test_another_seed_is_refused(self, done):
        with pytest.raises(InputError, match=r"begun here with another seed \(0, now 1\)"):
            quickstart(done[0], engine="torchvision", seed=1, demo=DEMO)

    def test_another_size_is_refused(self, done):
        with pytest.raises(InputError, match="begun here with another data set"):
            quickstart(done[0], engine="torchvision")


def test_a_folder_with_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["quickstart", "--engine", "torchvision", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds something else" in error
    assert error.endswith("(--out)\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class TestEngine:
    @pytest.fixture
    def missing(self, monkeypatch):
        def hide(*modules):
            for module in modules:
                monkeypatch.setitem(sys.modules, module, None)

        return hide

    @pytest.fixture(autouse=True)
    def stop_after_choice(self, monkeypatch):
        def stop(folder, marker):
            raise InputError(f"chose {marker['engine']}")

        monkeypatch.setattr("iif.demo.quickstart.begin", stop)

    def test_auto_takes_torchvision_without_detectron2_and_says_why(
        self, missing, tmp_path, capsys
    ):
        missing("iif.d2")
        with pytest.raises(InputError, match="chose torchvision"):
            quickstart(tmp_path)
        assert "Engine: torchvision (detectron2: " in capsys.readouterr().out

    def test_auto_takes_detectron2_where_it_is_installed(self, tmp_path):
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
        with pytest.raises(InputError, match="chose detectron2"):
            quickstart(tmp_path)

    def test_neither(self, missing, tmp_path):
        missing("iif.d2", "iif.tv")
        with pytest.raises(InputError, match=r"neither engine .*pip install .*torchvision"):
            quickstart(tmp_path)

    def test_one_that_was_asked_for_and_is_missing(self, missing, tmp_path):
        missing("tensorboard")
        with pytest.raises(InputError, match=r"engine torchvision cannot be used: .*tensorboard"):
            quickstart(tmp_path, engine="torchvision")

    def test_unknown(self, tmp_path):
        with pytest.raises(InputError, match="engine is 'mmdet'"):
            quickstart(tmp_path, engine="mmdet")


def test_detectron2(tmp_path, capsys):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    report = quickstart(tmp_path / "demo", engine="detectron2", demo=DEMO)
    out = report.parent
    assert [name for name in OUTPUTS if not (out / name).exists()] == []
    baseline, iif = (summary(out, run) for run in ("baseline", "iif"))
    assert baseline["test_settings"] == iif["test_settings"]
    assert baseline["config"]["MODEL"]["LONG_TAIL"]["METHOD"] == "none"
    assert iif["config"]["MODEL"]["LONG_TAIL"]["METHOD"] == "iif"
    assert iif["config"]["MODEL"]["IIF"]["VARIANT"] == "raw"
    assert "Report: " in capsys.readouterr().out
    for run in ("baseline", "iif"):
        assert [path.name for path in (out / run).glob("*.pth")] == ["model_final.pth"]


@pytest.mark.parametrize("fails", [False, True])
def test_checkpoints_are_kept_until_the_runs_are_finished(fails, tmp_path, monkeypatch):
    """Both runs may have to be resumed; those of a run that is finished are not needed."""

    def train(waiting, engine, demo, data, folder):
        assert (tmp_path / "baseline/model_0000349.pth").exists()
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr("iif.demo.quickstart._train_side_by_side", train)
    (tmp_path / "iif/inference").mkdir(parents=True)
    (tmp_path / "iif/inference/eval_summary.json").touch()
    (tmp_path / "baseline").mkdir()
    names = ("model_0000349.pth", "model_final.pth", "moments.pth")
    for name in names:
        (tmp_path / "baseline" / name).touch()
    with contextlib.suppress(KeyboardInterrupt):
        _train_runs("torchvision", DEMO, tmp_path, tmp_path)
    left = {path.name for path in (tmp_path / "baseline").iterdir()}
    assert left == set(names if fails else names[1:])


def test_a_second_quickstart_in_a_folder_is_refused(done, capsys):
    pytest.importorskip("fcntl", reason="this platform has no file locks")
    with folder_lock(done[0]), pytest.raises(InputError, match="is writing into it"):
        quickstart(done[0], engine="torchvision", demo=DEMO)
    assert "[1/6]" not in capsys.readouterr().out


def test_the_progress_that_detectron2_tells_is_shown(monkeypatch):
    bars = {}

    def bar(*, desc, **options):
        bars[desc] = tqdm(desc=desc, disable=False, file=io.StringIO(), **options)
        return bars[desc]

    monkeypatch.setattr("iif.demo.quickstart.progress", bar)
    output = [
        "[01/01 d2.engine.defaults]: Running with full config\n",
        "[01/01 d2.utils.events]:  eta: 0:00:29  iter: 219  total_loss: 4.681\n",
        "[01/01 d2.utils.events]:  eta: 0:00:00  iter: 249  total_loss: 4.666\n",
        "[01/01 d2.evaluation.evaluator]: Inference done 11/40. Dataloading: 0.0115 s/iter.\n",
        "[01/01 d2.evaluation.evaluator]: Inference done 31/40. Dataloading: 0.0115 s/iter.\n",
    ]
    log = io.StringIO()
    _follow(output, log, {"training": 250, "inference": 40})
    assert log.getvalue() == "".join(output)
    assert {name: (bar.initial, bar.n, bar.total) for name, bar in bars.items()} == {
        "starting": (0, 2, None),
        "training": (220, 250, 250),
        "inference": (11, 31, 40),
    }
    assert all(bar.disable for bar in bars.values())  # closed
