"""The report's page: what it says, that it stands alone, and that names in it are only text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest

from helpers_report import (
    NASTY,
    Page,
    category_names,
    make_analysis,
    make_comparison,
    make_crops,
    make_findings,
    make_missed_crops,
)
from iif.errors import InputError
from iif.evaluation import false_positives as fp
from iif.evaluation.compare import Interval
from iif.report.crops import MAX_BYTES, MAX_CROPS, WHOLE_BYTES
from iif.report.crops_payload import CropLinks, crops_payload
from iif.report.html import Report, render
from iif.report.page_charts import difference_charts
from iif.report.sections import (
    MAX_CONFUSIONS,
    category_table,
    false_positive_view,
    metric_tables,
)
from iif.report.tables import page_number

VERSIONS = {"iif": "0.1.0"}

REPORTS = {
    "two runs": lambda: Report(
        make_comparison(),
        [make_analysis(), make_analysis(iou_type="bbox")],
        [*make_crops(4), *make_missed_crops(3)],
        findings=[make_findings(), make_findings(seed=1)],
        versions=VERSIONS,
    ),
    "one run": lambda: Report(
        make_comparison(("IIF",)),
        [make_analysis(("IIF",))],
        make_crops(3, num_runs=1),
        findings=[make_findings()],
        versions=VERSIONS,
    ),
    "three runs": lambda: Report(
        make_comparison(("baseline", "IIF", "IIF 2x")),
        [make_analysis(("baseline", "IIF", "IIF 2x"))],
        make_crops(3, num_runs=3),
        findings=[make_findings(seed=run) for run in range(3)],
        versions=VERSIONS,
    ),
    "boxes only": lambda: Report(
        make_comparison(iou_types=("bbox",)),
        [make_analysis(iou_type="bbox")],
        make_crops(3, masks=False),
        versions=VERSIONS,
    ),
    "metrics only": lambda: Report(make_comparison(), versions=VERSIONS),
    "false positives only": lambda: Report(None, [make_analysis()], versions=VERSIONS),
    "no intervals": lambda: Report(make_comparison(replicates=0), versions=VERSIONS),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make()) for name, make in REPORTS.items()}


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert {link[1:].partition("?")[0] for link in links} <= set(ids)
    labelled = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert labelled <= set(ids)
    # Every row of a table has as many cells as its head.
    for table in re.findall(r"<table.*?</table>", pages[name], re.S):
        head, body = table.split("<tbody>")
        first = re.search(r"<tr.*?</tr>", head, re.S).group()
        spans = [int(s) for s in re.findall(r'<th[^>]*?colspan="(\d+)"', first)]
        width = len(re.findall(r"<th(?![^>]*colspan)", first)) + sum(spans)
        for row in re.findall(r"<tr.*?</tr>", body, re.S):
            assert len(re.findall(r"<t[hd]\b", row)) == width


@pytest.mark.parametrize("name", REPORTS)
def test_page_loads_nothing(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    for tag, attributes in page.tags:
        for key in ("src", "href", "data", "action", "srcset", "poster"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:")), (tag, key, value)
        assert not any(key.startswith("on") for key in attributes)
    assert "url(" not in pages[name]
    assert "@import" not in pages[name]
    assert "default-src 'none'" in pages[name]


def test_script_is_the_one_that_the_policy_allows(pages: dict[str, str]) -> None:
    page = Page(pages["two runs"])
    (script,) = [data for attributes, data in page.scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in pages["two runs"]


@pytest.mark.parametrize("name", REPORTS)
def test_names_from_files_are_escaped(pages: dict[str, str], name: str) -> None:
    text = pages[name]
    assert "<script>alert" not in text
    page = Page(text)
    assert NASTY in [t.strip() for t in page.texts]
    # Two scripts of the page's own: the data and the code.
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 2


def test_run_names_paths_and_notes_are_escaped() -> None:
    comparison = make_comparison((NASTY, "</title><b>IIF"))
    info = replace(comparison.runs[0], results='"><img src=x onerror=alert(1)>')
    comparison = replace(comparison, runs=[info, comparison.runs[1]], notes=["<i>note</i>"])
    page = Page(render(Report(comparison, versions=VERSIONS)))
    assert {"b", "i", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert "<i>note</i>" in [t.strip() for t in page.texts]


def test_the_footer_names_whom_the_images_are_by() -> None:
    page = render(Report(make_comparison(), versions=VERSIONS, attribution="by A <b>& B"))
    footer = re.search(r"<footer.*?</footer>", page, re.S).group()
    assert "The data set: by A &lt;b&gt;&amp; B" in footer
    assert "The data set:" not in render(Report(make_comparison(), versions=VERSIONS))


def test_undefined_is_a_dash_and_no_nan_is_printed(pages: dict[str, str]) -> None:
    for text in pages.values():
        visible = " ".join(Page(text).texts)
        assert not re.search(r"\b(nan|None|inf)\b", visible)
    comparison = make_comparison()
    defined = [
        replace(r, values=[None, 3.0]) if r.metric == "APs" else r for r in comparison.metrics
    ]
    (row,) = [
        r
        for r in metric_tables(replace(comparison, metrics=defined))[0]["rows"]
        if r["metric"] == "APs"
    ]
    assert row["values"] == ["-", "3.0"]
    assert row["changes"][0]["text"] == "-"


def test_metric_table_colours_only_what_leaves_out_zero() -> None:
    rows = {
        shift: metric_tables(make_comparison(shift=shift, spread=3.0))[0]["rows"][0]
        for shift in (6.0, 1.0, -6.0)
    }
    css = {shift: row["changes"][0]["css"] for shift, row in rows.items()}
    assert css == {6.0: "better", 1.0: "", -6.0: "worse"}
    assert rows[-6.0]["changes"][0]["text"] == "\N{MINUS SIGN}6.0"
    assert rows[1.0]["changes"][0]["range"] == "[\N{MINUS SIGN}2.0, +4.0]"
    assert metric_tables(make_comparison(replicates=0))[0]["rows"][0]["changes"][0]["css"] == ""


def test_category_table_has_every_category_and_column() -> None:
    table = category_table(make_comparison(), make_analysis())
    assert [row["name"] for row in table["rows"]] == category_names(60)
    assert sum(width for _, width in table["headings"]) == len(table["columns"])
    assert {len(row["cells"]) for row in table["rows"]} == {len(table["columns"]) - 1}
    comparison, analysis = make_comparison(), make_analysis()
    k = int(np.flatnonzero(analysis.matched)[0])
    counts = [int(run.false_positives[k].sum()) for run in analysis.runs]
    assert table["rows"][k]["cells"][-3:-1] == [str(c) for c in counts]
    assert table["rows"][k]["cells"][3] == page_number(comparison.categories[k].ap["segm"][0])
    unmatched = int(np.flatnonzero(~analysis.matched)[0])
    assert table["rows"][unmatched]["cells"][-3:] == ["-", "-", "-"]


def test_page_prints_the_counts_of_the_analysis() -> None:
    analysis = make_analysis()
    text = render(Report(None, [analysis], versions=VERSIONS))
    for row in analysis.groups:
        for total in row.total:
            assert f"<td>{total:,}</td>" in text or f'<td class="start">{total:,}</td>' in text
    assert "1.23%" in text  # coverage
    tips = re.findall(r'data-tip="IIF\n([\d.,]+) false positives per 1,000', text)
    expected = [page_number(v, 2) for v in analysis.runs[1].curve["all"] if not np.isnan(v)]
    assert tips[: len(expected)] == expected


def test_summaries_and_false_positives_of_two_data_sets_are_refused() -> None:
    analysis = make_analysis()
    other = replace(analysis, dataset={**analysis.dataset, "sha256": "ab" * 32})
    with pytest.raises(InputError, match="different annotation files"):
        Report(make_comparison(), [other])
    with pytest.raises(ValueError, match="needs a comparison or"):
        Report()


def test_the_recall_is_not_rounded_away() -> None:
    analysis = replace(make_analysis(), recall=0.125)
    assert false_positive_view(analysis)["recall"] == "12.5%"


def test_a_category_without_training_images_is_in_the_chart() -> None:
    comparison = make_comparison()
    row = next(r for r in comparison.categories if r.difference["segm"][0] and r.name != NASTY)
    never_seen = [replace(r, image_count=0) if r is row else r for r in comparison.categories]
    charts_of = [
        str(difference_charts(c)[0]["svg"])
        for c in (comparison, replace(comparison, categories=never_seen))
    ]
    assert f"{row.name} (" in charts_of[1]
    assert charts_of[0].count("<circle") == charts_of[1].count("<circle")
    assert "0 training images" in charts_of[1]


def test_confusion_pairs_that_are_left_out_are_counted() -> None:
    analysis = make_analysis()
    pairs = [fp.Confusion(1, 2 + i, [5, 3]) for i in range(MAX_CONFUSIONS + 7)]
    view = false_positive_view(replace(analysis, confusions=pairs))
    assert (len(view["confusions"]), view["confusions_left"]) == (MAX_CONFUSIONS, 7)


def test_interval_that_touches_zero_is_no_difference() -> None:
    comparison = make_comparison()
    row = replace(comparison.metrics[-1], difference_intervals=[Interval(0.0, 3.0)])
    (table, _) = metric_tables(replace(comparison, metrics=[*comparison.metrics[:-1], row]))
    assert table["rows"][-1]["changes"][0]["css"] == ""


def test_payload_holds_what_crops_show() -> None:
    crops = make_crops(3)
    payload = crops_payload(crops, ["baseline", "IIF"])
    assert payload["panels"] == ["baseline", "IIF", "Ground truth"]
    for crop, entry in zip(crops, payload["crops"], strict=True):
        src = entry["src"].removeprefix("data:image/webp;base64,")
        assert base64.b64decode(src) == crop.picture
        whole = payload["wholes"][str(crop.image_id)]
        assert base64.b64decode(whole["src"].partition(",")[2]) == crop.whole
        assert (whole["h"], whole["w"]) == crop.image_size
        for panel, shapes in zip(crop.panels, entry["panels"], strict=True):
            assert [payload["names"][s[0]] for s in shapes] == [s.name for s in panel]
            assert [s[1] for s in shapes] == [s.kind for s in panel]
            assert {s[1] for s in shapes} <= set(payload["kinds"])
    assert payload["kinds"]["Unverifiable"]["greyed"]
    assert not payload["kinds"]["Cls"]["greyed"]
    assert crops_payload(make_crops(1, num_runs=1), ["IIF"])["changes"] == {}


def test_a_page_of_lvis_size_is_under_3_mb() -> None:
    # 8 crops of 640 x 480 images with 12 objects a run, as often as it takes.
    crops = make_crops(8, num_categories=1203, objects=12) * (MAX_CROPS // 8)
    crops = [replace(crop, image_id=i) for i, crop in enumerate(crops)]
    report = Report(
        make_comparison(num_categories=1203),
        [
            make_analysis(num_categories=1203, iou_type="segm"),
            make_analysis(num_categories=1203, iou_type="bbox"),
        ],
        crops,
        findings=[make_findings(1203, seed=run) for run in range(2)],
        versions=VERSIONS,
    )
    size = len(render(report).encode())
    largest = len(crops) * 4 * (MAX_BYTES + WHOLE_BYTES) // 3
    pictures = sum(4 * (len(crop.picture) + len(crop.whole)) // 3 for crop in crops)
    # Also when every picture is as large as it may be.
    assert size - pictures + largest < 3e6


def test_columns_and_rows_of_dashes_are_left_out() -> None:
    comparison, analysis = make_comparison(), make_analysis()
    unknown = [replace(row, image_count=None) for row in comparison.categories]
    without = category_table(
        replace(comparison, categories=unknown),
        replace(analysis, matched=np.zeros_like(analysis.matched)),
    )
    assert "Training images" not in without["columns"]
    assert [text for text, _ in without["headings"]] == ["Category", "Data", "Mask AP", "Box AP"]
    assert sum(width for _, width in without["headings"]) == len(without["columns"])
    assert {len(row["cells"]) for row in without["rows"]} == {len(without["columns"]) - 1}
    for cell in zip(*(row["cells"] for row in without["rows"]), strict=True):
        assert set(cell) != {"-"}
    metrics = [row["metric"] for row in metric_tables(comparison)[0]["rows"]]
    assert "APs" not in metrics
    assert "APm" in metrics


def test_no_category_at_the_recall_is_said_as_such() -> None:
    analysis = make_analysis()
    nowhere = replace(
        analysis,
        matched=np.zeros_like(analysis.matched),
        groups=[replace(row, matched=0, total=[0, 0]) for row in analysis.groups],
    )
    text = render(Report(None, [nowhere], images=True, versions=VERSIONS))
    assert "No category is brought by every run to 50% mask recall" in text
    assert '<table class="dense">' not in text
    rare = [replace(r, matched=0) if r.group == "r" else r for r in analysis.groups]
    view = false_positive_view(replace(analysis, groups=rare))
    assert view["groups"] == ["all", "common", "frequent"]
    assert {len(row["cells"]) for row in view["rows"]} == {3}
    assert "no category is brought by every run to 50% recall" in text
    assert "makes a false positive at this recall" not in text


def test_links_lead_to_crops_that_are_there() -> None:
    crops = make_crops(6)
    link = CropLinks(crops)
    crop = crops[0]
    assert link(kind=crop.kind, group=crop.group) == f"#crops?kind={crop.kind}&group={crop.group}"
    assert link(name=NASTY + "x") is None
    named = CropLinks([replace(crop, category="a&b=c", truth="d e")])
    assert named(name="a&b=c", truth="d e") == "#crops?name=a%26b%3Dc&truth=d%20e"
