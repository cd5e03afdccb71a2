"""The report's verdict, its numbers and its charts."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_report import Page, make_analysis, make_comparison, with_recall
from iif.evaluation.at_recall import Interval
from iif.report import charts
from iif.report.html import Report, render
from iif.report.tables import page_number, page_signed
from iif.report.text import comparison_text
from iif.report.verdict import (
    found_categories,
    percent,
    shown_verdicts,
    verdict_lines,
    verdicts,
)


def test_verdict_states_gain_noise_and_loss() -> None:
    (gain,) = verdicts(make_comparison(shift=6.0), [make_analysis(factor=0.7)])
    assert gain.lead[0].startswith(
        "IIF is better than baseline in AP (all categories, rare, common, frequent)"
    )
    assert "no loss is shown" in gain.lead[0]
    assert any(
        "Mask AP: all categories 15.0 \N{RIGHTWARDS ARROW} 21.0 (+6.0 [+3.0, +9.0])" in line
        for line in gain.better
    )
    assert not gain.worse
    (noise,) = verdicts(make_comparison(shift=0.5))
    assert noise.lead[0] == "No difference between IIF and baseline is shown."
    assert (noise.better, noise.worse) == ([], [])
    assert noise.unclear[0] == "Mask AP: all categories, rare, common, frequent"
    (loss,) = verdicts(make_comparison(shift=-9.0))
    assert "IIF is worse than baseline in AP" in loss.lead[0]
    assert "no gain is shown" in loss.lead[0]
    assert any("\N{MINUS SIGN}9.0" in line for line in loss.worse)


def test_every_group_that_changed_is_named_in_both_directions() -> None:
    comparison = make_comparison(shift=6.0)
    metrics = [
        replace(row, values=[40.0, 36.4], differences=[-3.6],
                difference_intervals=[Interval(-6.3, -0.5)])
        if (row.iou_type, row.metric) == ("bbox", "APf") else row
        for row in comparison.metrics
    ]  # fmt: skip
    analyses = [make_analysis(factor=0.5), make_analysis(factor=1.5, iou_type="bbox")]
    made = with_recall(replace(comparison, metrics=metrics), *analyses)
    (verdict,) = verdicts(made, analyses)
    assert "and worse in AP (frequent) and false positives" in verdict.lead[0]
    minus, arrow = "\N{MINUS SIGN}", "\N{RIGHTWARDS ARROW}"
    (line,) = [line for line in verdict.worse if line.startswith("Box AP:")]
    assert line == f"Box AP: frequent 40.0 {arrow} 36.4 ({minus}3.6 [{minus}6.3, {minus}0.5])"
    row = analyses[1].groups[3]
    low, high = (f"{row.total[1] - row.total[0] + s * 0.05 * row.total[0]:+,.0f}" for s in (-1, 1))
    (line,) = [line for line in verdict.worse if line.startswith("Box false positives")]
    assert f"frequent {row.total[0]:,} {arrow} {row.total[1]:,}" in line
    assert f"[{low}, {high}]" in line
    assert any(line.startswith("Mask false positives") for line in verdict.better)
    # How many categories each run reaches.
    rows = analyses[0].groups[0]
    assert f"IIF brings {rows.reached[1]} of {rows.categories} categories" in verdict.lead[-1]


def test_where_the_baseline_reaches_no_rare_category_what_can_be_compared_leads() -> None:
    comparison, analysis = make_comparison(), make_analysis()
    rare = analysis.category_groups == "r"
    first = replace(analysis.runs[0], threshold=np.where(rare, np.nan, analysis.runs[0].threshold))
    lopsided = replace(analysis, runs=[first, analysis.runs[1]], matched=analysis.matched & ~rare)
    made = with_recall(comparison, lopsided)
    (verdict,) = verdicts(made, [lopsided])
    reached = made.at_recall[1].reached[1]
    assert verdict.lead[0].startswith(
        f"IIF brings {reached} of the {made.at_recall[1].categories} rare categories to 50% "
        "recall, baseline none, so their false positives cannot be compared."
    )
    assert "mask AP-fixed 26.0 \N{RIGHTWARDS ARROW} 32.0" in verdict.lead[0]
    assert "mask false discovery rate at 50% recall 100.0" in verdict.lead[0]
    assert any(
        note.startswith("No rare category is brought to 50% mask recall by every run (baseline 0")
        for note in verdict.notes
    )


def test_no_category_at_the_recall() -> None:
    analysis = make_analysis()
    nobody = [replace(run, threshold=np.full_like(run.threshold, np.nan)) for run in analysis.runs]
    (verdict,) = verdicts(None, [replace(analysis, runs=nobody)])
    categories = analysis.groups[0].categories
    assert f"No run brings any of the {categories} categories to 50% mask recall." in verdict.lead
    assert any("nothing is compared there" in note for note in verdict.notes)


def test_verdict_of_other_pages() -> None:
    (single,) = verdicts(make_comparison(("IIF",)), [make_analysis(("IIF",))])
    assert single.lead[0].startswith("IIF has mask AP: all categories 15.0, rare 21.0")
    assert "50% mask recall" in single.lead[1]
    (boxes,) = verdicts(make_comparison(iou_types=("bbox",)))
    assert boxes.better[0].startswith("Box AP:")
    (only,) = verdicts(None, [make_analysis()])
    assert "is not known: there are no intervals" in only.lead[0]
    assert any(note.startswith("Mask false positives at 50% recall: all") for note in only.notes)
    assert len(verdicts(make_comparison(("a", "b", "c")))) == 2
    (plain,) = verdicts(make_comparison(replicates=0))
    assert "[" not in " ".join(plain.lead + plain.notes)
    assert any("Mask AP: all categories 15.0" in note for note in plain.notes)


def test_verdict_says_when_sum_and_mean_disagree() -> None:
    analysis = make_analysis()
    mixed = replace(analysis.groups[0], total=[1000, 800], per_1000=[10.0, 15.0])
    (verdict,) = verdicts(None, [replace(analysis, groups=[mixed, *analysis.groups[1:]])])
    assert (
        "The sum of IIF's false positives is 20% lower, but their mean rate per category 50% higher"
        in verdict.notes[-1]
    )


def test_page_and_console_say_the_same() -> None:
    comparison = with_recall(make_comparison(), make_analysis())
    (verdict,) = verdicts(comparison)
    text = comparison_text(comparison)
    for line in verdict_lines(verdict):
        assert line in text
    assert "False positives at 50% recall: wrong detections among those" in text
    page = Page(render(Report(comparison, versions={"iif": "0"})))
    texts = [t.strip() for t in page.texts]
    for words in (*verdict.better, *verdict.worse, *verdict.notes):
        assert words in texts


def test_of_many_runs_the_best_has_the_verdict() -> None:
    names = tuple(f"run {i}" for i in range(12))
    (verdict,) = shown_verdicts(make_comparison(names))
    assert verdict.run == "run 11"
    assert len(shown_verdicts(make_comparison(names[:4]))) == 3


def test_summary_says_how_many_categories_are_found() -> None:
    summary = {
        "metrics": {"bbox": {}},
        "per_category": [
            {"frequency": "r", "bbox": {"AP": 0.0}},
            {"frequency": "r", "bbox": {"AP": 2.0}},
            {"frequency": "f", "bbox": {"AP": None}},
        ],
    }
    assert found_categories(summary) == [
        "With box IoU, at least one object is found in 1 of 2 categories (rare 1 of 2)."
    ]


def test_shares_are_not_rounded_away() -> None:
    assert percent(0.4) == "under 1%"
    assert percent(99.6) == "over 99%"
    assert percent(100.0) == "100%"


@given(st.floats(-1e6, 1e6), st.integers(0, 3))
def test_numbers_never_print_a_negative_zero(value: float, decimals: int) -> None:
    text = page_number(value, decimals)
    number = float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))
    assert abs(number - value) <= 0.5 * 10.0**-decimals + 1e-9
    assert "-" not in text
    assert not (number == 0 and text.startswith("\N{MINUS SIGN}"))
    assert page_signed(value, decimals).startswith("+") == (number > 0)


@given(st.floats(-1000, 1000), st.floats(1e-3, 1000))
def test_ticks_lie_in_the_range_and_are_few(low: float, width: float) -> None:
    ticks = charts.nice_ticks(low, low + width)
    assert 2 <= len(ticks) <= 11
    slack = 1e-6 * max(1.0, abs(low))
    assert low - slack <= ticks[0]
    assert ticks[-1] <= low + width + slack


@pytest.mark.parametrize("scale", ["linear", "log", "log0"])
def test_axis_is_monotonic_and_fills_its_pixels(scale: charts.Scale) -> None:
    axis = charts.Axis("x", 1.0, 1000.0, 50.0, 500.0, scale)
    values = [1.0, 2.0, 50.0, 400.0, 1000.0]
    if scale == "log0":
        values.insert(0, 0.0)
    places = [axis.place(v) for v in values]
    assert places[0] == pytest.approx(50)
    assert places[-1] == pytest.approx(500)
    assert places == sorted(set(places))
    assert all(50 <= axis.place(value) <= 500 for value, _ in axis.ticks())


def test_interval_glyph_lies_inside_its_box() -> None:
    glyph = charts.interval_glyph(-2.0, -5.0, 5.0, 5.0, "worse")
    numbers = [float(x) for x in re.findall(r'd="M([\d.]+) 12.0H', glyph)]
    assert 0 < numbers[0] < charts.GLYPH_WIDTH / 2
