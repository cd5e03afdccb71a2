"""Result files: every layout of JSON reads alike, every fault names file, row and key."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from iif.data import json_rows, rle
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import available_iou_types, load_results, write_results
from iif.errors import InputError
from random_cases import random_case


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Annotations, list[dict]]:
    content, results = random_case(11, masks=True)
    path = tmp_path_factory.mktemp("gt") / "gt.json"
    path.write_text(json.dumps(content))
    return load_annotations(path, masks=True), results


def assert_same(gt: Annotations, path: Path, rows: list[dict], iou_type: str = "segm") -> None:
    detections = load_results(path, gt, iou_type=iou_type)
    assert len(detections) == len(rows)
    assert detections.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert gt.image_ids[detections.image].tolist() == [row["image_id"] for row in rows]
    assert gt.category_ids[detections.category].tolist() == [row["category_id"] for row in rows]
    assert detections.score.tolist() == [row["score"] for row in rows]
    assert detections.bbox.tolist() == [row["bbox"] for row in rows]
    if iou_type == "segm":
        for mask, row in zip(detections.rle, rows, strict=True):
            assert mask["size"] == row["segmentation"]["size"]
            assert mask["counts"].decode() == row["segmentation"]["counts"]
        areas = [int(mask_utils.area(row["segmentation"])) for row in rows]
        assert detections.mask_area.tolist() == areas
    else:
        assert detections.rle is None


# What other tools may add to a row; the list of objects has gaps that look like those of rows.
EXTRAS = st.dictionaries(
    st.sampled_from(["extra", "attributes", "keypoints", "id"]),
    st.sampled_from(
        [1, None, "}, {", '"\\', "}]", [{"a": 1}, {"b": {}}, {}], {"x": [[]]}, "ä€𝄞", 1e300]
    ),
    max_size=3,
)


@hypothesis_settings(max_examples=150)
@given(data=st.data())
def test_every_layout_in_blocks_of_any_size_reads_alike(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Annotations, list[dict]], data: Any
) -> None:
    gt, results = case
    rows = [
        row | data.draw(EXTRAS) for row in data.draw(st.lists(st.sampled_from(results), max_size=8))
    ]
    indent = data.draw(st.sampled_from([None, None, 0, 2]))
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r\n")]))
    ascii_only = data.draw(st.booleans())
    text = json.dumps(rows, indent=indent, separators=separators, ensure_ascii=ascii_only)
    text = (
        data.draw(st.sampled_from(["", " \n\t"])) + text + data.draw(st.sampled_from(["", "\n "]))
    )
    path = tmp_path_factory.mktemp("layout") / "results.json"
    path.write_text(text, encoding="utf-8")
    longest = max((len(json.dumps(row, indent=2).encode()) * 3 for row in rows), default=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_BLOCK_BYTES", longest + data.draw(st.integers(0, 300)))
        patch.setattr(json_rows, "_TAIL_BYTES", 40)
        assert_same(gt, path, rows, data.draw(st.sampled_from(["bbox", "segm"])))


def test_what_write_results_wrote_is_read_back(
    tmp_path: Path, case: tuple[Annotations, list[dict]]
) -> None:
    gt, results = case
    rows = [
        row
        | {
            "score": np.float64(row["score"]),
            "image_id": np.int64(row["image_id"]),
            "segmentation": row["segmentation"]
            | {"counts": row["segmentation"]["counts"].encode()},
        }
        for row in results
    ]
    write_results(tmp_path / "results.json", rows)
    assert_same(gt, tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    write_results(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert_same(gt, tmp_path / "none.json", [])


def test_a_score_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": float("nan")}
    with pytest.raises(ValueError, match="result 0 has score nan"):
        write_results(tmp_path / "results.json", [row])
    assert not list(tmp_path.iterdir())


def test_uncompressed_masks_are_compressed(
    tmp_path: Path, case: tuple[Annotations, list[dict]]
) -> None:
    gt, results = case
    row = results[0]
    pixels = mask_utils.decode(row["segmentation"]).ravel(order="F")
    bounds = [0, *(np.flatnonzero(np.diff(pixels)) + 1).tolist(), pixels.size]
    runs = np.diff(bounds).tolist()
    size = row["segmentation"]["size"]
    counts = [0, *runs] if pixels[0] else runs
    path = tmp_path / "results.json"
    path.write_text(json.dumps([row | {"segmentation": {"size": size, "counts": counts}}]))
    assert_same(gt, path, [row])
    path.write_text(json.dumps([row | {"segmentation": {"size": size, "counts": counts[:-1]}}]))
    with pytest.raises(InputError, match=r"row 0: segmentation .*do not sum"):
        load_results(path, gt, iou_type="segm")


def test_scores_may_be_whole_numbers_and_boxes_not_finite(
    tmp_path: Path, case: tuple[Annotations, list[dict]]
) -> None:
    gt, results = case
    rows = [results[0] | {"score": 1}, results[1] | {"bbox": [0, 0, float("inf"), 1]}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    assert_same(gt, path, rows)


def with_row(results: list[dict], row: int, **values: Any) -> list[dict]:
    return [r | values if i == row else r for i, r in enumerate(results)]


def without_key(results: list[dict], row: int, key: str) -> list[dict]:
    return [{k: v for k, v in r.items() if i != row or k != key} for i, r in enumerate(results)]


def spoiled(results: list[dict], counts: Any = None, size: Any = None) -> list[dict]:
    mask = results[3]["segmentation"]
    return with_row(
        results, 3, segmentation={"size": size or mask["size"], "counts": counts or mask["counts"]}
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: with_row(r, 3, image_id=5000), r"row 3: image_id 5000 is not in .*gt\.json"),
        (lambda r: with_row(r, 3, category_id=5000), r"row 3: category_id 5000 is not in"),
        (lambda r: with_row(r, 3, image_id="1"), "row 3: image_id expected `int`, got `str`"),
        (lambda r: with_row(r, 3, image_id=1.5), "row 3: image_id expected `int`, got `float`"),
        (lambda r: with_row(r, 3, image_id=2**70), "row 3: image_id expected `int`"),
        (lambda r: without_key(r, 3, "image_id"), "row 3: image_id is missing"),
        (lambda r: without_key(r, 3, "category_id"), "row 3: category_id is missing"),
        (lambda r: without_key(r, 3, "score"), "row 3: score is missing"),
        (lambda r: with_row(r, 3, score=None), "row 3: score expected `float`, got `null`"),
        (lambda r: with_row(r, 3, score=float("nan")), "row 3: score is nan"),
        (lambda r: with_row(r, 3, score=float("inf")), "row 3: score is inf"),
        (lambda r: with_row(r, 3, score="high"), "row 3: score expected `float`, got `str`"),
        (lambda r: with_row(r, 3, bbox=[1, 2, 3]), "row 3: bbox expected `array` of length 4"),
        (lambda r: [*r[:3], 7, *r[3:]], "row 3: the row expected `object`, got `int`"),
        (lambda r: without_key(r, 3, "segmentation"), "row 3: segmentation is missing: boxes"),
        (lambda r: spoiled(r, size=[7, 7]), r"row 3: segmentation.size is \[7, 7\] but image"),
        (lambda r: spoiled(r, counts=r[3]["segmentation"]["counts"][:-1]), "row 3: segmentation "),
        (lambda r: spoiled(r, counts=[1, 2, 3]), "row 3: segmentation .*do not sum"),
        (lambda r: with_row(r, 3, segmentation=[[1, 2, 3, 4, 5, 6]]), "row 3: segmentation exp"),
        (lambda r: with_row(r, 3, segmentation={"size": [1, 1]}), "segmentation.counts is missing"),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, case: tuple[Annotations, list[dict]], spoil: Any, message: str
) -> None:
    gt, results = case
    path = tmp_path / "results.json"
    path.write_text(json.dumps(spoil(results)))
    with pytest.raises(InputError, match=message) as error:
        load_results(path, gt, iou_type="segm")
    assert str(error.value).startswith(f"{path}: ")


def test_rows_are_counted_over_blocks(
    tmp_path: Path, case: tuple[Annotations, list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gt, results = case
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", 3000)
    for bad, message in (({"image_id": 5000}, "image_id 5000"), ({"score": None}, "score")):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(with_row(results * 40, 250, **bad)))
        with pytest.raises(InputError, match=f"row 250: {message}"):
            load_results(path, gt)


def test_a_box_is_needed_in_every_row_for_boxes_alone(
    tmp_path: Path, case: tuple[Annotations, list[dict]]
) -> None:
    gt, results = case
    path = tmp_path / "results.json"
    path.write_text(json.dumps(without_key(results, 3, "bbox")))
    with pytest.raises(InputError, match="row 3: bbox is missing"):
        load_results(path, gt)
    assert load_results(path, gt, iou_type="segm").bbox is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"annotations": []}', "begins with '{'"),
        ("null", "begins with 'n'"),
        ("[", "cut off"),
        ('[{"image_id": 1', "cut off"),
        ("[]]", "not valid JSON"),
        ("[1, 2]", "row 0: the row expected `object`"),
        ("[{},]", "row 0: image_id is missing"),
        ("[,]", "row 0: not valid JSON"),
        ('[{"image_id": 1 "score": 2}]', "row 0: not valid JSON"),
    ],
)
def test_a_file_that_is_no_list_of_rows_is_refused(
    tmp_path: Path, case: tuple[Annotations, list[dict]], text: str, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_results(path, case[0])
    assert str(error.value).startswith(f"{path}: ")


def test_every_cut_is_refused(tmp_path: Path, case: tuple[Annotations, list[dict]]) -> None:
    gt, results = case
    text = json.dumps(results[:2])
    path = tmp_path / "results.json"
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(InputError):
            load_results(path, gt)


@pytest.mark.parametrize("wrong", ["missing comma", "two commas", "comma at the end", "a word"])
def test_malformed_json_is_refused_at_any_row(
    tmp_path: Path,
    case: tuple[Annotations, list[dict]],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    gt, results = case
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", 2000)
    texts = [json.dumps(row) for row in results]
    for row in range(1, len(texts)):
        if wrong == "comma at the end":
            text = ",".join(texts) + ","
        else:
            between = {"missing comma": " ", "two commas": ",,", "a word": ",word,"}[wrong]
            text = ",".join(texts[:row]) + between + ",".join(texts[row:])
        path = tmp_path / "results.json"
        path.write_text(f"[{text}]")
        with pytest.raises(InputError, match=r"row \d+: not valid JSON"):
            load_results(path, gt)


@pytest.mark.parametrize("name", ["absent.json", "folder"])
def test_a_path_without_a_file_is_refused(
    tmp_path: Path, case: tuple[Annotations, list[dict]], name: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=name):
        load_results(tmp_path / name, case[0])


@hypothesis_settings(max_examples=300)
@given(data=st.data())
def test_no_broken_rle_reaches_pycocotools(data: Any, case: tuple[Annotations, list[dict]]) -> None:
    _, results = case
    row = data.draw(st.sampled_from(results))
    height, width = row["segmentation"]["size"]
    counts = row["segmentation"]["counts"].encode()
    cut = data.draw(st.integers(0, len(counts)))
    noise = data.draw(
        st.one_of(st.binary(max_size=12), st.text("0123aop\x00\xff ").map(str.encode))
    )
    broken = counts[:cut] + noise
    masks = rle.RLEs(
        np.array([[height, width]]), np.frombuffer(broken, np.uint8), np.array([len(broken)])
    )
    area = masks.areas()[0]
    if area >= 0:
        # What passes is a mask: decoded, every pixel is accounted for.
        pixels = mask_utils.decode(masks[0])
        assert pixels.shape == (height, width)
        assert pixels.sum() == area
        assert rle.checked({"size": [height, width], "counts": broken}, height, width) == masks[0]
    else:
        with pytest.raises(ValueError, match=re.escape(rle.FAULTS[area])):
            rle.checked({"size": [height, width], "counts": broken}, height, width)


def test_iou_types_are_what_the_first_row_has(
    tmp_path: Path, case: tuple[Annotations, list[dict]]
) -> None:
    _, results = case
    path = tmp_path / "results.json"
    for rows, expected in (
        (results, ("bbox", "segm")),
        (without_key(results, 0, "segmentation"), ("bbox",)),
        (with_row(results, 0, segmentation=None), ("bbox",)),
        (without_key(results, 0, "bbox"), ("segm",)),
        ([], ("bbox", "segm")),
    ):
        path.write_text(json.dumps(rows))
        assert available_iou_types(path) == expected
