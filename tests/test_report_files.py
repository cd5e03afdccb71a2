"""The report from files: `iif report` and its like, and the steps that they are made of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import helpers_compare as made
from helpers_report import NASTY, Page, evaluate_runs
from iif.cli import main
from iif.data.images import find_images
from iif.evaluation.compare import compare
from iif.evaluation.scenes import choose_scenes
from iif.evaluation.seeds import compare_seeds
from iif.report import pipelines
from iif.report.tables import page_number


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_runs(tmp_path_factory.mktemp("evaluated"))


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


def test_report_of_runs_alone_from_any_folder(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths in a summary count from a folder above it, also after a move."""
    project = tmp_path / "project"
    shutil.copytree(evaluated, project / "data")
    for name in ("baseline", "IIF"):
        summary = project / "data" / name / "eval_summary.json"
        content = json.loads(summary.read_text())
        content["results"]["path"] = f"data/{name}.json"
        content["dataset"]["path"] = "data/gt.json"
        summary.write_text(json.dumps(content))
    moved = tmp_path / "moved"
    project.rename(moved)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    runs = [str(moved / "data" / name) for name in ("baseline", "IIF")]
    assert main(["report", *runs, "--bootstrap", "20"]) == 0
    page = Page((elsewhere / "report.html").read_text())
    assert {"metrics", "false-positives", "what-now"} <= set(page.ids())
    assert any("IIF brings" in text for text in page.texts)


def test_report_opens_a_browser_when_asked(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) is None)
    output = tmp_path / "report.html"
    assert run_report(evaluated, output, "--open") == 0
    assert opened == [output.as_uri()]
    assert run_report(evaluated, output) == 0
    assert len(opened) == 1


def test_report_without_a_run_or_its_annotations(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "report.html")
    assert main(["report", "--output", output]) == 2
    assert "no run is given" in capsys.readouterr().err
    run = tmp_path / "run"
    shutil.copytree(evaluated / "IIF", run)
    content = json.loads((run / "eval_summary.json").read_text())
    content["dataset"]["path"] = "nowhere/gt.json"
    (run / "eval_summary.json").write_text(json.dumps(content))
    assert main(["report", str(run), "--output", output]) == 2
    error = capsys.readouterr().err
    assert "the annotation file that it names, nowhere/gt.json, is not there" in error
    assert "(--gt)" in error


def test_groups_and_counts_of_the_summary_need_no_training_annotations(tmp_path: Path) -> None:
    """A COCO-format file names no groups; its runs were evaluated with the training's counts."""
    gt = made.make_gt(images=12)
    for image in gt["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in gt["categories"]:
        del category["frequency"], category["image_count"]
    for name in ("gt.json", "train.json"):
        made.write(tmp_path / name, gt)
    made.write(tmp_path / "run.json", made.make_results(gt))
    paths = {
        "--gt": "gt.json",
        "--results": "run.json",
        "--train-json": "train.json",
        "--output": "run",
    }
    arguments = [part for flag, name in paths.items() for part in (flag, str(tmp_path / name))]
    assert main(["evaluate", *arguments]) == 0
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "run"), "--output", str(output)]) == 0
    comparison = compare([tmp_path / "run"])
    analysed = pipelines.analyse_compared(tmp_path / "gt.json", comparison)
    assert [row.group for row in comparison.categories] == analysed.gt.groups.tolist()
    counts = [row.image_count for row in comparison.categories]
    assert counts == analysed.gt.image_count.tolist()
    assert None not in counts


def test_many_runs_are_one_table_and_a_page_about_two(evaluated: Path, tmp_path: Path) -> None:
    runs = []
    for i in range(pipelines.MAX_RUNS + 1):
        runs.append(tmp_path / f"run{i}")
        shutil.copytree(evaluated / ("IIF" if i == 4 else "baseline"), runs[-1])
    compared = pipelines.compare_for_page(runs, bootstrap=20)
    comparison, everything = compared.comparison, compared.everything
    assert comparison.names == ["run0", "run4"]
    assert everything is not None
    assert everything.names == [run.name for run in runs]
    assert compared.pooled is not None
    assert compared.pooled.methods == everything.names
    report = pipelines.make_report(comparison, everything=everything, pooled=compared.pooled)
    assert [run.name for run in report.details] == everything.names
    few = pipelines.compare_for_page(runs[:3], bootstrap=0)
    assert (len(few.comparison.runs), few.everything, few.pooled) == (3, None, None)


def set_config(folder: Path, method: str, seed: int) -> None:
    path = folder / "eval_summary.json"
    summary = json.loads(path.read_text())
    summary["config"] = {"METHOD": method, "SEED": seed}
    path.write_text(json.dumps(summary))


def test_seeds_of_a_method_are_pooled_and_the_pair_is_of_one_seed(
    evaluated: Path, tmp_path: Path
) -> None:
    runs = []
    for method, seed in (("plain", 1), ("plain", 2), ("iif", 2), ("iif", 1)):
        runs.append(tmp_path / f"{method}_seed{seed}")
        shutil.copytree(evaluated / ("IIF" if method == "iif" else "baseline"), runs[-1])
        set_config(runs[-1], method, seed)
    compared = pipelines.compare_for_page(runs, bootstrap=30)
    assert compared.pooled is not None
    assert (compared.pooled.methods, compared.pooled.seeds) == (["plain", "iif"], [2, 2])
    assert compared.comparison.names == ["plain_seed1", "iif_seed1"]
    # The same as from the files again.
    again = compare_seeds(runs, ["plain", "plain", "iif", "iif"], bootstrap=30)
    assert again.metrics == compared.pooled.metrics
    page = tmp_path / "page.html"
    assert main(["report", *map(str, runs), "--bootstrap", "30", "--output", str(page)]) == 0
    assert "Of 2 methods (2 seeds each) iif has the highest mean mask AP" in page.read_text()
    # Seeds of one method alone are runs side by side.
    alone = pipelines.compare_for_page(runs[:2] + runs[:1], names=["a", "b", "c"], bootstrap=0)
    assert alone.pooled is None


def test_report_of_one_run_without_images(evaluated: Path, tmp_path: Path) -> None:
    output = tmp_path / "single.html"
    assert run_report(evaluated, output, runs=("--run", str(evaluated / "IIF"))) == 0
    page = Page(output.read_text())
    assert page.payload()["crops"] == []
    assert any("made without the images" in text for text in page.texts)
    assert any(re.match(r"IIF has mask AP: all categories", text) for text in page.texts)


def test_html_of_compare_and_false_positives(evaluated: Path, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    runs = [str(evaluated / "baseline"), str(evaluated / "IIF")]
    tables = ["--output", str(tmp_path / "tables")]
    assert main(["compare", *runs, "--bootstrap", "20", "--html", str(page), *tables]) == 0
    categories = json.loads((tmp_path / "tables" / "comparison.json").read_text())["categories"]
    gt = json.loads((evaluated / "gt.json").read_text())
    groups = {category["id"]: category["frequency"] for category in gt["categories"]}
    assert {row["id"]: row["frequency"] for row in categories} == groups
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
    images = ("--images", str(evaluated / "images"))
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("eval_summary.json", "eval_matches.npz"):
        (moved / name).write_bytes((evaluated / "IIF" / name).read_bytes())
    summary = json.loads((moved / "eval_summary.json").read_text())
    summary["results"]["path"] = "/nowhere/IIF.json"
    (moved / "eval_summary.json").write_text(json.dumps(summary))
    assert run_report(evaluated, output, *images, runs=("--run", str(moved))) == 2
    assert "no such result file" in capsys.readouterr().err
    (moved / "IIF.json").write_text((evaluated / "baseline.json").read_text())
    assert run_report(evaluated, output, *images, runs=("--run", str(moved))) == 2
    assert "changed since" in capsys.readouterr().err

    # Of a recorded file and one beside the summary, that which was evaluated is taken.
    other = tmp_path / "trained again" / "IIF.json"
    other.parent.mkdir()
    other.write_text((evaluated / "baseline.json").read_text())
    summary["results"]["path"] = str(other)
    (moved / "eval_summary.json").write_text(json.dumps(summary))
    (moved / "IIF.json").write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, *images, runs=("--run", str(moved))) == 0
    (moved / "IIF.json").write_text((evaluated / "baseline.json").read_text())
    other.write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, *images, runs=("--run", str(moved))) == 0
    output.unlink()
    capsys.readouterr()
    (moved / "IIF.json").write_text((evaluated / "IIF.json").read_text())
    assert run_report(evaluated, output, *images, runs=("--run", str(moved))) == 0
    assert output.exists()


def test_report_refuses_a_missing_image(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    assert run_report(evaluated, output, "--images", str(tmp_path)) == 2
    assert "no such image" in capsys.readouterr().err
    assert not output.exists()


def test_a_file_that_one_step_has_read_serves_the_next(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = compare([evaluated / "baseline", evaluated / "IIF"], bootstrap=0)
    calls: list[str] = []

    def counted(name: str) -> None:
        real = getattr(pipelines, name)
        monkeypatch.setattr(pipelines, name, lambda *a, **k: (calls.append(name), real(*a, **k))[1])

    for name in ("load_annotations", "load_results", "match"):
        counted(name)
    analysed = pipelines.analyse_compared(evaluated / "gt.json", comparison)
    scenes = choose_scenes(analysed.analysis, analysed.gt, analysed.runs, num_images=1)
    images = find_images(analysed.gt, evaluated / "images")
    drawn = pipelines.save_pictures(
        analysed, scenes, images, tmp_path / "pictures", lambda image, objects: image
    )
    assert [path for path in drawn if not path.is_file()] == []
    assert drawn
    report = pipelines.make_report(comparison, analysed, images=evaluated / "images")
    assert [analysis.iou_type for analysis in report.analyses] == ["segm", "bbox"]
    assert report.crops
    # The boxes and masks of pictures are in the result files; everything else was stored.
    assert (calls.count("load_annotations"), calls.count("load_results")) == (1, 2)
    assert calls.count("match") == 0


def test_a_report_without_pictures_reads_and_matches_no_result_file(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, anew = tmp_path / "stored.html", tmp_path / "anew.html"
    for name in ("baseline", "IIF"):
        (tmp_path / name).mkdir()
        shutil.copy(evaluated / name / "eval_summary.json", tmp_path / name)
    copies = ("--baseline", str(tmp_path / "baseline"), "--run", str(tmp_path / "IIF"))
    assert run_report(evaluated, anew, "--bootstrap", "0", runs=copies) == 0
    for name in ("load_results", "match"):
        monkeypatch.setattr(pipelines, name, lambda *_, **__: pytest.fail("was called"))
    assert run_report(evaluated, stored, "--bootstrap", "0") == 0
    pages = [path.read_text().replace(str(tmp_path), str(evaluated)) for path in (stored, anew)]
    assert Page(pages[0]).texts == Page(pages[1]).texts


def test_matches_of_another_evaluation_are_refused(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated / "IIF", tmp_path / "IIF")
    runs = ("--run", str(tmp_path / "IIF"))
    shutil.copy(evaluated / "baseline" / "eval_matches.npz", tmp_path / "IIF")
    assert run_report(evaluated, tmp_path / "report.html", runs=runs) == 2
    assert "does not belong to" in capsys.readouterr().err
    # Boxes alone, where the summary has masks too.
    files = ["--gt", str(evaluated / "gt.json"), "--results", str(evaluated / "IIF.json")]
    assert main(["evaluate", *files, "--iou-type", "bbox", "--output", str(tmp_path / "b")]) == 0
    shutil.copy(tmp_path / "b" / "eval_matches.npz", tmp_path / "IIF")
    assert run_report(evaluated, tmp_path / "report.html", runs=runs) == 2
    assert "does not belong to" in capsys.readouterr().err


def test_the_report_imports_no_torch_and_no_detector(evaluated: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from iif.cli import main
import iif.report.weights, iif.report.plots, iif.report.tuning
folder, out = Path({str(evaluated)!r}), {str(tmp_path)!r}
runs = [str(folder / "baseline"), str(folder / "IIF")]
results = ["--results", runs[1] + ".json", "--baseline", runs[0] + ".json"]
gt = ["--gt", str(folder / "gt.json")]
assert main(["compare", *runs, "--bootstrap", "10", "--output", out]) == 0
assert main(["false-positives", *gt, *results, "--output", out]) == 0
images = ["--images", str(folder / "images"), "--bootstrap", "0"]
assert main(["report", *gt, "--run", *runs, *images, "--output", out + "/report.html"]) == 0
print(*[m for m in ("torch", "detectron2", "torchvision") if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
