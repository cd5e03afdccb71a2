"""Runs at one recall: reach, false positives and their rate against plain loops and `analyse`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helpers_compare as made
from iif.data.annotations import Annotations
from iif.evaluation import at_recall as ar
from iif.evaluation.false_positives import analyse
from iif.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, Matches
from iif.evaluation.runs import Run


def plain(matches: Matches, weights: np.ndarray, recall: float, k: int) -> tuple[int, int] | None:
    """True and false positives at the recall by a set in which image i stands w_i times."""
    counts = (matches.gt_category == k) & matches.gt_in_area[0]
    needed = max(1, int(np.ceil(recall * weights[matches.gt_image[counts]].sum() - 1e-9)))
    part = slice(matches.category_offsets[k], matches.category_offsets[k + 1])
    score = np.repeat(matches.score[part], weights[matches.image[part]])
    flag = np.repeat(matches.flags[0, 0, part], weights[matches.image[part]])
    for cut in sorted(set(score.tolist()), reverse=True):
        true = int((flag[score >= cut] == TRUE_POSITIVE).sum())
        if true >= needed:
            return true, int((flag[score >= cut] == FALSE_POSITIVE).sum())
    return None


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Annotations, list[Run]]:
    return made.make_runs(tmp_path_factory.mktemp("runs"), 3, images=20)


@given(seed=st.integers(0, 10**6), recall=st.sampled_from([0.1, 0.5, 0.8, 1.0]))
@settings(max_examples=25, deadline=None)
def test_counts_equal_a_plain_loop(
    made_runs: tuple[Annotations, list[Run]], seed: int, recall: float
) -> None:
    gt, runs = made_runs
    weights = np.random.default_rng(seed).integers(0, 3, len(gt.image_ids))
    walks = [ar._Walk.of(run.matches) for run in runs]
    lanes = np.stack([weights, weights + 1], axis=1)
    num_gt, counts = ar._counts(walks, lanes, recall)
    for run, found in zip(runs, counts, strict=True):
        for k, lane in np.ndindex(num_gt.shape):
            expected = plain(run.matches, lanes[:, lane], recall, k) if num_gt[k, lane] else None
            assert tuple(found[:, k, lane]) == (expected or (-1, -1))


@pytest.mark.parametrize("recall", [0.3, 0.5, 0.9])
def test_rows_equal_those_of_the_analysis(
    made_runs: tuple[Annotations, list[Run]], recall: float
) -> None:
    gt, runs = made_runs
    rows = ar.recall_rows(
        [run.matches for run in runs], gt.groups, len(gt.image_ids), recall=recall
    )
    analysis = analyse(gt, runs, recall=recall)
    assert ar.rows_of_analysis(analysis) == rows
    for row, group in zip(rows, analysis.groups, strict=True):
        assert (row.group, row.categories, row.compared) == (
            group.group,
            group.categories,
            group.matched,
        )
        assert (row.reached, row.false_positives) == (group.reached, group.total)


def test_a_category_that_is_not_reached_counts_100_percent(
    made_runs: tuple[Annotations, list[Run]],
) -> None:
    gt, runs = made_runs
    matches = [run.matches for run in runs]
    everything = ar.recall_rows(matches, gt.groups, len(gt.image_ids), recall=1.0)[0]
    assert any(reached < everything.categories for reached in everything.reached)
    for run, rate in zip(runs, everything.false_discovery, strict=True):
        once = np.ones(len(gt.image_ids), np.int64)
        points = [plain(run.matches, once, 1.0, k) for k in range(len(gt.category_ids))]
        known = [p for p, n in zip(points, run.matches.num_gt[0], strict=True) if n]
        each = [100.0 if p is None else 100 * p[1] / sum(p) for p in known]
        assert rate == pytest.approx(np.mean(each))


def test_intervals_are_paired_and_repeatable(made_runs: tuple[Annotations, list[Run]]) -> None:
    gt, runs = made_runs
    first, second = (run.matches for run in runs)

    def rows(*matches: Matches) -> list[ar.RecallRow]:
        return ar.recall_rows(
            matches, gt.groups, len(gt.image_ids), recall=0.3, replicates=60, seed=4
        )

    assert rows(first, second) == rows(first, second)
    itself = rows(first, first)[0]
    assert itself.false_positive_intervals == [ar.Interval(0.0, 0.0)]
    one, other = rows(first, second)[0], rows(second, first)[0]
    (a,), (b,) = one.false_positive_intervals, other.false_positive_intervals
    assert a is not None
    assert b is not None
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert a.low < a.high
    assert a.low <= one.false_positives[1] - one.false_positives[0] <= a.high


def test_a_group_without_categories_is_undefined(
    made_runs: tuple[Annotations, list[Run]],
) -> None:
    gt, runs = made_runs
    groups = np.where(gt.groups == "r", "f", gt.groups)
    rows = ar.recall_rows([run.matches for run in runs], groups, len(gt.image_ids), replicates=5)
    rare = rows[1]
    assert (rare.categories, rare.false_discovery) == (0, [None, None])
    assert rare.false_positive_intervals == [None]
