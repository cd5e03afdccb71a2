"""Several result files as one run, compressed, from standard input and from pipes."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iif import evaluate
from iif.cli import main
from iif.data import results as results_module
from iif.data.annotations import load_annotations
from iif.data.results import Detections, load_results
from iif.data.sources import open_sources
from iif.errors import InputError
from iif.evaluation.evaluate import evaluate_files
from iif.files import sha256_file
from random_cases import random_case


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Annotation file and result file with masks."""
    gt, rows = random_case(29, masks=True)
    for k, category in enumerate(gt["categories"]):
        category["frequency"] = "rcf"[k % 3]
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    return tmp_path / "gt.json", tmp_path / "results.json"


def split(path: Path, *at: int) -> list[Path]:
    """Write the rows of a result file into several, cut at these rows."""
    rows = json.loads(path.read_text())
    edges = [0, *at, len(rows)]
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = path.with_name(f"part{number}.json")
        part.write_text(json.dumps(rows[start:stop]))
        parts.append(part)
    return parts


def content(found: Detections) -> list[Any]:
    """Return everything but where detections come from, as plain values."""
    columns = (found.image, found.category, found.score, found.bbox, found.mask_area)
    masks = None if found.rle is None else found.rle[:]
    return [None if c is None else (c.dtype, c.tobytes()) for c in columns] + [masks]


def evaluated(*arguments: Any, out: Path) -> dict[str, Any]:
    """Run ``iif evaluate``; return its summary without what names the result files."""
    assert main(["evaluate", *map(str, arguments), "--output", str(out)]) == 0
    summary = json.loads((out / "eval_summary.json").read_text())
    return {key: value for key, value in summary.items() if key != "results"}


def matches_of(folder: Path) -> dict[str, Any]:
    with np.load(folder / "eval_matches.npz") as stored:
        return {
            key: (stored[key].dtype, stored[key].tobytes())
            for key in stored.files
            if key not in ("path", "sha256")
        }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 200), masks=st.booleans(), scanned=st.booleans())
def test_any_cut_reads_as_the_whole(
    tmp_path: Path, data: st.DataObject, seed: int, masks: bool, scanned: bool
) -> None:
    gt_content, rows = random_case(seed, masks=masks)
    (tmp_path / "gt.json").write_text(json.dumps(gt_content))
    whole = tmp_path / "results.json"
    whole.write_text(json.dumps(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = split(whole, *cuts)
    gt = load_annotations(tmp_path / "gt.json", masks=masks)
    iou_type = "segm" if masks else "bbox"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_module, "_SCANNED_BYTES", 0 if scanned else 1 << 40)
        found = load_results(parts, gt, iou_type=iou_type)
        assert content(found) == content(load_results(whole, gt, iou_type=iou_type))
    assert [(f.path, f.sha256, f.num_detections) for f in found.files] == [
        (str(part), sha256_file(part), len(json.loads(part.read_text()))) for part in parts
    ]


@pytest.mark.parametrize("analyses", [[], ["--analyses"]])
def test_several_files_are_one_run(
    files: tuple[Path, Path], tmp_path: Path, analyses: list[str]
) -> None:
    gt, whole = files
    parts = split(whole, 3, 3, 11)
    one, several = tmp_path / "one", tmp_path / "several"
    options = ["--gt", gt, "--outcomes", *analyses]
    expected = evaluated(*options, "--results", whole, out=one)
    assert evaluated(*options, "--results", *parts, out=several) == expected
    assert matches_of(several) == matches_of(one)
    for table in one.glob("*.csv"):
        assert (several / table.name).read_bytes() == table.read_bytes(), table.name
    hashes = [sha256_file(part) for part in parts]
    recorded = json.loads((several / "eval_summary.json").read_text())["results"]
    assert recorded == {
        "path": None,
        "sha256": hashlib.sha256("".join(f"{h}\n" for h in hashes).encode()).hexdigest(),
        "num_detections": len(json.loads(whole.read_text())),
        "files": [
            {"path": str(p), "sha256": h, "num_detections": len(json.loads(p.read_text()))}
            for p, h in zip(parts, hashes, strict=True)
        ],
    }


def test_without_an_iou_type_the_first_row_of_all_decides(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    gt, whole = files
    rows = json.loads(whole.read_text())
    empty, boxes = tmp_path / "empty.json", tmp_path / "boxes.json"
    empty.write_text("[]")
    boxes.write_text(json.dumps([{k: v for k, v in rows[0].items() if k != "segmentation"}]))
    whole.write_text(json.dumps(rows[1:]))
    for order, chosen in ([empty, boxes, whole], ["bbox"]), ([empty, whole], ["bbox", "segm"]):
        assert list(evaluate_files(gt, order, output_dir=None)["metrics"]) == chosen
    with pytest.raises(InputError, match=r"boxes\.json: row 0: segmentation is missing"):
        evaluate_files(gt, [whole, boxes], output_dir=None)
    with pytest.raises(InputError, match=r"boxes\.json: row 0: segmentation is missing: boxes"):
        evaluate_files(gt, [empty, whole, boxes], iou_types=["segm"], output_dir=None)


def test_a_fault_names_its_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, whole = files
    first, second = split(whole, 5)
    rows = json.loads(second.read_text())
    rows[2]["image_id"] = 123456789
    second.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"part1\.json: row 2: image_id 123456789 is not in"):
        evaluate_files(gt, [first, second], output_dir=None)
    second.write_text(json.dumps(rows)[:-1])
    with pytest.raises(InputError, match=r"part1\.json: does not end with"):
        evaluate_files(gt, [first, second], output_dir=None)
    with pytest.raises(InputError, match=r"part0\.json: is given twice"):
        evaluate_files(gt, [first, tmp_path / "." / "part0.json"], output_dir=None)
    with pytest.raises(InputError, match="-: is given twice"):
        evaluate_files(gt, ["-", "-"], output_dir=None)
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        evaluate_files(gt, [first, tmp_path / "none.json"], output_dir=None)
    with pytest.raises(InputError, match="no result file is given"):
        evaluate_files(gt, [], output_dir=None)


@pytest.mark.parametrize("at_least", [0, 1 << 40])
def test_gzip_reads_as_the_plain_file(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, at_least: int
) -> None:
    monkeypatch.setattr(results_module, "_SCANNED_BYTES", at_least)
    gt_path, whole = files
    gt = load_annotations(gt_path, masks=True)
    text = whole.read_bytes()
    # In two members, as two compressed files that were concatenated, and without a telling name.
    packed = whole.with_name("packed")
    packed.write_bytes(gzip.compress(text[:1000]) + gzip.compress(text[1000:]))
    found = load_results(packed, gt, iou_type="segm")
    assert content(found) == content(load_results(whole, gt, iou_type="segm"))
    assert found.sha256 == sha256_file(packed)
    assert (found.path, found.files[0].path) == (str(packed), str(packed))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-20], "packed: its compressed content is cut off"),
        (lambda packed: packed[:-8] + b"12345678", "packed: its compressed content is damaged"),
        (lambda packed: packed[:40] + b"\0" * 40 + packed[80:], "packed: its compressed content"),
        (lambda packed: gzip.compress(packed), "packed: is compressed with gzip; unpack it first"),
    ],
)
def test_damaged_gzip_is_refused(files: tuple[Path, Path], damage: Any, message: str) -> None:
    gt, whole = files
    packed = whole.with_name("packed")
    packed.write_bytes(damage(gzip.compress(whole.read_bytes())))
    with pytest.raises(InputError, match=message):
        evaluate_files(gt, packed, output_dir=None)


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    gt, whole = files
    given = gzip.compress(whole.read_bytes()) if packed else whole.read_bytes()
    expected = evaluated("--gt", gt, "--results", whole, out=tmp_path / "one")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    found = evaluated("--gt", gt, "--results", "-", out=tmp_path / "piped")
    assert found == expected
    assert matches_of(tmp_path / "piped") == matches_of(tmp_path / "one")
    recorded = json.loads((tmp_path / "piped" / "eval_summary.json").read_text())["results"]
    assert (recorded["path"], recorded["sha256"]) == (None, hashlib.sha256(given).hexdigest())


def test_pipes_are_read_once_and_verified(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell's <(...): each can be read a single time, and has no size."""
    gt, whole = files
    parts = split(whole, 7)
    expected = evaluated("--gt", gt, "--results", whole, out=tmp_path / "one")
    pipes = []
    for number, part in enumerate(parts):
        pipe = tmp_path / f"pipe{number}"
        os.mkfifo(pipe)
        pipes.append(pipe)
        threading.Thread(target=pipe.write_bytes, args=[part.read_bytes()], daemon=True).start()
    found = evaluated("--gt", gt, "--verify", "--results", *pipes, out=tmp_path / "piped")
    assert found == expected
    assert "largest difference" in capsys.readouterr().out
    # A page without pictures needs no result file; with pictures it says why it has none.
    report = ["report", str(tmp_path / "piped"), "--gt", str(gt)]
    assert main([*report, "--output", str(tmp_path / "page.html")]) == 0
    status = main([*report, "--images", str(tmp_path), "--output", str(tmp_path / "page.html")])
    assert status == 2
    assert "came from a pipe" in capsys.readouterr().err


def test_in_a_shell(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, whole = files
    first, second = split(whole, 7)
    command = f"cat {second} | {sys.executable} -m iif.cli evaluate --gt {gt} --results "
    command += f"<(gzip -c {first}) - --output {tmp_path / 'piped'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    evaluated("--gt", gt, "--results", whole, out=tmp_path / "one")
    assert matches_of(tmp_path / "piped") == matches_of(tmp_path / "one")


def test_copies_are_removed(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(files[1].read_bytes()))
    with open_sources(packed) as (source,):
        assert Path(source.path).is_relative_to(temporary)
        assert Path(source.path).read_bytes() == files[1].read_bytes()
    assert list(temporary.iterdir()) == []


def test_the_report_reads_several_files_again(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they lie beside the summary, or where they were; not when one has changed."""
    gt, whole = files
    parts = split(whole, 7)
    out = tmp_path / "out"
    evaluated("--gt", gt, "--results", *parts, out=out)
    report = ["report", str(out), "--output", str(tmp_path / "page.html")]
    (out / "eval_matches.npz").unlink()  # so that the result files are matched again
    assert main(report) == 0
    for part in parts:
        part.rename(out / part.name)
    assert main(report) == 0
    rows = json.loads((out / "part1.json").read_text())
    (out / "part1.json").write_text(json.dumps(rows, indent=1))
    assert main(report) == 2
    assert "changed since" in capsys.readouterr().err
    (out / "part1.json").unlink()
    assert main(report) == 2
    assert "part1.json: no such result file" in capsys.readouterr().err


def test_false_positives_of_several_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    gt, whole = files
    parts = [str(part) for part in split(whole, 7)]
    common = ["false-positives", "--gt", str(gt)]
    one, several = tmp_path / "one", tmp_path / "several"
    runs = ["--results", str(whole), "--baseline", str(whole)]
    assert main([*common, *runs, "--output", str(one)]) == 0
    runs = ["--results", *parts, "--baseline", *parts]
    assert main([*common, *runs, "--output", str(several)]) == 0
    tables = [(folder / "false_positives.csv").read_text() for folder in (one, several)]
    assert tables[0] == tables[1]


def test_from_python(files: tuple[Path, Path]) -> None:
    gt, whole = files
    parts = split(whole, 7)
    assert evaluate(gt, parts)["metrics"] == evaluate(gt, whole)["metrics"]
