"""The results table of benchmarks/results_table.py, on made-up runs and rows."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers_compare import make_gt, make_results, write
from iif.errors import InputError
from iif.evaluation.at_recall import rows_of_analysis
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.false_positives import analyse
from iif.evaluation.runs import load_runs
from iif.evaluation.seeds import compare_seeds

FOLDER = Path(__file__).parents[1] / "benchmarks"
SETTINGS = {"score_threshold": 0.0, "nms_threshold": 0.5, "detections_per_image": 300}
RECIPE = {
    "config": "configs/openmoji_baseline.yaml",
    "opts": {"SOLVER.MAX_ITER": "450"},
    "overrides": {},
    "how": "train",
    "data": {"categories": 3, "train": 1000, "val": 300, "image_size": 96, "seed": 0},
}


@pytest.fixture(scope="module")
def benchmark():
    """The modules of the benchmark, by their names without results_."""
    sys.path.insert(0, str(FOLDER))
    try:
        import results_page
        import results_record
        import results_rows
        import results_table
    finally:
        sys.path.remove(str(FOLDER))

    class Modules:
        page, record, rows, table = results_page, results_record, results_rows, results_table

    return Modules


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Annotations, and two runs of two seeds each, evaluated: boxes and masks."""
    folder = tmp_path_factory.mktemp("evaluated")
    content = make_gt(1, images=30, categories=9)
    gt = write(folder / "gt.json", content)
    for name, quality in (("weak", 0.5), ("strong", 0.9)):
        for seed in (0, 1):
            found = make_results(content, 10 * seed + len(name), quality=quality)
            results = write(folder / f"{name}{seed}.json", found)
            evaluate_files(gt, results, output_dir=folder / f"{name}{seed}", test_settings=SETTINGS)
    return folder


def made_row(benchmark, seed=0, **changes):
    """Return a row over three categories, with hand-made values."""
    points = changes.get("points", [(2, 4), (1, 3), (None, None)])
    ap = changes.get("ap", 10.0)
    metrics = {"AP": ap, "APr": None, "APc": ap / 2, "APf": 2 * ap, "AP-fixed": ap + 1}
    text = benchmark.record._encoded(np.tile([ap, np.nan, ap / 2, 2 * ap], (400, 1)))
    counts = dict(
        zip(("true_positives", "false_positives"), zip(*points, strict=True), strict=True)
    )
    of = benchmark.record.GROUP_METRICS
    return benchmark.record.Row(
        {
            "format": benchmark.record.FORMAT,
            "seed": seed,
            "recipe": RECIPE | changes.get("recipe", {}),
            "tuned": changes.get("tuned"),
            "cost": changes.get("cost"),
            "metrics": {"bbox": metrics, "segm": metrics},
            "categories": {"groups": "rcf", "instances": [4, 2, 2]},
            "at_recall": {"bbox": counts, "segm": counts},
            "replicates": {"of": of, "number": 400, "bbox": text, "segm": text},
            "machine": {"processor": "a processor", "cores": 2, "threads": "1", "gpus": 0},
            "versions": {"python": "3.11", "platform": "x"},
        }
    )


def cells(table):
    """Return a Markdown table's rows by their first cell."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def rows_of(benchmark, evaluated, name):
    return [
        benchmark.record.Row(
            {"seed": seed, **benchmark.record.evaluation(evaluated / f"{name}{seed}")}
        )
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_row_counts_what_the_analysis_of_false_positives_counts(benchmark, evaluated, iou_type):
    gt = benchmark_gt(evaluated)
    files = {name: evaluated / f"{name}0.json" for name in ("weak", "strong")}
    analysed = analyse(gt, load_runs(gt, files, iou_type=iou_type), recall=0.5)
    group = analysed.groups[0]
    weak, strong = (rows_of(benchmark, evaluated, name)[0] for name in ("weak", "strong"))
    assert group.reached[0] < group.reached[1]
    assert [weak.reached(iou_type), strong.reached(iou_type)] == group.reached
    share, compared = strong.share(weak, iou_type)
    assert (share, compared) == (group.total[1] / group.total[0], group.matched)
    found = [row.false_discovery(iou_type) for row in (weak, strong)]
    (row, *_) = rows_of_analysis(analysed)
    assert found == pytest.approx(row.false_discovery)


def benchmark_gt(evaluated):
    from iif.data.annotations import load_annotations

    return load_annotations(evaluated / "gt.json", masks=True)


@pytest.mark.parametrize("metric", ["AP", "APr", "APf"])
def test_rows_alone_give_the_interval_of_iif_compare(benchmark, evaluated, metric):
    names = ["weak", "weak", "strong", "strong"]
    paths = [evaluated / f"{name}{seed}" for name, seed in zip(names, [0, 1, 0, 1], strict=True)]
    expected = compare_seeds(paths, names, bootstrap=benchmark.record.REPLICATES)
    (row,) = (r for r in expected.metrics if (r.iou_type, r.metric) == ("segm", metric))
    weak, strong = (rows_of(benchmark, evaluated, name) for name in ("weak", "strong"))
    difference, interval = benchmark.record.difference(strong, weak, "segm", metric)
    assert difference == pytest.approx(row.differences[0])
    low, high = row.intervals[0].low, row.intervals[0].high
    assert interval == pytest.approx((low, high), abs=0.011)  # hundredths are kept


def test_the_tables_have_means_spreads_differences_and_shares(benchmark):
    softmax = [made_row(benchmark, seed, ap=ap) for seed, ap in enumerate((10.0, 12.0, 14.0))]
    points = [(2, 1), (None, None), (1, 0)]
    better = [made_row(benchmark, seed, ap=20.0, points=points) for seed in (0, 1)]
    rows = {"softmax": softmax, "IIF raw": better}
    found = cells(benchmark.page.ap_table(rows, "bbox"))
    plain = ["3", "12.0 ± 2.0", "-", "6.0 ± 1.0", "24.0 ± 4.0", "13.0 ± 2.0", "-", "-"]
    assert found["softmax"] == plain
    # The same seeds are compared: (20 + 20) / 2 - (10 + 12) / 2. Both draws exclude 0.
    assert found["IIF raw"][1] == "20.0 ± 0.0"
    assert found["IIF raw"][6:] == ["**+9.0 [+8.0, +10.0]**", "-"]
    # Of category 0 alone, which both bring to the recall: 1 false positive, 4 before.
    found = cells(benchmark.page.recall_table(rows))
    assert found["IIF raw"][:3] == ["0.25 ± 0.00", "1 ± 0", "2 ± 0"]
    # (1 / 3, not reached, 0 / 1) in percent, and (4 / 6, 3 / 4, not reached).
    assert found["IIF raw"][3] == "44.4 ± 0.0"
    assert found["softmax"][3] == "80.6 ± 0.0"
    found = benchmark.page.verdicts(rows)
    assert "| softmax | box AP | IIF raw | - |" in found
    assert "| softmax | box APr | - | - |" in found


def test_ap_fixed_has_a_column_where_it_is_not_ap(benchmark):
    size = benchmark.rows.SIZES["small"]
    row = made_row(benchmark)
    assert "AP-fixed |" in benchmark.page.page(size, {"softmax": [row]})
    for metrics in row.content["metrics"].values():
        metrics["AP-fixed"] = metrics["AP"]
    text = benchmark.page.page(size, {"softmax": [row]})
    assert "AP-fixed |" not in text
    assert "- AP-fixed is AP in every row" in text


def test_a_single_seed_settles_nothing(benchmark):
    rows = {"softmax": [made_row(benchmark)], "IIF raw": [made_row(benchmark, ap=20.0)]}
    assert "IIF raw" not in benchmark.page.verdicts(rows)


def test_the_picture_has_a_dot_for_each_seed(benchmark):
    softmax = [made_row(benchmark, seed, ap=ap) for seed, ap in enumerate((10.0, 12.0, 14.0))]
    panels = benchmark.page.plot(
        {"softmax": softmax, "IIF raw": [made_row(benchmark, ap=20.0)]}
    ).axes
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["softmax", "IIF raw"]
    dots = [dot.get_offsets()[:, 0].tolist() for dot in panels[0].collections]
    assert dots == [[10.0, 12.0, 14.0], [20.0]]


def test_costs_count_the_start(benchmark):
    one = {"ratio": 1.0, "low": 0.9, "high": 1.1}
    cost = {"training step": {"ratio": 0.3, "low": 0.24, "high": 0.36}, "inference": one}
    decoupled = {"recipe": {"how": "decoupled"}, "cost": cost}
    post_hoc = {"recipe": {"how": "post-hoc"}, "cost": {"inference": one}}
    tuned = [{"option": "tau", "value": value} for value in (0.5, 1.0)]
    rows = {
        "one": [made_row(benchmark, **decoupled)],
        "two": [made_row(benchmark, i, **post_hoc, tuned=of) for i, of in enumerate(tuned)],
        "three": [made_row(benchmark)],
    }
    found = cells(benchmark.page.cost_table(rows))
    assert found["one"] == ["1.10 (1.08 to 1.12)", "1.00 (0.90 to 1.10)", ""]
    assert found["two"] == ["1", "1.00 (0.90 to 1.10)", "tau 0.5, 1"]
    assert found["three"] == ["-", "-", ""]


def test_the_page_says_what_is_missing_and_refuses_rows_of_other_settings(benchmark):
    size = benchmark.rows.SIZES["small"]
    rows = {
        "softmax": [made_row(benchmark, seed) for seed in (0, 1)],
        "IIF raw": [made_row(benchmark)],
    }
    text = benchmark.page.page(size, rows)
    assert "`configs/openmoji_baseline.yaml SOLVER.MAX_ITER 450`" in text
    assert "1,000 training and 300 validation images of 96 px" in text
    assert "(1 rare, 1 common, 1 frequent)" in text
    (left,) = (line for line in text.splitlines() if line.startswith("- Not run yet"))
    assert "Seesaw;" in left
    assert "IIF raw (1 of 2 seeds)" in left
    assert "cosine" not in left
    assert [line for line in text.splitlines() if line.startswith("- Left out: the cosine")]
    rows["IIF raw"] = [made_row(benchmark, recipe={"opts": {"SOLVER.MAX_ITER": "9"}})]
    with pytest.raises(ValueError, match="not the same configuration"):
        benchmark.page.page(size, rows)


def test_readme_has_five_rows_at_most(benchmark):
    names = ("softmax", "Seesaw", "IIF raw")
    found = cells(benchmark.page.readme_table({name: [made_row(benchmark)] for name in names}))
    assert list(found)[2:] == ["softmax", "IIF raw"]
    assert found["IIF raw"][1:5] == ["10.0", "-", "5.0", "20.0"]
    assert found["IIF raw"][-1] == "1.00"


# ------------------------------------------------------------------------------------- the runs


@pytest.fixture
def experiment(benchmark, evaluated, tmp_path, monkeypatch):
    """An experiment whose runs are written, not trained."""
    monkeypatch.setattr(benchmark.table, "make_openmoji", lambda *_: None)
    size = benchmark.rows.SIZES["small"]
    made = benchmark.table.Experiment(size, tmp_path / "out", tmp_path / "rows", prune=True)
    made.data.mkdir(parents=True)
    write(made.data / benchmark.table.TRAIN_JSON, {})
    made.started = []

    def train(mode, method, seed, *overrides):
        made.started.append((mode, method.name, seed, overrides))
        time.sleep(0.05)
        folder = made.folder(method, seed)
        for file in ("eval_summary.json", "eval_matches.npz"):
            target = folder / "inference" / file
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((evaluated / f"strong{seed}" / file).read_bytes())
        for name in ("model_0000224.pth", "model_final.pth"):
            (folder / name).write_text("")

    monkeypatch.setattr(made, "_train_net", train)
    return made


def test_a_finished_row_is_not_made_again(benchmark, experiment):
    method = benchmark.rows.Method("IIF raw", benchmark.rows.iif())
    experiment.finish(method, 0)
    row = benchmark.record.Row.read(experiment.row(method, 0))
    assert row.content["recipe"]["overrides"]["MODEL.IIF.VARIANT"] == "raw"
    assert row.content["recipe"]["opts"]["SOLVER.MAX_ITER"] == "450"
    assert row.metric("bbox", "AP") == row.content["metrics"]["bbox"]["AP"]
    experiment.finish(method, 0)
    assert len(experiment.started) == 1
    loaded = benchmark.record.load_rows(experiment.rows, {"IIF raw": method.folder, "x": "x"})
    assert {name: [r.seed for r in of] for name, of in loaded.items()} == {"IIF raw": [0]}


def test_rows_and_runs_of_other_settings_are_refused(benchmark, experiment):
    one = benchmark.rows.Method("IIF raw", benchmark.rows.iif())
    experiment.finish(one, 0)
    other = benchmark.rows.Method("IIF raw", benchmark.rows.iif("smooth"))
    with pytest.raises(InputError, match=r"seed0\.json: made with other settings"):
        experiment.finish(other, 0)
    experiment.row(one, 0).unlink()
    with pytest.raises(InputError, match=r"recipe\.json: begun with other settings"):
        experiment.finish(other, 0)


def test_only_models_that_others_start_from_are_kept(benchmark, experiment):
    softmax, other = benchmark.rows.SOFTMAX, benchmark.rows.Method("Seesaw")
    for method in (softmax, other):
        experiment.finish(method, 0)
    left = {
        m.name: [p.name for p in experiment.folder(m, 0).glob("*.pth")] for m in (softmax, other)
    }
    assert left == {"softmax": ["model_final.pth"], "Seesaw": []}


def test_a_run_that_two_jobs_need_is_done_once(benchmark, experiment):
    """A decoupled run starts from the softmax run, which another job is at."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    decoupled = benchmark.rows.Method("decoupled", benchmark.rows.iif(), "decoupled")
    with ThreadPoolExecutor(2) as pool:
        for job in [
            pool.submit(experiment.finish, m, 1) for m in (benchmark.rows.SOFTMAX, decoupled)
        ]:
            job.result()
    assert [(mode, name) for mode, name, *_ in experiment.started] == [
        ("--resume", "softmax"),
        ("--resume", "decoupled"),
    ]
    options = experiment.started[1][3]
    assert options[options.index("SOLVER.MAX_ITER") + 1] == 150
    assert options[options.index("SOLVER.STEPS") + 1] == (10_000,)
    assert options[options.index("MODEL.WEIGHTS") + 1] == (
        experiment.folder(benchmark.rows.SOFTMAX, 1) / "model_final.pth"
    )


def test_a_post_hoc_row_has_the_best_value_of_its_own_method(benchmark, experiment, monkeypatch):
    def call(*command):
        if "tune" in command:
            assert command[command.index("--all") + 1].parent == held_out
            trials = [
                trial("iif", "strength", 0.5, 31.0, best=True),
                trial("norcal", "gamma", 0.2, 20.0),
                trial("norcal", "gamma", 0.4, 25.0, best=True),
            ]
            output = command[command.index("--output") + 1]
            output.mkdir()
            write(output / "tuning.json", {"trials": trials})

    def trial(method, option, value, ap, best=False):
        return {
            **{"method": method, "option": option, "value": value, "best": best},
            "metrics": {"AP": ap},
        }

    held_out = experiment.folder(benchmark.rows.HELD_OUT_SOFTMAX, 0)
    monkeypatch.setattr(experiment, "_call", call)
    known = {m.name: m for m in benchmark.rows.methods(experiment.size)}
    experiment.finish(known["NorCal"], 0)
    mode, _, _, overrides = experiment.started[-1]
    assert mode == "--eval-only"
    assert overrides[2:] == ("MODEL.NORCAL.GAMMA", 0.4)
    row = json.loads(experiment.row(known["NorCal"], 0).read_text())
    assert row["tuned"]["value"] == 0.4
    assert row["tuned"]["box AP"] == {"0.2": 20.0, "0.4": 25.0}
    # The baseline to start from and the one without the held-out images, each once.
    experiment.finish(known["post-hoc IIF raw"], 0)
    assert experiment.started[-1][3][2:] == ("MODEL.IIF.APPLY", "test", "MODEL.IIF.STRENGTH", 0.5)
    assert [name for _, name, *_ in experiment.started].count("softmax") == 1
    assert len(experiment.started) == 4


def test_the_rows_are_all_that_were_asked_for(benchmark):
    size = benchmark.rows.SIZES["small"]
    methods = benchmark.rows.methods(size)
    assert len({m.name for m in methods}) == len({m.folder for m in methods}) == len(methods)
    trained = [m for m in methods if m.how == "train" and "sampling" not in m.name]
    assert len([m for m in trained if m.name.startswith("IIF ")]) == 10
    sampled = {m.name.split(",")[0] for m in methods if m.name.endswith("sampling")}
    also = {"softmax", "IIF raw", "logit adjustment", "Seesaw", "EQL v2", "FASA + IIF raw"}
    assert sampled == also
    assert [m.name for m in methods[:4]] == [
        *benchmark.page.README_ROWS[:1],
        *("IIF raw", "softmax, repeat-factor sampling", "IIF raw, repeat-factor sampling"),
    ]
    with pytest.raises(ValueError, match="unknown method 'no such'"):
        benchmark.rows.by_name(size, ["no such"])
    chosen = benchmark.rows.by_name(size, ["Seesaw", "softmax"])
    assert [m.name for m in chosen] == ["softmax", "Seesaw"]
    assert not any("cosine" in m.name for m in benchmark.rows.by_name(size, None))


@pytest.mark.parametrize("size", ["small", "large"])
def test_every_row_is_a_configuration(benchmark, size):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from iif.d2.config import load_config

    for method in benchmark.rows.methods(benchmark.rows.SIZES[size]):
        settings = [str(part) for part in (*benchmark.rows.SIZES[size].opts, *method.overrides)]
        cfg = load_config(str(benchmark.rows.SIZES[size].config), settings)
        assert cfg.DATASETS.HELD_OUT == 0  # all rows learn from the same images
        sigmoid = "federated" in method.name or "EQL" in method.name
        assert (cfg.MODEL.LONG_TAIL.CLASSIFIER_BIAS < 0) == sigmoid
