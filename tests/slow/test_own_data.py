"""From the export of an annotation tool to a report, by the commands as a user types them.

``make test-slow`` runs it: check, train with torchvision, evaluate, report; no weights from the
network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torchvision", reason="torchvision is not installed")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from exports import NAMES, TOOLS

SMALL = (
    *("weights_backbone=null", "min_size=[64]", "max_size=64"),
    *("images_per_batch=2", "iterations=4", "base_lr=0.005", "steps=[]", "warmup_iterations=2"),
    *("workers=0", "detections_per_image=20"),
)
MODELS = {"masks": "maskrcnn_resnet18_fpn_small", "boxes": "fasterrcnn_resnet18_fpn_small"}


def iif(*arguments: object) -> str:
    """Run a command of iif; return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "iif.cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_from_the_file_to_a_report(tool: str, tmp_path: Path) -> None:
    files = TOOLS[tool](tmp_path / "export")
    images = ("--images", files.train_images, "--val-images", files.val_images)
    record, run = tmp_path / "check.json", tmp_path / "run"

    text = iif("check", files.train_json, "--val", files.val_json, *images, "--json", record)
    assert text.startswith("Usable")
    model = MODELS[json.loads(record.read_text())["content"]["model"]]

    data = ("--train", files.train_json, "--val", files.val_json, *images)
    text = iif("train", *data, "--output", run, *SMALL)
    assert json.loads((run / "config.json").read_text())["config"]["model"] == model
    left_out = re.findall(r"left out 1 category without an annotation: 'shapes'", text)
    assert len(left_out) == (tool == "roboflow")
    statistics = json.loads((run / "class_statistics.json").read_text())
    assert statistics["names"] == list(NAMES)

    results = run / "inference" / "lvis_instances_results.json"
    iif("check", files.val_json, "--results", results)
    again = tmp_path / "evaluation"
    given = ("--gt", files.val_json, "--results", results, "--train-json", files.train_json)
    iif("evaluate", *given, "--output", again)
    metrics = [
        json.loads((folder / "eval_summary.json").read_text())["metrics"]
        for folder in (run / "inference", again)
    ]
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0]["bbox"]["AP"] == metrics[1]["bbox"]["AP"]

    page = tmp_path / "report.html"
    iif("report", run, "--gt", files.val_json, "--images", files.val_images, "--output", page)
    assert "wedge" in page.read_text()
