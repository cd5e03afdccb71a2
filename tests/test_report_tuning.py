"""The words and the page of `iif tune --all`."""

from __future__ import annotations

import copy

import pytest

from iif.report.tuning import plot_trials, trials_text, tuning_page, verdict


def bounds(interval):
    low, high = interval
    return {"low": low, "high": high}


def trial(method, value, ap, interval=None, **changes):
    found = {
        "method": method,
        "option": None if value is None else "gamma",
        "value": value,
        "options": {},
        "metrics": {"AP": ap, "APr": None, "APc": ap, "APf": ap, "AP-fixed": ap},
        "false_positives": 7,
        "plain_false_positives": 9,
        "categories": 3,
        "best": interval is not None,
        "difference": {"AP": None if ap is None else ap - 10.0},
        "intervals": {} if interval is None else {"AP": bounds(interval)},
    }
    return found | changes


RESULT = {
    "num_images": 1234,
    "dataset": {"name": "some_train", "path": "train.json", "sha256": "ab"},
    "seen_in_training": False,
    "recall": 0.5,
    "bootstrap": 100,
    "best": 2,
    "trials": [
        trial("none", None, 10.0),
        trial("shifts", 0.0, 10.0),
        trial("shifts", 0.5, 11.5, (-0.25, 3.0)),
        trial("whole", None, 9.0, (-2.0, -0.5), false_positives=None, plain_false_positives=None),
    ],
    "skipped": [{"method": "needy", "reason": "it needs <moments>"}],
    "masks": [],
    "checkpoint": "plain.pth",
    "checkpoint_sha256": "cd",
    "versions": {"torch": "2"},
}


def test_the_text_has_a_row_for_every_trial_and_a_reason_for_every_skip():
    text = trials_text(RESULT)
    assert "Boxes in 1,234 images of some_train, held out:" in text
    plain = next(line for line in text.splitlines() if line.startswith("plain model"))
    assert plain.split()[2:6] == ["10.00", "-", "10.00", "10.00"]
    best = next(line for line in text.splitlines() if line.startswith("shifts (best)"))
    assert "gamma 0.5" in best
    assert "+1.50  [-0.25, +3.00]" in best
    assert "Skipped: needy: it needs <moments>" in text


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-0.25, 3.0), "The interval of its gain contains 0: it may be chance."),
        ((0.25, 3.0), "Best by box AP: shifts, gamma 0.5."),
    ],
)
def test_the_verdict_says_when_the_gain_may_be_chance(interval, words):
    result = copy.deepcopy(RESULT)
    result["trials"][2]["intervals"]["AP"] = bounds(interval)
    assert verdict(result).endswith(words)


def test_the_plain_model_may_be_the_best():
    assert verdict({**RESULT, "best": 0}) == "Best by box AP: plain model."


def test_without_a_bootstrap_there_is_no_column_of_intervals():
    text = trials_text({**RESULT, "bootstrap": 0})
    assert "95% interval" not in text
    assert "Intervals:" not in text


def test_the_masks_of_both_are_compared():
    row = {
        "iou_type": "segm",
        "metric": "AP",
        "values": [10.0, 12.0],
        "differences": [2.0],
        "difference_intervals": [{"low": 0.5, "high": 3.5}],
    }
    text = trials_text({**RESULT, "masks": [row]})
    assert "+2.00 [+0.50, +3.50]" in text
    assert "+2.00 [+0.50, +3.50]" in tuning_page({**RESULT, "masks": [row]}, b"png")


def test_the_page_is_self_contained_and_escapes_what_it_is_given():
    page = tuning_page(RESULT, b"png")
    assert "it needs &lt;moments&gt;" in page
    assert "data:image/png;base64,cG5n" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http-equiv", "")
    assert 'href="report.html"' in page


def test_the_curves_have_a_panel_for_each_method_with_values():
    figure = plot_trials(RESULT)
    assert sum(axes.axison for axes in figure.axes) == 1
    assert "dashed: whole" in figure.get_suptitle()
