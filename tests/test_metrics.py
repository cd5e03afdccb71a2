"""AP and AR equal the official evaluators' of LVIS and COCO; weights equal repeated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iif.data.annotations import Annotations, load_annotations
from iif.data.results import load_results
from iif.evaluation.matching import Matches, match
from iif.evaluation.metrics import METRICS, average_precision, compute_metrics
from lvis_reference import lvis_evaluate
from random_cases import random_case

CASES = 500


def run(
    folder: Path,
    gt: dict,
    results: list[dict],
    iou_type: str,
    **caps: Any,
) -> tuple[Matches, Annotations]:
    (folder / "gt.json").write_text(json.dumps(gt))
    (folder / "results.json").write_text(json.dumps(results))
    annotations = load_annotations(folder / "gt.json", masks=iou_type == "segm")
    detections = load_results(folder / "results.json", annotations, iou_type=iou_type)
    return match(annotations, detections, iou_type, classify_errors=False, **caps), annotations


def assert_equal_metrics(found: tuple[dict, dict], expected: tuple[dict, dict], seed: int) -> None:
    metrics, per_category = found
    assert list(metrics) == list(METRICS)
    for name, value in expected[0].items():
        assert (metrics[name] is None) == (value is None), f"seed {seed}: {name}"
        if value is not None:
            assert abs(metrics[name] - value) < 1e-9, f"seed {seed}: {name}"
    for name, values in expected[1].items():
        np.testing.assert_allclose(
            per_category[name], values, rtol=0, atol=1e-9, err_msg=f"seed {seed}: {name}"
        )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_metrics_equal_the_official_lvis_evaluator(tmp_path: Path, iou_type: str) -> None:
    for seed in range(CASES):
        gt, results = random_case(seed, masks=iou_type == "segm", crowded=seed % 25 == 0)
        matches, annotations = run(tmp_path, gt, results, iou_type)
        expected = lvis_evaluate(tmp_path / "gt.json", results, iou_type)
        assert_equal_metrics(compute_metrics(matches, annotations), expected, seed)


def test_ap_fixed_equals_the_official_evaluator_on_the_best_of_each_category(
    tmp_path: Path,
) -> None:
    kept = 4
    for seed in range(60):
        gt, results = random_case(seed, crowded=seed % 10 == 0)
        caps = {"max_dets": None, "max_dets_per_category": kept}
        matches, _ = run(tmp_path, gt, results, "bbox", **caps)
        best = sorted(results, key=lambda row: (-row["score"], row["image_id"]))
        category_ids = [category["id"] for category in gt["categories"]]
        best = [
            row for c in category_ids for row in [r for r in best if r["category_id"] == c][:kept]
        ]
        _, expected = lvis_evaluate(tmp_path / "gt.json", best, "bbox", max_dets=-1)
        np.testing.assert_allclose(
            average_precision(matches), expected["AP"], rtol=0, atol=1e-9, err_msg=f"seed {seed}"
        )


def repeated(gt: dict, results: list[dict], weights: dict[int, int]) -> tuple[dict, list[dict]]:
    """The set in which each image stands as often as its weight says, its copies side by side."""
    images, annotations, rows = [], [], []
    for image in gt["images"]:
        for turn in range(weights[image["id"]]):
            copy_id = image["id"] * 10 + turn
            images.append(image | {"id": copy_id})
            annotations += [
                a | {"image_id": copy_id, "id": a["id"] * 10 + turn}
                for a in gt["annotations"]
                if a["image_id"] == image["id"]
            ]
            rows += [r | {"image_id": copy_id} for r in results if r["image_id"] == image["id"]]
    return gt | {"images": images, "annotations": annotations}, rows


@hypothesis_settings(max_examples=60)
@given(seed=st.integers(0, 10_000), draw=st.randoms(use_true_random=False))
def test_weights_stand_for_repeated_images(
    tmp_path_factory: pytest.TempPathFactory, seed: int, draw: Any
) -> None:
    folder = tmp_path_factory.mktemp("repeated")
    gt, results = random_case(seed)
    weights = {image["id"]: draw.randint(0, 3) for image in gt["images"]}
    weights[gt["images"][0]["id"]] = 2  # one image at least is left
    matches, annotations = run(folder, gt, results, "bbox")
    weighted = average_precision(matches, [weights[i] for i in annotations.image_ids.tolist()])
    again, _ = run(folder, *repeated(gt, results, weights), "bbox")
    np.testing.assert_allclose(weighted, average_precision(again), rtol=0, atol=1e-9)


def test_weights_of_one_change_nothing(tmp_path: Path) -> None:
    for seed in range(20):
        gt, results = random_case(seed)
        matches, annotations = run(tmp_path, gt, results, "bbox")
        once = average_precision(matches, np.ones(len(gt["images"]), np.int64))
        np.testing.assert_array_equal(once, average_precision(matches))
        _, per_category = compute_metrics(matches, annotations)
        np.testing.assert_array_equal(once, per_category["AP"])


def test_weights_must_be_whole_numbers(tmp_path: Path) -> None:
    gt, results = random_case(0)
    matches, _ = run(tmp_path, gt, results, "bbox")
    with pytest.raises(ValueError, match="whole numbers"):
        average_precision(matches, np.full(len(gt["images"]), 0.5))


def test_no_detection_at_all_is_ap_zero(tmp_path: Path) -> None:
    for seed in range(20):
        gt, _ = random_case(seed)
        metrics, per_category = compute_metrics(*run(tmp_path, gt, [], "bbox"))
        real = {a["category_id"] for a in gt["annotations"] if a["area"] > 0}
        assert np.isnan(per_category["AP"]).sum() >= len(gt["categories"]) - len(real)
        assert metrics["AP"] in (0, None)
        assert set(per_category["AP"][~np.isnan(per_category["AP"])]) <= {0}


def test_what_has_no_ground_truth_is_undefined(tmp_path: Path) -> None:
    gt, results = random_case(2)
    gt["annotations"] = []
    metrics, per_category = compute_metrics(*run(tmp_path, gt, results, "bbox"))
    assert set(metrics.values()) == {None}
    assert np.isnan(per_category["AR@300"]).all()
