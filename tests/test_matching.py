"""Outcomes and error types: against a plain loop, and by hand at the limits of each rule."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from coco_reference import coco_style
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import load_results
from iif.errors import InputError
from iif.evaluation.matches_file import load_evaluated, load_matches, save_matches
from iif.evaluation.matching import (
    AREA_RANGES,
    ErrorType,
    Matches,
    Outcome,
    _by_falling,
    match,
)
from iif.evaluation.overlaps import find_overlaps
from random_cases import random_case


def run(
    folder: Path, gt: dict, results: list[dict], iou_type: str = "bbox", **options: Any
) -> tuple[Matches, Annotations]:
    gt = coco_style(copy.deepcopy(gt)) if options.pop("exhaustive", False) else gt
    (folder / "gt.json").write_text(json.dumps(gt))
    (folder / "results.json").write_text(json.dumps(results))
    annotations = load_annotations(folder / "gt.json", masks=iou_type == "segm")
    detections = load_results(folder / "results.json", annotations, iou_type=iou_type)
    return match(annotations, detections, iou_type, **options), annotations


def labelled(matches: Matches, gt: Annotations) -> list[tuple[str, str, int | None]]:
    return [
        (Outcome(o).name, ErrorType(e).label, int(gt.ann_ids[g]) if g >= 0 else None)
        for o, e, g in zip(matches.outcome, matches.error_type, matches.gt_row, strict=True)
    ]


def plain_outcomes(
    gt: dict, results: list[dict], iou_type: str
) -> list[tuple[str, str, int | None]]:
    """The rules of docs/evaluation.md as plain loops over the files' own content."""
    images = {image["id"]: image for image in gt["images"]}

    def region(item: dict) -> Any:
        if iou_type == "bbox":
            return item["bbox"]
        image = images[item["image_id"]]
        segmentation, size = item["segmentation"], (image["height"], image["width"])
        if isinstance(segmentation, list):
            return mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
        if isinstance(segmentation["counts"], list):
            return mask_utils.frPyObjects(segmentation, *size)
        return segmentation

    def iou(detection: dict, annotation: dict) -> float:
        return mask_utils.iou([region(detection)], [region(annotation)], [0])[0, 0]

    truth = defaultdict(list)
    for annotation in gt["annotations"]:
        if annotation["area"] > 0:
            truth[annotation["image_id"]].append(annotation)
    outcomes: list[Any] = [None] * len(results)
    for image_id, image in images.items():
        rows = [row for row, result in enumerate(results) if result["image_id"] == image_id]
        rows.sort(key=lambda row: -results[row]["score"])
        annotated = {annotation["category_id"] for annotation in truth[image_id]}
        taken = set()
        for place, row in enumerate(rows):
            result = results[row]
            category = result["category_id"]
            if iou_type == "bbox":
                area = result["bbox"][2] * result["bbox"][3]
            else:
                area = mask_utils.area(result["segmentation"])
            if place >= 300:
                outcomes[row] = ("CAPPED", "", None)
            elif not 0 < area < np.inf:
                outcomes[row] = ("DEGENERATE", "", None)
            elif category not in annotated and category not in image["neg_category_ids"]:
                outcomes[row] = ("UNVERIFIED", "", None)
            else:
                ious = [(iou(result, annotation), annotation) for annotation in truth[image_id]]
                outcomes[row] = plain_outcome(image, category, ious, taken)
    return outcomes


def plain_outcome(
    image: dict, category: int, ious: list[tuple[float, dict]], taken: set[int]
) -> tuple[str, str, int | None]:
    for ignored in (False, True):
        best, best_iou = None, 0.5
        for value, annotation in ious:
            is_ignored = bool(annotation.get("ignore", 0)) or annotation["area"] > 1e10
            if (
                annotation["category_id"] == category
                and is_ignored == ignored
                and annotation["id"] not in taken
                and value >= best_iou
            ):
                best, best_iou = annotation["id"], value
        if best is not None:
            taken.add(best)
            return ("IGNORED" if ignored else "TP", "", best)
    if category in image["not_exhaustive_category_ids"]:
        return ("IGNORED", "", None)

    def highest(pairs: list[tuple[float, dict]]) -> tuple[float, int | None]:
        top = max(pairs, key=lambda pair: pair[0], default=(0.0, None))
        return (top[0], top[1]["id"]) if top[0] > 0 else (0.0, None)

    same, same_id = highest([p for p in ious if p[1]["category_id"] == category])
    other, other_id = highest([p for p in ious if p[1]["category_id"] != category])
    if 0.1 <= same < 0.5:
        return ("FP", "Loc", same_id)
    if other >= 0.5:
        return ("FP", "Cls", other_id)
    if same >= 0.5:
        return ("FP", "Dupe", same_id)
    if max(same, other) <= 0.1:
        return ("FP", "Bkg", None)
    return ("FP", "Both", other_id)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_outcomes_equal_a_plain_loop(tmp_path: Path, iou_type: str) -> None:
    seen = set()
    for seed in range(120):
        gt, results = random_case(seed, masks=iou_type == "segm", crowded=seed % 30 == 0)
        matches, annotations = run(tmp_path, gt, results, iou_type)
        found = labelled(matches, annotations)
        assert found == plain_outcomes(gt, results, iou_type), f"seed {seed}"
        seen |= {(outcome, error) for outcome, error, _ in found}
    assert {outcome for outcome, _ in seen} == {outcome.name for outcome in Outcome}
    assert {error for _, error in seen} == {error_type.label for error_type in ErrorType}


def small_gt(*annotations: tuple[int, list[float]], **image: Any) -> dict:
    """One 100 x 100 image with categories 1 to 4 and annotations (category id, box)."""
    return {
        "images": [
            {
                "id": 7,
                "height": 100,
                "width": 100,
                "file_name": "7.jpg",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            | image
        ],
        "categories": [{"id": k, "name": f"category {k}", "frequency": "c"} for k in range(1, 5)],
        "annotations": [
            {
                "id": 50 + i,
                "image_id": 7,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
            }
            for i, (category, box) in enumerate(annotations)
        ],
    }


def boxes(*rows: tuple[int, list[float], float]) -> list[dict]:
    return [
        {"image_id": 7, "category_id": category, "bbox": box, "score": score}
        for category, box, score in rows
    ]


def first_outcome(folder: Path, gt: dict, results: list[dict]) -> tuple[str, str, int | None]:
    return labelled(*run(folder, gt, results))[0]


@pytest.mark.parametrize(
    ("category", "box", "expected"),
    [
        # The ground truth is category 1 at [0, 0, 10, 100] and category 2 at [50, 0, 10, 100].
        (1, [0, 0, 10, 50], ("TP", "", 50)),  # IoU 0.5
        (1, [0, 0, 10, 49.9], ("FP", "Loc", 50)),
        (1, [0, 0, 10, 10], ("FP", "Loc", 50)),  # IoU 0.1
        (1, [0, 0, 10, 9.9], ("FP", "Bkg", None)),
        (1, [50, 0, 10, 50], ("FP", "Cls", 51)),
        (1, [50, 0, 10, 49.9], ("FP", "Both", 51)),
        (1, [50, 0, 10, 10], ("FP", "Bkg", None)),  # IoU 0.1
        (1, [30, 0, 10, 10], ("FP", "Bkg", None)),
        (3, [50, 0, 10, 100], ("FP", "Cls", 51)),
        (4, [50, 0, 10, 100], ("UNVERIFIED", "", None)),
        (1, [0, 0, 10, 0], ("DEGENERATE", "", None)),
        (1, [0, 0, -10, 10], ("DEGENERATE", "", None)),
        (4, [0, 0, 10, 0], ("DEGENERATE", "", None)),
        (1, [0, 0, 1e200, 1e200], ("DEGENERATE", "", None)),
    ],
)
def test_limits_of_the_rules(
    tmp_path: Path, category: int, box: list[float], expected: tuple
) -> None:
    gt = small_gt((1, [0, 0, 10, 100]), (2, [50, 0, 10, 100]), neg_category_ids=[3])
    assert first_outcome(tmp_path, gt, boxes((category, box, 0.5))) == expected


def test_a_second_detection_of_an_object_is_a_duplicate(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    rows = boxes((1, [0, 0, 10, 10], 0.4), (1, [0, 0, 10, 9], 0.6))
    assert labelled(*run(tmp_path, gt, rows)) == [("FP", "Dupe", 50), ("TP", "", 50)]


def test_cls_comes_before_dupe_and_loc_before_cls(tmp_path: Path) -> None:
    same, other = [0, 0, 10, 10], [0, 0, 10, 9.5]
    gt = small_gt((1, same), (2, other))
    rows = boxes((1, same, 0.9), (1, same, 0.5))
    assert labelled(*run(tmp_path, gt, rows))[1] == ("FP", "Cls", 51)
    gt = small_gt((1, [0, 0, 10, 30]), (2, same))
    assert first_outcome(tmp_path, gt, boxes((1, same, 0.5))) == ("FP", "Loc", 50)


def test_equal_scores_follow_the_file_within_an_image(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    rows = boxes((1, [0, 0, 10, 8], 0.5), (1, [0, 0, 10, 10], 0.5))
    assert [o for o, _, _ in labelled(*run(tmp_path, gt, rows))] == ["TP", "FP"]


def test_the_cap_comes_first_and_counts_every_category(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    unverified = boxes(*[(4, [0, 0, 0, 10], 0.9)] * 300)
    late = boxes((1, [0, 0, 10, 10], 0.9), (1, [0, 0, 10, 10], 0.95))
    found = labelled(*run(tmp_path, gt, unverified + late))
    assert [o for o, _, _ in found[-3:]] == ["CAPPED", "CAPPED", "TP"]
    found = labelled(*run(tmp_path, gt, unverified + late, max_dets=None))
    assert [o for o, _, _ in found[-3:]] == ["DEGENERATE", "FP", "TP"]


@pytest.mark.parametrize(("count", "capped"), [(299, 0), (300, 0), (301, 1)])
def test_exactly_300_detections_are_kept(tmp_path: Path, count: int, capped: int) -> None:
    rows = boxes(*[(1, [0, 0, 10, 10], 0.5)] * count)
    matches, _ = run(tmp_path, small_gt((1, [0, 0, 10, 10])), rows)
    assert (matches.outcome == Outcome.CAPPED).sum() == capped


def test_the_cap_by_category_keeps_the_best_of_the_whole_set(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]), neg_category_ids=[2])
    gt["images"].append(gt["images"][0] | {"id": 3})
    rows = boxes((1, [0, 0, 10, 10], 0.5), (1, [0, 0, 9, 10], 0.7), (2, [0, 0, 9, 9], 0.1))
    rows.append(rows[0] | {"image_id": 3})  # as well scored, in an earlier image
    matches, _ = run(tmp_path, gt, rows, max_dets=None, max_dets_per_category=2)
    assert [Outcome(o).name for o in matches.outcome] == ["CAPPED", "TP", "FP", "UNVERIFIED"]
    assert matches.rows.tolist() == [1, 2]
    assert matches.category_offsets.tolist() == [0, 1, 2, 2, 2]


def test_ground_truth_of_zero_area_neither_matches_nor_verifies(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    gt["annotations"][0]["area"] = 0
    assert first_outcome(tmp_path, gt, boxes((1, [0, 0, 10, 10], 0.5)))[0] == "UNVERIFIED"
    gt["images"][0]["neg_category_ids"] = [1]
    expected = ("FP", "Bkg", None)
    assert first_outcome(tmp_path, gt, boxes((1, [0, 0, 10, 10], 0.5))) == expected


def test_annotation_id_zero_can_be_found(tmp_path: Path) -> None:
    # The official evaluator takes a match with id 0 for none.
    gt = small_gt((1, [0, 0, 10, 10]))
    gt["annotations"][0]["id"] = 0
    assert first_outcome(tmp_path, gt, boxes((1, [0, 0, 10, 10], 0.5))) == ("TP", "", 0)


def test_a_box_that_is_not_finite_is_degenerate(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    rows = boxes((1, [float("nan"), 0, 10, 10], 0.5), (1, [0, 0, float("inf"), 10], 0.5))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    annotations = load_annotations(tmp_path / "gt.json")
    matches = match(annotations, load_results(tmp_path / "results.json", annotations), "bbox")
    assert matches.outcome.tolist() == [Outcome.DEGENERATE] * 2


def test_exhaustive_annotation_verifies_everything(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 10, 10]))
    rows = boxes((4, [0, 0, 10, 10], 0.5))
    matches, annotations = run(tmp_path, gt, rows, exhaustive=True)
    assert labelled(matches, annotations) == [("FP", "Cls", 50)]


def test_any_number_of_detections_may_lie_in_a_crowd(tmp_path: Path) -> None:
    gt = small_gt((1, [0, 0, 100, 100]))
    gt["annotations"][0]["iscrowd"] = 1
    rows = boxes((1, [0, 0, 10, 10], 0.5), (1, [0, 0, 10, 9], 0.4), (2, [0, 0, 10, 9], 0.4))
    matches, annotations = run(tmp_path, gt, rows, exhaustive=True)
    expected = [("IGNORED", "", 50), ("IGNORED", "", 50), ("FP", "Bkg", None)]
    assert labelled(matches, annotations) == expected


def test_matches_describe_what_counts(tmp_path: Path) -> None:
    for seed in range(20):
        gt, results = random_case(seed)
        matches, annotations = run(tmp_path, gt, results)
        counted = np.isin(matches.outcome, [Outcome.TP, Outcome.IGNORED, Outcome.FP])
        assert sorted(matches.rows) == np.flatnonzero(counted).tolist()
        detections = load_results(tmp_path / "results.json", annotations)
        keys = [
            (detections.category[d], -detections.score[d], detections.image[d], d)
            for d in matches.rows
        ]
        assert keys == sorted(keys)
        categories = np.repeat(np.arange(len(gt["categories"])), np.diff(matches.category_offsets))
        assert (categories == detections.category[matches.rows]).all()
        assert (matches.image == detections.image[matches.rows]).all()
        assert (matches.score == detections.score[matches.rows]).all()
        of_flag = np.array([Outcome.FP, Outcome.TP, Outcome.IGNORED])
        assert (of_flag[matches.flags[0, 0]] == matches.outcome[matches.rows]).all()


def test_without_classification_only_the_error_types_are_missing(tmp_path: Path) -> None:
    gt, results = random_case(3)
    full, _ = run(tmp_path, gt, results)
    bare, _ = run(tmp_path, gt, results, classify_errors=False)
    assert not bare.error_type.any()
    assert (bare.outcome == full.outcome).all()
    assert (bare.flags == full.flags).all()
    taken = np.isin(full.outcome, [Outcome.TP, Outcome.IGNORED])
    assert (bare.gt_row == np.where(taken, full.gt_row, -1)).all()


def test_overlaps_may_be_shared(tmp_path: Path) -> None:
    gt, results = random_case(5, masks=True)
    alone, annotations = run(tmp_path, gt, results, "segm")
    detections = load_results(tmp_path / "results.json", annotations, iou_type="segm")
    overlaps = find_overlaps(annotations, detections, "segm")
    shared = match(annotations, detections, "segm", overlaps=overlaps)
    assert (shared.flags == alone.flags).all()
    assert (shared.gt_row == alone.gt_row).all()


@pytest.mark.parametrize("scores", ["single", "double"])
def test_matches_survive_being_written(tmp_path: Path, scores: str) -> None:
    gt, results = random_case(5, masks=True)
    if scores == "double":
        for result in results:
            result["score"] = 1 / (3 + result["score"])
    of = {t: run(tmp_path, gt, results, t)[0] for t in ("bbox", "segm")}
    annotations = load_annotations(tmp_path / "gt.json", masks=True)
    detections = load_results(tmp_path / "results.json", annotations)
    save_matches(tmp_path / "eval_matches.npz", of, detections)
    stored, loaded = load_evaluated(tmp_path / "eval_matches.npz")
    for key in ("path", "sha256", "image", "category", "score"):
        assert np.array_equal(getattr(stored, key), getattr(detections, key)), key
    assert list(loaded) == ["bbox", "segm"]
    for iou_type, matches in of.items():
        for key in vars(matches).keys() - {"iou_type"}:
            found, expected = getattr(loaded[iou_type], key), getattr(matches, key)
            assert np.array_equal(found, expected), key
            assert found.dtype == expected.dtype, key
        assert loaded[iou_type].iou_type == iou_type
    with np.load(tmp_path / "eval_matches.npz") as file:  # an ordinary archive
        assert file.zip.testzip() is None


def test_broken_matches_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval_matches.npz"

    def refused() -> None:
        with pytest.raises(InputError, match=r"eval_matches\.npz.*iif evaluate"):
            load_matches(path)

    refused()  # there is no such file
    gt, results = random_case(5)
    matches, annotations = run(tmp_path, gt, results)
    detections = load_results(tmp_path / "results.json", annotations)
    save_matches(path, {"bbox": matches}, detections)
    whole = path.read_bytes()
    for content in (b"", b"not a zip", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        refused()
    np.savez(path, format="something else")
    refused()


def test_masks_must_have_been_loaded(tmp_path: Path) -> None:
    gt, results = random_case(1, masks=True)
    _, annotations = run(tmp_path, gt, results)
    boxes_only = load_results(tmp_path / "results.json", annotations)
    with pytest.raises(ValueError, match="without masks"):
        match(annotations, boxes_only, "segm")
    masks = load_results(tmp_path / "results.json", annotations, iou_type="segm")
    with pytest.raises(ValueError, match="masks=True"):
        match(annotations, masks, "segm")


def test_mask_overlaps_are_those_of_pycocotools(tmp_path: Path) -> None:
    pairs = 0
    for seed in range(12):
        gt, results = random_case(seed, masks=True)
        _, annotations = run(tmp_path, gt, results, "segm")
        detections = load_results(tmp_path / "results.json", annotations, iou_type="segm")
        overlaps = find_overlaps(annotations, detections, "segm")
        for d in range(len(detections)):
            part = slice(overlaps.starts[d], overlaps.starts[d + 1])
            here = (annotations.ann_image == detections.image[d]) & (annotations.area > 0)
            truth = np.flatnonzero(here if overlaps.judged[d] else here & False)
            expected = {}
            if len(truth):
                of = [annotations.rle(int(g)) for g in truth]
                iou = mask_utils.iou([detections.rle[d]], of, [0] * len(of))[0]
                expected = {int(g): value for g, value in zip(truth, iou, strict=True) if value > 0}
            found = zip(overlaps.gt[part].tolist(), overlaps.iou[part].tolist(), strict=True)
            assert dict(found) == expected
            pairs += len(expected)
    assert pairs > 100


@given(
    st.lists(st.one_of(st.floats(-2, 2), st.floats(-2, 2, width=32), st.sampled_from([0.0, -0.0]))),
    st.booleans(),
    st.integers(0, 5),
)
def test_the_order_by_score_is_stable(values: list[float], single: bool, first: int) -> None:
    score = np.array(values, np.float32 if single else np.float64).astype(np.float64)
    expected = np.argsort(-score, kind="stable")
    assert _by_falling(score).tolist() == expected.tolist()
    if first < len(score):
        assert set(_by_falling(score, first)[:first]) == set(expected[:first])


def test_the_area_ranges_are_those_of_lvis() -> None:
    from lvis import LVISEval

    params = LVISEval.__init__.__globals__["Params"]("bbox")
    theirs = dict(zip(params.area_rng_lbl, map(tuple, params.area_rng), strict=True))
    assert theirs == AREA_RANGES
