"""False positives at matched recall, fixed cuts, confusions, and `iif false-positives`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_compare import make_gt, make_results, make_runs, write
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.evaluation.at_recall import rows_of_analysis
from iif.evaluation.false_positives import (
    CURVE_RECALLS,
    ERROR_TYPES,
    analyse,
    verified_images,
)
from iif.evaluation.matching import ErrorType, Outcome, match
from iif.evaluation.runs import load_runs
from iif.evaluation.scenes import choose_scenes
from iif.report.records import false_positives_json
from iif.report.text import false_positives_text


def plain_point(gt, run, category, recall):
    """Threshold, true positives and false positives by type, one detection after the other."""
    matches, detections = run.matches, run.detections
    rows = [
        d
        for d in range(len(detections))
        if detections.category[d] == category
        and matches.outcome[d] in (Outcome.TP, Outcome.FP, Outcome.IGNORED)
    ]
    num_gt = sum(
        1
        for g in range(len(gt.ann_ids))
        if gt.ann_category[g] == category and gt.area[g] > 0 and not gt.ignore[g]
    )
    for score in sorted({detections.score[d] for d in rows}, reverse=True):
        kept = [d for d in rows if detections.score[d] >= score]
        found = sum(matches.outcome[d] == Outcome.TP for d in kept)
        if num_gt and found >= recall * num_gt - 1e-9:
            types = [ErrorType(matches.error_type[d]).label for d in kept]
            false = [matches.outcome[d] == Outcome.FP for d in kept]
            by_type = [
                sum(f and t == e for f, t in zip(false, types, strict=True)) for e in ERROR_TYPES
            ]
            return score, found, by_type
    return None


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), recall=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]))
def test_counts_at_matched_recall_equal_a_plain_loop(tmp_path_factory, seed, recall):
    gt, runs = make_runs(tmp_path_factory.mktemp("case"), seed)
    # Rounded scores tie, within a category too.
    runs = [rematched(gt, run, np.round(run.detections.score, 1)) for run in runs]
    analysis = analyse(gt, runs, recall=recall)
    expected_matched = []
    for k in range(len(gt.category_ids)):
        points = [plain_point(gt, run, k, recall) for run in runs]
        expected_matched.append(all(points))
        for part, point in zip(analysis.runs, points, strict=True):
            if point is None:
                assert math.isnan(part.threshold[k])
            else:
                assert part.threshold[k] == point[0]
                assert part.true_positives[k] == point[1]
                assert part.false_positives[k].tolist() == point[2]
    assert analysis.matched.tolist() == expected_matched


def rematched(gt, run, score):
    detections = replace(run.detections, score=score)
    matches = match(gt, detections, run.matches.iou_type)
    return replace(run, detections=detections, matches=matches)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 1000),
    transform=st.sampled_from([lambda s: 0.1 * s, np.sqrt, lambda s: 1 / (1 + np.exp(-9 * s))]),
)
def test_rescaling_scores_changes_nothing_but_the_threshold_view(tmp_path_factory, seed, transform):
    gt, (base, run) = make_runs(tmp_path_factory.mktemp("case"), seed)
    rescaled = rematched(gt, run, transform(run.detections.score))
    before, after = analyse(gt, [base, run]), analyse(gt, [base, rescaled])
    assert before.groups == after.groups
    assert before.confusions == after.confusions
    np.testing.assert_array_equal(before.runs[1].false_positives, after.runs[1].false_positives)
    for group, curve in before.runs[1].curve.items():
        np.testing.assert_array_equal(curve, after.runs[1].curve[group])

    def views(analysis, rule):
        return [cut.counts for cut in analysis.fixed_cuts if cut.rule == rule]

    assert views(before, "top_k") == views(after, "top_k")
    assert views(before, "score") != views(after, "score")


def test_group_rows_sum_their_categories(tmp_path):
    gt, runs = make_runs(tmp_path, 5, images=40, qualities=(0.8, 0.9))
    analysis = analyse(gt, runs)
    assert all(row.matched for row in analysis.groups)
    verified = verified_images(gt)
    for row in analysis.groups:
        members = [
            k
            for k in range(len(gt.category_ids))
            if analysis.num_gt[k] and row.group in ("all", gt.groups[k])
        ]
        counted = [k for k in members if analysis.matched[k]]
        assert (row.categories, row.matched) == (len(members), len(counted))
        for i, run in enumerate(analysis.runs):
            totals = [int(run.false_positives[k].sum()) for k in counted]
            assert row.total[i] == sum(totals) == sum(row.by_type[i])
            assert row.mean[i] == pytest.approx(np.mean(totals))
            rates = [1000 * t / verified[k] for t, k in zip(totals, counted, strict=True)]
            assert row.per_1000[i] == pytest.approx(np.mean(rates))
            assert row.reached[i] == sum(not math.isnan(run.threshold[k]) for k in members)


def test_the_false_discovery_rate_charges_unreached_categories(tmp_path):
    gt, runs = make_runs(tmp_path, 5, images=40, qualities=(0.8, 0.3))
    analysis = analyse(gt, runs)
    unreached = 0
    for row in rows_of_analysis(analysis):
        for i in range(len(runs)):
            rates = []
            for k in range(len(gt.category_ids)):
                if analysis.num_gt[k] and row.group in ("all", gt.groups[k]):
                    point = plain_point(gt, runs[i], k, 0.5)
                    unreached += point is None
                    rate = 1 if point is None else sum(point[2]) / (sum(point[2]) + point[1])
                    rates.append(100 * rate)
            assert row.false_discovery[i] == pytest.approx(np.mean(rates))
    assert unreached


def test_dropping_detections_lowers_the_sum_but_not_the_false_discovery_rate(tmp_path):
    gt, (base, run) = make_runs(tmp_path, 5, images=40, qualities=(0.8, 0.9))
    before = analyse(gt, [base, run])
    worst = np.argmax(np.where(before.matched, before.runs[1].false_positives.sum(axis=1), -1))
    detections = run.detections
    keep = np.flatnonzero(detections.category != worst)
    part = {key: getattr(detections, key)[keep] for key in ("image", "category", "score", "bbox")}
    dropped = replace(detections, rle=None, mask_area=None, **part)
    dropped = replace(run, detections=dropped, matches=match(gt, dropped, "bbox"))
    after = analyse(gt, [base, dropped])
    assert after.groups[0].total[1] < before.groups[0].total[1]
    rates = [rows_of_analysis(found)[0].false_discovery[1] for found in (before, after)]
    assert rates[1] > rates[0]


def test_curve_meets_the_primary_figure(tmp_path):
    gt, runs = make_runs(tmp_path, 6, images=40)
    for position in (4, 9, 14):
        analysis = analyse(gt, runs, recall=float(CURVE_RECALLS[position]))
        for row in analysis.groups:
            assert analysis.curve_categories[row.group][position] == row.matched
            for run, rate in zip(analysis.runs, row.per_1000, strict=True):
                np.testing.assert_allclose(run.curve[row.group][position], rate)


def test_verified_images_and_coverage_count_each_cell_once(tmp_path):
    gt_dict = make_gt(7)
    for annotation in gt_dict["annotations"][:9]:
        annotation["area"] = 0  # finds and verifies nothing
    gt = load_annotations(write(tmp_path / "gt.json", gt_dict))
    cells = {(a["image_id"], a["category_id"]) for a in gt_dict["annotations"] if a["area"]}
    cells |= {(i["id"], c) for i in gt_dict["images"] for c in i["neg_category_ids"]}
    expected = [sum(c == category for _, c in cells) for category in gt.category_ids]
    assert verified_images(gt).tolist() == expected
    results = make_results(gt_dict, 7, masks=False)
    runs = load_runs(gt, {"run": write(tmp_path / "run.json", results)})
    unverified = [(row["image_id"], row["category_id"]) not in cells for row in results]
    assert ((runs[0].matches.outcome == Outcome.UNVERIFIED) == unverified).all()
    coverage = analyse(gt, runs).coverage["all"]
    assert coverage == pytest.approx(len(cells) / (len(gt.image_ids) * len(gt.category_ids)))
    assert (verified_images(replace(gt, exhaustive=True)) == len(gt.image_ids)).all()


def test_confusions_point_from_the_object_to_the_prediction(tmp_path):
    box = [10.0, 10.0, 30.0, 30.0]
    gt_dict = {
        "images": [
            {
                "id": 1,
                "height": 96,
                "width": 128,
                "file_name": "1.png",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        ],
        "categories": [
            {"id": 4, "name": "cup", "frequency": "r", "image_count": 2},
            {"id": 8, "name": "mug", "frequency": "f", "image_count": 200},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": box, "area": 900},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 8,
                "bbox": [70.0, 40.0, 20.0, 20.0],
                "area": 400,
            },
        ],
    }
    rows = [
        {"image_id": 1, "category_id": 8, "bbox": box, "score": 0.9},
        {"image_id": 1, "category_id": 8, "bbox": [70.0, 40.0, 20.0, 20.0], "score": 0.8},
        {"image_id": 1, "category_id": 4, "bbox": box, "score": 0.7},
    ]
    gt = load_annotations(write(tmp_path / "gt.json", gt_dict))
    runs = load_runs(gt, {"a": write(tmp_path / "a.json", rows)})
    analysis = analyse(gt, runs)
    assert [(c.gt_category, c.predicted, c.counts) for c in analysis.confusions] == [(0, 1, [1])]
    printed = false_positives_text(analysis).split("Most frequent confusions")[1].splitlines()[3]
    assert printed.split() == ["cup", "mug", "1"]
    assert false_positives_json(analysis)["confusions"] == [
        {"gt_category": 4, "predicted": 8, "counts": [1]}
    ]


def test_confusions_are_the_cls_errors_at_the_operating_points(tmp_path):
    gt, runs = make_runs(tmp_path, 16, images=40)
    analysis = analyse(gt, runs, recall=0.3)
    expected = Counter()
    for i, (run, part) in enumerate(zip(runs, analysis.runs, strict=True)):
        for d in range(len(run.detections)):
            c = run.detections.category[d]
            if (
                run.matches.error_type[d] == ErrorType.CLS
                and analysis.matched[c]
                and run.detections.score[d] >= part.threshold[c]
            ):
                expected[int(gt.ann_category[run.matches.gt_row[d]]), int(c), i] += 1
    found = Counter(
        {
            (pair.gt_category, pair.predicted, i): count
            for pair in analysis.confusions
            for i, count in enumerate(pair.counts)
            if count
        }
    )
    assert found == expected
    totals = [sum(pair.counts) for pair in analysis.confusions]
    assert totals == sorted(totals, reverse=True)
    cls = ERROR_TYPES.index("Cls")
    for i, by_type in enumerate(analysis.groups[0].by_type):
        assert sum(pair.counts[i] for pair in analysis.confusions) == by_type[cls]


def test_fixed_cuts_equal_a_plain_loop(tmp_path):
    gt, runs = make_runs(tmp_path, 17)
    analysis = analyse(gt, runs)
    assert {cut.rule for cut in analysis.fixed_cuts} == {"top_k", "score"}
    for cut in analysis.fixed_cuts:
        for run, counts, by_group in zip(runs, cut.counts, cut.by_group, strict=True):
            kept = set()
            for image in range(len(gt.image_ids)):
                here = np.flatnonzero(run.detections.image == image).tolist()
                here.sort(key=lambda d, run=run: -run.detections.score[d])
                if cut.rule == "top_k":
                    kept.update(here[: cut.value])
                else:
                    kept.update(d for d in here if run.detections.score[d] >= cut.value)
            outcomes = Counter(Outcome(run.matches.outcome[d]).name for d in kept)
            assert counts == {name: outcomes[name] for name in counts}
            groups = Counter(
                str(gt.groups[run.detections.category[d]])
                for d in kept
                if run.matches.outcome[d] == Outcome.FP
            )
            assert by_group == {"all": groups.total()} | {g: groups[g] for g in "rcf"}


@pytest.mark.parametrize("recall", [0.15, 0.3, 0.35, 0.55, 0.95])
def test_a_recall_of_whole_objects_asks_for_no_more(tmp_path, recall):
    """0.55 * 20 is a little over 11 in floating point, and 11 true positives are enough."""
    gt_dict = make_gt(0, images=1, categories=1)
    category = gt_dict["categories"][0]["id"]
    image = gt_dict["images"][0]
    boxes = [[6.0 * (i % 10), 30.0 * (i // 10), 5.0, 20.0] for i in range(20)]
    gt_dict["annotations"] = [
        {"id": i, "image_id": image["id"], "category_id": category, "bbox": box, "area": 100.0}
        for i, box in enumerate(boxes, start=1)
    ]
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    rows = [
        {"image_id": image["id"], "category_id": category, "bbox": box, "score": 1 - i / 100}
        for i, box in enumerate(boxes)
    ]
    gt = load_annotations(write(tmp_path / "gt.json", gt_dict))
    runs = load_runs(gt, {"run": write(tmp_path / "run.json", rows)})
    part = analyse(gt, runs, recall=recall).runs[0]
    assert part.true_positives.tolist() == [round(20 * recall)]


def test_one_run_stands_alone(tmp_path):
    gt, runs = make_runs(tmp_path, 12, qualities=(0.8,))
    analysis = analyse(gt, runs)
    row = analysis.groups[0]
    assert row.reached == [row.matched]
    scenes = choose_scenes(analysis, gt, runs, num_images=2)
    assert len(scenes) == 2
    assert scenes[0].change == scenes[0].false_positives[0] >= scenes[1].change > 0


def test_empty_results_reach_nothing(tmp_path):
    gt, (run, _) = make_runs(tmp_path, 13)
    (empty,) = load_runs(gt, {"empty": write(tmp_path / "e.json", [])}, iou_type="bbox")
    analysis = analyse(gt, [run, empty])
    assert analysis.groups[0].matched == 0
    assert choose_scenes(analysis, gt, [run, empty]) == []
    text = false_positives_text(analysis)
    assert "nan" not in text
    assert "Over 0 of" in text
    assert "choose a lower recall" in text
    json.dumps(false_positives_json(analysis), allow_nan=False)


@pytest.fixture
def files(tmp_path):
    gt_dict = make_gt(14)
    write(tmp_path / "gt.json", gt_dict)
    write(tmp_path / "base.json", make_results(gt_dict, 1, quality=0.6))
    write(tmp_path / "iif.json", make_results(gt_dict, 2, quality=0.8))
    return tmp_path


def command(folder, *more):
    return main(
        [
            "false-positives",
            *("--gt", str(folder / "gt.json"), "--results", str(folder / "iif.json")),
            *("--baseline", str(folder / "base.json"), "--output", str(folder / "out"), *more),
        ]
    )


def test_command_writes_equal_figures_everywhere(files, capsys):
    assert command(files) == 0
    printed = capsys.readouterr().out
    out = files / "out"
    assert (out / "false_positives.txt").read_text() in printed
    assert (out / "false_positives.md").read_text().startswith("## False positives at recall 0.5")
    content = json.loads((out / "false_positives.json").read_text())
    assert content["iou_type"] == "segm"
    assert [run["name"] for run in content["runs"]] == ["baseline", "IIF"]
    rows = list(csv.DictReader(io.StringIO((out / "false_positives.csv").read_text())))
    matched = [row for row in rows if row["matched"] == "1"]
    for i, name in enumerate(("baseline", "IIF")):
        total = sum(int(row[f"{name}: FP"]) for row in matched)
        assert total == content["groups"][0]["false_positives"][i]
        assert f" {total:,}" in printed.split("By error type")[0]
        outcomes = content["runs"][i]["outcomes"]
        assert sum(outcomes.values()) == content["runs"][i]["num_detections"]
        assert sum(content["runs"][i]["error_types"].values()) == outcomes["FP"]
    assert "unverifiable" in printed
    assert "Coverage:" in printed
    assert "Secondary views, not comparable" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recall", "0"], "above 0"),
        (["--recall", "1.5"], "at most 1"),
        (["--category", "categori 3"], "did you mean category 3"),
        (["--image-id", "1"], "no image has id 1"),
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--names", "one"], "2 different names"),
        (["--names", "one", "two", "two"], "2 different names"),
    ],
)
def test_bad_arguments_are_refused_before_the_results_are_read(
    files, capsys, monkeypatch, arguments, words
):
    monkeypatch.setattr("iif.report.pipelines.load_runs", lambda *_, **__: pytest.fail("was read"))
    assert command(files, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (files / "out").exists()


def test_boxes_alone_are_enough(files):
    """Neither the annotations nor the results need masks."""
    for name in ("gt", "base", "iif"):
        content = json.loads((files / f"{name}.json").read_text())
        for row in content["annotations"] if name == "gt" else content:
            del row["segmentation"]
        write(files / f"{name}.json", content)
    assert command(files) == 0
    assert json.loads((files / "out" / "false_positives.json").read_text())["iou_type"] == "bbox"
