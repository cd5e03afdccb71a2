from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_compare import make_gt, make_results, write
from iif.data.annotations import load_annotations
from iif.data.results import load_results
from iif.evaluation import bootstrap
from iif.evaluation.bootstrap import (
    paired_bootstrap,
    percentile_interval,
    weighted_average_precision,
)
from iif.evaluation.matching import match
from iif.evaluation.metrics import average_precision, compute_metrics


def matched(folder, gt_dict, results, iou_type="bbox"):
    gt = load_annotations(write(folder / "gt.json", gt_dict), masks=iou_type == "segm")
    detections = load_results(write(folder / "results.json", results), gt, iou_type=iou_type)
    return gt, match(gt, detections, iou_type)


def repeated(gt_dict, results, times):
    """The data set and results in which image i, in the order of ids, stands times[i] times."""
    order = sorted(image["id"] for image in gt_dict["images"])
    copies = {}  # a copy's id follows its original's, so that ties keep their order
    for image_id, count in zip(order, times, strict=True):
        copies[image_id] = [100 * image_id + i for i in range(count)]
    out = copy.deepcopy(gt_dict)
    out["images"] = [
        image | {"id": new} for image in gt_dict["images"] for new in copies[image["id"]]
    ]
    out["annotations"] = [
        annotation | {"image_id": new}
        for annotation in gt_dict["annotations"]
        for new in copies[annotation["image_id"]]
    ]
    for number, annotation in enumerate(out["annotations"], start=1):
        annotation["id"] = number
    rows = [row | {"image_id": new} for row in results for new in copies[row["image_id"]]]
    return out, rows


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    iou_type=st.sampled_from(["bbox", "segm"]),
    times=st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(any),
)
def test_weights_are_repetitions(tmp_path_factory, seed, iou_type, times):
    folder = tmp_path_factory.mktemp("case")
    gt_dict = make_gt(seed)
    results = make_results(gt_dict, seed + 1)
    _, matches = matched(folder, gt_dict, results, iou_type)
    weights = np.array(times)
    ap = weighted_average_precision(matches)(weights)
    np.testing.assert_allclose(ap, average_precision(matches, weights), atol=1e-9)

    big_gt, big_matches = matched(folder, *repeated(gt_dict, results, times), iou_type)
    _, per_category = compute_metrics(big_matches, big_gt)
    np.testing.assert_allclose(ap, per_category["AP"], atol=1e-9)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_equal_weights_change_nothing(tmp_path_factory, seed):
    gt_dict = make_gt(seed)
    gt, matches = matched(tmp_path_factory.mktemp("case"), gt_dict, make_results(gt_dict, seed))
    evaluate = weighted_average_precision(matches)
    once, often = (evaluate(np.full(len(gt.image_ids), n)) for n in (1, 300))
    np.testing.assert_allclose(once, often, rtol=1e-12)
    np.testing.assert_allclose(once, compute_metrics(matches, gt)[1]["AP"], atol=1e-9)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    gt_dict = make_gt(3, images=30)
    gt, a = matched(folder, gt_dict, make_results(gt_dict, 1, quality=0.5))
    _, b = matched(folder, gt_dict, make_results(gt_dict, 2, quality=0.9))
    return gt, a, b


def draw(gt, *runs, **options):
    return paired_bootstrap(runs, gt.groups, len(gt.image_ids), **options)


def test_a_run_against_itself_never_differs(two_runs):
    gt, a, _ = two_runs
    first, second = draw(gt, a, a, replicates=50)
    np.testing.assert_array_equal(first, second)
    assert first[:, 0].std() > 0


def test_seed_decides_all(two_runs, monkeypatch):
    gt, a, b = two_runs
    first = draw(gt, a, b, replicates=20, seed=4)
    monkeypatch.setattr(bootstrap, "NUM_THREADS", 1)
    np.testing.assert_array_equal(first, draw(gt, a, b, replicates=20, seed=4))
    assert not np.array_equal(first, draw(gt, a, b, replicates=20, seed=5), equal_nan=True)


def test_groups_are_means_over_their_categories(two_runs):
    gt, a, _ = two_runs
    rng = np.random.default_rng(7)
    num_images = len(gt.image_ids)
    weights = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
    ap = average_precision(a, weights)
    expected = [np.nanmean(ap), *(np.nanmean(ap[gt.groups == g]) for g in "rcf")]
    np.testing.assert_allclose(draw(gt, a, replicates=1, seed=7)[0, 0], expected, atol=1e-9)


def test_a_group_without_categories_is_undefined(two_runs):
    gt, a, _ = two_runs
    frequency = np.where(gt.groups == "r", "c", gt.groups)
    out = paired_bootstrap([a], frequency, len(gt.image_ids), replicates=3)
    assert np.isnan(out[0, :, 1]).all()
    assert not np.isnan(out[0, :, 0]).any()
    assert percentile_interval(out[0, :, 1]) is None


def test_percentile_interval_leaves_undefined_replicates_out():
    values = np.concatenate([np.arange(1001.0), [np.nan] * 5])
    assert percentile_interval(values) == (25.0, 975.0)


def test_intervals_cover_the_population_difference(tmp_path):
    """95% intervals from samples of a population hold its true difference about that often."""
    rng = np.random.default_rng(0)
    population = make_gt(0, images=600, categories=3, masks=False)
    results = [
        make_results(population, 10 + i, quality=quality, extra=2, masks=False)
        for i, quality in enumerate((0.55, 0.7))
    ]
    whole = [matched(tmp_path, population, rows)[1] for rows in results]
    truth = np.subtract(*(np.nanmean(average_precision(m)) for m in whole[::-1]))
    ids = np.array([image["id"] for image in population["images"]])
    covered = 0
    repeats = 40
    for _ in range(repeats):
        chosen = set(rng.choice(ids, 60, replace=False).tolist())
        sample = population | {
            "images": [i for i in population["images"] if i["id"] in chosen],
            "annotations": [a for a in population["annotations"] if a["image_id"] in chosen],
        }
        runs = []
        for rows in results:
            gt, m = matched(tmp_path, sample, [r for r in rows if r["image_id"] in chosen])
            runs.append(m)
        replicates = draw(gt, *runs, replicates=200)
        low, high = percentile_interval(replicates[1, :, 0] - replicates[0, :, 0])
        covered += low <= truth <= high
    # Binomial(40, 0.95) is below 33 once in a thousand; narrow intervals would be far below.
    assert covered >= 33
    assert covered < repeats or high - low < 30
