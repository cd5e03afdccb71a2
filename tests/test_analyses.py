"""`iif evaluate --analyses`: what the summary and the tables hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import msgspec
import pytest

from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.results import load_results
from iif.evaluation.analyses import analyse_matches
from iif.evaluation.matching import match
from iif.evaluation.summary_file import read_summary
from random_cases import random_case

TABLES = ("missed", "curves", "thresholds", "confusion")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    gt, results = random_case(29, masks=True)
    for k, category in enumerate(gt["categories"]):
        category["frequency"] = "rcf"[k % 3]
    for name, content in (("gt", gt), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ["--gt", str(tmp_path / "gt.json"), "--results", str(tmp_path / "results.json")]
    return ["evaluate", *files, "--output", str(tmp_path / "out")]


def test_analyses_are_in_the_summary_the_tables_and_the_text(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "--analyses"]) == 0
    printed = capsys.readouterr().out
    for words in ("Objects, mask", "what repairing one type", "Calibration of", "Boundary AP"):
        assert words in printed
    summary = read_summary(out / "eval_summary.json")
    gt = load_annotations(tmp_path / "gt.json", masks=True)
    detections = load_results(tmp_path / "results.json", gt, iou_type="segm")
    for iou_type in ("bbox", "segm"):
        expected = analyse_matches(gt, detections, match(gt, detections, iou_type))
        assert summary.analyses[iou_type] == expected
        for row in expected.missed:
            assert f"{row.objects:,}" in printed
        tables = {}
        for name in TABLES:
            with open(out / f"{name}_{iou_type}.csv", newline="") as f:
                tables[name] = list(csv.DictReader(f))
        assert len(tables["missed"]) == expected.missed[0].objects - expected.missed[0].found
        assert len(tables["thresholds"]) == len(expected.thresholds)
        confused = sorted(
            int(row["count"])
            for row in tables["confusion"]
            if row["category_id"] != row["predicted_id"]
            and row["category_id"] != "background"
            and row["predicted_id"] != "missed"
        )
        assert [cell.count for cell in expected.confusion] == confused[::-1]
        count = sum(
            int(row["count"]) for row in tables["confusion"] if row["category_id"] != "background"
        )
        assert count == expected.missed[0].objects
        for best in expected.thresholds:
            own = [
                float(r["recall"])
                for r in tables["curves"]
                if int(r["category_id"]) == best.category_id
            ]
            assert own == sorted(own)
            assert max(own, default=0) >= best.recall - 1e-9
    assert summary.analyses["bbox"].boundary is None
    assert summary.analyses["segm"].boundary["AP"] is not None


def test_tables_of_an_earlier_evaluation_are_removed(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--analyses"]) == 0
    assert len(list((tmp_path / "out").glob("*.csv"))) == 8
    assert main([*command, "--analyses", "--iou-type", "bbox"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == sorted(
        f"{name}_bbox.csv" for name in TABLES
    )
    assert main(command) == 0
    assert not list((tmp_path / "out").glob("*.csv"))
    assert read_summary(tmp_path / "out" / "eval_summary.json").analyses == {}


def test_a_summary_without_analyses_is_read(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    path = tmp_path / "out" / "eval_summary.json"
    content = json.loads(path.read_text())
    del content["analyses"]
    path.write_text(json.dumps(content))
    assert read_summary(path).analyses == {}
    assert msgspec.to_builtins(read_summary(path))["analyses"] == {}


def test_no_detection_can_be_analysed(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert main([*command, "--analyses"]) == 0
    found = read_summary(tmp_path / "out" / "eval_summary.json").analyses["segm"]
    assert found.missed[0].miss == found.missed[0].objects > 0
    assert {best.threshold for best in found.thresholds} == {None}
    assert found.confusion == []
    assert found.class_agnostic_recall["AR@100"] == found.boundary["AP"] == 0
