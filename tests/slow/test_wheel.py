"""The built wheel, away from the checkout: everything that is needed at run time is inside."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the wheel is unpacked in."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("iif-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def run(installed: Path, folder: Path, *arguments: str, status: int = 0) -> str:
    """Return the output of Python in a folder of its own, with the wheel's package alone."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_it_is_the_wheels_package_that_runs(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import iif; print(iif.__file__)")
    assert Path(where.strip()).is_relative_to(installed)


def test_every_configuration_of_the_checkout_is_inside(installed):
    inside = installed / "iif" / "configs"
    expected = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    assert {p.relative_to(inside) for p in inside.rglob("*.yaml")} == expected != set()


def test_a_data_set_is_drawn_counted_evaluated_and_reported(installed, tmp_path):
    iif = ("-m", "iif.cli")
    train = "data/openmoji_train.json"
    drawn = ("--categories", "12", "--train", "40", "--val", "16", "--image-size", "64")
    run(installed, tmp_path, *iif, "openmoji", "data", *drawn)
    run(
        installed, tmp_path, *iif, "weights", "--json", "data/openmoji_train.json", "--csv", "w.csv"
    )
    assert len((tmp_path / "w.csv").read_text().splitlines()) == 13
    gt = json.loads((tmp_path / "data/openmoji_val.json").read_text())
    rows = [
        {**{key: a[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.5}
        for a in gt["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    evaluate = ("--results", "results.json", "--gt", "data/openmoji_val.json")
    counts = ("--train-json", train)
    run(installed, tmp_path, *iif, "evaluate", *evaluate, *counts, "--output", "run")
    summary = json.loads((tmp_path / "run/eval_summary.json").read_text())
    assert summary["metrics"]["bbox"]["AP"] == pytest.approx(100)
    assert (tmp_path / "run/eval_matches.npz").is_file()
    images = ("--images", "data")
    checked = run(
        *(installed, tmp_path, *iif, "check", train, *images, "--val", "data/openmoji_val.json"),
        *("--results", "results.json", "--html", "check.html"),
    )
    assert checked.startswith("Usable")
    assert "<html" in (tmp_path / "check.html").read_text()[:300]
    if importlib.util.find_spec("torchvision") is not None:
        files = ("--train", train, "--val", "data/openmoji_val.json", *images)
        run(installed, tmp_path, *iif, "train", *files, "--output", "trained", "iterations=2")
        assert (tmp_path / "trained" / "report.html").is_file()


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None, reason="Detectron2 is not installed"
)
def test_detectron2_trains_with_the_packages_own_configuration(installed, tmp_path):
    message = run(
        *(installed, tmp_path, "-m", "iif.d2.train"),
        *("--config-file", "iif://configs/lvis_iif.yaml", "OUTPUT_DIR", "out"),
        status=2,
    )
    assert "lvis_v1_train" in message
    assert "Traceback" not in message
