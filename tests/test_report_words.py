"""The report's verdict, its numbers and its charts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_report import make_analysis, make_comparison
from iif.report import charts
from iif.report.tables import page_number, page_signed
from iif.report.verdict import _percent, verdicts


def test_verdict_states_gain_noise_and_loss() -> None:
    (gain,) = verdicts(make_comparison(shift=6.0), make_analysis(factor=0.7))
    assert gain.startswith("IIF changes mask APr by +6.0 [+1.2, +10.8] and mask AP by +6.0")
    assert "30% fewer false positives" in gain
    (noise,) = verdicts(make_comparison(shift=0.5), make_analysis(factor=1.0))
    assert "mask APr by +0.5 [\N{MINUS SIGN}4.3, +5.3] (no difference shown)" in noise
    assert "as many false positives" in noise
    (loss,) = verdicts(make_comparison(shift=-9.0), make_analysis(factor=1.5))
    assert "mask AP by \N{MINUS SIGN}9.0" in loss
    assert "no difference shown" not in loss
    assert "50% more false positives" in loss


def test_verdict_of_other_pages() -> None:
    (single,) = verdicts(make_comparison(("IIF",)), make_analysis(("IIF",)))
    assert single.startswith("IIF reaches mask APr 21.0 and mask AP 15.0; at a recall of 50%")
    (boxes,) = verdicts(make_comparison(iou_types=("bbox",)), None)
    assert "box APr by" in boxes
    (only,) = verdicts(None, make_analysis())
    assert re.fullmatch(
        r"At matched recall \(50%, \d+ of \d+ categories\) IIF makes 30% fewer false positives "
        r"than baseline\.",
        only,
    )
    assert len(verdicts(make_comparison(("a", "b", "c")), None)) == 2
    assert "[" not in verdicts(make_comparison(replicates=0), None)[0]


def test_verdict_without_matched_categories_or_baseline_errors() -> None:
    analysis = make_analysis()
    empty = replace(analysis.groups[0], matched=0)
    (text,) = verdicts(None, replace(analysis, groups=[empty, *analysis.groups[1:]]))
    assert text == "There is no category that every run brings to 50% recall."
    clean = replace(analysis.groups[0], total=[0, 7], per_1000=[0.0, 3.0])
    (text,) = verdicts(None, replace(analysis, groups=[clean, *analysis.groups[1:]]))
    assert text.endswith("7 false positives where there were none.")


def test_verdict_says_when_sum_and_mean_disagree() -> None:
    analysis = make_analysis()
    mixed = replace(analysis.groups[0], total=[1000, 800], per_1000=[10.0, 15.0])
    (text,) = verdicts(None, replace(analysis, groups=[mixed, *analysis.groups[1:]]))
    assert "20% fewer false positives than baseline in sum, but 50% more per category" in text


def test_shares_are_not_rounded_away() -> None:
    assert _percent(0.4) == "under 1%"
    assert _percent(99.6) == "over 99%"
    assert _percent(100.0) == "100%"


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
