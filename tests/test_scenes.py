"""Scenes: which images are chosen, and which detections are shown in them."""

from __future__ import annotations

import numpy as np
import pytest

from helpers_compare import make_runs
from iif.errors import InputError
from iif.evaluation.false_positives import ERROR_TYPES, analyse
from iif.evaluation.matching import ErrorType, Outcome
from iif.evaluation.scenes import KINDS, Scene, choose_scenes, find_categories, kinds, shown
from iif.report.text import scene_text


def test_shown_detections_reach_their_threshold(tmp_path):
    gt, runs = make_runs(tmp_path, 8)
    analysis = analyse(gt, runs)
    for run, part, rows in zip(runs, analysis.runs, shown(analysis, runs), strict=True):
        expected = {
            d
            for d in range(len(run.detections))
            if analysis.matched[c := run.detections.category[d]]
            and run.detections.score[d] >= part.threshold[c]
            and run.matches.outcome[d] not in (Outcome.CAPPED, Outcome.DEGENERATE)
        }
        assert set(rows.tolist()) == expected
        assert (np.diff(run.detections.score[rows]) <= 0).all()
        assert Outcome.UNVERIFIED in run.matches.outcome[rows]


def test_kinds_name_every_outcome(tmp_path):
    _, (run, _) = make_runs(tmp_path, 9)
    names = {Outcome.TP: "TP", Outcome.IGNORED: "Ignored", Outcome.UNVERIFIED: "Unverifiable"}
    for d, kind in enumerate(kinds(run.matches)):
        outcome = Outcome(run.matches.outcome[d])
        if outcome == Outcome.FP:
            assert KINDS[kind] == ErrorType(run.matches.error_type[d]).label
        else:
            assert KINDS[kind] == names[outcome]


def test_scenes_are_those_that_change_most(tmp_path):
    gt, runs = make_runs(tmp_path, 10, images=30, iou_type="segm")
    analysis = analyse(gt, runs)
    scenes = choose_scenes(analysis, gt, runs, num_images=3)
    everything = choose_scenes(analysis, gt, runs, image_ids=gt.image_ids.tolist())
    changes = sorted(scene.change for scene in everything)
    removed = [scene.change for scene in scenes if scene.change < 0]
    added = [scene.change for scene in scenes if scene.change > 0]
    assert removed == [c for c in changes[:3] if c < 0]
    assert added == [c for c in changes[:-4:-1] if c > 0]
    assert sum(sum(s.false_positives) for s in everything) == sum(analysis.groups[0].total)
    for scene in everything:
        for count, run in zip(scene.false_positives, scene.detections, strict=True):
            assert count == sum(item.kind in ERROR_TYPES for item in run)
            for item in run:
                assert 0 <= item.score <= 1
                assert item.segmentation["size"] == [scene.height, scene.width]
        assert len(scene.ground_truth) == (gt.ann_image == scene.image).sum()


def test_filters_decide_what_counts(tmp_path):
    gt, runs = make_runs(tmp_path, 11, images=30)
    analysis = analyse(gt, runs)
    category = int(np.flatnonzero(analysis.matched)[0])
    ids = gt.image_ids.tolist()
    scenes = choose_scenes(analysis, gt, runs, categories=[category], image_ids=ids)
    shown_categories = {o.category for s in scenes for run in s.detections for o in run}
    assert shown_categories == {category}
    scenes = choose_scenes(analysis, gt, runs, error_types=["Bkg"], image_ids=ids)
    by_type = [row[ERROR_TYPES.index("Bkg")] for row in analysis.groups[0].by_type]
    assert [sum(s.false_positives[i] for s in scenes) for i in range(2)] == by_type
    assert {o.kind for s in scenes for run in s.detections for o in run} > {"Bkg"}
    assert find_categories(gt, ["category 3"], ["r"]) == sorted(
        {int(gt.category_row(3)), *np.flatnonzero(gt.groups == "r").tolist()}
    )


def test_a_category_that_none_brings_to_the_recall_is_refused(tmp_path):
    gt, runs = make_runs(tmp_path, 15, qualities=(0.2, 0.2))
    analysis = analyse(gt, runs, recall=1.0)
    unmatched = int(np.flatnonzero(~analysis.matched)[0])
    with pytest.raises(InputError, match=r"both runs reach recall 1 \(highest: run 0 .*lower"):
        choose_scenes(analysis, gt, runs, categories=[unmatched])


@pytest.mark.parametrize(
    ("counts", "change", "text"),
    [
        ([3, 1], -2, "2 false positives removed"),
        ([3, 4], 1, "1 false positive added"),
        ([3, 3], 0, "3 false positives in both"),
        ([1], 1, "1 false positive"),
    ],
)
def test_a_scene_says_how_much_changed(counts, change, text):
    scene = Scene(0, 1, "1.png", 4, 4, counts, [], [[] for _ in counts])
    assert (scene.change, scene_text(scene)) == (change, text)
