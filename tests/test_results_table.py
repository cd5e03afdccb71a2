"""The results table of benchmarks/results_table.py, on made-up runs."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "results_table.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("results_table", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["results_table"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["results_table"]


@pytest.fixture
def experiment(benchmark, openmoji_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "make_openmoji", lambda *_: None)
    args = SimpleNamespace(size="small", output=tmp_path, num_gpus=0, jobs=1, opts=[])
    made = benchmark.Experiment(args)
    made.data = openmoji_dir
    return made


def finish(experiment, method, seed, ap, detections):
    """Write what a finished run leaves."""
    folder = experiment.folder(method, seed) / "inference"
    folder.mkdir(parents=True)
    bbox = {"AP": ap, "APr": None, "APc": ap / 2, "APf": 2 * ap}
    summary = {"metrics": {"bbox": bbox, "segm": {**bbox, "AP": ap + 1}}}
    (folder / "eval_summary.json").write_text(json.dumps(summary))
    (folder / "lvis_instances_results.json").write_text(json.dumps(detections))


def detections_with(openmoji_dir, false_positives):
    """Return a detection on every object of one category, behind wrong ones in its images."""
    content = json.loads((openmoji_dir / "openmoji_val.json").read_text())
    category = content["annotations"][0]["category_id"]
    objects = [a for a in content["annotations"] if a["category_id"] == category]
    row = {"category_id": category, "image_id": objects[0]["image_id"]}
    wrong = [{**row, "score": 0.9, "bbox": [0.0, 0.0, 1.0, 1.0]}] * false_positives
    right = [{**row, "image_id": a["image_id"], "score": 0.5, "bbox": a["bbox"]} for a in objects]
    return wrong + right


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_means_spreads_and_shares(benchmark, experiment, openmoji_dir):
    softmax, iif = benchmark.Method("softmax"), benchmark.Method("IIF raw", benchmark.iif())
    for seed, ap in enumerate((10.0, 12.0, 14.0)):
        finish(experiment, softmax, seed, ap, detections_with(openmoji_dir, 4))
    finish(experiment, iif, 0, 20.0, detections_with(openmoji_dir, 1))
    missing = benchmark.Method("never run")
    found = benchmark.measured(experiment, [softmax, iif, missing], [0, 1, 2])
    lines = benchmark.table(found).splitlines()
    assert [cells(line)[0] for line in lines[2:]] == ["softmax", "IIF raw"]
    three = ["12.0 ± 2.0", "-", "6.0 ± 1.0", "24.0 ± 4.0", "13.0 ± 2.0", "1.00 ± 0.00"]
    assert cells(lines[2]) == ["softmax", "3", *three]
    assert cells(lines[3]) == ["IIF raw", "1", "20.0", "-", "10.0", "40.0", "21.0", "0.25"]
    panels = benchmark.plot(found).axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["softmax", "IIF raw"]
    dots = [dot.get_offsets()[:, 0].tolist() for dot in panels[0].collections]
    assert dots == [[10.0, 12.0, 14.0], [20.0]]


def test_changed_results_are_counted_again(benchmark, experiment, openmoji_dir):
    softmax, iif = benchmark.Method("softmax"), benchmark.Method("IIF raw")
    finish(experiment, softmax, 0, 1.0, detections_with(openmoji_dir, 4))
    finish(experiment, iif, 0, 1.0, detections_with(openmoji_dir, 2))
    assert experiment.false_positives(iif, 0) == 0.5
    path = experiment.folder(iif, 0) / "inference" / "lvis_instances_results.json"
    path.write_text(json.dumps(detections_with(openmoji_dir, 8)))
    assert experiment.false_positives(iif, 0) == 2.0


def test_a_finished_run_is_not_done_again(benchmark, experiment, monkeypatch):
    method = benchmark.Method("softmax")
    finish(experiment, method, 0, 1.0, [])
    called = []
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *a, **k: called.append(a))
    experiment.run(method, 0)
    assert called == []
    experiment.run(method, 1)
    assert len(called) == 1
    assert {"--resume", "SEED"} <= set(called[0][0])


def test_a_run_that_two_jobs_need_is_done_once(benchmark, experiment, monkeypatch):
    """A decoupled run starts from the softmax run, which another job is at."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    started = []

    def train(mode, method, seed, *overrides):
        started.append((method.name, *overrides))
        time.sleep(0.2)
        finish(experiment, method, seed, 1.0, [])

    monkeypatch.setattr(experiment, "_train_net", train)
    softmax = benchmark.Method("softmax")
    decoupled = benchmark.Method("decoupled", benchmark.iif(), "decoupled")
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(experiment.run, m, 0) for m in (softmax, decoupled)]:
            job.result()
    assert [name for name, *_ in started] == ["softmax", "decoupled"]
    options = started[1][1:]
    assert options[options.index("SOLVER.MAX_ITER") + 1] == 550 // 3
    assert options[options.index("SOLVER.STEPS") + 1] == (10_000,)


def test_names_and_folders_are_distinct(benchmark):
    methods = benchmark.methods(0.1)
    assert len({m.name for m in methods}) == len({m.folder for m in methods}) == len(methods)
    assert set(benchmark.DEFAULT_METHODS) <= {method.name for method in methods}
    assert len([m for m in methods if m.name.startswith("IIF ") and "repeat" not in m.name]) == 14
