"""Number formats, tables, and the labels of keys."""

from __future__ import annotations

import csv
import io

import pytest

from iif.evaluation.bootstrap import GROUP_METRICS
from iif.evaluation.compare import METRICS, Interval
from iif.evaluation.false_positives import ERROR_TYPES, GROUPS
from iif.evaluation.matching import Outcome
from iif.evaluation.scenes import GROUND_TRUTH, KINDS
from iif.report import labels
from iif.report.tables import (
    csv_text,
    interval_text,
    markdown_table,
    number,
    page_interval,
    page_number,
    page_signed,
    signed,
    text_table,
)


@pytest.mark.parametrize(
    ("value", "with_sign", "text"),
    [
        (None, False, "-"),
        (float("nan"), True, "-"),
        (1234.5, False, "1,234.50"),
        (1.005, True, "+1.00"),
        (-0.001, True, "0.00"),
        (-0.001, False, "0.00"),
        (-2.5, True, "-2.50"),
    ],
)
def test_numbers(value, with_sign, text):
    assert (signed if with_sign else number)(value) == text


def test_tables():
    rows = [["a", "1.0"], ["long|name", "-"]]
    assert text_table(["name", "AP"], rows).splitlines() == [
        "name        AP",
        "---------  ---",
        "a          1.0",
        "long|name    -",
    ]
    assert "| long\\|name | - |" in markdown_table(["name", "AP"], rows)
    assert csv_text(["a", "b"], [['x,"y', None], [1, 0.1]]) == 'a,b\n"x,""y",\n1,0.1\n'


def test_pages_have_one_decimal_and_a_minus_sign():
    assert page_number(-1234.56) == "\N{MINUS SIGN}1,234.6"
    assert page_number(None) == page_signed(float("nan")) == "-"
    assert page_signed(2.04) == "+2.0"
    assert page_signed(-0.04) == "0.0"


def test_intervals():
    interval = Interval(-0.1, 2.4)
    assert interval_text(interval) == "[-0.10, +2.40]"
    assert page_interval(interval) == "[\N{MINUS SIGN}0.1, +2.4]"
    assert interval_text(None) == page_interval(None) == ""


def test_every_key_has_a_label():
    assert set(labels.OUTCOME_NAMES) == set(labels.OUTCOME_WORDS) == {o.name for o in Outcome}
    assert set(labels.OUTCOME_LABELS) == {GROUND_TRUTH, *KINDS}
    assert set(labels.METRIC_LABELS) == set(METRICS)
    assert tuple(labels.GROUP_LABELS) == GROUPS
    assert len(GROUP_METRICS) == len(GROUPS)
    assert ERROR_TYPES == ("Loc", "Cls", "Dupe", "Bkg", "Both")


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_a_name_is_no_formula_in_a_spreadsheet(name):
    header, row = list(csv.reader(io.StringIO(csv_text([name, "b"], [[name, -1.5]]))))
    assert header == [f"'{name}", "b"]
    assert row == [f"'{name}", "-1.5"]
