"""The table of benchmarks/classification_table.py, on a tiny set."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="torchvision is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from helpers_classification import make_folder, tiny_config
from iif.classification import Predictions

PATH = Path(__file__).parents[1] / "benchmarks" / "classification_table.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("classification_table", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["classification_table"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["classification_table"]


def test_every_arm_runs_and_has_a_row(benchmark, tmp_path):
    data = make_folder(tmp_path / "data")
    arms = [arm for arm in benchmark.ARMS if not arm.name.startswith(("IIF prob", "IIF normit"))]
    for seed in (0, 1):
        config = tiny_config(data, epochs=1, seed=seed, second_stage={"epochs": 1})
        for arm in arms:
            # Raw and post-hoc weights are 0 or less for a class in more than half of the images.
            own = config.override(["iif.nonpositive=clamp"])
            benchmark.run(arm, own, tmp_path / "digits" / str(seed))
    benchmark.write_table(tmp_path, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    rows = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    assert {arm.label for arm in arms} <= rows.keys()
    assert any(line.startswith("`configs/digits.yaml`. Not run: ") for line in lines)
    # Two seeds: mean and standard deviation over both, from the predictions themselves.
    tops = []
    for seed in ("0", "1"):
        found = Predictions.load(tmp_path / "digits" / seed / "softmax/inference/predictions.npz")
        tops.append(100 * (found.top[:, 0] == found.labels).mean())
    mean, deviation = sum(tops) / 2, abs(tops[0] - tops[1]) / 2**0.5
    assert f"| softmax | 2 | {mean:.1f} ± {deviation:.1f} |" in rows["softmax"]


def test_what_is_done_is_not_repeated(benchmark, tmp_path):
    data = make_folder(tmp_path / "data")
    config = tiny_config(data, epochs=1)
    softmax = benchmark.ARMS[0]
    benchmark.run(softmax, config, tmp_path / "0")
    checkpoint = tmp_path / "0" / "softmax" / "model_final.pth"
    before = checkpoint.stat().st_mtime_ns
    benchmark.run(softmax, config, tmp_path / "0")
    assert checkpoint.stat().st_mtime_ns == before
