"""Curves and best thresholds, confusion matrix, calibration, class-agnostic recall."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coco_reference import coco_evaluate, coco_style
from iif.evaluation.calibration import NUM_BINS, calibrations
from iif.evaluation.class_agnostic import CAPS, class_agnostic_recall
from iif.evaluation.confusion import ConfusionCell, confusion_matrix, thresholds_of
from iif.evaluation.curves import best_thresholds, curve, precision_at_recalls
from iif.evaluation.matching import Outcome
from iif.evaluation.metrics import compute_metrics
from random_cases import random_case
from test_missed import federated, matched, row

CASES = 40


def plain_point(gt: Any, detections: Any, matches: Any, k: int, threshold: float) -> tuple:
    """True and false positives of a category at a threshold, one detection after the other."""
    counts = Counter(
        Outcome(o).name
        for o, c, s in zip(matches.outcome, detections.category, detections.score, strict=True)
        if c == k and s >= threshold
    )
    return counts["TP"], counts["FP"]


def test_curves_equal_a_plain_loop_and_the_best_threshold_is_the_best() -> None:
    ties = 0
    for seed in range(CASES):
        gt, detections, matches = matched(*random_case(seed))
        best = {b.category_id: b for b in best_thresholds(gt, matches)}
        for k, category_id in enumerate(gt.category_ids.tolist()):
            num_gt = matches.num_gt[0, k]
            found = curve(matches, k)
            assert (found is None) == (num_gt == 0) == (category_id not in best)
            if found is None:
                continue
            scores = np.unique(detections.score[detections.category == k])
            highest, expected = (0.0, None), {}
            for score in scores[::-1]:
                true, false = plain_point(gt, detections, matches, k, score)
                f1 = 2 * true / (true + false + num_gt)
                if f1 > highest[0]:
                    highest = f1, score
                if true + false and true + false not in expected:
                    expected[true + false] = (score, true / (true + false), true / num_gt, f1)
            points = np.column_stack(
                [found.threshold, found.precision, found.recall, found.f1]
            ).tolist()
            np.testing.assert_allclose(points, list(expected.values()))
            assert found.kept.tolist() == list(expected)
            one = best[category_id]
            assert one.threshold == highest[1]
            assert one.f1 == pytest.approx(100 * highest[0])
            ties += len(scores) < (detections.category == k).sum()
    assert ties


def test_the_mean_of_the_precisions_is_ap50() -> None:
    for seed in range(CASES):
        gt, _, matches = matched(*random_case(seed))
        _, per_category = compute_metrics(matches, gt)
        rows = precision_at_recalls(matches)
        np.testing.assert_allclose(rows.mean(axis=1), per_category["AP50"], rtol=0, atol=1e-9)


def test_rows_of_the_confusion_matrix_are_objects_and_columns_are_detections() -> None:
    seen = Counter()
    for seed in range(CASES):
        gt, detections, matches = matched(*random_case(seed))
        thresholds = thresholds_of(gt, best_thresholds(gt, matches))
        for limit in (thresholds, 0.5, -1.0):
            cells = confusion_matrix(gt, detections, matches, limit)
            kept = (
                detections.score
                >= np.broadcast_to(limit, len(gt.category_ids))[detections.category]
            )
            for k, category_id in enumerate(gt.category_ids.tolist()):
                objects = sum(c.count for c in cells if c.category_id == category_id)
                assert objects == matches.num_gt[0, k]
                diagonal = [
                    c.count
                    for c in cells
                    if c == replace(c, category_id=category_id) and c.predicted_id == category_id
                ]
                own = kept & (detections.category == k)
                assert sum(diagonal) >= (own & (matches.outcome == Outcome.TP)).sum()
                counted = own & np.isin(matches.outcome, [Outcome.TP, Outcome.FP])
                columns = sum(c.count for c in cells if c.predicted_id == category_id)
                assert columns == counted.sum()
            for cell in cells:
                seen[cell.category_id is None, cell.predicted_id is None] += cell.count
                assert cell.count > 0
    assert seen[True, False]
    assert seen[False, True]
    assert not seen[True, True]


def test_an_object_is_confused_once_and_unless_it_is_found() -> None:
    gt, _ = federated()
    gt["images"][0]["neg_category_ids"] = [2, 3]
    results = [
        row(1, [0, 0, 10, 10], 0.9),
        row(2, [0, 0, 10, 10], 0.8),  # of an object that is found: background
        row(2, [50, 50, 10, 9], 0.7),  # confuses the second object
        row(3, [50, 50, 10, 10], 0.6),  # confuses it, too, with a lower score: background
    ]
    annotations, detections, matches = matched(gt, results)
    found = confusion_matrix(annotations, detections, matches, 0.0)
    assert found == [
        ConfusionCell(1, 1, 1),
        ConfusionCell(1, 2, 1),
        ConfusionCell(None, 2, 1),
        ConfusionCell(None, 3, 1),
    ]
    found = confusion_matrix(annotations, detections, matches, 0.75)
    expected = [ConfusionCell(1, 1, 1), ConfusionCell(1, None, 1), ConfusionCell(None, 2, 1)]
    assert found == expected


# -------------------------------------------------------------------------------- calibration


def test_calibration_equals_a_plain_loop() -> None:
    for seed in range(CASES):
        gt, detections, matches = matched(*random_case(seed))
        rows = calibrations(gt, matches)
        for group in rows:
            members = [
                (float(s), o == Outcome.TP, int(c))
                for s, o, c in zip(
                    detections.score, matches.outcome, detections.category, strict=True
                )
                if o in (Outcome.TP, Outcome.FP) and group.group in ("all", gt.groups[c])
            ]
            assert group.detections == len(members) == sum(group.counts)
            if not members:
                assert (group.ece, group.category_ece, group.score) == (None, None, None)
                continue
            assert group.ece == pytest.approx(plain_ece(members))
            own = [plain_ece([m for m in members if m[2] == c]) for c in {m[2] for m in members}]
            assert group.category_ece == pytest.approx(np.mean(own))
            assert group.precision == pytest.approx(100 * np.mean([m[1] for m in members]))
            assert group.score == pytest.approx(100 * np.mean([m[0] for m in members]))


def plain_ece(members: list[tuple]) -> float:
    error = 0.0
    for b in range(NUM_BINS):
        low, high = b / NUM_BINS, (b + 1) / NUM_BINS
        inside = [m for m in members if low < m[0] <= high or (b == 0 and m[0] == 0)]
        if inside:
            precision, score = np.mean([m[1] for m in inside]), np.mean([m[0] for m in inside])
            error += len(inside) / len(members) * abs(precision - score)
    return 100 * error


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    gt, _ = federated()
    for score in (1.5, -0.1):
        annotations, _, matches = matched(gt, [row(1, [0, 0, 10, 10], score)])
        assert calibrations(annotations, matches) == []


def test_perfect_scores_have_no_calibration_error() -> None:
    gt, _ = federated()
    results = [row(1, [0, 0, 10, 10], 1.0), row(1, [20, 20, 9, 9], 0.0)]
    annotations, _, matches = matched(gt, results)
    every, rare, common, _ = calibrations(annotations, matches)
    assert every.ece == rare.ece == 0
    assert every.bin_precision[0] == 0
    assert every.bin_precision[-1] == 100
    assert (common.detections, common.ece) == (0, None)


# ---------------------------------------------------------------------- class-agnostic recall


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_class_agnostic_recall_equals_cocoeval_s(iou_type: Any) -> None:
    for seed in range(CASES):
        gt, results = random_case(seed, masks=iou_type == "segm", crowded=seed % 10 == 0)
        gt = coco_style(gt)
        for number, annotation in enumerate(gt["annotations"]):
            annotation["iscrowd"] = int(number % 7 == 0)
        # COCOeval breaks ties by category id, this evaluator by the order of the file.
        for items in (results, gt["annotations"]):
            items.sort(key=lambda item: item["category_id"])
        annotations, detections, _ = matched(gt, results, iou_type)
        found = class_agnostic_recall(annotations, detections, iou_type)
        for cap in CAPS:
            _, recall = coco_evaluate(gt, results, iou_type, cap, useCats=0)
            for area, values in zip(("", "s", "m", "l"), recall[:, :, 0], strict=True):
                value = found[f"AR{area}@{cap}"]
                expected = values.mean()
                assert (value is None) == np.isnan(expected), (seed, cap, area)
                if value is not None:
                    assert value == pytest.approx(expected, abs=1e-9), (seed, cap, area)


def test_class_agnostic_recall_takes_every_category_of_a_federated_file() -> None:
    gt, _ = federated()
    gt["annotations"].append(gt["annotations"][0] | {"id": 3, "bbox": [80, 80, 5, 5], "area": 0})
    results = [row(3, [0, 0, 10, 10], 0.9), row(2, [50, 50, 10, 10], 0.8)]
    annotations, detections, _ = matched(gt, results)
    found = class_agnostic_recall(annotations, detections, "bbox")
    assert (found["AR@1"], found["AR@10"], found["ARl@10"]) == (50, 100, None)
