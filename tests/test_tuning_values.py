"""What `iif tune --all` measures, on boxes alone: no engine, no torch."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from helpers_compare import make_gt, make_results, write
from iif import InputError
from iif.data.annotations import load_annotations
from iif.data.results import Detections, load_results
from iif.data.split import held_out_images, part_of
from iif.evaluation.bootstrap import paired_bootstrap, percentile_interval
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.false_positives import analyse
from iif.evaluation.matching import match
from iif.evaluation.runs import Run
from iif.evaluation.tuning import FoundBoxes, Setting, measure, winner


@pytest.fixture
def case(tmp_path):
    """Annotations, and the detections of three runs: two good ones and a bad one."""
    content = make_gt(3, images=30)
    gt = load_annotations(write(tmp_path / "gt.json", content))
    paths = [
        write(tmp_path / f"{seed}.json", make_results(content, seed, quality=quality))
        for seed, quality in ((1, 0.6), (2, 0.9), (3, 0.1))
    ]
    return gt, [load_results(path, gt) for path in paths], paths


SETTINGS = [
    Setting(method="plain", option=None, value=None, options={}),
    Setting(method="shifts", option="gamma", value=0.5, options={"gamma": 0.5}),
    Setting(method="shifts", option="gamma", value=1.0, options={"gamma": 1.0}),
]


def test_a_trial_has_the_figures_of_an_evaluation(case, tmp_path):
    gt, detections, paths = case
    trials = measure(gt, SETTINGS, [lambda d=d: d for d in detections], bootstrap=0)
    for trial, path in zip(trials, paths, strict=True):
        metrics = evaluate_files(gt.path, path, iou_types=["bbox"], output_dir=tmp_path / "out")
        for name, value in trial.metrics.items():
            assert value == pytest.approx(metrics["metrics"]["bbox"][name])
        assert not trial.intervals
    assert [trial.best for trial in trials] == [True, True, False]
    assert winner(trials) == 1
    assert winner(trials[:1]) == 0


def test_false_positives_are_those_of_the_analysis_of_the_pair(case):
    gt, detections, _ = case
    trials = measure(gt, SETTINGS, [lambda d=d: d for d in detections], bootstrap=0, recall=0.4)
    runs = [Run(str(i), d, match(gt, d, "bbox")) for i, d in enumerate(detections)]
    for trial, run in zip(trials, runs, strict=True):
        row = analyse(gt, [runs[0], Run("x", run.detections, run.matches)], recall=0.4).groups[0]
        assert trial.categories == row.matched
        if row.matched:
            assert [trial.plain_false_positives, trial.false_positives] == row.total
        else:
            assert trial.false_positives is None
    assert trials[0].categories > 0


def test_intervals_are_paired_and_of_the_best_of_each_method(case):
    gt, detections, _ = case
    trials = measure(gt, SETTINGS, [lambda d=d: d for d in detections], bootstrap=50, seed=4)
    matches = [match(gt, d, "bbox", classify_errors=False) for d in detections[:2]]
    drawn = paired_bootstrap(matches, gt.groups, len(gt.image_ids), replicates=50, seed=4)
    low, high = percentile_interval(drawn[1, :, 0] - drawn[0, :, 0])
    found = trials[1].intervals["AP"]
    assert (found.low, found.high) == (low, high)
    assert not trials[0].intervals
    assert not trials[2].intervals
    assert trials[1].difference["AP"] == trials[1].metrics["AP"] - trials[0].metrics["AP"]


def test_a_wrong_recall_is_refused(case):
    gt, detections, _ = case
    with pytest.raises(InputError, match="recall is 0; it must be above 0"):
        measure(gt, SETTINGS[:1], [lambda: detections[0]], recall=0.0)


def test_found_boxes_are_detections():
    found = FoundBoxes()
    found.add(3, np.array([[1.0, 2.0, 5.0, 9.0], [0.0, 0.0, 2.0, 2.0]]), [0.5, 0.25], [7, 1])
    found.add(4, np.zeros((0, 4)), [], [])
    found.add(5, [[1.5, 1.0, 2.0, 3.0]], [0.125], [2])
    detections = found.detections()
    assert detections.image.tolist() == [3, 3, 5]
    assert detections.category.tolist() == [7, 1, 2]
    assert detections.score.tolist() == [0.5, 0.25, 0.125]
    assert detections.bbox.tolist() == [[1, 2, 4, 7], [0, 0, 2, 2], [1.5, 1, 0.5, 2]]
    assert len(FoundBoxes().detections()) == 0


@pytest.mark.parametrize("masks", [False, True])
def test_a_part_is_what_a_file_of_those_images_alone_gives(tmp_path, masks):
    content = make_gt(5, images=25)
    gt = load_annotations(write(tmp_path / "gt.json", content), masks=masks)
    chosen = held_out_images(gt.image_ids.tolist(), 0.4)
    assert 0 < chosen.sum() < len(chosen)
    ids = set(gt.image_ids[chosen].tolist())
    smaller = {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
    }
    expected = load_annotations(write(tmp_path / "part.json", smaller), masks=masks)
    found = part_of(gt, chosen)
    for field in fields(found):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("path", "sha256"):
            assert one == getattr(gt, field.name)
        elif field.name == "segmentation":
            assert (one is None) == (other is None) == (not masks)
        elif isinstance(one, np.ndarray) and field.name in ("neg", "not_exhaustive"):
            assert sorted(map(tuple, one)) == sorted(map(tuple, other))
        else:
            np.testing.assert_array_equal(one, other)
    if masks:
        rows = range(len(found.ann_ids))
        assert [found.rle(row) for row in rows] == [expected.rle(row) for row in rows]
    assert isinstance(FoundBoxes().detections(), Detections)
