"""COCO-format files are evaluated as COCOeval evaluates them, corners included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coco_reference import coco_evaluate, coco_style
from iif.cli import main
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import Detections, load_results
from iif.evaluation.matching import Outcome, match
from iif.evaluation.metrics import precision_and_recall
from random_cases import random_case

CASES = 250  # of each IoU type


def coco_case(seed: int, *, masks: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A random case in COCO's format, with crowds; ``ignore`` and areas of zero stay in it."""
    gt, results = random_case(seed, masks=masks, crowded=seed % 25 == 0)
    rng = np.random.default_rng(seed)
    for annotation in gt["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.2)
    return coco_style(gt), results


def load(
    folder: Path, gt: dict[str, Any], results: list[dict[str, Any]], iou_type: Any
) -> tuple[Annotations, Detections]:
    (folder / "gt.json").write_text(json.dumps(gt))
    (folder / "results.json").write_text(json.dumps(results))
    annotations = load_annotations(folder / "gt.json", masks=iou_type == "segm")
    return annotations, load_results(folder / "results.json", annotations, iou_type=iou_type)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_precision_and_recall_equal_cocoeval_s(tmp_path: Path, iou_type: Any) -> None:
    capped = 0
    for seed in range(CASES):
        gt, results = coco_case(seed, masks=iou_type == "segm")
        annotations, detections = load(tmp_path, gt, results, iou_type)
        assert annotations.exhaustive
        max_dets = (300, 3)[seed % 2]
        matches = match(annotations, detections, iou_type, max_dets=max_dets)
        capped += (matches.outcome == Outcome.CAPPED).any()
        found = precision_and_recall(matches)
        expected = coco_evaluate(gt, results, iou_type, max_dets)
        for name, a, b in zip(("precision", "recall"), found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=f"seed {seed}: {name}")
    assert capped > 10


def test_the_cap_is_that_of_a_category_in_an_image(tmp_path: Path) -> None:
    gt, results = coco_case(0)
    image, *others = sorted(c["id"] for c in gt["categories"])
    row = results[0] | {"bbox": [0, 0, 5, 5]}
    rows = [row | {"category_id": image, "score": s} for s in (0.5, 0.9, 0.5, 0.7)]
    rows.append(row | {"category_id": others[0], "score": 0.1})
    annotations, detections = load(tmp_path, gt, rows, "bbox")
    outcome = match(annotations, detections, "bbox", max_dets=3).outcome
    assert (outcome == Outcome.CAPPED).tolist() == [False, False, True, False, False]
    outcome = match(annotations, detections, "bbox", max_dets=None).outcome
    assert not (outcome == Outcome.CAPPED).any()


def test_a_product_smaller_than_a_float_is_no_overlap(tmp_path: Path) -> None:
    gt, results = coco_case(0)
    tiny = [0, 0, 1e-200, 1e-200]
    gt["annotations"][0] |= {"bbox": tiny, "area": 0, "iscrowd": 1}
    rows = [results[0] | {k: gt["annotations"][0][k] for k in ("image_id", "category_id", "bbox")}]
    annotations, detections = load(tmp_path, gt, rows, "bbox")
    assert match(annotations, detections, "bbox").outcome.tolist() == [Outcome.FP]


@pytest.mark.parametrize("max_dets", [100, 7, -1])
def test_the_command_needs_no_training_annotations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], max_dets: int
) -> None:
    gt, results = coco_case(4)
    load(tmp_path, gt, results, "bbox")
    out = tmp_path / "out"
    command = ["evaluate", "--gt", str(tmp_path / "gt.json"), "--output", str(out)]
    command += ["--results", str(tmp_path / "results.json"), "--max-dets", str(max_dets)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    summary = json.loads((out / "eval_summary.json").read_text())
    name = f"AR@{'all' if max_dets == -1 else max_dets}"
    assert name in printed
    expected = coco_evaluate(gt, results, "bbox", max_dets if max_dets > 0 else 10**6)
    metrics = summary["metrics"]["bbox"]
    assert metrics["AP"] == pytest.approx(np.nanmean(expected[0][0]))
    assert metrics[name] == pytest.approx(np.nanmean(expected[1][0]))
    assert metrics["APr"] is metrics["APc"] is metrics["APf"] is None
    assert {category["frequency"] for category in summary["per_category"]} == {""}
    assert summary["evaluation"]["max_dets"] == (None if max_dets == -1 else max_dets)
    # A comparison names the recall by its cap, and does without the groups.
    assert main(["compare", str(out), str(out), "--names", "a", "b", "--bootstrap", "5"]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("value", ["0", "-2", "x"])
def test_a_cap_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], value: str) -> None:
    command = ["evaluate", "--gt", "g", "--results", "r", "--output", "o"]
    with pytest.raises(SystemExit):
        main([*command, f"--max-dets={value}"])
    assert "whole number from 1 on" in capsys.readouterr().err


def test_a_report_of_a_coco_file_without_groups(tmp_path: Path) -> None:
    gt, results = coco_case(4)
    load(tmp_path, gt, results, "bbox")
    out, page = tmp_path / "out", tmp_path / "page.html"
    files = ["--gt", str(tmp_path / "gt.json")]
    evaluated = [*files, "--results", str(tmp_path / "results.json"), "--output", str(out)]
    assert main(["evaluate", *evaluated, "--max-dets", "7"]) == 0
    assert main(["report", *files, "--run", str(out), "--output", str(page)]) == 0
    assert page.stat().st_size > 10_000
