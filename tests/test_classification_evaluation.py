"""Accuracy, false positives and calibration of a classifier."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_predictions import make_predictions, make_statistics
from iif import ClassStatistics, InputError
from iif.classification import Predictions, evaluate_predictions, write_evaluation
from iif.evaluation.classification.measures import frequency_groups, reliability
from iif.evaluation.classification.summary import read_classification_summary
from iif.evaluation.summary_file import read_summary


def statistics_of(counts):
    return ClassStatistics(image_count=counts, num_images=max(1, sum(counts)))


def first_choice(labels, predicted, classes, confidence=0.9):
    """Predictions whose first class and its probability are given."""
    rest = (1 - confidence) / (classes - 1)
    probabilities = np.full((len(labels), classes), rest)
    probabilities[np.arange(len(labels)), predicted] = confidence
    return Predictions.from_logits(
        np.log(probabilities), np.array(labels), [str(i) for i in range(len(labels))]
    )


def test_group_limits():
    counts = np.array([101, 100, 20, 19, 0])
    assert frequency_groups(counts).tolist() == ["many", "medium", "medium", "few", "few"]


def test_values_by_hand():
    # Classes 0 (many) and 1 (medium), 2 and 3 (few); class 3 has no test image.
    statistics = statistics_of([200, 50, 10, 5])
    labels = [0, 0, 0, 0, 1, 1, 2, 2, 2]
    chosen = [0, 0, 0, 1, 0, 1, 0, 0, 3]
    summary = evaluate_predictions(first_choice(labels, chosen, 4), statistics)
    assert summary.metrics["top1"] == pytest.approx(100 * 4 / 9)
    assert summary.metrics["many"] == 75
    assert summary.metrics["medium"] == 50
    assert summary.metrics["few"] == 0
    assert summary.metrics["mean_class"] == pytest.approx((75 + 50 + 0) / 3)
    assert summary.metrics["top5"] is None  # four classes: always right
    # Five of nine are wrong at a confidence of 0.9.
    assert summary.metrics["ece"] == pytest.approx(100 * (0.9 - 4 / 9), abs=1e-4)
    rows = summary.per_class
    assert [r.accuracy for r in rows] == [75, 50, 0, None]
    assert [r.precision for r in rows] == [50, 50, None, 0]
    assert [r.false_positives for r in rows] == [3, 1, 0, 1]
    assert [r.predicted for r in rows] == [6, 2, 0, 1]
    assert [r.num_test for r in rows] == [4, 2, 3, 0]
    assert [r.group for r in rows] == ["many", "medium", "few", "few"]
    few = summary.group("few")
    assert (few.classes, few.test_images, few.training_images) == (2, 3, 15)
    assert (few.predicted, few.false_positives, few.false_share) == (1, 1, 100)
    # No false positive of class 2 among 6 images of others, one of class 3 among 9.
    assert few.per_1000 == pytest.approx((0 + 1000 / 9) / 2)
    many = summary.group("many")
    assert many.false_share == 50
    assert many.per_1000 == pytest.approx(3000 / 5)
    assert summary.group_errors == [[0, 1, 0], [1, 0, 0], [2, 0, 1]]
    assert summary.confusions == [(2, 0, 2), (0, 1, 1), (1, 0, 1), (2, 3, 1)]


def test_an_empty_group_is_undefined():
    summary = evaluate_predictions(first_choice([0, 1], [0, 0], 2), statistics_of([500, 400]))
    assert summary.metrics["medium"] is None
    assert summary.metrics["few"] is None
    few = summary.group("few")
    assert (few.classes, few.accuracy, few.false_share, few.per_1000, few.ece) == (
        0, None, None, None, None,
    )  # fmt: skip
    assert set(few.bins.accuracy) == {None}


def test_top5_counts_the_fifth_and_not_the_sixth():
    logits = np.tile(-np.arange(7.0), (7, 1))
    made = Predictions.from_logits(logits, np.arange(7), [str(i) for i in range(7)])
    summary = evaluate_predictions(made, statistics_of([50] * 7))
    assert summary.metrics["top5"] == pytest.approx(100 * 5 / 7)


def test_bins_include_their_upper_end():
    confidence = np.array([1 / 15, 2 / 15, 2 / 15 + 1e-9, 1.0])
    bins = reliability(confidence, np.array([True, True, False, False]))
    assert bins.count.tolist() == [1, 1, 1, *[0] * 11, 1]
    assert bins.accuracy[:3].tolist() == [1, 1, 0]
    assert np.isnan(bins.accuracy[3])
    expected = (14 / 15 + 13 / 15 + 2 / 15 + 1.0) / 4
    assert bins.error == pytest.approx(expected, abs=1e-6)


def test_a_calibrated_classifier_has_no_error_in_any_group():
    # Groups are of the predicted class: by the true class the few would look overconfident.
    classes = 30
    statistics = make_statistics(classes)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60_000, classes)) * 2
    logits += 0.5 * np.log(statistics.image_count)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probability.cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    made = Predictions.from_logits(logits, labels, [str(i) for i in range(len(labels))])
    summary = evaluate_predictions(made, statistics)
    assert summary.metrics["ece"] < 1
    assert all(row.ece < 5 for row in summary.groups)
    few = np.isin(labels, np.flatnonzero(frequency_groups(statistics.image_count) == "few"))
    assert 100 * (made.probability[few, 0].mean() - (made.top[few, 0] == labels[few]).mean()) > 10


cases = st.integers(0, 10_000).map(np.random.default_rng)


def random_case(rng):
    classes = int(rng.integers(2, 12))
    images = int(rng.integers(1, 60))
    counts = rng.choice([1, 5, 19, 20, 60, 100, 101, 700], size=classes)
    labels = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) * 2
    return logits, labels, counts.tolist()


def evaluated(logits, labels, counts):
    made = Predictions.from_logits(logits, labels, [str(i) for i in range(len(labels))])
    return made, evaluate_predictions(made, statistics_of(counts))


@settings(deadline=None, max_examples=100)
@given(rng=cases)
def test_against_plain_loops(rng):
    logits, labels, counts = random_case(rng)
    made, summary = evaluated(logits, labels, counts)
    predicted = [max(range(len(counts)), key=lambda c, row=row: row[c]) for row in logits]
    for c, row in enumerate(summary.per_class):
        own = [p for p, y in zip(predicted, labels, strict=True) if y == c]
        into = [y for p, y in zip(predicted, labels, strict=True) if p == c]
        assert row.num_test == len(own)
        assert row.predicted == len(into)
        assert row.false_positives == sum(y != c for y in into)
        assert row.accuracy == (pytest.approx(100 * own.count(c) / len(own)) if own else None)
        assert row.precision == (
            pytest.approx(100 * sum(y == c for y in into) / len(into)) if into else None
        )
    for group, low, high in (("many", 101, 10**9), ("medium", 20, 100), ("few", 0, 19)):
        chosen = [c for c, n in enumerate(counts) if low <= n <= high]
        defined = [a for c in chosen if (a := summary.per_class[c].accuracy) is not None]
        expected = pytest.approx(sum(defined) / len(defined)) if defined else None
        assert summary.metrics[group] == expected
    pairs = {}
    for p, y in zip(predicted, labels.tolist(), strict=True):
        if p != y:
            pairs[y, p] = pairs.get((y, p), 0) + 1
    assert {(y, p): n for y, p, n in summary.confusions} == pairs
    error, bins = 0.0, {}
    for p, y, confidence in zip(predicted, labels, made.probability[:, 0].tolist(), strict=True):
        place = next(b for b in range(15) if confidence <= (b + 1) / 15 or b == 14)
        bins.setdefault(place, []).append((p == y, confidence))
    for content in bins.values():
        hits, confidences = zip(*content, strict=True)
        error += abs(sum(hits) - sum(confidences)) / len(labels)
    assert summary.metrics["ece"] == pytest.approx(100 * error, abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(rng=cases)
def test_sums_agree(rng):
    _, summary = evaluated(*random_case(rng))
    rows = summary.per_class
    total = summary.test_set.num_images
    hits = sum(row.num_test * row.accuracy / 100 for row in rows if row.num_test)
    assert summary.metrics["top1"] == pytest.approx(100 * hits / total)
    errors = round(total * (1 - summary.metrics["top1"] / 100))
    assert sum(row.false_positives for row in rows) == errors
    assert sum(count for _, _, count in summary.confusions) == errors
    assert np.sum(summary.group_errors) == errors
    assert summary.group("all").false_positives == errors
    columns = np.sum(summary.group_errors, axis=0).tolist()
    assert [summary.group(g).false_positives for g in ("many", "medium", "few")] == columns
    assert all(sum(row.bins.count) == row.predicted for row in summary.groups)


@settings(deadline=None, max_examples=100)
@given(rng=cases)
def test_calibration_error_is_at_least_the_gap_of_the_means(rng):
    made, summary = evaluated(*random_case(rng))
    gap = abs(100 * made.probability[:, 0].astype(float).mean() - summary.metrics["top1"])
    assert gap - 1e-4 <= summary.metrics["ece"] <= 100


@settings(deadline=None, max_examples=50)
@given(rng=cases)
def test_the_numbering_of_classes_does_not_matter(rng):
    logits, labels, counts = random_case(rng)
    order = rng.permutation(len(counts))  # new class k is the old class order[k]
    _, before = evaluated(logits, labels, counts)
    _, after = evaluated(logits[:, order], np.argsort(order)[labels], [counts[c] for c in order])
    assert after.metrics == pytest.approx(before.metrics)
    assert after.group_errors == before.group_errors
    for new, old in zip(after.per_class, [before.per_class[c] for c in order], strict=True):
        assert (new.accuracy, new.precision, new.false_positives) == (
            old.accuracy, old.precision, old.false_positives,
        )  # fmt: skip


def test_files_of_an_evaluation(tmp_path):
    statistics = make_statistics()
    predictions = make_predictions(statistics)
    folder = tmp_path / "run" / "inference"
    config = {"epochs": 3}
    summary = write_evaluation(folder, predictions, statistics, dataset_name="d", config=config)
    read = read_classification_summary(folder / "eval_summary.json")
    assert read == summary
    assert read.predictions.file == "predictions.npz"
    assert (read.test_set.sha256, read.config) == (predictions.sha256, config)
    assert {"iif", "numpy"} <= read.versions.keys()
    assert Predictions.load(folder / "predictions.npz").sha256 == predictions.sha256
    other = statistics.replace(image_count=statistics.image_count[::-1])
    again = evaluate_predictions(predictions, other)
    assert again.training.sha256 != read.training.sha256
    moved = evaluate_predictions(predictions, statistics.replace(source="elsewhere"))
    assert moved.training.sha256 == read.training.sha256


def test_faults_are_refused(tmp_path):
    predictions = make_predictions(make_statistics(30))
    with pytest.raises(InputError, match=r"30 classes, made for a test has 29"):
        write_evaluation(tmp_path / "inference", predictions, make_statistics(29))
    assert not (tmp_path / "inference").exists()
    path = tmp_path / "eval_summary.json"
    path.write_text(json.dumps({"format": "iif-eval-summary/1"}))
    with pytest.raises(InputError, match=r"'iif-eval-summary/1', expected 'iif-classification"):
        read_classification_summary(path)
    path.write_text(json.dumps({"format": "iif-classification-summary/1"}))
    with pytest.raises(InputError, match=r"expected 'iif-eval-summary/1'"):
        read_summary(path)
    with pytest.raises(InputError, match="not the summary of a classification run"):
        read_classification_summary(path)
