"""`iif evaluate --verify`: the official evaluators on the same files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coco_reference import coco_style
from iif.cli import main
from iif.errors import InputError
from iif.evaluation import verify as module
from iif.evaluation.verify import verify
from random_cases import Case, random_case


def command(tmp_path: Path, case: Case, *options: str) -> list[str]:
    for name, content in zip(("gt", "results"), case, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ["--gt", str(tmp_path / "gt.json"), "--results", str(tmp_path / "results.json")]
    return ["evaluate", *files, "--output", str(tmp_path / "out"), "--verify", *options]


@pytest.mark.parametrize("max_dets", [300, 2, -1])
@pytest.mark.parametrize("coco", [False, True])
def test_the_official_evaluator_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], coco: bool, max_dets: int
) -> None:
    gt, results = random_case(29, masks=True)
    if coco:
        gt = coco_style(gt)
        gt["annotations"][0]["iscrowd"] = 1  # the others do without the key
    before = "float" in np.__dict__
    assert main(command(tmp_path, (gt, results), "--max-dets", str(max_dets))) == 0
    assert ("float" in np.__dict__) == before
    lines = capsys.readouterr().out.strip().splitlines()[-2:]
    name = "COCOeval (pycocotools)" if coco else "lvis"
    for line, kind in zip(lines, ("box", "mask"), strict=True):
        assert line.startswith(f"{kind}: ")
        assert f"largest difference to {name}: " in line


def test_a_difference_gives_status_1_and_names_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(matches):
        precision, recall = precision_and_recall(matches)
        k = int(np.argmax(~np.isnan(recall[0, 3])))
        recall[0, 3, k] += 0.5
        return precision, recall

    precision_and_recall = module.precision_and_recall
    monkeypatch.setattr(module, "precision_and_recall", altered)
    assert main(command(tmp_path, random_case(29), "--iou-type", "bbox")) == 1
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert "0.5 percentage points (recall, all, IoU 0.65, category " in line


def test_undefined_against_defined_is_an_infinite_difference() -> None:
    a = [np.full((4, 10, 2), np.nan), np.zeros((4, 10, 2))]
    b = [np.zeros((4, 10, 2)), np.zeros((4, 10, 2))]
    found = module._compared("bbox", "lvis", a, b, np.array([1, 2]))
    assert found.difference == np.inf
    assert not found.equal


def test_what_cannot_be_verified_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gt, results = random_case(29)
    command(tmp_path, (gt, []))
    with pytest.raises(InputError, match="fail on an empty list"):
        verify(tmp_path / "gt.json", tmp_path / "results.json", ["bbox"])
    command(tmp_path, (gt, results))
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(InputError, match="pip install lvis"):
        verify(tmp_path / "gt.json", tmp_path / "results.json", ["bbox"])
