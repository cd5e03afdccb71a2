"""Crops of the report: which false positives are chosen, and what a crop shows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

import helpers_compare as made
from helpers_report import category_names, evaluate_runs, make_image, make_scene
from iif.data.annotations import load_annotations
from iif.data.results import Detections
from iif.evaluation import false_positives as fp
from iif.evaluation import scenes
from iif.evaluation.missed import Found, found_objects
from iif.evaluation.runs import Run, load_runs
from iif.report.crop_subjects import CHANGES, MISSED, _has_twin, choose_missed, choose_subjects
from iif.report.crops import (
    MAX_BYTES,
    MAX_SHAPES,
    WHOLE_BYTES,
    crop_window,
    cut_crop,
    make_crops,
)
from iif.report.nearest import miss_reason, nearest_detection


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_runs(tmp_path_factory.mktemp("evaluated"))


@given(
    st.tuples(st.floats(0, 500), st.floats(0, 400), st.floats(1, 300), st.floats(1, 300)),
    st.integers(20, 900),
    st.integers(20, 900),
)
def test_crop_window_lies_in_the_image_and_holds_the_box(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    x, y, w, h = box
    w, h = min(w, width), min(h, height)
    x, y = min(x, width - w), min(y, height - h)
    left, top, crop_w, crop_h = crop_window((x, y, w, h), width, height)
    assert left >= 0
    assert left + crop_w <= width
    assert top >= 0
    assert top + crop_h <= height
    assert crop_w > 0
    assert crop_h > 0
    assert left <= x + 1
    assert x + w <= left + crop_w + 1
    assert top <= y + 1
    assert y + h <= top + crop_h + 1


def test_crop_shows_its_subject_in_its_run_alone() -> None:
    scene = make_scene(3, category_names(60))
    subject = scene.detections[1][0]
    crop = cut_crop(scene, 1, subject, make_image(3), group="r", change="added")
    marked = [[s.subject for s in panel] for panel in crop.panels]
    assert [sum(m) for m in marked] == [0, 1, 0]
    x, y, width, height = crop.window
    scale = crop.width / width
    (shape,) = [s for s in crop.panels[1] if s.subject]
    assert shape.box == pytest.approx(
        [
            (subject.bbox[0] - x) * scale,
            (subject.bbox[1] - y) * scale,
            subject.bbox[2] * scale,
            subject.bbox[3] * scale,
        ],
        abs=0.06,
    )
    assert (shape.name, shape.kind, shape.score) == (subject.name, subject.kind, subject.score)
    picture = Image.open(io.BytesIO(crop.picture))
    assert picture.size == (crop.width, crop.height)
    assert crop.width / crop.height == pytest.approx(width / height, rel=0.02)


def test_an_object_around_the_whole_crop_is_shown() -> None:
    scene = make_scene(3, category_names(60))
    around = replace(scene.ground_truth[0], bbox=(0.0, 0.0, scene.width, scene.height))
    scene = replace(scene, ground_truth=[around])
    small = replace(scene.detections[0][0], bbox=(300.0, 200.0, 20.0, 20.0))
    crop = cut_crop(scene, 0, small, make_image(3), group="r", change="added")
    assert crop.window[2] * crop.window[3] < 0.1 * scene.width * scene.height
    assert [shape.name for shape in crop.panels[-1]] == [around.name]


def test_crops_are_small_whatever_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    scene = make_scene(1, category_names(60), height=960, width=1280, objects=120)
    crop = cut_crop(scene, 0, scene.detections[0][0], noise, group="f", change="removed")
    assert len(crop.picture) <= MAX_BYTES
    assert 0 < len(crop.whole) <= WHOLE_BYTES
    assert all(len(panel) <= MAX_SHAPES for panel in crop.panels)
    whole = replace(scene, detections=[[replace(o, bbox=(0.0, 0.0, 1280.0, 960.0)) for o in d]
                                       for d in scene.detections])  # fmt: skip
    crop = cut_crop(whole, 0, whole.detections[0][0], noise, group="f", change="removed")
    assert crop.left_out[:2] == [120 - MAX_SHAPES] * 2
    assert sum(s.subject for s in crop.panels[0]) == 1


@pytest.fixture(scope="module")
def analysed(evaluated: Path) -> tuple:
    gt = load_annotations(evaluated / "gt.json", masks=True)
    paths = {name: evaluated / f"{name}.json" for name in ("baseline", "IIF")}
    runs = load_runs(gt, paths, iou_type="segm")
    return fp.analyse(gt, runs), gt, runs


@pytest.mark.parametrize("wanted", [fp.ERROR_TYPES, ("TP",)], ids=["false", "true"])
def test_subjects_are_the_detections_and_their_changes(
    analysed: tuple, wanted: tuple[str, ...]
) -> None:
    analysis, gt, runs = analysed
    subjects = choose_subjects(analysis, gt, runs, 10**6)
    assert len(set(subjects)) == len(subjects)
    assert {"TP"} < {s.kind for s in subjects} <= {"TP", *fp.ERROR_TYPES}
    subjects = [s for s in subjects if s.kind in wanted]

    # By a plain loop: all such detections shown, and whether the other run has one like it.
    shown = scenes.shown(analysis, runs)
    wrong = []
    for run, rows in zip(runs, shown, strict=True):
        kinds = scenes.kinds(run.matches)
        wrong.append([int(r) for r in rows if scenes.KINDS[kinds[r]] in wanted])

    def twin(run: int, row: int, other: int) -> bool:
        mine, theirs = runs[run].detections, runs[other].detections
        for candidate in wrong[other]:
            same = (
                mine.image[row] == theirs.image[candidate]
                and mine.category[row] == theirs.category[candidate]
            )
            boxes = [list(mine.bbox[row])], [list(theirs.bbox[candidate])]
            if same and mask_util.iou(*map(np.array, boxes), [0])[0, 0] >= 0.5:
                return True
        return False

    expected = {(0, row): "kept" if twin(0, row, 1) else "removed" for row in wrong[0]}
    expected |= {(1, row): "added" for row in wrong[1] if not twin(1, row, 0)}
    assert {(s.run, s.row): s.change for s in subjects} == expected
    assert {"removed", "added", "kept"} == set(expected.values())
    for subject in subjects:
        run = runs[subject.run]
        assert scenes.KINDS[scenes.kinds(run.matches)[subject.row]] == subject.kind
        assert run.detections.image[subject.row] == subject.image
        assert run.detections.category[subject.row] == subject.category


@given(st.integers(0, 10**6), st.sampled_from(["boxes", "masks"]))
@settings(max_examples=40)
def test_twins_equal_a_plain_loop(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)

    def run() -> tuple[Run, np.ndarray]:
        n = int(rng.integers(0, 25))
        # Few sizes and places: IoU of exactly 0.5 and near it are frequent.
        places, sizes = 2 * rng.integers(0, 2, (2, n)), rng.choice([3, 6], (2, n))
        bbox = np.concatenate([places, sizes]).T.astype(float)
        rle = None
        if kind == "masks":
            rle = [mask_util.frPyObjects([made._polygon(b)], 12, 12)[0] for b in bbox.tolist()]
        detections = Detections(
            path="",
            sha256="",
            image=rng.integers(0, 2, n, np.int32),
            category=rng.integers(0, 2, n, np.int32),
            score=rng.random(n),
            bbox=None if rle is not None else bbox,
            rle=rle,
        )
        return Run("", detections, None), bbox

    (run_a, boxes_a), (run_b, boxes_b) = run(), run()
    rows_a = rng.permutation(len(boxes_a))[: rng.integers(0, 25)]
    rows_b = rng.permutation(len(boxes_b))[: rng.integers(0, 25)]
    expected = []
    for i in rows_a:
        a = run_a.detections
        like = [
            j
            for j in rows_b
            if (a.image[i], a.category[i])
            == (run_b.detections.image[j], run_b.detections.category[j])
        ]
        ious = [mask_util.iou(boxes_a[[i]], boxes_b[[j]], [0])[0, 0] for j in like]
        expected.append(max(ious, default=0.0) >= 0.5)
    assert _has_twin(run_a, rows_a, run_b, rows_b).tolist() == expected


def test_few_subjects_come_from_every_stratum(analysed: tuple) -> None:
    analysis, gt, runs = analysed

    def stratum(subject: object) -> tuple:
        return subject.change, str(analysis.category_groups[subject.category]), subject.kind

    everything = choose_subjects(analysis, gt, runs, 10**6)
    strata = {stratum(s) for s in everything}
    few = choose_subjects(analysis, gt, runs, len(strata))
    assert {stratum(s) for s in few} == strata
    assert everything[: len(few)] == few
    assert choose_subjects(analysis, gt, runs, 0) == []


def test_single_run_has_no_changes(evaluated: Path) -> None:
    gt = load_annotations(evaluated / "gt.json", masks=True)
    runs = load_runs(gt, {"IIF": evaluated / "IIF.json"}, iou_type="bbox")
    subjects = choose_subjects(fp.analyse(gt, runs), gt, runs, 50)
    assert subjects
    assert {s.change for s in subjects} == {""}


def test_the_most_frequent_confusions_come_first(analysed: tuple) -> None:
    analysis, gt, runs = analysed

    def confusions(counted: fp.FalsePositiveAnalysis) -> list[tuple]:
        return [
            (s.change, str(gt.groups[s.category]), s.category,
             int(gt.ann_category[runs[s.run].matches.gt_row[s.row]]))
            for s in choose_subjects(counted, gt, runs, 10**6) if s.kind == "Cls"
        ]  # fmt: skip

    before = confusions(analysis)
    # The last of a stratum of several is confused most often: it comes first.
    *place, predicted, true = next(
        s for s in before[::-1] if sum(b[:2] == s[:2] for b in before) > 1
    )
    assert next(s for s in before if s[:2] == tuple(place))[2:] != (predicted, true)
    more = [
        replace(c, counts=[900, 0]) if (c.gt_category, c.predicted) == (true, predicted) else c
        for c in analysis.confusions
    ]
    after = confusions(replace(analysis, confusions=more))
    assert next(s for s in after if s[:2] == tuple(place))[2:] == (predicted, true)


def test_missed_subjects_are_the_objects_without_a_true_positive(analysed: tuple) -> None:
    _, gt, runs = analysed
    found = [found_objects(gt, run.detections, run.matches) for run in runs]
    subjects = choose_missed(gt, found, 10**6)
    expected = {}
    for g in range(len(gt.ann_ids)):
        before, after = (Found(of_run[g]) > Found.FOUND for of_run in found)
        if before:
            expected[0, g] = "kept" if after else "removed"
        elif after:
            expected[1, g] = "added"
    assert {(s.run, s.row): s.change for s in subjects} == expected
    assert set(expected.values()) == set(CHANGES)
    for s in subjects:
        assert (s.kind, s.why) == (MISSED, Found(found[s.run][s.row]).label)
        assert (s.image, s.category) == (gt.ann_image[s.row], gt.ann_category[s.row])
    strata = {(s.change, str(gt.groups[s.category]), s.why) for s in subjects}
    few = choose_missed(gt, found, len(strata))
    assert {(s.change, str(gt.groups[s.category]), s.why) for s in few} == strata
    alone = choose_missed(gt, found[:1], 10**6)
    assert {s.row for s in alone} == {row for run, row in expected if run == 0}
    assert {s.change for s in alone} == {""}


def test_the_nearest_detection_and_the_reason(analysed: tuple) -> None:
    _, gt, runs = analysed
    reasons = set()
    for run in runs:
        found = found_objects(gt, run.detections, run.matches)
        for g in np.flatnonzero(found > Found.NOT_COUNTED):
            near = nearest_detection(gt, run, int(g))
            rows = np.flatnonzero(
                (run.detections.image == gt.ann_image[g]) & (run.matches.outcome >= 2)
            )
            masks = [run.detections.rle[d] for d in rows]
            iou = mask_util.iou(masks, [gt.rle(int(g))], [0])[:, 0] if masks else np.zeros(0)
            if near is None:
                assert not (iou > 0).any()
                continue
            assert near.iou == pytest.approx(iou[list(rows).index(near.object.index)])
            why = Found(found[g]).label
            if why == "Found":
                assert near.object.kind == "TP"
                assert run.matches.gt_row[near.object.index] == g
            elif why == "Miss":
                assert near.iou == pytest.approx(iou.max())
            else:
                assert near.object.kind == why
                assert run.matches.gt_row[near.object.index] == g
            if why != "Found":
                reasons.add(miss_reason(why, near).partition(" (")[0])
                assert f"IoU {near.iou:.2f}" in miss_reason(why, near)
    assert any(reason.startswith("localisation") for reason in reasons)
    assert any(reason.startswith("class:") for reason in reasons)
    assert miss_reason("Miss", None).startswith("no detection")


def test_a_missed_object_is_outlined_in_every_panel(analysed: tuple, evaluated: Path) -> None:
    analysis, gt, runs = analysed
    found = [found_objects(gt, run.detections, run.matches) for run in runs]
    crops = make_crops(analysis, gt, runs, evaluated / "images", 40, found)
    missed = [crop for crop in crops if crop.kind == MISSED]
    assert len(crops) == 40
    assert len(missed) == 10
    for crop in missed:
        for panel in crop.panels[:-1]:
            object_, *near = [shape for shape in panel if shape.subject]
            assert (object_.kind, object_.name) == ("Ground truth", crop.truth)
            assert len(near) <= 1
            assert all(shape.score is not None for shape in near)
        assert [s.name for s in crop.panels[-1] if s.subject] == [crop.truth]
        assert crop.reason
    assert not [c for c in make_crops(analysis, gt, runs, evaluated / "images", 8) if c.reason]
