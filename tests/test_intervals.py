"""Replicates of AP50, AP75, AP-fixed and per-category AP; several seeds of a method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers_compare import make_gt, make_results, write
from iif import evaluate
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.columns import detections_of
from iif.errors import InputError
from iif.evaluation import intervals, seeds
from iif.evaluation.bootstrap import (
    GROUP_METRICS,
    paired_bootstrap,
    weighted_average_precision,
)
from iif.evaluation.evaluate import fixed_average_precision
from iif.evaluation.intervals import INTERVAL_METRICS, replicate_metrics, within_fixed_cap
from iif.evaluation.matches_file import load_evaluated, load_matches
from iif.evaluation.matching import match
from iif.evaluation.metrics import mean_by_group, precision_and_recall
from iif.evaluation.overlaps import find_overlaps
from iif.evaluation.seeds import compare_seeds

REPLICATES = 12


def draws(num_images: int, replicates: int = REPLICATES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        for _ in range(replicates)
    ]


@pytest.fixture
def runs() -> tuple:
    content = make_gt(3, images=20)
    gt = load_annotations(content)
    found = []
    for seed, quality in ((1, 0.5), (2, 0.8)):
        detections, _ = detections_of(make_results(content, seed, quality=quality), gt, ["bbox"])
        found.append((detections, match(gt, detections, "bbox")))
    return gt, found


def test_replicates_equal_the_evaluation_of_each_draw(runs: tuple) -> None:
    gt, found = runs
    matches = [m for _, m in found]
    fixed = [within_fixed_cap(m, d) for d, m in found]
    num_images = len(gt.image_ids)
    options = {"replicates": REPLICATES, "seed": 0}
    drawn = replicate_metrics(matches, gt.groups, num_images, fixed=fixed, **options)
    assert set(drawn.metrics) == set(INTERVAL_METRICS)
    for replicate, weights in enumerate(draws(num_images)):
        for run, m in enumerate(matches):
            precision, _ = precision_and_recall(m, weights, num_areas=1)
            ap = precision[0].mean(axis=0)
            np.testing.assert_allclose(drawn.per_category[run, replicate], ap, atol=1e-9)
            expected = dict(zip(GROUP_METRICS, mean_by_group(ap, gt.groups), strict=True))
            expected["AP50"] = np.nanmean(precision[0, 0])
            expected["AP75"] = np.nanmean(precision[0, 5])
            for name, value in expected.items():
                value = np.nan if value is None else value
                np.testing.assert_allclose(drawn.metrics[name][run, replicate], value)
                if name in GROUP_METRICS:  # no cap bites
                    again = drawn.metrics[f"{name}-fixed"][run, replicate]
                    np.testing.assert_array_equal(again, drawn.metrics[name][run, replicate])
    plain = paired_bootstrap(matches, gt.groups, num_images, **options)
    for column, name in enumerate(GROUP_METRICS):
        np.testing.assert_array_equal(plain[:, :, column], drawn.metrics[name])


def test_ap_fixed_takes_the_best_of_each_category(
    runs: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    gt, found = runs
    monkeypatch.setattr(intervals, "FIXED_DETECTIONS", 9)
    monkeypatch.setattr("iif.evaluation.evaluate.FIXED_DETECTIONS", 9)
    for detections, matches in found:
        kept = within_fixed_cap(matches, detections)
        assert 0 < kept.sum() < len(kept)
        ap = weighted_average_precision(matches, kept)(np.ones(len(gt.image_ids), np.int64))
        overlaps = find_overlaps(gt, detections, "bbox")
        expected = fixed_average_precision(gt, detections, overlaps, matches)
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-9)
    matches = [m for _, m in found]
    fixed = [within_fixed_cap(m, d) for d, m in found]
    drawn = replicate_metrics(matches, gt.groups, len(gt.image_ids), fixed=fixed, replicates=5)
    assert (drawn.metrics["AP-fixed"] != drawn.metrics["AP"]).any()


def test_where_the_cap_of_an_image_bites_ap_fixed_has_no_replicates(runs: tuple) -> None:
    gt, found = runs
    detections, matches = found[0]
    capped = match(gt, detections, "bbox", max_dets=3)
    assert within_fixed_cap(capped, detections) is None
    both = [matches, capped]
    fixed = [within_fixed_cap(m, detections) for m in both]
    drawn = replicate_metrics(both, gt.groups, len(gt.image_ids), fixed=fixed, replicates=2)
    assert "AP50" in drawn.metrics
    assert "AP-fixed" not in drawn.metrics


def test_what_ap_fixed_takes_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_gt(3)
    monkeypatch.setattr(intervals, "FIXED_DETECTIONS", 5)
    for max_dets in (300, 3):
        rows = make_results(content, 1)
        evaluate(content, rows, output_dir=tmp_path, max_dets=max_dets)
        gt = load_annotations(content, masks=True)
        detections, _ = detections_of(rows, gt)
        for iou_type, matches in load_matches(tmp_path / "eval_matches.npz").items():
            expected = within_fixed_cap(
                match(gt, detections, iou_type, max_dets=max_dets), detections
            )
            stored, _ = load_evaluated(tmp_path / "eval_matches.npz")
            found = within_fixed_cap(matches, stored)
            if max_dets == 3:
                assert found is expected is None
            else:
                np.testing.assert_array_equal(found, expected)
                assert not found.all()


# ------------------------------------------------------------------------------- several seeds


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of a weak method and two of a strong one."""
    folder = tmp_path_factory.mktemp("seeds")
    content = make_gt(3, images=30)
    write(folder / "gt.json", content)
    for name, quality, numbers in (("weak", 0.4, (1, 2, 3)), ("strong", 0.9, (4, 5))):
        for seed in numbers:
            rows = make_results(content, seed, quality=quality)
            evaluate(content, rows, output_dir=folder / f"{name}{seed}")
    return folder


NAMES = ["weak", "weak", "weak", "strong", "strong"]


def paths(folder: Path) -> list[Path]:
    return [folder / f"{name}{seed}" for seed, name in enumerate(NAMES, start=1)]


def test_means_and_spreads_are_over_the_seeds(evaluated: Path) -> None:
    found = compare_seeds(paths(evaluated), NAMES, bootstrap=50)
    assert found.methods == ["weak", "strong"]
    assert found.seeds == [3, 2]
    summaries = [json.loads((p / "eval_summary.json").read_text()) for p in paths(evaluated)]
    for row in found.metrics:
        values = [s["metrics"][row.iou_type][row.metric] for s in summaries]
        if None in values:
            continue
        assert row.values == [values[:3], values[3:]]
        assert row.means == pytest.approx([np.mean(values[:3]), np.mean(values[3:])])
        assert row.spreads == pytest.approx([np.std(v, ddof=1) for v in row.values])
        assert row.differences == pytest.approx([row.means[1] - row.means[0]])
        if row.metric in INTERVAL_METRICS:
            (interval,) = row.intervals
            assert interval.low < row.differences[0] < interval.high
            assert interval.low > 0 or row.metric != "AP"


def test_the_interval_is_over_images_and_seeds(evaluated: Path) -> None:
    """With one seed each it is the paired bootstrap's; of equal seeds likewise."""
    files = paths(evaluated)
    one = compare_seeds([files[0], files[3]], ["weak", "strong"], bootstrap=60)
    same = compare_seeds([*files[:1] * 3, *files[3:4] * 2], NAMES, bootstrap=60)
    assert [r.intervals for r in one.metrics] == [r.intervals for r in same.metrics]
    assert {r.spreads[0] for r in one.metrics} == {None}
    assert {r.spreads[0] for r in same.metrics} <= {0.0, None}

    def width(found, metric: str = "AP") -> float:
        row = next(r for r in found.metrics if r.metric == metric)
        return row.intervals[0].high - row.intervals[0].low

    apart = compare_seeds([files[0], files[3], files[3], files[4]], ["a", "b", "b", "b"])
    joined = compare_seeds([files[0], files[3], files[3], files[3]], ["a", "b", "b", "b"])
    assert width(apart) != width(joined)


def test_a_seed_s_draw_has_the_variance_of_the_mean() -> None:
    """n - 1 of n with replacement: the variance of their mean is that of the mean of n."""
    values = np.array([1.0, 4.0, 5.0, 9.0])
    picks = seeds._picks(4, 40_000, np.random.default_rng(0))
    assert picks.shape == (40_000, 3)
    assert values[picks].mean(axis=1).var() == pytest.approx(values.var(ddof=1) / 4, rel=0.05)
    assert seeds._picks(1, 5, np.random.default_rng(0)).tolist() == [[0]] * 5


def test_the_command_takes_equal_names_for_seeds(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", *map(str, paths(evaluated)), "--names", *NAMES, "--bootstrap", "20"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "weak (3 seeds)" in printed
    assert "strong (2 seeds)" in printed
    stored = json.loads((tmp_path / "out" / "seeds.json").read_text())
    expected = compare_seeds(paths(evaluated), NAMES, bootstrap=20)
    assert stored["methods"] == expected.methods
    assert [row["means"] for row in stored["metrics"]] == [row.means for row in expected.metrics]
    assert (tmp_path / "out" / "seeds.txt").read_text().strip() in printed
    assert main([*command, "--html", str(tmp_path / "page.html")]) == 2
    assert "has no page" in capsys.readouterr().err


def test_seeds_that_cannot_be_pooled_are_refused(evaluated: Path, tmp_path: Path) -> None:
    files = paths(evaluated)
    with pytest.raises(InputError, match="4 names for 5 runs"):
        compare_seeds(files, NAMES[:4])
    with pytest.raises(InputError, match="one method alone"):
        compare_seeds(files[:2], ["weak", "weak"])
    other = make_gt(4)
    evaluate(other, make_results(other), output_dir=tmp_path / "other")
    with pytest.raises(InputError, match="cannot be compared"):
        compare_seeds([*files[:2], tmp_path / "other"], ["weak", "weak", "x"])


def test_without_matches_there_are_no_intervals(evaluated: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        content = (evaluated / "weak1" / "eval_summary.json").read_text()
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval_summary.json").write_text(content)
    found = compare_seeds([tmp_path / "a", tmp_path / "b"], ["a", "b"], bootstrap=5)
    assert {row.intervals[0] for row in found.metrics} == {None}
    assert "eval_matches.npz is missing" in found.notes[0]
