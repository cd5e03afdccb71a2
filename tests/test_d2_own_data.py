"""Detectron2 on own data: COCO's format without LVIS's keys, a class in every image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import yaml

from helpers_own_data import as_own_data
from iif.d2.train import run


@pytest.fixture
def everywhere(openmoji_dir: Path, config_file: Path, tmp_path: Path) -> list[str]:
    """The arguments of a training on data of which a class is in every image."""
    as_own_data(openmoji_dir, tmp_path / "own", everywhere=True)
    content = yaml.safe_load(config_file.read_text())
    content["DATASETS"]["CUSTOM"] = [
        [f"everywhere_{part}", str(tmp_path / "own" / f"{part}.json"), str(openmoji_dir)]
        for part in ("train", "val")
    ]
    content["DATASETS"] |= {"TRAIN": ["everywhere_train"], "TEST": ["everywhere_val"]}
    content["SOLVER"]["MAX_ITER"] = 1
    content["MODEL"].setdefault("LONG_TAIL", {})["METHOD"] = "iif"
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(content))
    return ["--config-file", str(file), "OUTPUT_DIR", str(tmp_path / "run")]


def test_it_is_clamped_and_said(everywhere: list[str], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"refused: MODEL\.IIF\.NONPOSITIVE clamp is set; "):
        assert run(everywhere) == 0
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["MODEL"]["IIF"]["NONPOSITIVE"] == "clamp"
    summary = json.loads((tmp_path / "run" / "inference" / "eval_summary.json").read_text())
    assert summary["method"]["options"]["nonpositive"] == "clamp"


@pytest.mark.parametrize("where", ["command line", "file"])
def test_it_is_refused_where_that_is_asked_for(
    everywhere: list[str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(everywhere[1])
    if where == "file":
        content = yaml.safe_load(file.read_text())
        content["MODEL"]["IIF"] = {"NONPOSITIVE": "error"}
        file.write_text(yaml.safe_dump(content))
    else:
        everywhere += ["MODEL.IIF.NONPOSITIVE", "error"]
    assert run(everywhere) == 2
    assert "MODEL.IIF.NONPOSITIVE clamp" in capsys.readouterr().err
