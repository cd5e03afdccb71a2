"""`iif evaluate` and `evaluate_files`: what they write, what they refuse, what they leave alone."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.json_rows import JsonList
from iif.data.results import IouType, load_results
from iif.errors import InputError
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.matches_file import load_matches
from iif.evaluation.matching import ErrorType, Outcome, match
from iif.evaluation.metrics import FIXED_METRICS, METRICS, average_precision
from iif.files import sha256_file
from iif.report.text import summary_text
from lvis_reference import lvis_evaluate
from random_cases import random_case


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Annotation file and result file of a case in which every frequency group has an AP."""
    gt, results = random_case(29, masks=True)
    for k, category in enumerate(gt["categories"]):
        category["frequency"] = "rcf"[k % 3]
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path / "gt.json", tmp_path / "results.json"


def rewrite(path: Path, *left_out: str) -> list[dict]:
    """Take keys away from every row of a result file; return what it has now."""
    rows = [{k: v for k, v in r.items() if k not in left_out} for r in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    return rows


def test_the_command_writes_what_the_official_evaluator_finds(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, results = files
    out = tmp_path / "out"
    status = main(
        ["evaluate", "--gt", str(gt), "--results", str(results), "--output", str(out), "--outcomes"]
    )
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("eval_matches.npz", "eval_summary.json", "outcomes_bbox.csv", "outcomes_segm.csv")
    ]
    summary = json.loads((out / "eval_summary.json").read_text())
    content, rows = json.loads(gt.read_text()), json.loads(results.read_text())
    assert summary["format"] == "iif-eval-summary/1"
    assert summary["dataset"] == {
        "name": "gt",
        "path": str(gt),
        "sha256": sha256_file(gt),
        "num_images": len(content["images"]),
        "num_annotations": len(content["annotations"]),
        "num_categories": len(content["categories"]),
        "exhaustive": False,
    }
    assert summary["results"] == {
        "path": str(results),
        "sha256": sha256_file(results),
        "num_detections": len(rows),
    }
    assert summary["evaluation"]["max_dets"] == 300
    assert summary["evaluation"]["iou_thresholds"][::9] == [0.5, 0.95]
    assert set(summary["test_settings"].values()) == {None}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    for iou_type in ("bbox", "segm"):
        metrics, per_category = lvis_evaluate(gt, rows, iou_type)
        assert list(summary["metrics"][iou_type]) == [*METRICS, *FIXED_METRICS]
        for name, value in metrics.items():
            assert summary["metrics"][iou_type][name] == pytest.approx(value, abs=1e-9), name
        for k, category in enumerate(categories):
            entry = summary["per_category"][k]
            assert {key: entry[key] for key in category} == category
            for name, values in per_category.items():
                expected = None if np.isnan(values[k]) else pytest.approx(values[k], abs=1e-9)
                assert entry[iou_type][name] == expected
    printed = capsys.readouterr().out
    assert f"{summary['metrics']['segm']['APr']:.2f}" in printed
    assert str(out) in printed


def test_the_outcomes_file_has_each_row_of_the_results(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    gt_path, results = files
    evaluate_files(gt_path, results, output_dir=tmp_path / "out", outcomes=True)
    gt = load_annotations(gt_path, masks=True)
    detections = load_results(results, gt, iou_type="segm")
    rows = json.loads(results.read_text())
    for iou_type in ("bbox", "segm"):
        matches = match(gt, detections, iou_type)
        with open(tmp_path / "out" / f"outcomes_{iou_type}.csv", newline="") as f:
            written = list(csv.DictReader(f))
        assert len(written) == len(rows)
        for d, (line, row) in enumerate(zip(written, rows, strict=True)):
            g = matches.gt_row[d]
            assert line == {
                "row": str(d),
                "image_id": str(row["image_id"]),
                "category_id": str(row["category_id"]),
                "score": line["score"],
                "outcome": Outcome(matches.outcome[d]).name,
                "error_type": ErrorType(matches.error_type[d]).label,
                "gt_id": str(gt.ann_ids[g]) if g >= 0 else "",
            }
            assert float(line["score"]) == row["score"]


def test_outcomes_of_an_earlier_evaluation_are_removed(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluate_files(*files, output_dir=tmp_path / "out", outcomes=True)
    evaluate_files(*files, output_dir=tmp_path / "out", iou_types=["bbox"], outcomes=True)
    assert [path.name for path in (tmp_path / "out").glob("*.csv")] == ["outcomes_bbox.csv"]
    evaluate_files(*files, output_dir=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.parametrize("iou_types", [None, ["bbox"], ["segm"]])
def test_a_box_that_is_not_finite_is_degenerate(
    files: tuple[Path, Path], tmp_path: Path, iou_types: list[IouType] | None
) -> None:
    """NaN and Infinity are no JSON, but Python writes them."""
    gt, results = files
    rows = json.loads(results.read_text())
    rows[1]["bbox"] = [math.nan, 0, math.inf, 1]
    results.write_text(json.dumps(rows))
    out = tmp_path / "out"
    summary = evaluate_files(gt, results, output_dir=out, iou_types=iou_types, outcomes=True)
    assert list(summary["metrics"]) == (iou_types or ["bbox", "segm"])
    if iou_types != ["segm"]:
        with open(out / "outcomes_bbox.csv", newline="") as f:
            assert list(csv.DictReader(f))[1]["outcome"] == "DEGENERATE"


def test_a_score_that_is_not_finite_is_named_by_its_row(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    gt, results = files
    rows = json.loads(results.read_text())
    rows[2]["score"] = math.nan
    results.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="row 2: score"):
        evaluate_files(gt, results, output_dir=tmp_path / "out")


def test_a_file_that_is_scanned_gives_the_same_files(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_by_row = evaluate_files(*files, output_dir=tmp_path / "rows", outcomes=True)
    monkeypatch.setattr("iif.data.results._SCANNED_BYTES", 0)
    monkeypatch.setattr("iif.data.results.JsonList.blocks", _first_block_alone)
    assert evaluate_files(*files, output_dir=tmp_path / "scanned", outcomes=True) == row_by_row
    for name in ("outcomes_bbox.csv", "outcomes_segm.csv"):
        rows, scanned = ((tmp_path / f / name).read_bytes() for f in ("rows", "scanned"))
        assert rows == scanned


def _first_block_alone(self: JsonList, row_type: Any, digest: Any = None) -> Any:
    assert digest is None, "the strict reader reads the file"
    yield 0, msgspec.json.decode(Path(self.path).read_bytes(), type=list[row_type])


def test_outcomes_are_written_in_parts(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_files(*files, output_dir=tmp_path / "whole", outcomes=True)
    monkeypatch.setattr("iif.evaluation.outcomes_file._ROWS_AT_ONCE", 3)
    evaluate_files(*files, output_dir=tmp_path / "parts", outcomes=True)
    for name in ("outcomes_bbox.csv", "outcomes_segm.csv"):
        whole, parts = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "parts"))
        assert whole == parts


def test_the_matches_give_the_summary_s_ap(files: tuple[Path, Path], tmp_path: Path) -> None:
    summary = evaluate_files(*files, output_dir=tmp_path / "out")
    assert summary == json.loads((tmp_path / "out" / "eval_summary.json").read_text())
    for iou_type, matches in load_matches(tmp_path / "out" / "eval_matches.npz").items():
        ap = [c[iou_type]["AP"] for c in summary["per_category"]]
        expected = np.array([np.nan if value is None else value for value in ap])
        np.testing.assert_array_equal(average_precision(matches), expected)


def test_ap_fixed_takes_no_cap_per_image(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, results = files
    content, rows = json.loads(gt.read_text()), json.loads(results.read_text())
    # Detections of category A fill an image's 300 and push out those of B, which AP-fixed keeps.
    a = rows[0]
    b = next(annotation for annotation in content["annotations"] if annotation["area"] > 0)
    rows += [a | {"image_id": b["image_id"], "score": 0.9 + k / 1e4} for k in range(400)]
    found = {k: b[k] for k in ("image_id", "category_id", "bbox")}
    rows += [a | found | {"score": 0.85}]
    results.write_text(json.dumps(rows))
    summary = evaluate_files(gt, results, iou_types=["bbox"], output_dir=tmp_path / "out")
    entry = next(c for c in summary["per_category"] if c["id"] == b["category_id"])
    assert entry["bbox"]["AP-fixed"] > entry["bbox"]["AP"]
    _, uncapped = lvis_evaluate(gt, rows, "bbox", max_dets=-1)
    fixed = [c["bbox"]["AP-fixed"] for c in summary["per_category"]]
    np.testing.assert_allclose(
        np.array([np.nan if value is None else value for value in fixed]), uncapped["AP"], atol=1e-9
    )


def test_settings_and_configuration_are_recorded(files: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"score_threshold": 1e-4, "nms_threshold": 0.5, "detections_per_image": 300}
    summary = evaluate_files(
        *files,
        output_dir=tmp_path / "out",
        dataset_name="openmoji_val",
        test_settings=settings,
        config={"a": 1},
        ap_fixed=False,
    )
    assert summary["dataset"]["name"] == "openmoji_val"
    assert summary["test_settings"] == settings
    assert summary["config"] == {"a": 1}
    assert "AP-fixed" not in summary["metrics"]["bbox"]


@pytest.mark.parametrize(("left_out", "evaluated"), [("segmentation", "bbox"), ("bbox", "segm")])
def test_by_default_what_the_results_have_is_evaluated(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    left_out: str,
    evaluated: str,
) -> None:
    gt, results = files
    rewrite(results, left_out)
    out = tmp_path / "out"
    assert main(["evaluate", "--gt", str(gt), "--results", str(results), "--output", str(out)]) == 0
    assert list(json.loads((out / "eval_summary.json").read_text())["metrics"]) == [evaluated]
    assert ("has no masks: evaluated as boxes alone" in capsys.readouterr().out) == (
        evaluated == "bbox"
    )


def test_an_empty_result_list_is_ap_zero(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, results = files
    results.write_text("[]")
    summary = evaluate_files(gt, results, output_dir=tmp_path / "out", outcomes=True)
    for metrics in summary["metrics"].values():
        assert metrics["AP"] == metrics["AR@300"] == metrics["AP-fixed"] == 0
    header = "row,image_id,category_id,score,outcome,error_type,gt_id\n"
    assert (tmp_path / "out" / "outcomes_segm.csv").read_text() == header


def test_coco_format_is_evaluated_with_the_training_counts(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    gt, results = files
    content = json.loads(gt.read_text())
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"], category["image_count"]
    gt.write_text(json.dumps(content))
    out = tmp_path / "out"
    command = ["evaluate", "--gt", str(gt), "--results", str(results), "--output", str(out)]
    for exhaustive in ([], ["--exhaustive"]):  # without the flag, the content of the file decides
        assert main([*command, *exhaustive, "--train-json", str(gt)]) == 0
        summary = json.loads((out / "eval_summary.json").read_text())
        assert summary["dataset"]["exhaustive"]
        shutil.rmtree(out)
    shown = {(a["category_id"], a["image_id"]) for a in content["annotations"]}
    for category in summary["per_category"]:
        assert category["image_count"] == sum(c == category["id"] for c, _ in shown)


@pytest.mark.parametrize(
    ("spoil", "iou_types", "message"),
    [
        (lambda rows: rows[-1].update(image_id=5000), None, "image_id 5000"),
        (lambda rows: rows[-1].pop("score"), None, "score is missing"),
        (lambda rows: rows[-1].pop("segmentation"), None, "segmentation is missing"),
        (lambda rows: rows[0].pop("segmentation"), ["segm"], "row 0: segmentation is missing"),
        (lambda rows: rows[0].pop("bbox"), ["bbox"], "row 0: bbox is missing"),
        (lambda rows: rows[-1].pop("bbox"), None, r"row \d+: bbox is missing"),
        (
            lambda rows: [rows[0].pop(key) for key in ("bbox", "segmentation")],
            None,
            "row 0 has neither bbox nor segmentation",
        ),
    ],
)
def test_after_a_fault_nothing_was_written(
    files: tuple[Path, Path], tmp_path: Path, spoil: object, iou_types: object, message: str
) -> None:
    gt, results = files
    rows = json.loads(results.read_text())
    spoil(rows)
    results.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        evaluate_files(gt, results, iou_types=iou_types, output_dir=tmp_path / "out", outcomes=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt.json", "results.json"]


def test_an_earlier_evaluation_survives_a_failed_one(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    gt, results = files
    evaluate_files(gt, results, output_dir=tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    results.write_text(results.read_text()[:-5])
    with pytest.raises(InputError, match="cut off"):
        evaluate_files(gt, results, output_dir=tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_output_must_be_a_folder(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        evaluate_files(*files, output_dir=files[0])


@pytest.mark.parametrize("iou_types", [[], ["boxes"]])
def test_an_unknown_iou_type_is_refused(
    files: tuple[Path, Path], tmp_path: Path, iou_types: list
) -> None:
    with pytest.raises(InputError, match="it must be of bbox, segm"):
        evaluate_files(*files, iou_types=iou_types, output_dir=tmp_path / "out")


def test_an_undefined_metric_is_a_dash(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, results = files
    content = json.loads(gt.read_text())
    for category in content["categories"]:
        category["frequency"] = "f"
    gt.write_text(json.dumps(content))
    summary = evaluate_files(gt, results, output_dir=tmp_path / "out")
    assert summary["metrics"]["bbox"]["APr"] is None
    (line,) = [line for line in summary_text(summary).splitlines() if line.startswith("APr ")]
    assert line.split() == ["APr", "-", "-"]


def test_an_lvis_file_is_not_exhaustive(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, results = files
    out = tmp_path / "out"
    command = ["evaluate", "--gt", str(gt), "--results", str(results), "--output", str(out)]
    assert main([*command, "--exhaustive"]) == 2
    assert "is in LVIS's format" in capsys.readouterr().err
    assert not out.exists()


def test_lvis_s_format_can_be_insisted_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, results = files
    content = json.loads(gt.read_text())
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    gt.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no neg_category_ids"):
        evaluate_files(gt, results, output_dir=tmp_path / "out", exhaustive=False)


def test_the_method_is_recorded(files: tuple[Path, Path], tmp_path: Path) -> None:
    method = {"name": "a", "options": {"b": 1.5}, "acts_in_training": True, "sha256": "0" * 64}
    summary = evaluate_files(*files, output_dir=tmp_path / "out", method=method)
    assert summary["method"] == method
    assert json.loads((tmp_path / "out" / "eval_summary.json").read_text()) == summary
    # Evaluated again, as for analyses, the model's record stays; of other files there is none.
    config, name = {"SEED": 3}, "val"
    kept = evaluate_files(
        *files,
        output_dir=tmp_path / "out",
        config=config,
        dataset_name=name,
        test_settings={"score_threshold": 0.1},
    )
    again = evaluate_files(*files, output_dir=tmp_path / "out", analyses=True)
    assert again["analyses"]
    assert {**again, "analyses": {}} == kept
    assert (again["method"], again["config"]) == (method, config)
    assert evaluate_files(*files, output_dir=tmp_path / "other")["method"] is None
    rows = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(rows[1:]))
    assert evaluate_files(*files, output_dir=tmp_path / "out")["config"] is None


@pytest.mark.parametrize("package", ["iif.evaluation", "iif.report"])
def test_evaluation_and_report_import_no_torch_and_no_detector(package: str) -> None:
    code = (
        f"import sys, pkgutil, importlib, {package} as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'{package.__name__}.{module.name}')\n"
        "print(*[m for m in ('torch', 'detectron2', 'torchvision', 'lvis') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_evaluating_and_comparing_load_no_torch(files: tuple[Path, Path], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from iif.evaluation.compare import compare\n"
        "from iif.evaluation.evaluate import evaluate_files\n"
        "gt, results, out = sys.argv[1:]\n"
        "evaluate_files(gt, results, output_dir=out)\n"
        "compare([out, out], names=['a', 'b'], bootstrap=2)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *map(str, files), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
