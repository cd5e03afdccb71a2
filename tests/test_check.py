"""The check of annotations, images, split and results: what it finds, and that it finds all."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils

from iif.check.findings import KINDS
from iif.check.run import Check, check
from iif.cli import main
from iif.data.annotation_file import read_annotation_file
from iif.data.annotations import load_annotations
from iif.data.faults import Fault, Faults
from iif.data.masks import Form, check_polygons, mask_forms, rle_areas
from iif.data.names import image_paths
from iif.data.results import load_results
from iif.data.trainable import trainable
from iif.errors import InputError
from iif.report.check import check_text, render_check
from iif.statistics import ClassStatistics

HEIGHT, WIDTH = 40, 50


def rle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    bits = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    bits[y : y + h, x : x + w] = 1
    encoded = mask_utils.encode(bits)
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def content(*, lvis: bool = False, boxes: bool = False) -> dict[str, Any]:
    """Return a sound file: 8 images, 3 categories, triangles and an RLE."""
    keys = {"neg_category_ids": [3], "not_exhaustive_category_ids": []} if lvis else {}
    annotations = []
    for i in range(8):
        for k in range(1, 4):
            if i % (k + 1) == 0:
                x, y = 3 * k, 2 * k
                shape: Any = [[x, y, x + 9, y, x + 9, y + 7]]
                shape = rle(x, y, 9, 7) if i == 0 and k == 3 else shape
                annotations.append(
                    {
                        "id": 10 * i + k,
                        "image_id": i + 1,
                        "category_id": k,
                        "bbox": [x, y, 9, 7],
                        "area": 31.5,
                        "iscrowd": 0,
                        "segmentation": [] if boxes else shape,
                    }
                )
    return {
        "images": [
            {"id": i + 1, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.png", **keys}
            for i in range(8)
        ],
        "categories": [
            {"id": k, "name": f"kind {k}", **({"frequency": "r"} if lvis else {})}
            for k in range(1, 4)
        ],
        "annotations": annotations,
    }


def write(folder: Path, value: Any, name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def kinds(result: Check, file: int = -1) -> dict[str, tuple[str, int]]:
    return {f.kind: (f.level, f.number) for f in result.files[file].findings}


def checked(folder: Path, change: Callable[[Any], Any], **made: bool) -> dict[str, tuple[str, int]]:
    value = content(**made)
    change(value)
    return kinds(check(write(folder, value)))


@pytest.mark.parametrize("made", [{}, {"lvis": True}, {"boxes": True}])
def test_a_sound_file_is_usable(tmp_path: Path, made: Any) -> None:
    result = check(write(tmp_path, content(**made)))
    assert result.usable
    assert result.content.format == ("lvis" if made.get("lvis") else "coco")
    assert result.content.model == ("boxes" if made.get("boxes") else "masks")
    assert all(found.level == "note" for found in result.files[0].findings)
    assert [row.image_count for row in result.classes] == [4, 3, 2]
    weights = [row.weight for row in result.classes]
    assert weights == pytest.approx(np.log([8 / 4, 8 / 3, 8 / 2]))
    assert result.groups["r"].classes == 3
    assert result.groups["f"].classes == 0


def annotation(row: int, **changes: Any) -> Callable[[Any], None]:
    return lambda value: value["annotations"][row].update(changes)


def image(row: int, **changes: Any) -> Callable[[Any], None]:
    return lambda value: value["images"][row].update(changes)


def category(row: int, **changes: Any) -> Callable[[Any], None]:
    return lambda value: value["categories"][row].update(changes)


def without(section: str, row: int, key: str) -> Callable[[Any], None]:
    return lambda value: value[section][row].pop(key, None)


def again(section: str, row: int, **changes: Any) -> Callable[[Any], None]:
    return lambda value: value[section].append({**value[section][row], **changes})


FAULTS: list[tuple[str, str, int, Callable[[Any], Any]]] = [
    ("malformed_images", "error", 1, image(2, file_name=3)),
    ("malformed_categories", "error", 1, category(1, name=None)),
    ("malformed_annotations", "error", 1, annotation(3, bbox="x")),
    ("duplicate_images_ids", "error", 1, again("images", 0)),
    ("duplicate_categories_ids", "error", 1, again("categories", 0)),
    ("duplicate_annotations_ids", "error", 1, again("annotations", 0)),
    ("unknown_image_id", "error", 1, annotation(2, image_id=99)),
    ("unknown_category_id", "error", 1, annotation(2, category_id=99)),
    ("missing_annotations", "error", 1, lambda value: value.pop("annotations")),
    ("missing_height", "error", 1, without("images", 3, "height")),
    ("missing_width", "error", 1, without("images", 3, "width")),
    ("impossible_size", "error", 1, image(3, height=0)),
    ("missing_bbox", "error", 1, annotation(1, bbox=[1, 2, 3])),
    ("broken_rles", "error", 1, annotation(0, segmentation={"size": [1, 2], "counts": "a"})),
    ("odd_polygons", "error", 1, annotation(0, segmentation=[[1, 1, 2, 1, 1e9, 3]])),
    ("no_names", "error", 1, image(4, file_name="")),
    ("unusable_names", "error", 1, image(4, file_name="../x.png")),
    ("no_mask", "warning", 1, annotation(0, segmentation=[])),
    ("no_polygon", "warning", 1, annotation(0, segmentation=[[1, 2, 3, 4]])),
    ("boxes_beyond", "note", 1, annotation(0, bbox=[45, 5, 9, 9])),
    ("no_box_area", "warning", 1, annotation(1, bbox=[60, 5, 3, 3])),
    ("no_area", "warning", 1, annotation(0, area=0)),
    ("computed_areas", "note", 1, without("annotations", 0, "area")),
    ("same_annotations", "warning", 1, again("annotations", 0, id=1000)),
    ("whole_floats", "note", 1, annotation(0, id=77.0)),
    ("same_files", "warning", 1, image(1, file_name="0.png")),
    ("same_class_names", "warning", 1, category(1, name="kind 1")),
    ("empty_categories", "warning", 1, again("categories", 0, id=0, name="root")),
    ("other_image_count", "warning", 1, category(0, image_count=3)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "level", "number", "change"), FAULTS, ids=[f[0] for f in FAULTS])
def test_each_fault_is_found(
    tmp_path: Path, kind: str, level: str, number: int, change: Any
) -> None:
    found = checked(tmp_path, change)
    assert found[kind] == (level, number)
    if level != "error":
        assert all(other != "error" for other, _ in found.values())


def test_every_fault_is_found_at_once(tmp_path: Path) -> None:
    """Faults that hide no other one: of rows of their own."""
    value = content()
    value["images"] += [{"id": "x"}, {**value["images"][0]}, {"id": 50, "file_name": "b.png"}]
    for row, changes in enumerate(
        (
            {"bbox": [1]},
            {"image_id": 99},
            {"category_id": 99},
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zzz"}},
            {"segmentation": [[0, 0, 1, 1, 1e9, 4]]},
            {"area": -1},
            {"bbox": "x"},
            {"bbox": [3, 3, 0, 4]},
        )
    ):
        value["annotations"][row] |= changes
    value["annotations"].append(copy.deepcopy(value["annotations"][-1]))
    found = kinds(check(write(tmp_path, value)))
    expected = "malformed_images duplicate_images_ids missing_height missing_width missing_bbox"
    expected += " unknown_image_id unknown_category_id broken_rles odd_polygons no_area"
    expected += " malformed_annotations no_box_area duplicate_annotations_ids"
    assert set(expected.split()) <= set(found)


def test_corners_rectangles_and_crowds(tmp_path: Path) -> None:
    def corners(value: Any) -> None:
        for a in value["annotations"]:
            a["bbox"] = [30, 25, 45, 38]

    assert checked(tmp_path, corners)["corners"][0] == "warning"

    def rectangles(value: Any) -> None:
        for row, a in enumerate(value["annotations"]):
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h, *([x, y] * (row % 2))]]

    found = checked(tmp_path, rectangles)
    assert found["masks_of_boxes"] == ("warning", len(content()["annotations"]))

    def slanted(value: Any) -> None:
        for a in value["annotations"]:
            x, y, w, h = a["bbox"]
            a["segmentation"] = [[x, y + 3, x + 4, y, x + w, y + 4, x + 4, y + h]]

    assert "masks_of_boxes" not in checked(tmp_path, slanted)

    def crowds(value: Any) -> None:
        for a in value["annotations"]:
            a["iscrowd"] = int(a["category_id"] == 2)

    assert checked(tmp_path, crowds)["crowd_only"] == ("warning", 1)


def test_a_class_in_every_image_has_no_weight(tmp_path: Path) -> None:
    value = content()
    row = value["annotations"][0]
    value["annotations"] = [
        *(a for a in value["annotations"] if a["category_id"] != 1),
        *({**row, "id": 500 + i, "image_id": i + 1} for i in range(8)),
    ]
    result = check(write(tmp_path, value))
    assert result.usable
    assert kinds(result)["no_weight"] == ("warning", 1)
    assert result.classes[0].weight is None
    assert result.classes[1].weight > 0


class TestLvis:
    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            ("missing_lvis_keys", without("images", 1, "neg_category_ids")),
            ("missing_area", without("annotations", 1, "area")),
            ("no_frequency", category(1, frequency="x")),
            ("unknown_neg_category_ids", image(2, neg_category_ids=[77])),
            ("unknown_not_exhaustive_category_ids", image(2, not_exhaustive_category_ids=[77])),
            ("malformed_annotations", annotation(2, id=1.0)),
        ],
    )
    def test_its_own_rules(self, tmp_path: Path, kind: str, change: Any) -> None:
        assert checked(tmp_path, change, lvis=True)[kind] == ("error", 1)

    def test_a_category_without_annotations_stays(self, tmp_path: Path) -> None:
        found = checked(tmp_path, again("categories", 0, id=0), lvis=True)
        assert found["empty_lvis_categories"] == ("warning", 1)


# ------------------------------------------- usable is what the training reads, whatever is wrong


def accepted(path: Path) -> bool:
    """Return whether the strict readers of a training take a file; boxes alone are enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statistics = ClassStatistics.from_json(path, cache=False)
            file = read_annotation_file(path)
            image_paths(file.path, file.image_ids, file.file_names(), ".")
            load_annotations(path, statistics=statistics)
            forms = mask_forms(file)
            single = ~file.crowd & (forms != Form.NO_POLYGON)
            masks = bool(single.any()) and bool((forms[single] != Form.NONE).all())
            trainable(file, masks=masks)
            # Detectron2 reads what masks there are.
            rle_areas(file, np.flatnonzero(single & (forms == Form.RLE)))
            check_polygons(file, np.flatnonzero(single & (forms == Form.POLYGONS)))
    except InputError:
        return False
    return True


NUMBERS = st.sampled_from([0, 1, 2, -1, 3.0, 2.5, 99, 10**20, "1", None, True, 1e300])
SHAPES = st.sampled_from(
    [
        [],
        [[]],
        None,
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, 6], [1]],
        [[1, 2, 1e9, 4, 5, 6]],
        [["x"]],
        {"size": [HEIGHT, WIDTH], "counts": [2000]},
        {"size": [HEIGHT, WIDTH], "counts": [5, 10, 1985]},
        {"size": [HEIGHT, WIDTH], "counts": [5, 10]},
        {"size": [HEIGHT, WIDTH], "counts": "zzz"},
        {"size": [WIDTH, HEIGHT], "counts": [2000]},
        {"counts": 3},
        rle(3, 3, 4, 4),
    ]
)
BOXES = st.sampled_from(
    [
        *([1, 2, 3, 4], [1, 2, 0, 4], [1, 2, -3, 4], [90, 2, 3, 4]),
        *([1, 2, 3], "x", None, [1, 2, 3, None]),
    ]
)
VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "images": {
        "id": NUMBERS,
        "height": NUMBERS,
        "width": NUMBERS,
        "file_name": st.sampled_from(["0.png", "", "../a.png", "a/b.png", None, 3, "/a.png"]),
        "coco_url": st.sampled_from(["", None, 3, "http://host/val2017/1.jpg"]),
        "neg_category_ids": st.sampled_from([[], [1], [77], None, "x"]),
        "not_exhaustive_category_ids": st.sampled_from([[], [1], [77], None, "x"]),
    },
    "categories": {
        "id": NUMBERS,
        "name": st.sampled_from(["a", "", None, 3, "kind 1"]),
        "frequency": st.sampled_from(["r", "x", None, 3]),
        "image_count": NUMBERS,
    },
    "annotations": {
        "id": NUMBERS,
        "image_id": NUMBERS,
        "category_id": NUMBERS,
        "bbox": BOXES,
        "area": NUMBERS,
        "iscrowd": NUMBERS,
        "ignore": NUMBERS,
        "segmentation": SHAPES,
    },
}
REMOVE = "remove it"


@st.composite
def corruptions(draw: st.DrawFn) -> list[tuple[str, int, str, Any]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(list(VALUES)))
        key = draw(st.sampled_from(list(VALUES[section])))
        value = draw(st.just(REMOVE) | VALUES[section][key])
        found.append((section, draw(st.integers(0, 30)), key, value))
    return found


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.sampled_from([{}, {"lvis": True}, {"boxes": True}]),
    changes=corruptions(),
    all_rows=st.booleans(),
)
def test_usable_is_what_the_strict_readers_take(
    tmp_path: Path, made: Any, changes: Any, all_rows: bool
) -> None:
    value = content(**made)
    for section, row, key, new in changes:
        rows = value[section]
        for target in rows if all_rows and key != "id" else [rows[row % len(rows)]]:
            if new == REMOVE:
                target.pop(key, None)
            else:
                target[key] = new
    path = write(tmp_path, value, f"{np.random.default_rng().integers(2**60)}.json")
    expected = accepted(path)
    try:
        result = check(path)
    except InputError:
        assert not expected
    else:
        assert result.usable == expected
        assert check_text(result)
        assert render_check(result)
    path.unlink()


# ------------------------------------------------------------------------------- images and split


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


class TestImages:
    def test_sound_ones(self, tmp_path: Path, images: Path) -> None:
        result = check(write(tmp_path, content()), images=images)
        assert result.usable
        assert result.images_read

    def test_missing_broken_cut_off_and_of_another_size(self, tmp_path: Path, images: Path) -> None:
        (images / "0.png").unlink()
        (images / "1.png").write_text("no image")
        whole = (images / "2.png").read_bytes()
        (images / "2.png").write_bytes(whole[: len(whole) // 2])
        Image.new("RGB", (WIDTH, HEIGHT + 1)).save(images / "3.png")
        found = kinds(check(write(tmp_path, content()), images=images))
        assert found["missing_images"] == ("error", 1)
        assert found["unreadable_images"] == ("error", 2)
        assert found["other_sizes"] == ("error", 1)

    def test_a_photograph_that_exif_turns(self, tmp_path: Path, images: Path) -> None:
        value = content()
        for row, (size, annotated) in enumerate(
            [((WIDTH, HEIGHT), (HEIGHT, WIDTH)), ((HEIGHT, WIDTH), (HEIGHT, WIDTH))]
        ):
            exif = Image.Exif()
            exif[274] = 6
            Image.new("RGB", size).save(images / f"{row}.jpg", exif=exif)
            value["images"][row] |= {
                "file_name": f"{row}.jpg",
                "height": annotated[0],
                "width": annotated[1],
            }
        found = kinds(check(write(tmp_path, value), images=images))
        assert found["sizes_before_rotation"] == ("error", 1)
        assert found["rotated"] == ("note", 1)

    def test_a_jpeg_that_is_cut_off(self, tmp_path: Path, images: Path) -> None:
        rng = np.random.default_rng(1)
        pixels = rng.integers(0, 255, (400, 500, 3), np.uint8)
        Image.fromarray(pixels).save(images / "x.jpg")
        whole = (images / "x.jpg").read_bytes()
        (images / "x.jpg").write_bytes(whole[: len(whole) // 2])
        value = content()
        value["images"][0] |= {"file_name": "x.jpg", "height": 400, "width": 500}
        value["annotations"] = value["annotations"][3:]
        found = kinds(check(write(tmp_path, value), images=images))
        assert found["unreadable_images"] == ("error", 1)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            check(write(tmp_path, content()), images=tmp_path / "nowhere")


class TestSplit:
    def test_shared_names_and_ids(self, tmp_path: Path) -> None:
        value = content()
        for row in value["images"][1:]:
            row["file_name"] = f"val/{row['id']}.png"
        train, val = write(tmp_path, content()), write(tmp_path, value, "b.json")
        found = kinds(check(train, val=val))
        assert found["shared_files"] == ("warning", 1)
        assert found["shared_ids"] == ("note", 8)

    def test_the_same_pixels_under_another_name(self, tmp_path: Path, images: Path) -> None:
        value = content()
        for row in value["images"]:
            row["file_name"] = f"other_{row['id']}.png"
            Image.new("RGB", (WIDTH, HEIGHT), (row["id"],) * 3).save(images / row["file_name"])
        (images / "other_3.png").write_bytes((images / "0.png").read_bytes())
        train, val = write(tmp_path, content()), write(tmp_path, value, "b.json")
        result = check(train, val=val, images=images)
        assert result.usable
        assert kinds(result)["shared_content"] == ("warning", 1)
        assert result.files[1].findings[0].examples == ["other_3.png"]

    def test_categories_that_differ(self, tmp_path: Path) -> None:
        value = content()
        value["categories"][1]["name"] = "another"
        train, val = write(tmp_path, content()), write(tmp_path, value, "b.json")
        result = check(train, val=val)
        assert not result.usable
        assert kinds(result)["other_categories"] == ("error", 1)

    def test_a_class_without_an_object(self, tmp_path: Path) -> None:
        value = content()
        value["annotations"] = [a for a in value["annotations"] if a["category_id"] != 3]
        train, val = write(tmp_path, content()), write(tmp_path, value, "b.json")
        result = check(train, val=val)
        assert result.usable
        assert kinds(result)["not_in_validation"] == ("note", 1)


# ---------------------------------------------------------------------------------------- results


def detections() -> list[dict[str, Any]]:
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.5,
            "bbox": a["bbox"],
            "segmentation": rle(3, 3, 5, 5),
        }
        for a in content()["annotations"]
    ]


RESULT_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("malformed_rows", {"score": "high"}),
    ("malformed_rows", {"image_id": 1.5}),
    ("results_score", {"score": float("nan")}),
    ("results_image_id", {"image_id": 99}),
    ("results_category_id", {"category_id": 99}),
    ("results_bbox", {"bbox": None}),
    ("results_segmentation", {"segmentation": None}),
    ("results_segmentation", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zzz"}}),
    ("results_segmentation", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [3]}}),
    ("results_size", {"segmentation": {"size": [3, 3], "counts": [9]}}),
]


class TestResults:
    def test_sound_ones(self, tmp_path: Path) -> None:
        path = write(tmp_path, content())
        result = check(path, results=write(tmp_path, detections(), "r.json"))
        assert result.usable
        assert result.results is not None
        assert result.results.detections == result.results.sound == len(detections())
        assert result.results.iou_types == ["bbox", "segm"]

    @pytest.mark.parametrize(("kind", "changes"), RESULT_FAULTS)
    def test_each_fault_that_the_reader_refuses(
        self, tmp_path: Path, kind: str, changes: Any
    ) -> None:
        rows = detections()
        rows[2] |= changes
        path, results = write(tmp_path, content()), write(tmp_path, rows, "r.json")
        refused = 0
        for iou_type in ("bbox", "segm"):
            try:
                load_results(results, load_annotations(path), iou_type=iou_type)
            except InputError:
                refused += 1
        assert refused
        result = check(path, results=results)
        assert not result.usable
        assert kinds(result)[kind] == ("error", 1)
        assert result.files[-1].findings[0].examples == [2]

    def test_all_at_once_and_what_is_odd(self, tmp_path: Path) -> None:
        rows = detections()
        for row, (_, changes) in enumerate(RESULT_FAULTS[:6]):
            rows[row] |= changes
        rows += [dict(rows[-1]), {**rows[-1], "score": 7}]
        result = check(write(tmp_path, content()), results=write(tmp_path, rows, "r.json"))
        found = kinds(result)
        assert {kind for kind, _ in RESULT_FAULTS[:6]} <= set(found)
        assert found["malformed_rows"] == ("error", 2)
        assert found["same_detections"] == ("warning", 1)
        assert found["scores_above_1"] == ("note", 1)

    def test_corners(self, tmp_path: Path) -> None:
        rows = [{**row, "bbox": [30, 25, 45, 38]} for row in detections()]
        path, results = write(tmp_path, content()), write(tmp_path, rows, "r.json")
        assert kinds(check(path, results=results))["result_corners"][0] == "warning"

    def test_of_annotations_that_name_no_groups(self, tmp_path: Path) -> None:
        value = content(lvis=True)
        for row in value["categories"]:
            del row["frequency"]
        path, results = write(tmp_path, value), write(tmp_path, detections(), "r.json")
        assert check(path, results=results).usable
        value["categories"].append({"id": 9, "name": "never shown"})
        val = write(tmp_path, value, "val.json")
        train = write(tmp_path, value, "train.json")
        assert check(train, val=val, results=results).usable

    def test_of_annotations_with_errors_are_left(self, tmp_path: Path) -> None:
        value = content()
        value["annotations"][0]["image_id"] = 99
        path, results = write(tmp_path, value), write(tmp_path, detections(), "r.json")
        with pytest.raises(InputError, match="cannot be checked while"):
            check(path, results=results)


# ---------------------------------------------------------------------------------------- command


def test_the_command_writes_record_and_page(tmp_path: Path, capsys: Any) -> None:
    path = write(tmp_path, content())
    record, page = tmp_path / "c.json", tmp_path / "c.html"
    assert main(["check", str(path), "--json", str(record), "--html", str(page)]) == 0
    assert "Usable: boxes and masks can be trained." in capsys.readouterr().out
    value = json.loads(record.read_text())
    assert value["format"] == "iif-check/1"
    assert list(value)[:3] == ["usable", "files", "content"]
    assert "versions" in value
    assert "<svg" in page.read_text()
    value = content()
    value["annotations"][0]["image_id"] = 99
    assert main(["check", str(write(tmp_path, value))]) == 2
    assert "annotations of unknown images: 1 (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ('{"images": [', "not valid JSON"),
        ("[]", "Expected `object`"),
        ('{"images": [], "categories": [], "annotations": []}', "images is empty"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(
    tmp_path: Path, capsys: Any, text: str, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("iif check: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_faults_of_one_kind_become_one() -> None:
    faults = Faults()
    for row in range(7):
        faults(Fault("no_area", f"row {row}", 2, (row,)))
    (only,) = faults
    assert only == Fault("no_area", "row 0", 14, (0, 1, 2, 3, 4))


def test_a_page_escapes_names(tmp_path: Path) -> None:
    value = content()
    value["categories"][0]["name"] = "<script>alert(1)</script>"
    page = render_check(check(write(tmp_path, value)))
    assert "<script>alert" not in page


def test_every_kind_has_its_words() -> None:
    for kind, words in KINDS.items():
        assert words.effect.endswith("."), kind
        assert words.level in ("error", "warning", "note")
