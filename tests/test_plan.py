"""The plan of a data set: counts, groups, families, balance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from iif import ClassStatistics
from iif.demo.kinds import choose_kinds
from iif.demo.plan import (
    OpenMojiSettings,
    group_of,
    plan_images,
    spread,
    training_counts,
)


def shown(plans, split, categories):
    """The number of images of a split that are annotated with each category."""
    rows = [p.category for plan in plans if plan.split == split for p in plan.pairs if p.annotated]
    return np.bincount(rows, minlength=categories)


@pytest.mark.parametrize(("categories", "train"), [(60, 1000), (1203, 20_000), (40, 600)])
def test_counts_fall_by_a_power_law_with_all_of_lvis_groups(categories, train):
    counts = training_counts(categories, train)
    assert (np.diff(counts) <= 0).all()
    assert counts.min() == 1
    groups = Counter(ClassStatistics(image_count=counts, num_images=train).groups.tolist())
    assert min(groups[g] for g in "rcf") >= categories // 10
    assert counts.max() < train / 2  # every variant's weights are positive
    free = (counts > 20) & (counts < counts.max())
    rank = np.flatnonzero(free) + 1 + categories / 4
    fit = np.polyfit(np.log(rank), np.log(counts[free]), 1)
    assert np.corrcoef(np.log(rank), np.log(counts[free]))[0, 1] < -0.999
    assert fit[0] == pytest.approx(-3.8, abs=0.15)


@pytest.mark.parametrize("train", [225, 240, 300, 1000, 20_000, 100_000])
@pytest.mark.parametrize("categories", [3, 4, 7, 12, 40, 200, 1203])
def test_all_groups_wherever_the_images_allow_it(categories, train):
    counts = training_counts(categories, train)
    assert {group_of(count) for count in counts.tolist()} == {"r", "c", "f"}
    assert (np.diff(counts) <= 0).all()
    assert counts.sum() <= 6 * train
    assert counts.max() < train / 2


@pytest.mark.parametrize(("categories", "train"), [(2, 1000), (40, 10), (12, 40), (60, 224)])
def test_a_smaller_set_is_planned_all_the_same(categories, train):
    counts = training_counts(categories, train)
    assert counts.min() >= 1
    assert counts.sum() <= 6 * train
    settings = OpenMojiSettings(categories, train, 30)
    plans = plan_images(settings, ["a"] * categories)
    assert sorted(shown(plans, "train", categories)) == sorted(counts)


def test_groups_are_lvis():
    assert [group_of(n) for n in (1, 10, 11, 100, 101)] == ["r", "r", "c", "c", "f"]


@pytest.mark.parametrize("seed", range(5))
def test_frequency_does_not_follow_from_the_family(seed):
    families = [kind.family for kind in choose_kinds(40)]
    settings = OpenMojiSettings(seed=seed)
    counts = shown(plan_images(settings, families), "train", 40)
    groups = np.array([group_of(count) for count in counts.tolist()])
    for family in set(families):
        found = Counter(groups[np.array(families) == family].tolist())
        assert found["f"] == 2
        assert found["c"] in (3, 4)
        assert found["r"] in (4, 5)


def test_which_member_of_a_family_is_frequent_is_chance():
    counts = np.arange(40, 0, -1)
    families = ["a"] * 10 + ["b"] * 30
    dealt = [spread(counts, families, np.random.default_rng(seed)) for seed in range(30)]
    assert all(sorted(one) == sorted(counts) for one in dealt)
    assert len({int(one.argmax()) for one in dealt}) > 10


def test_validation_is_balanced_and_training_is_not():
    settings = OpenMojiSettings(categories=30, train=120, val=40, seed=3)
    plans = plan_images(settings, [kind.family for kind in choose_kinds(30)])
    assert set(shown(plans, "val", 30)) == {4}
    train = shown(plans, "train", 30)
    assert sorted(train, reverse=True) == training_counts(30, 120).tolist()
    assert train.max() > 5 * np.median(train)
    # The rank must not follow from the id.
    rank = np.argsort(np.argsort(-train))
    assert abs(np.corrcoef(rank, np.arange(30))[0, 1]) < 0.5
    assert [plan.image_id for plan in plans] == list(range(1, 161))


def test_no_image_is_crowded():
    plans = plan_images(OpenMojiSettings(), [kind.family for kind in choose_kinds(40)])
    assert max(len(plan.pairs) for plan in plans) <= 8
