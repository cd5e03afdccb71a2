"""Boundary AP: the definition, and the figures of boundary-iou-api."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from iif.data.annotations import load_annotations
from iif.data.columns import detections_of
from iif.evaluation.boundary import (
    _Window,
    boundary_distance,
    boundary_of,
    match_boundaries,
)
from iif.evaluation.matching import match
from iif.evaluation.metrics import average_precision, precision_and_recall
from random_cases import random_case
from tide_cases import _shape, federated_mask_case, mask_case

# AP and AR by category in percent, of `mask_case`, by COCOeval(gt, dt, "boundary") of
# github.com/bowenc0221/boundary-iou-api (commit 37d2558) with params.maxDets = [1, 10, 300] and
# get_boundary=True; the first annotation of seeds 4 and 5 is a crowd. Written once.
EXPECTED = {
    0: ([1.5965346535, 1.6619519095, 1.226199543], [4.2857142857, 7.1428571429, 5.5555555556]),
    1: ([4.4554455446, 0.5610561056, 0.0], [4.2857142857, 3.3333333333, 0.0]),
    2: ([0.0, 3.503850385, 4.504950495], [0.0, 7.5, 17.5]),
    3: ([5.5643564356, 0.6435643564, 0.0], [7.1428571429, 1.25, 0.0]),
    4: ([0.0, 2.8147100424, 2.6025459689], [0.0, 12.8571428571, 10.7692307692]),
    5: ([0.0, 8.4158415842, 0.0], [0.0, 8.3333333333, 0.0]),
}
# The same of `federated_mask_case`, by the repository's LVISEval(gt, dt, "boundary").
EXPECTED_FEDERATED = {
    0: ([1.5965346535, 2.9207920792, 1.226199543], [4.2857142857, 7.1428571429, 5.5555555556]),
    1: ([4.4554455446, 1.1221122112, 0.0], [4.2857142857, 3.3333333333, 0.0]),
    2: ([0.0, 3.5396039604, 4.504950495], [0.0, 7.5, 17.5]),
    3: ([5.5643564356, 1.2871287129, 0.0], [7.1428571429, 1.25, 0.0]),
}


@pytest.mark.parametrize("seed", EXPECTED_FEDERATED)
def test_federated_boundary_ap_is_boundary_iou_api_s(seed: int) -> None:
    gt, results = federated_mask_case(seed)
    annotations = load_annotations(gt, masks=True)
    assert not annotations.exhaustive
    detections, _ = detections_of(results, annotations, ["segm"])
    precision, recall = precision_and_recall(match_boundaries(annotations, detections))
    ap, ar = EXPECTED_FEDERATED[seed]
    np.testing.assert_allclose(precision[0].mean(axis=0), ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(recall[0].mean(axis=0), ar, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", EXPECTED)
def test_boundary_ap_is_boundary_iou_api_s(seed: int) -> None:
    gt, results = mask_case(seed)
    gt["annotations"][0]["iscrowd"] = int(seed > 3)
    annotations = load_annotations(gt, masks=True)
    detections, _ = detections_of(results, annotations, ["segm"])
    matches = match_boundaries(annotations, detections)
    precision, recall = precision_and_recall(matches)
    ap, ar = EXPECTED[seed]
    np.testing.assert_allclose(precision[0].mean(axis=0), ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(recall[0].mean(axis=0), ar, rtol=0, atol=1e-9)
    assert (average_precision(match(annotations, detections, "segm")) > ap).any()


def test_a_boundary_is_mask_without_its_erosion() -> None:
    """Sizes by mask_to_boundary of boundary-iou-api, at 2% of the diagonal."""
    mask = _shape([-10, 20, 70, 50], ellipse=True)
    full = np.ones((100, 100), np.uint8)
    for pixels, size in ((mask, 624), (mask[:30, :40].copy(), 96), (full, 1164)):
        assert boundary_of(pixels, boundary_distance(*pixels.shape)).sum() == size
    square = np.zeros((9, 9), np.uint8)
    square[2:8, 2:8] = 1
    expected = square.copy()
    expected[3:7, 3:7] = 0
    assert (boundary_of(square, 1) == expected).all()
    assert (boundary_distance(10, 10), boundary_distance(480, 640)) == (1, 16)


def test_windows_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        height, width = rng.integers(1, 60, 2)
        masks = []
        for _ in range(2):
            mask = (rng.random((height, width)) < rng.choice([0.05, 0.5, 1.0])).astype(np.uint8)
            mask[: rng.integers(height), :] = 0
            mask[rng.integers(height), rng.integers(width)] = 1
            masks.append(mask)
        distance = 1 + number % 3
        windows = [
            _Window.of(mask_utils.encode(np.asfortranarray(mask)), distance) for mask in masks
        ]
        whole = [
            mask_utils.encode(np.asfortranarray(boundary_of(mask, distance))) for mask in masks
        ]
        assert [w.size for w in windows] == mask_utils.area(whole).tolist()
        assert windows[0].iou(windows[1]) == mask_utils.iou(whole[:1], whole[1:], [0])[0, 0]


def test_federated_masks_lose_by_their_boundary_and_never_gain() -> None:
    lower = 0
    for seed in range(15):
        gt, results = random_case(seed, masks=True)
        annotations = load_annotations(gt, masks=True)
        detections, _ = detections_of(results, annotations, ["segm"])
        plain = match(annotations, detections, "segm")
        strict = match_boundaries(annotations, detections)
        assert (strict.num_gt == plain.num_gt).all()
        np.testing.assert_array_equal(strict.rows, plain.rows)
        lower += (average_precision(strict) < average_precision(plain)).sum()
    assert lower > 5


def test_an_exact_mask_keeps_its_overlap() -> None:
    gt, results = mask_case(0)
    gt["annotations"] = gt["annotations"][:1]
    mask = gt["annotations"][0]
    results = [{k: mask[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.5}]
    annotations = load_annotations(gt, masks=True)
    detections, _ = detections_of(results, annotations, ["segm"])
    assert mask_utils.area(annotations.rle(0)) > 0
    ap = average_precision(match_boundaries(annotations, detections))
    assert np.nanmax(ap) == pytest.approx(100)
