"""What the page tells of runs beyond their detections: training, data, many runs, advice."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers_report import make_analysis, make_comparison, with_recall
from iif.errors import InputError
from iif.evaluation import false_positives as fp
from iif.evaluation.compare import Interval
from iif.evaluation.seeds import SeedComparison, SeedRow
from iif.report import data_section, page, several, training_section
from iif.report.advice import NUM_TO_LABEL, advise, recommendation, recommended
from iif.report.html import Report, render
from iif.report.labels import short_name
from iif.report.pooled import method_names, pooled_words
from iif.report.run_details import (
    MAX_POINTS,
    RunDetails,
    class_weights,
    flat,
    method_words,
    read_curves,
    run_folder,
    thinned,
)
from iif.statistics import ClassStatistics

STATISTICS = ClassStatistics(
    image_count=[1, 50, 800],
    instance_count=[2, 90, 3000],
    num_images=1000,
    names=["a", "b", "c"],
    ids=[1, 2, 3],
    source="test",
)


def curves_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(lines))
    return path


def test_curves_of_a_resumed_and_killed_run(tmp_path: Path) -> None:
    rows = [{"iteration": i, "total_loss": 9.0 - i, "lr": 0.1} for i in (0, 1, 2)]
    again = {"iteration": 2, "total_loss": 5.0, "word": "x", "flag": True}
    path = curves_file(tmp_path, *map(json.dumps, [*rows, again]), '{"iteration": 3, "tot')
    assert read_curves(path) == {
        "total_loss": [(0, 9.0), (1, 8.0), (2, 5.0)],
        "lr": [(0, 0.1), (1, 0.1), (2, 0.1)],
    }


def test_a_curve_with_a_broken_line_is_refused(tmp_path: Path) -> None:
    path = curves_file(tmp_path, '{"iteration": 1', '{"iteration": 2, "lr": 1}')
    with pytest.raises(InputError, match=r"metrics.json: line 1 is no JSON object"):
        read_curves(path)


def test_thinned_curves_keep_their_mean_and_leave_out_what_is_not_finite() -> None:
    points = [(i, float(i % 7)) for i in range(1000)]
    few = thinned([*points, (1000, float("nan")), (1001, float("inf"))])
    assert 1 < len(few) <= MAX_POINTS
    assert np.mean([y for _, y in few]) == pytest.approx(np.mean([y for _, y in points]))
    assert [x for x, _ in few] == sorted({x for x, _ in few})
    assert thinned(points[:3]) == points[:3]
    assert thinned([]) == []


@pytest.mark.parametrize("inside", ["", "inference", "inference/val"])
def test_the_run_folder_is_found_from_its_summary(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "run" / inside
    folder.mkdir(parents=True)
    assert run_folder(folder / "eval_summary.json") is None
    (tmp_path / "run" / "config.yaml").write_text("")
    assert run_folder(folder / "eval_summary.json") == tmp_path / "run"


def test_settings_are_flat_and_their_differences_come_first() -> None:
    assert flat({"A": {"B": 0.5, "C": {}}, "D": [1, "x"], "E": None}) == {
        "A.B": "0.5", "A.C": "{}", "D": '[1, "x"]', "E": "null",
    }  # fmt: skip
    runs = [
        RunDetails(
            name, settings={"LR": lr, "SAME": "1"}, curves={"lr": [(0, 1.0), (9, float(lr))]}
        )
        for name, lr in (("baseline", "2"), ("IIF", "3"))
    ]
    view = training_section.view(Report(make_comparison(), details=runs))
    assert view is not None
    assert view["different"] == [("LR", ["2", "3"])]
    assert view["same"] == [("SAME", "1")]
    assert [curve["label"] for curve in view["curves"]] == ["learning rate"]
    assert view["curves"][0]["last"] == ["2", "3"]
    text = render(Report(make_comparison(), details=runs))
    assert 'id="training"' in text
    assert 'id="training"' not in render(Report(make_comparison()))


def test_weights_are_those_of_the_method() -> None:
    from iif.methods.iif import iif_weights

    words, values = class_weights({"name": "iif", "options": {"variant": "smooth"}}, STATISTICS)
    assert words == "factor of the logit"
    assert values == pytest.approx(iif_weights(STATISTICS, "smooth").tolist())
    assert class_weights({"name": "none", "options": {}}, STATISTICS) is None
    assert class_weights(None, STATISTICS) is None
    assert class_weights({"name": "of another version", "options": {}}, STATISTICS) is None
    record = {"name": "iif", "options": {"variant": "smooth"}}
    assert method_words(record) == "iif (variant smooth)"
    run = RunDetails("IIF", method_words(record), statistics=STATISTICS, weights=(words, values))
    text = render(Report(make_comparison(), details=[RunDetails("baseline"), run]))
    assert "What iif (variant smooth) does to each class" in text
    assert "c\n800 training images\nfactor of the logit: 1." in text


def test_data_counts_every_category_once() -> None:
    comparison = make_comparison()
    view = data_section.view(Report(comparison))
    assert view is not None
    assert [row[:2] for row in view["groups"]] == [
        ["all", "60"], ["rare", "20"], ["common", "20"], ["frequent", "20"],
    ]  # fmt: skip
    counts = re.findall(r'data-tip="(\d+) \w+ categories', str(view["histogram"]))
    assert sum(map(int, counts)) == 60
    unknown = replace(
        comparison, categories=[replace(row, image_count=None) for row in comparison.categories]
    )
    assert data_section.view(Report(unknown))["histogram"] is None


def many_runs() -> tuple[Report, list[str]]:
    names = [f"{method}_seed{seed}" for method in ("plain", "iif", "seesaw") for seed in range(3)]
    details = [
        RunDetails(name, family=name.partition("_")[0], seed=int(name[-1])) for name in names
    ]
    comparison = with_recall(make_comparison(tuple(names)), make_analysis(tuple(names)))
    return Report(comparison, details=details), names


def test_methods_are_pooled_over_their_seeds() -> None:
    report, names = many_runs()
    view = several.view(report)
    assert view is not None
    assert [method["name"] for method in view["methods"]] == ["plain", "iif", "seesaw"]
    assert [method["seeds"] for method in view["methods"]] == [3, 3, 3]
    # Run i has AP 15 + 6 i: the mean of runs 3, 4, 5 is 39, their standard deviation 6.
    assert view["methods"][1]["cells"][0]["text"] == "39.0"
    assert view["methods"][1]["cells"][0]["spread"] == "±6.0"
    assert [method["cells"][0]["best"] for method in view["methods"]] == [False, False, True]
    false = view["headings"].index(
        next(h for h in view["headings"] if h.startswith("False discovery rate"))
    )
    rates = [float(method["cells"][false]["text"]) for method in view["methods"]]
    assert [m["cells"][false]["best"] for m in view["methods"]] == [r == min(rates) for r in rates]
    assert [run["name"] for run in view["runs"]] == names
    text = render(report)
    assert 'id="several"' in text
    assert 'id="several"' not in render(Report(make_comparison()))


def pooled(means: list[float], **intervals: list[Interval | None]) -> SeedComparison:
    """Methods a, b, ... of three seeds each, with their mean mask AP."""
    names = [chr(97 + i) for i in range(len(means))]

    def row(metric: str) -> SeedRow:
        return SeedRow(
            "segm",
            metric,
            [[mean - 1, mean, mean + 1] for mean in means],
            list(means),
            [1.0] * len(means),
            [mean - means[0] for mean in means[1:]],
            intervals.get(metric, [Interval(1.0, 9.0)] * (len(means) - 1)),
            intervals["behind"],
        )

    rows = [row(metric) for metric in ("AP", "APr", "APc", "APf")]
    return SeedComparison(names, [3] * len(means), [], rows, [], 1000, 0)


def test_the_recommended_method_is_pooled_and_its_rivals_are_named() -> None:
    behind = [Interval(-9.0, -1.0), Interval(-2.0, 1.0), None]
    loss = [Interval(-1.0, 1.0), Interval(-6.0, -0.5)]
    words = pooled_words(pooled([20.0, 24.0, 25.0], behind=behind, APf=loss), "segm")
    assert words is not None
    assert words.lead == (
        "Of 3 methods (3 seeds each) c has the highest mean mask AP: 25.0 \N{PLUS-MINUS SIGN} 1.0; "
        "a has 20.0 \N{PLUS-MINUS SIGN} 1.0, a difference of +5.0 [+1.0, +9.0]. "
        "No difference to it is shown for b."
    )
    assert words.use.startswith("Use c; b may be as good")
    assert "It loses in frequent categories (+5.0 [\N{MINUS SIGN}6.0, " in words.use
    sure = pooled_words(pooled([20.0, 25.0], behind=[Interval(-9.0, -1.0), None]), "segm")
    assert sure is not None
    assert sure.use == "Use b: it is better than every other method here."
    none = pooled_words(pooled([20.0, 20.5], behind=[Interval(-2.0, 1.0), None]), "segm")
    assert none is not None
    assert "Nothing is distinguishable" in none.lead
    assert none.use.startswith("No method is shown to be better than another.")
    first = pooled_words(pooled([25.0, 20.0], behind=[None, Interval(-9.0, -1.0)]), "segm")
    assert first is not None
    assert (
        "a has the highest mean mask AP: 25.0 \N{PLUS-MINUS SIGN} 1.0, and it is the" in first.lead
    )
    bare = pooled_words(replace(pooled([1.0, 2.0], behind=[None, None]), replicates=0), "segm")
    assert bare is not None
    assert "the order of the methods may be chance" in bare.use
    assert pooled_words(pooled([1.0], behind=[None]), "bbox") is None


def test_the_page_leads_with_the_methods() -> None:
    behind = [Interval(-9.0, -1.0), Interval(-8.0, -1.0), None]
    found = pooled([20.0, 21.0, 25.0], behind=behind)
    report = replace(many_runs()[0], pooled=found)
    text = render(report)
    assert text.index("Of 3 methods (3 seeds each)") < text.index("The two runs that the rest")
    assert "Use c: it is better than every other method here." in text
    assert text.count("[+1.0, +9.0]") >= 2


def test_names_of_methods_are_what_their_seeds_share() -> None:
    def names(*runs: tuple[str, str]) -> list[str]:
        return method_names([RunDetails(name, family=family) for name, family in runs])

    assert names(("iif_seed1", "x"), ("iif_seed2", "x"), ("run", "y")) == ["iif", "iif", "run"]
    # Two methods whose runs are named alike stay two.
    assert names(("s1", "x"), ("s2", "x"), ("s3", "y"), ("s4", "y")) == ["s", "s", "s3", "s3"]


def test_the_recommended_run_has_the_highest_ap_and_its_cost_is_named() -> None:
    comparison = make_comparison(("plain", "a", "b"))
    assert recommended(comparison) == 2
    assert recommendation(comparison).startswith(
        "Use b: it has the highest mask AP (27.0; plain 15.0)"
    )
    metrics = [
        replace(row, differences=[-2.0, -3.6],
                difference_intervals=[None, Interval(-6.3, -0.5)])
        if (row.iou_type, row.metric) == ("segm", "APf") else row
        for row in comparison.metrics
    ]  # fmt: skip
    text = recommendation(replace(comparison, metrics=metrics))
    assert "It loses in frequent categories (\N{MINUS SIGN}3.6): where these count most" in text
    assert recommendation(make_comparison(shift=-5.0)).startswith("Use baseline: no run has")
    assert "it may be chance" in recommendation(make_comparison(shift=0.5))
    assert recommendation(make_comparison(("IIF",))) == ""


def advised(by_type: list[int], **changes: object) -> list[tuple[str, str, str, str]]:
    analysis = make_analysis(("IIF",))
    rows = [
        replace(row, by_type=[by_type], total=[sum(by_type)], reached=[row.categories])
        if row.group == "r" else replace(row, total=[0], by_type=[[0] * 5],
                                         reached=[row.categories])
        for row in analysis.groups
    ]  # fmt: skip
    run = replace(analysis.runs[0], outcomes={"TP": 10, "FP": 10, "UNVERIFIED": 0})
    analysis = replace(analysis, groups=rows, runs=[run], **changes)
    return advise(None, analysis).remedies


@pytest.mark.parametrize("kind", ["Loc", "Dupe", "Bkg", "Both"])
def test_the_dominant_error_has_its_remedy(kind: str) -> None:
    counts = [10 if error == kind else 2 for error in fp.ERROR_TYPES]
    ((about, text, group, link),) = advised(counts)
    assert (about, group, link) == (f"rare categories: {kind}", "r", kind)
    assert text.startswith(f"10 of 18 false positives (56%) are {kind}: ")


def test_confused_categories_are_named_and_which_of_them_wins() -> None:
    # Rows 0, 3, ... are rare, 2, 5, ... frequent.
    frequent_as_rare = fp.Confusion(2, 3, [9])
    ((_, text, _, _),) = advised([0, 9, 0, 0, 0], confusions=[frequent_as_rare])
    assert "cup 2 is taken for bird feeder 3 most often (9 times)" in text
    assert "the rarer one wins, so try a weaker method (iif tune)" in text
    ((_, text, _, _),) = advised([0, 2, 0, 0, 0], confusions=[fp.Confusion(2, 3, [2])])
    assert "an object of another category is there" in text
    ((_, text, _, _),) = advised([5, 5, 5, 5, 5])
    assert text.startswith("No error type dominates")
    assert advised([0, 0, 0, 0, 0]) == []


def test_unreached_and_unverified_categories_are_to_be_labelled() -> None:
    analysis = make_analysis(("IIF",))
    rows = [replace(row, reached=[row.categories // 2]) for row in analysis.groups]
    texts = [text for _, text, _, _ in advise(None, replace(analysis, groups=rows)).remedies]
    assert sum("are not brought to 50% recall: label more of them" in text for text in texts) == 2
    assert sum("are not brought to 50% recall: there are labels enough" in t for t in texts) == 1
    assert sum("verify the categories in more test images" in text for text in texts) == 1


def test_categories_to_label_have_low_ap_and_fewest_images() -> None:
    comparison = make_comparison()
    rows = advise(comparison, make_analysis()).to_label
    assert len(rows) == NUM_TO_LABEL
    by_name = {row.name: row for row in comparison.categories}
    run = recommended(comparison)
    known = [r.ap["segm"][run] for r in comparison.categories if r.ap["segm"][run] is not None]
    chosen = [by_name[row[0]] for row in rows]
    assert all(r.ap["segm"][run] <= np.median(known) for r in chosen)
    images = [r.image_count for r in chosen]
    assert images == sorted(images)
    left = [r for r in comparison.categories if r not in chosen and r.ap["segm"][run] is not None]
    assert all(r.image_count >= images[-1] for r in left if r.ap["segm"][run] <= np.median(known))


def test_a_section_is_a_view_and_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [section.id for section in page.SECTIONS]
    assert len(set(ids)) == len(ids)
    templates = Path(page.__file__).parent / "templates" / "sections"
    assert {path.name for path in templates.iterdir()} == {f"{id_}.html.j2" for id_ in ids}
    # Values from elsewhere: the section is there when they are.
    own = page.Section("glossary", "Missed", lambda report: report.extra.get("missed"))
    monkeypatch.setattr(page, "SECTIONS", (own,))
    assert page.page_sections(Report(make_comparison())) == []
    given = Report(make_comparison(), extra={"missed": [1, 2]})
    assert page.page_sections(given) == [{"id": "glossary", "title": "Missed", "view": [1, 2]}]


def test_long_names_are_short_in_labels() -> None:
    assert short_name("railcar_(part_of_a_train)") == "railcar"
    assert short_name("mug") == "mug"
    assert short_name("a (b)") == "a (b)"
    assert short_name("(a long name in parentheses alone)", 12).startswith("(a long nam")
    assert len(short_name("x" * 50)) == 18
