from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers_compare import make_gt, make_results, write
from iif.cli import main
from iif.errors import InputError
from iif.evaluation.compare import METRICS, compare
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.intervals import INTERVAL_METRICS
from iif.evaluation.summary_file import find_summary
from iif.report.comparison_plots import plot_difference_by_image_count
from iif.report.pipelines import save_comparison
from iif.report.records import comparison_categories_csv, comparison_csv, comparison_json
from iif.report.tables import number, signed
from iif.report.text import comparison_markdown, comparison_text

SETTINGS = {"score_threshold": 1e-4, "nms_threshold": 0.5, "detections_per_image": 300}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A weak and a strong run, evaluated; never written to."""
    folder = tmp_path_factory.mktemp("evaluated")
    gt_dict = make_gt(1, images=30, categories=30)
    gt = write(folder / "gt.json", gt_dict)
    for seed, (name, quality) in enumerate({"weak": 0.4, "strong": 0.9}.items()):
        results = write(folder / f"{name}.json", make_results(gt_dict, seed, quality=quality))
        evaluate_files(gt, results, output_dir=folder / name, test_settings=SETTINGS)
    return folder


@pytest.fixture
def runs(evaluated, tmp_path):
    """Copies to write to: folders of the weak and of the strong run."""
    for name in ("weak", "strong"):
        shutil.copytree(evaluated / name, tmp_path / name)
    return [tmp_path / "weak", tmp_path / "strong"]


def edit(folder, change):
    path = folder / "eval_summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def quick(paths, **options):
    return compare(paths, **{"bootstrap": 50} | options)


def test_differences_and_intervals(evaluated):
    comparison = quick([evaluated / "weak", evaluated / "strong"], bootstrap=300)
    assert comparison.names == ["weak", "strong"]
    assert comparison.iou_types == ["bbox", "segm"]
    assert [(row.iou_type, row.metric) for row in comparison.metrics] == [
        (iou_type, metric) for iou_type in ("bbox", "segm") for metric in METRICS
    ]
    for row in comparison.metrics:
        summaries = [
            json.loads((evaluated / name / "eval_summary.json").read_text())
            for name in comparison.names
        ]
        assert row.values == [s["metrics"][row.iou_type][row.metric] for s in summaries]
        if None not in row.values:
            assert row.differences == [row.values[1] - row.values[0]]
        with_interval = row.metric in INTERVAL_METRICS
        assert (row.difference_intervals[0] is not None) == with_interval
        if with_interval:
            interval = row.difference_intervals[0]
            assert 0 < interval.low < row.differences[0] < interval.high
    assert comparison.notes == []


def test_a_run_against_itself_is_exactly_zero(evaluated):
    comparison = quick([evaluated / "weak", evaluated / "weak"], names=["a", "b"])
    for row in comparison.metrics:
        assert row.differences[0] in (0.0, None)
        if row.metric in INTERVAL_METRICS:
            assert row.difference_intervals[0].low == row.difference_intervals[0].high == 0.0
    for category in comparison.categories:
        for interval in (category.intervals[iou_type][0] for iou_type in ("bbox", "segm")):
            assert interval is None or interval.low == interval.high == 0.0
    assert comparison.extremes() == ([], [])
    assert "a and b were evaluated from the same result file." in comparison.notes
    assert "[0.00, 0.00]" in comparison_text(comparison)


def test_extremes_are_sorted_by_difference(evaluated):
    comparison = quick([evaluated / "weak", evaluated / "strong"], bootstrap=0)
    gained, lost = comparison.extremes()
    changes = sorted(
        row.difference["segm"][0]
        for row in comparison.categories
        if row.difference["segm"][0] is not None
    )
    assert [r.difference["segm"][0] for r in gained] == [c for c in changes[:-11:-1] if c > 0]
    assert [r.difference["segm"][0] for r in lost] == [c for c in changes[:10] if c < 0]
    assert len(gained) == 10
    swapped = quick([evaluated / "strong", evaluated / "weak"], bootstrap=0)
    assert [row.id for row in swapped.extremes()[1]] == [row.id for row in gained]


def test_every_format_holds_the_same_figures(evaluated):
    comparison = quick([evaluated / "weak", evaluated / "strong"])
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    content = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    text, markdown = comparison_text(comparison), comparison_markdown(comparison)
    for row, from_csv, from_json in zip(comparison.metrics, rows, content["metrics"], strict=True):
        assert from_json["values"] == row.values
        for name, value in zip(comparison.names, row.values, strict=True):
            assert (float(from_csv[name]) if from_csv[name] else None) == value
        values = [number(value) for value in row.values]
        values.append(signed(row.differences[0]))
        lines = [line.split() for line in text.splitlines()]
        assert any(line[:4] == [row.metric, *values] for line in lines)
        assert f"| {row.metric} | {' | '.join(values)} |" in markdown
    categories = list(csv.DictReader(io.StringIO(comparison_categories_csv(comparison))))
    assert [int(row["id"]) for row in categories] == [row.id for row in comparison.categories]
    assert "-1" not in {cell for row in rows for cell in row.values()}


def test_text_columns_are_aligned(evaluated):
    text = comparison_text(quick([evaluated / "weak", evaluated / "strong"]))
    table = text.split("Box AP and AR (percent)\n")[1].split("\n\n")[0].splitlines()
    ends = [i for i, c in enumerate(table[1]) if c == "-" and table[1][i + 1 : i + 2] != "-"]
    for line in table[2:]:
        for end in ends[:4]:  # one blank or nothing may follow a column's last character
            assert line[end + 1 : end + 3].strip() == ""


def test_undefined_is_a_dash_and_null(runs):
    for run in runs:
        edit(run, lambda summary: summary["metrics"]["bbox"].update({"APs": None}))
    comparison = quick(runs, bootstrap=0)
    line = next(x for x in comparison_text(comparison).splitlines() if x.startswith("APs "))
    assert line.split() == ["APs", "-", "-", "-"]
    row = next(row for row in comparison_json(comparison)["metrics"] if row["metric"] == "APs")
    assert (row["values"], row["differences"]) == ([None, None], [None])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["dataset"].update(sha256="0" * 64), "the annotation file is .*sha256 0000"),
        (lambda s: s["test_settings"].update(score_threshold=0.05), "score_threshold is 0.0001 in"),
        (lambda s: s["test_settings"].update(nms_threshold=0.3), "nms_threshold is 0.5 in"),
        (
            lambda s: s["test_settings"].update(detections_per_image=100),
            "detections_per_image is 300.* and 100",
        ),
        (lambda s: s["evaluation"].update(max_dets=100), "max_dets is 300 in weak and 100"),
        (lambda s: s["dataset"].update(exhaustive=True), "exhaustive annotation is False"),
        (lambda s: s["per_category"].pop(), "the number of categories is 30 in weak and 29"),
        (lambda s: s["per_category"][0].update(id=99), "category ids differ"),
        (lambda s: s.update(format="other/3"), "format is 'other/3'"),
        (lambda s: s.pop("metrics"), "missing required field `metrics`"),
        (lambda s: s["metrics"].clear(), "no IoU type in common"),
    ],
)
def test_runs_evaluated_differently_are_refused(runs, change, words):
    edit(runs[1], change)
    with pytest.raises(InputError, match=words):
        quick(runs)


def test_names_must_be_different(runs):
    with pytest.raises(InputError, match="the names x, x are not different"):
        quick(runs, names=["x", "x"])


def test_one_run_alone_has_no_intervals(runs):
    (runs[0] / "eval_matches.npz").unlink()
    comparison = quick(runs[:1])
    assert comparison.replicates == 0
    assert comparison.notes == []
    assert "One run: no differences, and no intervals." in comparison_text(comparison)


def test_two_later_runs_must_agree_where_the_baseline_is_silent(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "third")
    edit(runs[0], lambda s: s["test_settings"].update(nms_threshold=None))
    edit(tmp_path / "third", lambda s: s["test_settings"].update(nms_threshold=0.3))
    with pytest.raises(InputError, match=r"nms_threshold is 0.5 in strong and 0.3 in third"):
        quick([*runs, tmp_path / "third"])


def test_unknown_settings_are_noted(runs):
    edit(runs[0], lambda s: s["test_settings"].update(nms_threshold=None))
    edit(runs[1], lambda s: s.pop("test_settings"))
    notes = quick(runs, bootstrap=0).notes
    assert any(n.startswith("nms_threshold is not recorded for weak, strong:") for n in notes)
    assert any(n.startswith("score_threshold is not recorded for strong:") for n in notes)


def test_an_iou_type_that_one_run_lacks_is_left_out(runs):
    edit(runs[1], lambda s: s["metrics"].pop("segm"))
    comparison = quick(runs)
    assert comparison.iou_types == ["bbox"]
    assert comparison.main_iou_type == "bbox"
    assert "mask AP is left out: strong has none." in comparison.notes
    assert {row.iou_type for row in comparison.metrics} == {"bbox"}


def test_without_matches_there_are_no_intervals_and_the_reason_is_said(runs):
    (runs[1] / "eval_matches.npz").unlink()
    comparison = quick(runs)
    assert comparison.replicates == 0
    assert all(row.difference_intervals == [None] for row in comparison.metrics)
    assert "95% interval" not in comparison_text(comparison)
    assert f"no intervals: {runs[1] / 'eval_matches.npz'} is missing" in comparison_text(comparison)


def test_matches_of_another_run_are_refused(runs):
    shutil.copy(runs[0] / "eval_matches.npz", runs[1] / "eval_matches.npz")
    with pytest.raises(InputError, match=r"does not belong to the eval_summary\.json beside it"):
        quick(runs)


def test_summaries_are_found_in_output_folders(runs, tmp_path):
    inference = tmp_path / "detectron2" / "inference"
    shutil.copytree(runs[0], inference)
    assert find_summary(tmp_path / "detectron2") == inference / "eval_summary.json"
    comparison = quick([tmp_path / "detectron2", runs[1] / "eval_summary.json"], bootstrap=0)
    assert comparison.names == ["detectron2", "strong"]
    with pytest.raises(InputError, match=r"neither eval_summary\.json nor inference/"):
        quick([tmp_path, runs[0]])
    with pytest.raises(InputError, match="no such file"):
        quick([runs[0], tmp_path / "nowhere"])


def test_equal_folder_names_are_told_apart(runs, tmp_path):
    for parent in ("first", "second"):
        shutil.copytree(runs[0], tmp_path / parent / "run")
    comparison = quick([tmp_path / "first" / "run", tmp_path / "second" / "run"], bootstrap=0)
    assert comparison.names == ["first/run", "second/run"]


def test_more_runs_are_each_compared_with_the_baseline(runs):
    comparison = quick([runs[0], runs[1], runs[0]], names=["base", "a", "b"])
    for row in comparison.metrics:
        assert len(row.values) == 3
        assert row.differences[1] in (0.0, None)
    text = comparison_text(comparison)
    assert "a - base" in text
    assert "b - base" in text
    assert "gained most mask AP in b" in text


def test_command_writes_tables_and_plots(runs, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["compare", *map(str, runs), "--output", str(out), "--bootstrap", "20"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert (out / "comparison.txt").read_text() in printed
    assert {path.name for path in out.iterdir()} == {
        *(f"comparison.{suffix}" for suffix in ("txt", "md", "json", "csv")),
        "comparison_categories.csv",
        "ap_by_group.png",
        "difference_by_image_count_bbox.png",
        "difference_by_image_count_segm.png",
    }
    assert json.loads((out / "comparison.json").read_text())["replicates"] == 20
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image).std() > 10
    assert main([*arguments[:3], "--bootstrap", "0", "--names", "a"]) == 2
    assert "1 names for 2 runs" in capsys.readouterr().err


def test_a_plot_needs_training_image_counts(runs, tmp_path):
    for run in runs:
        edit(run, lambda s: [row.update(image_count=None) for row in s["per_category"]])
    paths = save_comparison(quick(runs, bootstrap=0), tmp_path / "out")
    assert [path.name for path in paths if path.suffix == ".png"] == ["ap_by_group.png"]


def test_scatter_draws_each_category_in_its_group(evaluated):
    comparison = quick([evaluated / "weak", evaluated / "strong"], bootstrap=0)
    (axes,) = plot_difference_by_image_count(comparison, "segm").axes
    for group, points in zip("rcf", axes.collections, strict=True):
        expected = [
            (row.image_count, row.difference["segm"][0])
            for row in comparison.categories
            if row.group == group and row.difference["segm"][0] is not None
        ]
        np.testing.assert_allclose(points.get_offsets(), expected)
