"""Metrics as CSV and in TensorBoard."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from iif.cli import main
from random_cases import random_case


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    gt, results = random_case(29, masks=True)
    for category in gt["categories"]:
        category["frequency"] = "f"  # APr is undefined
    for name, content in (("gt", gt), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ["--gt", str(tmp_path / "gt.json"), "--results", str(tmp_path / "results.json")]
    return ["evaluate", *files, "--output", str(tmp_path / "out")]


def test_the_table_holds_every_metric(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--csv", str(tmp_path / "tables" / "metrics.csv")]) == 0
    summary = json.loads((tmp_path / "out" / "eval_summary.json").read_text())
    with open(tmp_path / "tables" / "metrics.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    found = {
        (r["iou_type"], r["category_id"], r["metric"]): float(r["value"]) if r["value"] else None
        for r in rows
    }
    expected = {
        (iou_type, "", name): value
        for iou_type, metrics in summary["metrics"].items()
        for name, value in metrics.items()
    } | {
        (iou_type, str(category["id"]), name): value
        for iou_type in summary["metrics"]
        for category in summary["per_category"]
        for name, value in category[iou_type].items()
    }
    assert found == expected
    assert len(rows) == len(expected)
    assert found["bbox", "", "APr"] is None


def test_tensorboard_reads_the_metrics(command: list[str], tmp_path: Path) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    events = pytest.importorskip(module, reason="TensorBoard is not installed")
    from tensorboard.util.tensor_util import make_ndarray

    log = str(tmp_path / "log")
    assert main([*command, "--tensorboard", log, "--step", "1200"]) == 0
    summary = json.loads((tmp_path / "out" / "eval_summary.json").read_text())
    accumulator = events.EventAccumulator(log)
    accumulator.Reload()
    expected = {
        f"{iou_type}/{name}": value
        for iou_type, metrics in summary["metrics"].items()
        for name, value in metrics.items()
        if value is not None
    }
    assert set(accumulator.Tags()["tensors"]) == set(expected)
    for tag, value in expected.items():
        (event,) = accumulator.Tensors(tag)
        assert event.step == 1200
        assert float(make_ndarray(event.tensor_proto)) == pytest.approx(value, rel=1e-6)


def test_a_missing_tensorboard_is_named(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("iif.evaluation.export.find_spec", lambda name: None)
    assert main([*command, "--tensorboard", str(tmp_path / "log")]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
