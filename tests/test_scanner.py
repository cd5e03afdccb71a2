"""The scanner of result files: what it reads equals what the strict reader reads, to the bit."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iif.data import results, scanner
from iif.data.annotations import load_annotations
from iif.errors import InputError
from random_cases import random_case

ANY_NUMBER = st.one_of(
    st.floats(0, 1000),
    st.floats(0, 1000, width=32),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**20), 10**20),
)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scanner, "_BLOCK_BYTES", 3000)
    monkeypatch.setattr(scanner, "_MOST_ROW_BYTES", 2900)


def read(path, gt, iou_type, monkeypatch, at_least):
    """Return a file's detections as plain values, or its error."""
    monkeypatch.setattr(results, "_SCANNED_BYTES", at_least)
    try:
        found = results.load_results(path, gt, iou_type=iou_type)
    except InputError as error:
        return str(error)
    columns = (found.image, found.category, found.score, found.bbox, found.mask_area)
    return (
        found.sha256,
        [None if c is None else (c.dtype, c.tobytes()) for c in columns],
        None if found.rle is None else found.rle[:],
    )


def both(path, gt, iou_type, monkeypatch):
    return [read(path, gt, iou_type, monkeypatch, size) for size in (0, math.inf)]


@pytest.fixture(params=["bbox", "segm"])
def files(request, tmp_path):
    content, rows = random_case(4, masks=True)
    (tmp_path / "gt.json").write_text(json.dumps(content))
    gt = load_annotations(tmp_path / "gt.json", masks=True)
    return tmp_path / "results.json", gt, rows, request.param


@pytest.mark.parametrize("separators", [None, (",", ":"), (" ,\r\n", "\t: ")])
@pytest.mark.parametrize("other", [{}, {"area": 3.5, "of": [[1, -2.5e3], {"a\\/": {}}, []]}])
def test_canonical_files_are_scanned_whatever_their_blocks(
    files, separators, other, small_blocks, monkeypatch
):
    path, gt, rows, iou_type = files
    rows = [
        random.Random(i).sample([*(other | row).items()], len(other) + 5)
        for i, row in enumerate(rows)
    ]
    path.write_text(json.dumps([dict(row) for row in rows], separators=separators))
    assert scanner.scan(path, masks=iou_type == "segm") is not None
    scanned, strict = both(path, gt, iou_type, monkeypatch)
    assert scanned == strict
    assert isinstance(scanned, tuple)


def test_boxes_with_polygons_are_scanned(files, monkeypatch):
    path, gt, rows, _ = files
    for row in rows:
        row["segmentation"] = [[1.5, 2, 3, 4.25, 5, 1e-05]]
    path.write_text(json.dumps(rows))
    assert scanner.scan(path, masks=False) is not None
    scanned, strict = both(path, gt, "bbox", monkeypatch)
    assert scanned == strict
    masks, fault = both(path, gt, "segm", monkeypatch)
    assert masks == fault
    assert "segmentation" in fault


@given(st.data())
@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_edited_files_give_the_same_arrays_or_the_same_error(
    files, small_blocks, monkeypatch, data
):
    path, gt, rows, iou_type = files
    text = json.dumps(rows[: data.draw(st.integers(1, 12))], separators=(",", ":"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        until = at + data.draw(st.sampled_from([0, 0, 1, 1, 2, 9]))
        put = data.draw(
            st.one_of(
                st.text('{}[]":,.-+eE0123456789 \\\n\x00aé', max_size=3),
                ANY_NUMBER.map(json.dumps),
                st.sampled_from(
                    [
                        '"score":1,',
                        "null",
                        "true",
                        "NaN",
                        '"size":[1,2]',
                        "[[1,2]]",
                        text[at : at + 90],
                    ]
                ),
            )
        )
        text = text[:at] + put + text[until:]
    path.write_bytes(text.encode())
    scanned, strict = both(path, gt, iou_type, monkeypatch)
    assert scanned == strict


def number_texts(seed: int, count: int) -> list[str]:
    """Return numbers as programs write them, and those on which parsers go wrong."""
    rng = random.Random(seed)
    kinds = [
        lambda: repr(rng.uniform(0, 1000)),
        lambda: repr(float(np.float32(rng.uniform(0, 1000)))),
        lambda: f"{rng.uniform(0, 700):.{rng.randrange(8)}f}",
        lambda: repr(rng.random() * 10 ** rng.randint(-25, 10)),
        lambda: str(rng.randrange(10 ** rng.randrange(1, 19))),
        # Halfway between two doubles, and a quarter beside it.
        lambda: f"{rng.randrange(2**51, 2**52)}.{rng.choice(['25', '5', '75', '250'])}",
        lambda: f"{rng.randrange(2**52, 2**53)}.5",
        lambda: repr(math.ldexp(rng.getrandbits(53) | 1 << 52, rng.randint(-80, 0))),
        lambda: f"{rng.randrange(10**17, 10**18)}e{rng.randint(-25, 8)}",
        lambda: rng.choice(["0", "-0", "0.0", "-0.0", "0e5", "1E3", "1e+3", "1e-3", "-1.5"]),
    ]  # fmt: skip
    return [rng.choice(kinds)() for _ in range(count)]


def test_numbers_are_those_of_the_strict_reader(tmp_path):
    numbers = number_texts(0, 20_000)
    rows = [f'{{"image_id":1,"category_id":2,"score":1,"bbox":[{n},1,2,3]}}' for n in numbers]
    path = tmp_path / "results.json"
    path.write_text(f"[{','.join(rows)}]")
    found = scanner.scan(path, masks=False)
    expected = msgspec.json.decode(f"[{','.join(numbers)}]", type=list[float])
    assert found.bbox[:, 0].tobytes() == np.array(expected).tobytes()


@pytest.mark.parametrize(
    "number",
    [
        "1" * 20,
        "0.1234567890123456789012",
        "1e400",
        "1e-320",
        "01",
        "1.",
        ".5",
        "-",
        "+1",
        "1e",
        "NaN",
    ],
)
def test_unusual_numbers_are_left_to_the_strict_reader(tmp_path, number):
    path = tmp_path / "results.json"
    path.write_text(f'[{{"image_id":1,"category_id":2,"score":{number},"bbox":[1,1,2,3]}}]')
    assert scanner.scan(path, masks=False) is None


def test_a_file_that_changes_while_it_is_scanned_is_left_to_the_strict_reader(
    files, small_blocks, monkeypatch
):
    path, _, rows, iou_type = files
    path.write_text(json.dumps(rows))
    fill = scanner._Scanner._fill

    def shrink(self, text, start):
        with open(path, "r+b") as f:
            f.truncate(len(json.dumps(rows)) // 2)
        fill(self, text, start)

    monkeypatch.setattr(scanner._Scanner, "_fill", shrink)
    assert scanner.scan(path, masks=iou_type == "segm") is None


def test_a_file_that_is_no_plain_list_is_left_to_the_strict_reader(tmp_path):
    for text in ("", "[]", "{}", "[", "\ufeff[]", "[[]]"):
        path = Path(tmp_path, "results.json")
        path.write_text(text)
        assert scanner.scan(path, masks=False) is None
    assert scanner.scan(tmp_path / "none.json", masks=False) is None
