"""The comparison of classification runs in words and files, and their page."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from helpers_predictions import NASTY, make_predictions, make_statistics, write_pair, write_run
from helpers_report import Page, make_image
from iif import InputError
from iif.cli import main
from iif.evaluation.classification.compare import METRICS, compare_classifications
from iif.evaluation.compare import Interval
from iif.report.classification.labels import css_of
from iif.report.classification.page import render
from iif.report.classification.pictures import (
    MAX_BYTES,
    SIDE,
    choose,
    make_examples,
    thumbnail,
)
from iif.report.classification.sections import setting_rows
from iif.report.classification.text import (
    classes_csv,
    comparison_csv,
    comparison_json,
    comparison_markdown,
    comparison_text,
    summary_text,
)
from iif.report.classification.verdict import verdicts


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A baseline and a run that leans less to frequent classes; never written to."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def comparison(pair):
    return compare_classifications(pair, bootstrap=100)


def changed(comparison, **intervals):
    """The comparison with other intervals and differences for some measures."""
    rows = [
        replace(
            row,
            differences=[(intervals[row.metric][0] + intervals[row.metric][1]) / 2],
            difference_intervals=[Interval(*intervals[row.metric])],
        )
        if row.metric in intervals
        else row
        for row in comparison.metrics
    ]
    return replace(comparison, metrics=rows)


def test_verdict_names_every_group_in_both_directions(comparison):
    made = changed(
        comparison,
        many=(-4, -2),
        medium=(-1, 2),
        few=(1, 3),
        top1=(-1, 1),
        false_positives_many=(-40, -20),
        false_positives_medium=(-5, 5),
        false_positives_few=(2, 4),
    )
    accuracy, wrong = verdicts(made)
    assert "(0.0 [\N{MINUS SIGN}1.0, +1.0], no difference shown)." in accuracy
    assert accuracy.endswith(
        "Accuracy rises on few +2.0 [+1.0, +3.0] and falls on many \N{MINUS SIGN}3.0 "
        "[\N{MINUS SIGN}4.0, \N{MINUS SIGN}2.0]; no difference is shown on medium."
    )
    assert wrong == (
        "False positives rise in few +3 [+2, +4] and fall in many \N{MINUS SIGN}30 "
        "[\N{MINUS SIGN}40, \N{MINUS SIGN}20]; no difference is shown in medium."
    )


def test_verdict_without_differences_intervals_or_baseline(comparison, pair):
    names = [m for m in METRICS if m in ("many", "medium", "few") or m.startswith("false")]
    accuracy, wrong = verdicts(changed(comparison, **dict.fromkeys(names, (-1, 1))))
    assert "Accuracy by group: no difference is shown." in accuracy
    assert wrong == "False positives by group: no difference is shown."
    accuracy, wrong = verdicts(compare_classifications(pair, bootstrap=0))
    assert "by group, without intervals: many " in accuracy
    assert "[" not in accuracy + wrong
    (single,) = verdicts(compare_classifications(pair[:1], bootstrap=20))
    errors = comparison.first.group("all").false_positives
    assert single.startswith("baseline reaches ")
    assert f"Its {errors:,} errors are false positives:" in single


def test_verdict_of_a_group_that_does_not_exist(tmp_path):
    balanced = make_statistics(12, largest=400, imbalance=1)
    runs = [write_run(tmp_path / f"{bias}", bias=bias, statistics=balanced) for bias in (0, 1)]
    made = compare_classifications(runs, bootstrap=20)
    text = " ".join(verdicts(made))
    assert "few" not in text.split("False positives")[0]
    assert render(made)


def test_colours_follow_what_is_better():
    rise, fall, open_ = Interval(1, 2), Interval(-2, -1), Interval(-1, 1)
    assert css_of("few", rise) == css_of("false_positives_few", fall) == "better"
    assert css_of("few", fall) == css_of("per_1000_few", rise) == "worse"
    assert css_of("few", open_) == css_of("few", None) == ""


def test_text_tables(comparison):
    text = comparison_text(comparison)
    for row in ("many", "few"):
        value = comparison.metric(row).values[1]
        (line,) = re.findall(rf"^{row.capitalize()} .*%?$", text.split("False positives")[0], re.M)
        assert f"{value:.2f}" in line
    assert "Classes that gained most accuracy in adjusted" in text
    assert "within each class, 100 replicates, seed 0" in text
    markdown = comparison_markdown(comparison)
    assert "## Most frequent confusions" in markdown
    assert "| Top-1 |" in markdown
    summary = summary_text(comparison.first)
    assert "simulated: 600 images, 30 classes; trained on " in summary
    assert re.search(r"^few +9 +180 ", summary, re.M)


def test_tables_hold_every_figure(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert [row["metric"] for row in rows] == list(METRICS)
    top1 = comparison.metric("top1")
    assert float(rows[0]["adjusted"]) == top1.values[1]
    assert float(rows[0]["difference adjusted: low"]) == top1.difference_intervals[0].low
    assert rows[METRICS.index("ece")]["difference adjusted: low"] == ""
    classes = list(csv.DictReader(io.StringIO(classes_csv(comparison))))
    assert len(classes) == 30
    assert [int(c["false_positives baseline"]) for c in classes] == [
        c.false_positives for c in comparison.first.per_class
    ]
    content = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert content["format"] == "iif-classification-comparison/1"
    assert content["metrics"][0]["values"] == top1.values
    assert content["classes"][3]["accuracy"][1] == comparison.classes[3][1].accuracy
    assert content["runs"][1]["method"]["options"] == {"tau": 0.2}
    total = sum(pair["counts"][0] for pair in content["confusions"])
    assert total == comparison.first.group("all").false_positives


def test_differing_settings_come_first(comparison):
    rows = setting_rows(comparison)
    assert rows[0] == {"key": "logit_adjustment.tau", "values": ["0.9", "0.2"], "differs": True}
    assert [row["key"] for row in rows[1:]] == ["method", "seed", "train.epochs", "train.rate"]
    assert not any(row["differs"] for row in rows[1:])


def test_options_of_another_method_are_no_settings_of_a_run(pair):
    comparison = compare_classifications(pair, bootstrap=0)
    options = {"logit_adjustment": {"tau": 1.0}, "seesaw": {"p": 0.8}, "epochs": [1, 2]}
    plain, adjusted = (run.summary for run in comparison.runs)
    plain.method, plain.config = {"name": "none", "options": {}}, options
    adjusted.config = {**options, "logit_adjustment": {"tau": 0.2}}
    rows = {row["key"]: row["values"] for row in setting_rows(comparison) if row["differs"]}
    assert rows == {"method": ["none", "logit_adjustment"], "logit_adjustment.tau": ["-", "0.2"]}
    rows = {row["key"]: row["values"] for row in setting_rows(comparison)}
    assert (rows["epochs"], rows["seesaw.p"]) == (["1, 2"] * 2, ["0.8"] * 2)
    adjusted.method = adjusted.config = None
    assert setting_rows(comparison)[0]["values"][1] == "-"


def test_page_is_well_formed_and_escaped(comparison, pair):
    for made in (comparison, compare_classifications(pair[:1], bootstrap=0)):
        text = render(made)
        page = Page(text)
        ids = page.ids()
        assert len(ids) == len(set(ids))
        targets = {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"][0] == "#"}
        assert targets <= set(ids)
        assert NASTY in page.texts
        assert "<script>alert" not in text
        assert len(page.scripts) == 1
        assert render(made) == text


@pytest.fixture(scope="module")
def images(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i, name in enumerate(comparison.runs[0].predictions.images):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(i, 24, 40)).save(path)
    return folder


def test_examples_are_errors_and_varied(comparison, images):
    examples = make_examples(comparison, images)
    assert len(examples) == 24
    assert len({e.image for e in examples}) == 24
    for example in examples:
        right = [r for _, _, r in example.predicted]
        expected = {
            (False, True): "fixed",
            (True, False): "broken",
            (False, False): "kept",
        }[tuple(right)]
        assert example.change == expected
        for name, probability, hit in example.predicted:
            assert (name == example.label) == hit
            assert 0 < probability <= 100
    assert {(e.change, e.group) for e in examples[:7]} >= {
        ("fixed", "few"),
        ("kept", "few"),
        ("broken", "many"),
    }
    html = render(comparison, examples=examples)
    assert html.count('class="example"') == 24
    single = replace(comparison, runs=comparison.runs[:1])
    assert all(e.change == "" for e in make_examples(single, images, 5))
    assert len(make_examples(single, images, 5)) == 5


def test_the_surest_error_of_a_group_comes_first():
    statistics = make_statistics()
    made = make_predictions(statistics)
    groups = np.repeat(["many", "medium", "few"], 10)
    rows, changes = choose([made], groups, 3)
    assert changes == ["", "", ""]
    wrong = made.top[:, 0] != made.labels
    for row in rows:
        same = wrong & (groups[made.labels] == groups[made.labels[row]])
        assert made.probability[row, 0] == made.probability[same, 0].max()
    assert len({groups[made.labels[row]] for row in rows}) == 3


def test_thumbnails_are_small(tmp_path):
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    jpeg = thumbnail(path)
    assert len(jpeg) <= MAX_BYTES
    with Image.open(io.BytesIO(jpeg)) as made:
        assert max(made.size) <= SIDE
        assert made.width > made.height
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"noise\.png: cannot be read as an image"):
        thumbnail(path)


def test_missing_images_are_named(comparison, tmp_path):
    with pytest.raises(InputError, match="no such folder; give the image folder"):
        make_examples(comparison, tmp_path / "none")
    with pytest.raises(InputError, match=r"no such image \(24 of the 24 to be shown are missing\)"):
        make_examples(comparison, tmp_path)


def test_commands(pair, images, tmp_path, capsys):
    runs = [str(run) for run in pair]
    out, html = tmp_path / "out", tmp_path / "compare.html"
    options = ["--bootstrap", "20"]
    assert main(["compare", *runs, "--output", str(out), "--html", str(html), *options]) == 0
    printed = capsys.readouterr().out
    assert "baseline | adjusted on simulated" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "comparison.txt",
        "comparison_classes.csv",
    ]
    assert (out / "comparison.txt").read_text().strip() in printed
    assert "the page was made without the images" in html.read_text()
    page = tmp_path / "report.html"
    arguments = ["--baseline", runs[0], "--run", runs[1], "--output", str(page), *options]
    assert main(["report", *arguments, "--images", str(images), "--crops", "4"]) == 0
    assert page.read_text().count('class="example"') == 4
    assert main(["report", "--run", runs[1], "--output", str(page), *options]) == 0
    assert "adjusted reaches" in page.read_text()


def test_faults_of_commands(pair, tmp_path, capsys):
    detection = tmp_path / "detection"
    detection.mkdir()
    (detection / "eval_summary.json").write_text('{"format": "iif-eval-summary/1"}')
    page = str(tmp_path / "report.html")

    def error(*arguments):
        assert main(list(map(str, arguments))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "cannot be compared; give runs of one kind" in error("compare", pair[0], detection)
    report = ("report", "--output", page, "--run")
    assert "not a summary" in error(*report, detection)
    assert "gt is for runs of detection" in error(*report, pair[0], "--gt", "val.json")
    assert "train_json is for" in error(*report, pair[0], "--train-json", "train.json")
    assert "(--images)" in error(*report, pair[0], "--images", tmp_path / "none")
    broken = shutil.copytree(pair[0], tmp_path / "broken") / "inference" / "eval_summary.json"
    broken.write_text(broken.read_text()[:200])
    assert "not valid JSON" in error("compare", pair[0], broken)
    assert not (tmp_path / "report.html").exists()
