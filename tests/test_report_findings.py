"""The page's sections on missed objects, thresholds, confusions, calibration and boundaries."""

from __future__ import annotations

import base64
import re
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from helpers_report import (
    evaluate_runs,
    make_analysis,
    make_comparison,
    make_findings,
    make_missed_crops,
)
from iif.cli import main
from iif.evaluation.analyses import analyse_matches, findings_of
from iif.evaluation.compare import compare
from iif.evaluation.confusion import ConfusionCell
from iif.report import (
    calibration_section,
    confusion_section,
    missed_section,
    pipelines,
    threshold_section,
)
from iif.report.crops_payload import CropLinks, crops_payload
from iif.report.html import Report, render
from iif.report.run_details import RunDetails
from iif.report.sections import further_figures


def make_report(num_categories: int = 60) -> Report:
    return Report(
        make_comparison(num_categories=num_categories),
        [make_analysis(num_categories=num_categories)],
        make_missed_crops(6, num_categories=num_categories),
        findings=[make_findings(num_categories, seed=run) for run in range(2)],
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, pipelines.AnalysedRuns]:
    folder = evaluate_runs(tmp_path_factory.mktemp("runs"))
    comparison = compare([folder / "baseline", folder / "IIF"], bootstrap=0)
    analysed = pipelines.analyse_compared(folder / "gt.json", comparison)
    report = pipelines.make_report(comparison, analysed, images=folder / "images", max_crops=60)
    return report, analysed


def test_the_page_finds_what_the_analyses_find(
    real: tuple[Report, pipelines.AnalysedRuns],
) -> None:
    report, analysed = real
    for run, found in zip(analysed.runs, report.findings, strict=True):
        analyses = analyse_matches(analysed.gt, run.detections, run.matches)
        for key in ("missed", "error_impact", "thresholds", "calibration"):
            assert getattr(found, key) == getattr(analyses, key)
    # The detections that the matches are stored with are enough.
    stored = pipelines.analyse_compared(analysed.gt.path, report.comparison, pictures=False)
    again = findings_of(stored.gt, stored.runs[0].detections, stored.runs[0].matches)
    assert again.missed == report.findings[0].missed
    assert again.confusion == report.findings[0].confusion
    assert any(crop.kind == "Missed" for crop in report.crops)
    for id_ in ("missed", "thresholds", "confusions", "calibration"):
        assert f'<section id="{id_}"' in render(report)


def test_sections_are_left_out_without_findings() -> None:
    report = replace(make_report(), findings=())
    text = render(report)
    for id_ in ("missed", "thresholds", "calibration"):
        assert f'<section id="{id_}"' not in text
    assert '<section id="confusions"' in text
    assert "matrix" not in text[text.index('<section id="confusions"') :].split("</section>")[0]
    no_scores = [replace(found, calibration=[]) for found in make_report().findings]
    assert calibration_section.view(replace(make_report(), findings=no_scores)) is None


def test_missed_objects_lead_to_their_crops() -> None:
    view = missed_section.view(make_report())
    assert view is not None
    texts = [text for text, _ in view["missed"][0]["cells"][0]]
    assert texts == ["100", "70", "8", "7", "15", "70.0%"]
    links = [link for _, link in view["missed"][0]["cells"][1]]
    assert links == [
        None, None, "#crops?kind=Missed&why=Loc", "#crops?kind=Missed&why=Cls",
        "#crops?kind=Missed&why=Miss", None,
    ]  # fmt: skip
    assert [bar["total"] for bar in view["bars"][0]["bars"]] == ["70.0%", "71.0%"]
    assert view["impact"][0]["cells"][0] == ["40.0", *["2.5"] * 6, "6.0", "7.0"]


def test_a_missed_object_is_of_no_detected_category() -> None:
    crops = make_missed_crops(3)
    entries = crops_payload(crops, ["baseline", "IIF"])["crops"]
    assert [entry["name"] for entry in entries] == [""] * 3
    assert [entry["why"] for entry in entries] == ["Loc", "Cls", "Miss"]
    assert entries[0]["about"].startswith("missed object, localisation: detected, but badly")
    link = CropLinks(crops)
    assert link(name=crops[0].category) is None
    assert link(truth=crops[0].truth) is not None


def test_curves_hold_what_they_are_made_from() -> None:
    report = make_report()
    payload = threshold_section.curves_payload(report)
    assert payload is not None
    for found, best, points in zip(
        report.findings, payload["best"], payload["points"], strict=True
    ):
        by_id = {one.category_id: one for one in found.thresholds}
        for k, text in enumerate(points):
            curve = found.curves[k]
            if curve is None:
                assert (best[k], text) == (0, "")
                continue
            assert best[k][3] == pytest.approx(by_id[k + 1].f1, abs=0.06)
            assert best[k][0] == pytest.approx(by_id[k + 1].threshold, rel=1e-3)
            high, low, precision, recall = np.frombuffer(
                base64.b64decode(text), np.uint8
            ).reshape(-1, 4).T.astype(float)  # fmt: skip
            threshold = (256 * high + low) / 65535
            at = np.abs(curve.threshold[:, None] - threshold).argmin(axis=0)
            np.testing.assert_allclose(curve.threshold[at], threshold, atol=1e-5)
            np.testing.assert_allclose(100 * curve.precision[at], precision / 2.55, atol=0.2)
            np.testing.assert_allclose(100 * curve.recall[at], recall / 2.55, atol=0.2)
            # The best F1 and both ends are among them.
            assert {int(np.argmax(curve.f1)), len(curve.f1) - 1} <= set(at.tolist())
            assert len(at) <= 16 + 2
    assert payload["initial"] == int(np.argmax(report.analyses[0].num_gt))


def test_means_of_a_group_are_over_its_categories() -> None:
    report = make_report()
    view = threshold_section.view(report)
    assert view is not None
    analysis, found = report.analyses[0], report.findings[0]
    rare = [one for one in found.thresholds if analysis.category_groups[one.category_id - 1] == "r"]
    row = view["rows"][1]
    assert row["categories"] == str(len(rare))
    assert row["cells"][0][3] == f"{np.mean([one.f1 for one in rare]):.1f}"
    assert row["cells"][0][0] == f"{np.median([one.threshold for one in rare]):.2f}"
    assert [chart["group"] for chart in view["charts"]] == ["all", "rare", "common", "frequent"]


def test_the_most_confused_categories_are_shown_and_nothing_is_lost() -> None:
    report = make_report(300)
    view = confusion_section.view(report)
    assert view is not None
    assert (view["shown"], view["all"]) == (confusion_section.MAX_CATEGORIES, 300)
    names = report.analyses[0].category_names
    for found, matrix in zip(report.findings, view["matrices"], strict=True):
        shown = [names.index(head["name"]) + 1 for head in view["heads"]]
        cells = {(cell.category_id, cell.predicted_id): cell.count for cell in found.confusion}
        for category, row in zip(shown, matrix["rows"], strict=False):
            for predicted, cell in zip(shown, row["cells"], strict=False):
                count = cells.get((category, predicted))
                words = "" if cell is None else cell["tip"].split("\n")[1]
                assert words.split(" of ")[0] == ("" if count is None else f"{count:,}")
        total = sum(cell.count for cell in found.confusion)
        counted = [
            int(cell["tip"].split("\n")[1].split(" of ")[0].replace(",", ""))
            for row in matrix["rows"] for cell in row["cells"] if cell
        ]  # fmt: skip
        assert sum(counted) == total
    text = render(report)
    assert "The 20 most confused of 300 categories are shown" in text


def test_neighbours_in_the_matrix_are_confused_with_each_other() -> None:
    # 0-5, 5-2 and 2-7 are confused, and 1-9 more often.
    pairs = [(0, 5, 6), (5, 2, 7), (2, 7, 5), (9, 1, 9)]
    cells = np.array([(k, p, n) for k, p, n in pairs] + [(3, 3, 99), (4, 10, 50)], np.int64)
    chain = confusion_section.most_confused([cells], 10)
    assert sorted(chain) == list(range(10))
    places = {k: i for i, k in enumerate(chain)}
    assert abs(places[9] - places[1]) == 1
    assert abs(places[5] - places[2]) == 1
    assert abs(places[2] - places[7]) == 1 or abs(places[5] - places[0]) == 1


def test_cells_lead_to_the_crops_of_what_they_count(
    real: tuple[Report, pipelines.AnalysedRuns],
) -> None:
    report, _ = real
    view = confusion_section.view(report)
    assert view is not None
    names = [head["name"] for head in view["heads"]]
    links = CropLinks(report.crops)
    found = 0
    for matrix in view["matrices"]:
        for i, row in enumerate(matrix["rows"]):
            for j, cell in enumerate(row["cells"]):
                if cell is None or cell["link"] is None:
                    continue
                found += 1
                if i < len(names) and j < len(names):
                    kind = "TP" if i == j else "Cls"
                    assert cell["link"] == links(kind=kind, name=names[j], truth=names[i])
    assert found
    small = {"kind": "Missed", "truth": names[0]}
    missed = view["matrices"][0]["rows"][0]["cells"][-1]
    assert (missed and missed["link"]) == links(**small)


def test_the_csv_has_the_most_frequent_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    report = make_report()
    payload = confusion_section.confusion_payload(report)
    assert payload is not None
    rows = np.array(payload[0]).reshape(-1, 3)
    expected = sorted(
        (60 if c.category_id is None else c.category_id - 1,
         60 if c.predicted_id is None else c.predicted_id - 1, c.count)
        for c in report.findings[0].confusion
    )  # fmt: skip
    assert sorted(map(tuple, rows.tolist())) == expected
    view = confusion_section.view(report)
    assert view is not None
    assert view["left_out"] == 0
    monkeypatch.setattr(confusion_section, "MAX_CELLS", 40)
    few = confusion_section.confusion_payload(report)
    assert few is not None
    kept = np.array(few[0]).reshape(-1, 3)
    assert sorted(kept[:, 2]) == sorted(rows[:, 2])[-20:]
    view = confusion_section.view(report)
    assert view is not None
    assert view["left_out"] == sum(len(found.confusion) for found in report.findings) - 40


def test_large_counts_are_short() -> None:
    cells = [ConfusionCell(1, 1, 12_345), ConfusionCell(1, 2, 8_300), ConfusionCell(1, None, 950)]
    report = make_report(8)
    found = [replace(of_run, confusion=cells) for of_run in report.findings]
    view = confusion_section.view(replace(report, findings=found))
    assert view is not None
    texts = [c["text"] for row in view["matrices"][0]["rows"] for c in row["cells"] if c]
    assert sorted(texts) == ["12k", "8.3k", "950"]


def test_calibration_is_shown_by_group() -> None:
    view = calibration_section.view(make_report())
    assert view is not None
    assert [row["group"] for row in view["rows"]] == ["all", "rare", "common", "frequent"]
    assert view["rows"][0]["cells"] == [["1,400", "12.5", "15.5", "40.0", "30.0"]] * 2
    # The empty bin has no point.
    assert str(view["charts"][0]["svg"]).count("<circle") == 2 * 14


def test_boundaries_are_those_of_the_summaries_or_the_command_that_adds_them() -> None:
    comparison = make_comparison()
    details = [
        RunDetails(
            name,
            analyses={
                "segm": {
                    "boundary": {"AP": value, "APs": None},
                    "class_agnostic_recall": {"AR@1": 10.0 + value},
                }
            },
        )
        for name, value in (("baseline", 20.0), ("IIF", 22.5))
    ]
    found = further_figures(Report(comparison, details=details))
    assert [row["metric"] for row in found["rows"]] == ["Boundary AP", "AR@1"]
    assert found["rows"][0]["values"] == ["20.0", "22.5"]
    assert found["rows"][0]["changes"] == ["+2.5"]
    assert found["missing"] == []
    assert "Boundary AP" in render(Report(comparison, details=details))
    some = Report(comparison, details=[details[0], RunDetails("IIF")])
    assert further_figures(some)["rows"] == []
    assert commands(some) == [
        "iif evaluate --gt val.json --results output/IIF/results.json --output output/IIF "
        "--analyses"
    ]


def commands(report: Report) -> list[str]:
    """The lines of the page's <pre>."""
    (block,) = re.findall(r'<pre class="command">(.*?)</pre>', render(report), re.S)
    return unescape(block).strip().splitlines()


def test_the_command_adds_the_boundaries_to_the_page(tmp_path: Path) -> None:
    folder = evaluate_runs(tmp_path)
    comparison = compare([folder / "IIF"], bootstrap=0)
    page = pipelines.make_report(comparison)
    (command,) = commands(page)
    assert main(shlex.split(command)[1:]) == 0
    again = pipelines.make_report(compare([folder / "IIF"], bootstrap=0))
    found = further_figures(again)
    assert found["missing"] == []
    assert {"Boundary AP", "AR@100"} <= {row["metric"] for row in found["rows"]}
