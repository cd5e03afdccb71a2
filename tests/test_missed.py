"""Missed objects, and dAP as TIDE defines it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iif.data.annotations import Annotations, load_annotations
from iif.data.columns import detections_of
from iif.data.results import Detections
from iif.evaluation.confusion import confusion_matrix, thresholds_of
from iif.evaluation.curves import best_thresholds
from iif.evaluation.matching import ErrorType, Matches, Outcome, match
from iif.evaluation.metrics import compute_metrics
from iif.evaluation.missed import (
    MAIN_ERRORS,
    Found,
    error_impacts,
    found_objects,
    missed_rows,
)
from random_cases import random_case
from tide_cases import EXPECTED, tide_case


def matched(
    gt: dict[str, Any], results: list[dict[str, Any]], iou_type: Any = "bbox"
) -> tuple[Annotations, Detections, Matches]:
    annotations = load_annotations(gt, masks=iou_type == "segm")
    detections, _ = detections_of(results, annotations, [iou_type])
    return annotations, detections, match(annotations, detections, iou_type)


@pytest.mark.parametrize("seed", EXPECTED)
def test_dap_equals_tidecv_s(seed: int) -> None:
    found = error_impacts(*matched(*tide_case(seed)))[0]
    ap50, gains, special, counts = EXPECTED[seed]
    assert found.ap50 == pytest.approx(ap50, abs=1e-9)
    assert list(found.gains) == list(found.counts) == list(MAIN_ERRORS)
    assert list(found.gains.values()) == pytest.approx(gains, abs=1e-9)
    assert list(found.counts.values()) == counts
    assert [found.false_positives, found.false_negatives] == pytest.approx(special, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ap50_is_the_evaluation_s_and_every_object_has_one_fate(iou_type: Any) -> None:
    seen = set()
    for seed in range(40):
        case = random_case(seed, masks=iou_type == "segm")
        gt, detections, matches = matched(*case, iou_type)
        metrics, _ = compute_metrics(matches, gt)
        found = found_objects(gt, detections, matches)
        seen |= set(found.tolist())
        impacts, rows = error_impacts(gt, detections, matches), missed_rows(gt, found)
        if metrics["AP50"] is None:
            assert impacts[0].ap50 is None
        else:
            assert impacts[0].ap50 == pytest.approx(metrics["AP50"], abs=1e-9)
        assert rows[0].objects == matches.num_gt[0].sum() == (found > 0).sum()
        assert rows[0].found == (matches.outcome == Outcome.TP).sum()
        for row, impact in zip(rows, impacts, strict=True):
            assert row.objects == row.found + row.loc + row.cls + row.miss
            assert impact.counts["Miss"] == row.miss
            assert all(v is None or 0 <= v <= 100 for v in impact.gains.values())
        for name, kind in zip(MAIN_ERRORS[:-1], (2, 1, 5, 3, 4), strict=True):
            assert impacts[0].counts[name] == (matches.error_type == kind).sum()
        assert rows[0].objects == sum(row.objects for row in rows[1:])
    assert seen == set(Found)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    transform=st.sampled_from([lambda s: 0.1 * s, lambda s: s - 3, lambda s: s**3]),
)
def test_a_strictly_increasing_change_of_scores_changes_thresholds_alone(
    seed: int, transform: Any
) -> None:
    gt, results = random_case(seed)
    rescaled = [r | {"score": float(transform(r["score"]))} for r in results]
    runs = [matched(gt, rows) for rows in (results, rescaled)]
    assert error_impacts(*runs[0]) == error_impacts(*runs[1])
    assert (found_objects(*runs[0]) == found_objects(*runs[1])).all()
    best = [best_thresholds(annotations, matches) for annotations, _, matches in runs]
    assert [replace(b, threshold=None) for b in best[0]] == [
        replace(b, threshold=None) for b in best[1]
    ]
    cells = [
        confusion_matrix(*run, thresholds_of(run[0], own))
        for run, own in zip(runs, best, strict=True)
    ]
    assert cells[0] == cells[1]


def federated() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two objects of category 1; 2 is verified absent, nothing is known of 3."""
    image = {"id": 1, "height": 100, "width": 100, "file_name": "1.jpg"}
    gt = {
        "images": [image | {"neg_category_ids": [2], "not_exhaustive_category_ids": []}],
        "categories": [{"id": k, "name": f"c{k}", "frequency": "rcf"[k - 1]} for k in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [50, 50, 10, 10], "area": 100},
        ],
    }
    return gt, []


def row(category: int, bbox: list[float], score: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": bbox, "score": score}


def test_unverifiable_detections_take_no_part() -> None:
    gt, _ = federated()
    results = [row(1, [0, 0, 10, 10], 0.9), row(3, [50, 50, 10, 10], 0.8)]
    annotations, detections, matches = matched(gt, results)
    assert found_objects(annotations, detections, matches).tolist() == [Found.FOUND, Found.MISS]
    impact = error_impacts(annotations, detections, matches)[0]
    assert impact.counts == dict.fromkeys(MAIN_ERRORS, 0) | {"Miss": 1}
    # With category 3 verified absent, the same detection is a Cls error of the second object.
    gt["images"][0]["neg_category_ids"] = [2, 3]
    annotations, detections, matches = matched(gt, results)
    assert found_objects(annotations, detections, matches).tolist() == [Found.FOUND, Found.CLS]
    impact = error_impacts(annotations, detections, matches)[0]
    assert impact.counts == dict.fromkeys(MAIN_ERRORS, 0) | {"Cls": 1}
    assert impact.ap50 == pytest.approx(100 * 51 / 101)
    assert impact.gains["Cls"] == pytest.approx(100 * 50 / 101)
    assert impact.gains["Miss"] == 0
    # AP50 is over category 1 alone, which is rare.
    rare, common = error_impacts(annotations, detections, matches)[1:3]
    assert replace(rare, group="all") == replace(impact, counts=rare.counts)
    assert common.ap50 is None
    assert set(common.gains.values()) == {None}


def test_the_best_scored_error_of_an_object_is_repaired_and_the_others_go() -> None:
    gt, _ = federated()
    results = [
        row(1, [50, 54, 10, 10], 0.9),  # Loc of the second object
        row(2, [50, 50, 10, 10], 0.8),  # Cls of the same: not repaired, as Loc scores higher
        row(1, [0, 0, 10, 10], 0.7),
        row(1, [0, 0, 10, 9], 0.6),  # Dupe
    ]
    annotations, detections, matches = matched(gt, results)
    kinds = [ErrorType(e).label for e in matches.error_type]
    assert kinds == ["Loc", "Cls", "", "Dupe"]
    assert found_objects(annotations, detections, matches).tolist() == [Found.FOUND, Found.LOC]
    rare = error_impacts(annotations, detections, matches)[1]
    assert rare.ap50 == pytest.approx(100 * 51 / 101 / 2)
    assert rare.gains["Loc"] == pytest.approx(100 - rare.ap50)
    assert rare.gains["Cls"] == rare.gains["Dupe"] == 0
    assert rare.false_positives == pytest.approx(rare.ap50)


def test_without_a_detection_everything_is_missed() -> None:
    annotations, detections, matches = matched(*federated())
    assert found_objects(annotations, detections, matches).tolist() == [Found.MISS] * 2
    impact = error_impacts(annotations, detections, matches)[0]
    assert (impact.ap50, impact.false_negatives, impact.gains["Miss"]) == (0, 0, 0)
