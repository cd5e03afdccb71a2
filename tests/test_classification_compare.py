"""Comparison of classification runs: intervals, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_predictions import make_predictions, make_statistics, write_pair, write_run
from iif import ClassStatistics, InputError
from iif.classification import Predictions, evaluate_predictions, write_evaluation
from iif.evaluation.bootstrap import percentile_interval
from iif.evaluation.classification.bootstrap import (
    MEASURES,
    contributions,
    paired_bootstrap,
    resampled_weights,
)
from iif.evaluation.classification.compare import (
    METRICS,
    are_classifications,
    compare_classifications,
    value_of,
)
from iif.evaluation.classification.measures import frequency_groups
from iif.evaluation.compare import Interval, compare


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A baseline and a run that leans less to frequent classes; never written to."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def runs(pair, tmp_path):
    """Copies to write to."""
    return [shutil.copytree(run, tmp_path / run.name) for run in pair]


def edit(run, change):
    path = run / "inference" / "eval_summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def random_predictions(seed):
    rng = np.random.default_rng(seed)
    classes, images = int(rng.integers(2, 12)), int(rng.integers(1, 60))
    counts = rng.choice([1, 19, 20, 100, 101, 700], size=classes)
    made = Predictions.from_logits(
        rng.normal(size=(images, classes)), rng.integers(classes, size=images), ["x"] * images
    )
    return made, ClassStatistics(image_count=counts, num_images=int(counts.sum()))


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000))
def test_contributions_sum_to_the_measures(seed):
    made, statistics = random_predictions(seed)
    summary = evaluate_predictions(made, statistics)
    sums = contributions(made, frequency_groups(statistics.image_count)).sum(axis=0)
    for metric, total in zip(MEASURES, sums, strict=True):
        expected = value_of(summary, metric)
        assert total == pytest.approx(np.nan if expected is None else expected, nan_ok=True), metric


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000))
def test_weights_are_repetitions(seed):
    made, statistics = random_predictions(seed)
    rng = np.random.default_rng(seed)
    drawn = np.arange(len(made))
    for label in np.unique(made.labels):
        rows = np.flatnonzero(made.labels == label)
        drawn[rows] = rng.choice(rows, len(rows))
    again = Predictions(
        made.labels[drawn], made.top[drawn], made.probability[drawn], made.images, made.num_classes
    )
    summary = evaluate_predictions(again, statistics)
    weights = np.bincount(drawn, minlength=len(made))
    sums = weights @ contributions(made, frequency_groups(statistics.image_count))
    expected = [value_of(summary, metric) for metric in MEASURES]
    np.testing.assert_allclose(sums, [np.nan if v is None else v for v in expected], atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_weights_keep_the_size_of_each_class(seed):
    made, _ = random_predictions(seed)
    drawn = list(resampled_weights(made.labels, 120, np.random.default_rng(seed)))
    assert [len(batch) for batch in drawn] == [50, 50, 20]
    sizes = np.bincount(made.labels)
    for row in np.concatenate(drawn):
        np.testing.assert_allclose(np.bincount(made.labels, row), sizes)


def test_variance_is_that_of_the_mean():
    # Two classes of three images: n draws instead of n - 1 would give two thirds of it.
    made = Predictions.from_logits(
        np.array([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 0], [1, 0]]), [0, 0, 0, 1, 1, 1], ["x"] * 6
    )
    drawn = paired_bootstrap([made], np.array(["many", "few"]), replicates=20_000)[0]
    column = drawn[:, MEASURES.index("many")]
    assert column.mean() == pytest.approx(200 / 3, abs=1)
    expected = 100**2 * (2 / 3) * (1 / 3) / 2  # p (1 - p) / (n - 1)
    assert column.var() == pytest.approx(expected, rel=0.05)
    # One image a class: nothing to draw from.
    single = Predictions.from_logits(np.eye(2), [0, 1], ["x"] * 2)
    drawn = paired_bootstrap([single], np.array(["many", "few"]), replicates=10)[0]
    assert drawn[:, 0].std() == 0


def test_a_run_against_itself_never_differs_and_the_seed_decides_all():
    statistics = make_statistics()
    made, other = make_predictions(statistics), make_predictions(statistics, bias=0.1)
    groups = frequency_groups(statistics.image_count)
    first, second = paired_bootstrap([made, made], groups, replicates=60, seed=3)
    np.testing.assert_array_equal(first, second)
    assert first[:, 0].std() > 0
    # The draws do not depend on the runs.
    again = paired_bootstrap([other, made], groups, replicates=60, seed=3)[1]
    np.testing.assert_allclose(again, first)
    assert not np.allclose(paired_bootstrap([made], groups, replicates=60, seed=4)[0], first)


def test_a_group_without_classes_is_undefined():
    statistics = make_statistics(12, largest=500, imbalance=1)
    made = make_predictions(statistics)
    drawn = paired_bootstrap([made], frequency_groups(statistics.image_count), replicates=5)[0]
    for metric in ("few", "per_1000_few", "medium"):
        assert np.isnan(drawn[:, MEASURES.index(metric)]).all()
    assert (drawn[:, MEASURES.index("false_positives_few")] == 0).all()


def test_intervals_cover_the_difference_of_a_population():
    """95% intervals from samples of a few images a class hold the true difference that often."""
    statistics = make_statistics(20)
    groups = frequency_groups(statistics.image_count)
    whole = [make_predictions(statistics, per_class=400, bias=bias) for bias in (0.9, 0.3)]
    truth = contributions(whole[1], groups).sum(0) - contributions(whole[0], groups).sum(0)
    rng = np.random.default_rng(0)
    repeats, per_class = 120, 12
    columns = [MEASURES.index(m) for m in ("top1", "many", "medium", "few", "mean_class")]
    fp = MEASURES.index("false_positives_many")
    truth[fp] *= per_class / 400
    columns.append(fp)
    covered = np.zeros(len(columns))
    for _ in range(repeats):
        rows = np.concatenate(
            [k * 400 + rng.choice(400, per_class, replace=False) for k in range(20)]
        )
        sample = [
            Predictions(p.labels[rows], p.top[rows], p.probability[rows], ["x"] * len(rows), 20)
            for p in whole
        ]
        drawn = paired_bootstrap(sample, groups, replicates=300)
        for place, column in enumerate(columns):
            low, high = percentile_interval(drawn[1, :, column] - drawn[0, :, column])
            covered[place] += low <= truth[column] <= high
    # Binomial(120, 0.95) is below 105 once in a thousand; percentile intervals are a little short.
    assert (covered >= 102).all(), covered
    assert covered.mean() < 120


def test_comparison_of_two_runs(pair):
    comparison = compare_classifications(pair, bootstrap=200)
    assert comparison.names == ["baseline", "adjusted"]
    assert [row.metric for row in comparison.metrics] == list(METRICS)
    assert comparison.notes == []
    a, b = (run.summary for run in comparison.runs)
    for row in comparison.metrics:
        assert row.values == [value_of(a, row.metric), value_of(b, row.metric)]
        assert row.differences == [pytest.approx(row.values[1] - row.values[0])]
        (interval,) = row.difference_intervals
        if row.metric == "ece":
            assert interval is None
            continue
        assert interval.low < row.differences[0] < interval.high
        for value, own in zip(row.values, row.intervals, strict=True):
            assert own.low <= value <= own.high
    assert comparison.metric("few").difference_intervals[0].low > 0
    assert comparison.metric("false_positives_few").difference_intervals[0].low > 0
    assert comparison.metric("false_positives_many").difference_intervals[0].high < 0
    counts = [sum(row.counts) for row in comparison.confusions]
    assert counts == sorted(counts, reverse=True)
    for run in (0, 1):
        errors = sum(row.counts[run] for row in comparison.confusions)
        assert errors == (a, b)[run].group("all").false_positives


def test_runs_that_differ_outside_a_group_do_not_differ_in_it(tmp_path):
    statistics = make_statistics()
    plain = make_predictions(statistics)
    top = plain.top.copy()
    many = np.flatnonzero(frequency_groups(statistics.image_count)[plain.labels] == "many")
    top[many] = top[many][:, [1, 0, 2, 3, 4]]
    other = Predictions(plain.labels, top, plain.probability, plain.images, 30)
    for name, made in (("a", plain), ("b", other)):
        write_evaluation(tmp_path / name, made, statistics)
    comparison = compare_classifications([tmp_path / "a", tmp_path / "b"], bootstrap=100)
    for metric in ("medium", "few", "top5"):
        assert comparison.metric(metric).difference_intervals == [Interval(0, 0)]


def test_one_run_alone(pair):
    comparison = compare_classifications(pair[:1], bootstrap=50)
    row = comparison.metric("top1")
    assert (row.differences, row.difference_intervals) == ([], [])
    assert row.intervals[0] is not None


def test_missing_predictions_leave_intervals_out(runs):
    (runs[1] / "inference" / "predictions.npz").unlink()
    comparison = compare_classifications(runs)
    assert comparison.replicates == 0
    assert comparison.metric("top1").difference_intervals == [None]
    (note,) = comparison.notes
    assert "no intervals" in note
    assert "adjusted" in note
    assert "turned off" in compare_classifications(runs[:1], bootstrap=0).notes[0]


def test_notes(pair, tmp_path):
    statistics = make_statistics()
    counts = statistics.image_count.copy()
    counts[0] += 1
    more = statistics.replace(image_count=counts, num_images=statistics.num_images + 1)
    other = write_run(tmp_path / "more", statistics=more)
    (note,) = compare_classifications([pair[0], other], bootstrap=0).notes[:1]
    total = statistics.num_images
    assert f"different numbers of images ({total:,} and {total + 1:,})" in note
    three = compare_classifications([pair[0], other, pair[1]], bootstrap=0)
    assert sum("different numbers" in note for note in three.notes) == 1
    same = compare_classifications([pair[0], pair[0]], names=["a", "b"], bootstrap=0)
    assert "a and b have the same predictions." in same.notes


def test_other_test_sets_and_classes_are_refused(pair, tmp_path):
    def refused(run, message):
        with pytest.raises(InputError, match=message):
            compare_classifications([pair[0], run], bootstrap=0)

    plain = make_statistics()
    refused(
        write_run(tmp_path / "a", per_class=21),
        "the number of test images is 600 in baseline and 630 in a; evaluate both on the same test",
    )
    refused(write_run(tmp_path / "b", statistics=make_statistics(29)), "number of classes is 30")
    names = [*plain.names[:-1], "other"]
    renamed = write_run(tmp_path / "c", statistics=plain.replace(names=names))
    refused(renamed, "class 29 is 'class 29' .* and 'other'")
    swapped = write_run(
        tmp_path / "d", statistics=plain.replace(image_count=plain.image_count[::-1])
    )
    refused(swapped, "the group of class .* is many in baseline and few in d; .*same training set")


def test_other_images_are_refused(runs):
    edit(runs[1], lambda s: s["test_set"].update(sha256="0" * 64))
    with pytest.raises(InputError, match=r"the test set is simulated \(sha256 .*same order"):
        compare_classifications(runs, bootstrap=0)


def test_foreign_predictions_are_refused(runs):
    a, b = (run / "inference" / "predictions.npz" for run in runs)
    shutil.copy(a, b)
    with pytest.raises(InputError, match=r"predictions\.npz does not belong to the eval_summary"):
        compare_classifications(runs)


def test_kinds_are_told_apart(pair, tmp_path):
    detection = tmp_path / "detection"
    detection.mkdir()
    (detection / "eval_summary.json").write_text('{"format": "iif-eval-summary/1"}')
    assert are_classifications(pair)
    assert not are_classifications([detection])
    with pytest.raises(InputError, match=r"of detection .*cannot be compared; give runs of one"):
        are_classifications([detection, pair[0]])
    with pytest.raises(InputError, match="expected 'iif-eval-summary/1'"):
        compare([pair[0], detection])
    with pytest.raises(InputError, match="expected 'iif-classification-summary/1'"):
        compare_classifications([detection])
    broken = tmp_path / "eval_summary.json"
    broken.write_text('{"format": "other/9"}')
    with pytest.raises(InputError, match=r"format is 'other/9', expected one of"):
        are_classifications([broken])
