"""The report: what its page says, that it stands alone, and how crops are chosen and cut."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

import helpers_compare as made
from helpers_report import (
    NASTY,
    blob,
    category_names,
    make_analysis,
    make_comparison,
    make_crops,
    make_image,
    make_scene,
)
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.results import Detections
from iif.errors import InputError
from iif.evaluation import false_positives as fp
from iif.evaluation import scenes
from iif.evaluation.compare import Interval
from iif.report import charts
from iif.report.crops import (
    MAX_BYTES,
    MAX_SHAPES,
    _has_twin,
    choose_subjects,
    crop_window,
    cut_crop,
)
from iif.report.html import Report, render
from iif.report.outlines import mask_path, simplify
from iif.report.page_charts import difference_charts
from iif.report.sections import (
    MAX_CONFUSIONS,
    category_table,
    crops_payload,
    false_positive_view,
    metric_tables,
)
from iif.report.tables import page_number, page_signed
from iif.report.verdict import _percent, verdicts

VERSIONS = {"iif": "0.1.0"}
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Checks that elements nest, and collects texts, attributes and ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if a.get("id")]

    def payload(self) -> dict:
        (text,) = [data for attributes, data in self.scripts if attributes.get("id") == "payload"]
        return json.loads(text)


REPORTS = {
    "two runs": lambda: Report(
        make_comparison(),
        [make_analysis(), make_analysis(iou_type="bbox")],
        make_crops(4),
        versions=VERSIONS,
    ),
    "one run": lambda: Report(
        make_comparison(("IIF",)),
        [make_analysis(("IIF",))],
        make_crops(3, num_runs=1),
        versions=VERSIONS,
    ),
    "three runs": lambda: Report(
        make_comparison(("baseline", "IIF", "IIF 2x")),
        [make_analysis(("baseline", "IIF", "IIF 2x"))],
        make_crops(3, num_runs=3),
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
    assert {link[1:] for link in links} <= set(ids)
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


def test_undefined_is_a_dash_and_no_nan_is_printed(pages: dict[str, str]) -> None:
    for text in pages.values():
        visible = " ".join(Page(text).texts)
        assert not re.search(r"\b(nan|None|inf)\b", visible)
    (row,) = [r for r in metric_tables(make_comparison())[0]["rows"] if r["metric"] == "APs"]
    assert row["values"] == ["-", "-"]
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


# The verdict


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


def test_recall_and_shares_are_not_rounded_away() -> None:
    analysis = replace(make_analysis(), recall=0.125)
    assert false_positive_view(analysis)["recall"] == "12.5%"
    assert _percent(0.4) == "under 1%"
    assert _percent(99.6) == "over 99%"
    assert _percent(100.0) == "100%"


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


@given(st.floats(-1e6, 1e6), st.integers(0, 3))
def test_numbers_never_print_a_negative_zero(value: float, decimals: int) -> None:
    text = page_number(value, decimals)
    number = float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))
    assert abs(number - value) <= 0.5 * 10.0**-decimals + 1e-9
    assert "-" not in text
    assert not (number == 0 and text.startswith("\N{MINUS SIGN}"))
    assert page_signed(value, decimals).startswith("+") == (number > 0)


# Charts


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


# Outlines and crops


def test_mask_path_keeps_area_and_place() -> None:
    rng = np.random.default_rng(0)
    for box in ((3.0, 5.0, 40.0, 30.0), (0.0, 0.0, 64.0, 48.0), (50.0, 20.0, 14.0, 28.0)):
        mask = mask_util.decode(blob(rng, box, 48, 64)).astype(bool)
        for scale in (1.0, 2.5):
            drawn = _rasterise(mask_path(mask, scale=scale, tolerance=0.4), scale, mask.shape)
            union = (drawn | mask).sum()
            assert (drawn & mask).sum() / union > 0.9


def test_mask_path_has_holes_and_parts() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:20, 10:20] = False
    mask[30:38, 30:38] = True
    path = mask_path(mask)
    assert path.count("M") == 3
    assert (_rasterise(path, 1.0, mask.shape) ^ mask).sum() <= 20
    assert mask_path(np.zeros((5, 5), bool)) == ""


def _rasterise(path: str, scale: float, shape: tuple[int, ...]) -> np.ndarray:
    """Fill SVG path data by the even-odd rule, at pixel centres."""
    from matplotlib.path import Path as Outline

    y, x = np.mgrid[: shape[0], : shape[1]]
    centres = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * scale
    inside = np.zeros(len(centres), bool)
    for part in re.findall(r"M([^MZ]*)Z", path):
        corners = np.array([[float(v) for v in c.split()] for c in part.split("L")])
        inside ^= Outline(corners).contains_points(centres)
    return inside.reshape(shape)


@given(st.integers(0, 10**6), st.floats(0.1, 5))
@settings(max_examples=50)
def test_simplify_stays_within_the_tolerance(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    line = np.cumsum(rng.normal(size=(int(rng.integers(2, 80)), 2)), 0)
    if rng.random() < 0.5:
        line[-1] = line[0]
    kept = simplify(line, tolerance)
    assert (kept[0] == line[0]).all()
    assert (kept[-1] == line[-1]).all()
    for point in line:
        distances = []
        for a, b in itertools.pairwise(kept):
            length = (b - a) @ (b - a)
            share = np.clip((point - a) @ (b - a) / length, 0, 1) if length else 0.0
            distances.append(np.linalg.norm(point - a - share * (b - a)))
        assert min(distances) <= tolerance + 1e-9


@given(
    st.tuples(st.floats(0, 500), st.floats(0, 400), st.floats(1, 300), st.floats(1, 300)),
    st.integers(20, 900),
    st.integers(20, 900),
)
def test_crop_window_lies_in_the_image_and_holds_the_box(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    x, y, w, h = box
    w, h = min(w, width), min(h, height)
    x, y = min(x, width - w), min(y, height - h)
    left, top, crop_w, crop_h = crop_window((x, y, w, h), width, height)
    assert left >= 0
    assert left + crop_w <= width
    assert top >= 0
    assert top + crop_h <= height
    assert crop_w > 0
    assert crop_h > 0
    assert left <= x + 1
    assert x + w <= left + crop_w + 1
    assert top <= y + 1
    assert y + h <= top + crop_h + 1


def test_crop_shows_its_subject_in_its_run_alone() -> None:
    scene = make_scene(3, category_names(60))
    subject = scene.detections[1][0]
    crop = cut_crop(scene, 1, subject, make_image(3), group="r", change="added")
    marked = [[s.subject for s in panel] for panel in crop.panels]
    assert [sum(m) for m in marked] == [0, 1, 0]
    x, y, width, height = crop.window
    scale = crop.width / width
    (shape,) = [s for s in crop.panels[1] if s.subject]
    assert shape.box == pytest.approx(
        [
            (subject.bbox[0] - x) * scale,
            (subject.bbox[1] - y) * scale,
            subject.bbox[2] * scale,
            subject.bbox[3] * scale,
        ],
        abs=0.06,
    )
    assert (shape.name, shape.kind, shape.score) == (subject.name, subject.kind, subject.score)
    picture = Image.open(io.BytesIO(crop.jpeg))
    assert picture.size == (crop.width, crop.height)
    assert crop.width / crop.height == pytest.approx(width / height, rel=0.02)


def test_an_object_around_the_whole_crop_is_shown() -> None:
    scene = make_scene(3, category_names(60))
    around = replace(scene.ground_truth[0], bbox=(0.0, 0.0, scene.width, scene.height))
    scene = replace(scene, ground_truth=[around])
    small = replace(scene.detections[0][0], bbox=(300.0, 200.0, 20.0, 20.0))
    crop = cut_crop(scene, 0, small, make_image(3), group="r", change="added")
    assert crop.window[2] * crop.window[3] < 0.1 * scene.width * scene.height
    assert [shape.name for shape in crop.panels[-1]] == [around.name]


def test_crops_are_small_whatever_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (960, 1280, 3), np.uint8)
    scene = make_scene(1, category_names(60), height=960, width=1280, objects=120)
    crop = cut_crop(scene, 0, scene.detections[0][0], noise, group="f", change="removed")
    assert len(crop.jpeg) <= MAX_BYTES
    assert all(len(panel) <= MAX_SHAPES for panel in crop.panels)
    whole = replace(scene, detections=[[replace(o, bbox=(0.0, 0.0, 1280.0, 960.0)) for o in d]
                                       for d in scene.detections])  # fmt: skip
    crop = cut_crop(whole, 0, whole.detections[0][0], noise, group="f", change="removed")
    assert crop.left_out[:2] == [120 - MAX_SHAPES] * 2
    assert sum(s.subject for s in crop.panels[0]) == 1


def test_payload_holds_what_crops_show() -> None:
    crops = make_crops(3)
    payload = crops_payload(crops, ["baseline", "IIF"])
    assert payload["panels"] == ["baseline", "IIF", "Ground truth"]
    for crop, entry in zip(crops, payload["crops"], strict=True):
        assert base64.b64decode(entry["src"].removeprefix("data:image/jpeg;base64,")) == crop.jpeg
        for panel, shapes in zip(crop.panels, entry["panels"], strict=True):
            assert [payload["names"][s[0]] for s in shapes] == [s.name for s in panel]
            assert [s[1] for s in shapes] == [s.kind for s in panel]
            assert {s[1] for s in shapes} <= set(payload["kinds"])
    assert payload["kinds"]["Unverifiable"]["greyed"]
    assert not payload["kinds"]["Cls"]["greyed"]
    assert crops_payload(make_crops(1, num_runs=1), ["IIF"])["changes"] == {}


def test_lvis_val_with_200_crops_is_under_20_mb() -> None:
    # 8 crops of 640 x 480 images with 12 objects a run, 25 times over.
    crops = make_crops(8, num_categories=1203, objects=12) * 25
    report = Report(
        make_comparison(num_categories=1203),
        [
            make_analysis(num_categories=1203, iou_type="segm"),
            make_analysis(num_categories=1203, iou_type="bbox"),
        ],
        crops,
        versions=VERSIONS,
    )
    size = len(render(report).encode())
    largest = len(crops) * (4 * MAX_BYTES // 3)
    pictures = sum(4 * len(crop.jpeg) // 3 for crop in crops)
    # Also when every picture is as large as it may be.
    assert size - pictures + largest < 20e6


# From files to the page


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ground truth, images, results and summaries of a baseline and a better run."""
    folder = tmp_path_factory.mktemp("evaluated")
    gt = made.make_gt(images=30, categories=8)
    gt["categories"][0]["name"] = NASTY
    made.write(folder / "gt.json", gt)
    for i, image in enumerate(gt["images"]):
        path = folder / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(i, *made.SIZE)).save(path)
    baseline = made.make_results(gt, 0, quality=0.6, extra=12)
    better = made.make_results(gt, 1, quality=0.8, extra=4)
    # Some false positives of the baseline again, moved by up to 0.4 of their width: IoU 0.43 to 1.
    for i, result in enumerate(baseline[-200:]):
        x, y, w, h = result["bbox"]
        box = [x + 0.1 * (i % 5) * w, y, w, h]
        better.append({**result, "bbox": box, "segmentation": made._rle(box)})
    for name, rows in (("baseline", baseline), ("IIF", better)):
        results = made.write(folder / f"{name}.json", rows)
        arguments = ["--gt", folder / "gt.json", "--results", results, "--output", folder / name]
        assert main(["evaluate", *map(str, arguments), "--iou-type", "bbox", "segm"]) == 0
    return folder


def run_report(evaluated: Path, output: Path, *more: str, runs: tuple[str, ...] = ()) -> int:
    arguments = ["--gt", evaluated / "gt.json", "--output", output, "--bootstrap", "20"]
    given_runs = runs or ("--baseline", evaluated / "baseline", "--run", evaluated / "IIF")
    return main(["report", *map(str, arguments), *map(str, given_runs), *more])


def test_report_from_files(evaluated: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    assert run_report(evaluated, output, "--images", str(evaluated / "images")) == 0
    page = Page(output.read_text())
    payload = page.payload()
    assert payload["panels"] == ["baseline", "IIF", "Ground truth"]
    assert 20 < len(payload["crops"]) <= 200
    assert {c["change"] for c in payload["crops"]} >= {"removed", "added"}
    texts = [t.strip() for t in page.texts]
    summary = json.loads((evaluated / "IIF" / "eval_summary.json").read_text())
    assert summary["results"]["sha256"] in texts
    assert summary["dataset"]["sha256"] in texts
    assert page_number(summary["metrics"]["segm"]["AP50"]) in texts
    assert NASTY in texts
    # The same input gives the same page.
    again = tmp_path / "again.html"
    assert run_report(evaluated, again, "--images", str(evaluated / "images")) == 0
    assert again.read_bytes() == output.read_bytes()


def test_report_of_one_run_without_images(evaluated: Path, tmp_path: Path) -> None:
    output = tmp_path / "single.html"
    assert run_report(evaluated, output, runs=("--run", str(evaluated / "IIF"))) == 0
    page = Page(output.read_text())
    assert page.payload()["crops"] == []
    assert any("made without the images" in text for text in page.texts)
    assert any(re.match(r"IIF reaches mask APr", text) for text in page.texts)


def test_html_of_compare_and_false_positives(evaluated: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    runs = [str(evaluated / "baseline"), str(evaluated / "IIF")]
    assert main(["compare", *runs, "--bootstrap", "20", "--html", str(page)]) == 0
    ids = Page(page.read_text()).ids()
    assert "metrics" in ids
    assert "false-positives" not in ids
    page = tmp_path / "fp.html"
    arguments = ["--gt", "gt.json", "--results", "IIF.json", "--baseline", "baseline.json"]
    paths = [a if a.startswith("-") else str(evaluated / a) for a in arguments]
    assert main(["false-positives", *paths, "--output", str(tmp_path), "--html", str(page)]) == 0
    ids = Page(page.read_text()).ids()
    assert "false-positives" in ids
    assert "metrics" not in ids


def test_report_refuses_files_that_were_not_evaluated(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    gt = json.loads((evaluated / "gt.json").read_text())
    gt["images"][0]["neg_category_ids"] = []
    other = made.write(tmp_path / "other.json", gt)
    arguments = ["report", "--gt", str(other), "--run", str(evaluated / "IIF")]
    assert main([*arguments, "--output", str(output), "--bootstrap", "0"]) == 2
    assert "not the annotation file that the runs were evaluated on" in capsys.readouterr().err

    # The summary names a result file that is gone; one beside the summary has other content.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("eval_summary.json", "eval_matches.npz"):
        (moved / name).write_bytes((evaluated / "IIF" / name).read_bytes())
    summary = json.loads((moved / "eval_summary.json").read_text())
    summary["results"]["path"] = "/nowhere/IIF.json"
    (moved / "eval_summary.json").write_text(json.dumps(summary))
    assert run_report(evaluated, output, runs=("--run", str(moved))) == 2
    assert "no such result file" in capsys.readouterr().err
    (moved / "IIF.json").write_text((evaluated / "baseline.json").read_text())
    assert run_report(evaluated, output, runs=("--run", str(moved))) == 2
    assert "changed since" in capsys.readouterr().err

    # Of a recorded file and one beside the summary, that which was evaluated is taken.
    other = tmp_path / "trained again" / "IIF.json"
    other.parent.mkdir()
    other.write_text((evaluated / "baseline.json").read_text())
    summary["results"]["path"] = str(other)
    (moved / "eval_summary.json").write_text(json.dumps(summary))
    (moved / "IIF.json").write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, runs=("--run", str(moved))) == 0
    (moved / "IIF.json").write_text((evaluated / "baseline.json").read_text())
    other.write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, runs=("--run", str(moved))) == 0
    output.unlink()
    capsys.readouterr()
    (moved / "IIF.json").write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, runs=("--run", str(moved))) == 0
    assert output.exists()


def test_report_refuses_a_missing_image(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    assert run_report(evaluated, output, "--images", str(tmp_path)) == 2
    assert "no such image" in capsys.readouterr().err
    assert not output.exists()


# Which false positives become crops


@pytest.fixture(scope="module")
def analysed(evaluated: Path) -> tuple:
    gt = load_annotations(evaluated / "gt.json", masks=True)
    paths = {name: evaluated / f"{name}.json" for name in ("baseline", "IIF")}
    runs = fp.load_runs(gt, paths, iou_type="segm")
    return fp.analyse(gt, runs), runs


def test_subjects_are_the_false_positives_and_their_changes(analysed: tuple) -> None:
    analysis, runs = analysed
    subjects = choose_subjects(analysis, runs, 10**6)
    assert len(set(subjects)) == len(subjects)

    # By a plain loop: all false positives shown, and whether the other run has one like it.
    shown = scenes.shown(analysis, runs)
    wrong = []
    for run, rows in zip(runs, shown, strict=True):
        kinds = scenes.kinds(run.matches)
        wrong.append([int(r) for r in rows if scenes.KINDS[kinds[r]] in fp.ERROR_TYPES])

    def twin(run: int, row: int, other: int) -> bool:
        mine, theirs = runs[run].detections, runs[other].detections
        for candidate in wrong[other]:
            same = (
                mine.image[row] == theirs.image[candidate]
                and mine.category[row] == theirs.category[candidate]
            )
            boxes = [list(mine.bbox[row])], [list(theirs.bbox[candidate])]
            if same and mask_util.iou(*map(np.array, boxes), [0])[0, 0] >= 0.5:
                return True
        return False

    expected = {(0, row): "kept" if twin(0, row, 1) else "removed" for row in wrong[0]}
    expected |= {(1, row): "added" for row in wrong[1] if not twin(1, row, 0)}
    assert {(s.run, s.row): s.change for s in subjects} == expected
    assert {"removed", "added", "kept"} == set(expected.values())
    for subject in subjects:
        run = runs[subject.run]
        assert scenes.KINDS[scenes.kinds(run.matches)[subject.row]] == subject.kind
        assert run.detections.image[subject.row] == subject.image
        assert run.detections.category[subject.row] == subject.category


@given(st.integers(0, 10**6), st.sampled_from(["boxes", "masks"]))
@settings(max_examples=40)
def test_twins_equal_a_plain_loop(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)

    def run() -> tuple[fp.Run, np.ndarray]:
        n = int(rng.integers(0, 25))
        # Few sizes and places: IoU of exactly 0.5 and near it are frequent.
        places, sizes = 2 * rng.integers(0, 2, (2, n)), rng.choice([3, 6], (2, n))
        bbox = np.concatenate([places, sizes]).T.astype(float)
        rle = None
        if kind == "masks":
            rle = [mask_util.frPyObjects([made._polygon(b)], 12, 12)[0] for b in bbox.tolist()]
        detections = Detections(
            path="",
            sha256="",
            image=rng.integers(0, 2, n, np.int32),
            category=rng.integers(0, 2, n, np.int32),
            score=rng.random(n),
            bbox=None if rle is not None else bbox,
            rle=rle,
        )
        return fp.Run("", detections, None), bbox

    (run_a, boxes_a), (run_b, boxes_b) = run(), run()
    rows_a = rng.permutation(len(boxes_a))[: rng.integers(0, 25)]
    rows_b = rng.permutation(len(boxes_b))[: rng.integers(0, 25)]
    expected = []
    for i in rows_a:
        a = run_a.detections
        like = [
            j
            for j in rows_b
            if (a.image[i], a.category[i])
            == (run_b.detections.image[j], run_b.detections.category[j])
        ]
        ious = [mask_util.iou(boxes_a[[i]], boxes_b[[j]], [0])[0, 0] for j in like]
        expected.append(max(ious, default=0.0) >= 0.5)
    assert _has_twin(run_a, rows_a, run_b, rows_b).tolist() == expected


def test_few_subjects_come_from_every_stratum(analysed: tuple) -> None:
    analysis, runs = analysed

    def stratum(subject: object) -> tuple:
        return subject.change, str(analysis.category_groups[subject.category]), subject.kind

    everything = choose_subjects(analysis, runs, 10**6)
    strata = {stratum(s) for s in everything}
    few = choose_subjects(analysis, runs, len(strata))
    assert {stratum(s) for s in few} == strata
    assert everything[: len(few)] == few
    assert choose_subjects(analysis, runs, 0) == []


def test_single_run_has_no_changes(evaluated: Path) -> None:
    gt = load_annotations(evaluated / "gt.json", masks=True)
    runs = fp.load_runs(gt, {"IIF": evaluated / "IIF.json"}, iou_type="bbox")
    subjects = choose_subjects(fp.analyse(gt, runs), runs, 50)
    assert subjects
    assert {s.change for s in subjects} == {""}


def test_interval_that_touches_zero_is_no_difference() -> None:
    comparison = make_comparison()
    row = replace(comparison.metrics[-1], difference_intervals=[Interval(0.0, 3.0)])
    (table, _) = metric_tables(replace(comparison, metrics=[*comparison.metrics[:-1], row]))
    assert table["rows"][-1]["changes"][0]["css"] == ""
