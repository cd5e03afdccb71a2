"""Annotation files as arrays: orders, groups, federated keys, masks, and what is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from coco_reference import coco_style
from iif.data import annotation_file, annotation_rows
from iif.data.annotation_file import forget_annotation_files, read_annotation_file
from iif.data.annotations import load_annotations
from iif.errors import InputError
from iif.files import sha256_file
from iif.statistics import ClassStatistics
from random_cases import random_case


def write(folder: Path, content: Any) -> Path:
    path = folder / "gt.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_arrays_hold_what_the_file_says(tmp_path: Path) -> None:
    for seed in range(20):
        content, _ = random_case(seed)
        gt = load_annotations(write(tmp_path, content))
        assert gt.sha256 == sha256_file(tmp_path / "gt.json")
        images = sorted(content["images"], key=lambda image: image["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        assert gt.image_ids.tolist() == [i["id"] for i in images]
        assert gt.image_sizes.tolist() == [[i["height"], i["width"]] for i in images]
        assert gt.file_names == [i["file_name"] for i in images]
        assert gt.category_ids.tolist() == [c["id"] for c in categories]
        assert gt.category_names == [c["name"] for c in categories]
        assert gt.groups.tolist() == [c["frequency"] for c in categories]
        assert gt.image_count.tolist() == [c["image_count"] for c in categories]
        annotations = content["annotations"]
        assert gt.ann_ids.tolist() == [a["id"] for a in annotations]
        assert gt.image_ids[gt.ann_image].tolist() == [a["image_id"] for a in annotations]
        assert gt.category_ids[gt.ann_category].tolist() == [a["category_id"] for a in annotations]
        assert gt.bbox.tolist() == [a["bbox"] for a in annotations]
        assert gt.area.tolist() == [a["area"] for a in annotations]
        assert gt.ignore.tolist() == [bool(a.get("ignore", 0)) for a in annotations]
        for pairs, key in (
            (gt.neg, "neg_category_ids"),
            (gt.not_exhaustive, "not_exhaustive_category_ids"),
        ):
            expected = [[i["id"], c] for i in images for c in i[key]]
            found = np.column_stack([gt.image_ids[pairs[:, 0]], gt.category_ids[pairs[:, 1]]])
            assert found.tolist() == expected
        assert gt.segmentation is None
        assert not gt.exhaustive


@pytest.mark.parametrize(
    ("info", "attribution"),
    [
        ({"attribution": "images by A. B."}, "images by A. B."),
        ({"attribution": 3}, ""),
        ({"year": 2026}, ""),
        (["any", "form"], ""),
        (None, ""),
    ],
)
def test_the_file_may_say_whom_the_images_are_by(info: Any, attribution: str) -> None:
    content, _ = random_case(4)
    assert load_annotations_of(content).attribution == ""
    assert load_annotations_of(content | {"info": info}).attribution == attribution


def test_rows_of_ids() -> None:
    content, _ = random_case(4)
    gt = load_annotations_of(content)
    for ids, lookup in ((gt.image_ids, gt.image_row), (gt.category_ids, gt.category_row)):
        assert lookup(ids[::-1]).tolist() == list(range(len(ids)))[::-1]
        unknown = [ids.min() - 1, ids.max() + 1]
        assert lookup(unknown).tolist() == [-1, -1]


def load_annotations_of(content: Any, **options: Any) -> Any:
    with TemporaryDirectory() as folder:
        return load_annotations(write(Path(folder), content), **options)


def test_masks_are_those_that_pycocotools_makes() -> None:
    seen = set()
    for seed in range(30):
        content, _ = random_case(seed, masks=True)
        gt = load_annotations_of(content, masks=True)
        sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
        for row, annotation in enumerate(content["annotations"]):
            segmentation = annotation["segmentation"]
            assert gt.segmentation[row] == segmentation
            if isinstance(segmentation, list):
                rles = mask_utils.frPyObjects(segmentation, *sizes[annotation["image_id"]])
                expected = mask_utils.decode(mask_utils.merge(rles))
            elif isinstance(segmentation["counts"], list):
                size = sizes[annotation["image_id"]]
                expected = mask_utils.decode(mask_utils.frPyObjects(segmentation, *size))
            else:
                expected = mask_utils.decode(segmentation)
            assert (mask_utils.decode(gt.rle(row)) == expected).all()
            seen.add(
                type(segmentation if isinstance(segmentation, list) else segmentation["counts"])
            )
    assert seen == {list, str}


def test_masks_must_be_asked_for() -> None:
    content, _ = random_case(1, masks=True)
    with pytest.raises(ValueError, match="masks=True"):
        load_annotations_of(content).rle(0)


URL = "http://images.cocodataset.org/val2017/000000391895.jpg"


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ({"file_name": "a/b.jpg"}, "a/b.jpg"),
        ({"file_name": "a/b.jpg", "coco_url": URL}, "a/b.jpg"),
        ({"coco_url": URL}, "val2017/000000391895.jpg"),
        (  # LVIS v0.5
            {"file_name": "COCO_val2014_000000391895.jpg", "coco_url": URL},
            "val2017/000000391895.jpg",
        ),
        ({"file_name": "COCO_val2014_000000391895.jpg"}, "COCO_val2014_000000391895.jpg"),
        (  # COCO 2014
            {
                "file_name": "COCO_val2014_000000391895.jpg",
                "coco_url": "http://images.cocodataset.org/val2014/COCO_val2014_000000391895.jpg",
            },
            "COCO_val2014_000000391895.jpg",
        ),
    ],
)
def test_the_file_of_an_image(image: dict, file: str) -> None:
    content, _ = random_case(0)
    for key in ("file_name", "coco_url"):
        content["images"][0].pop(key, None)
    content["images"] = [content["images"][0] | image]
    content["annotations"] = []
    assert load_annotations_of(content).file_names == [file]


def training_counts(content: dict) -> ClassStatistics:
    ids = [category["id"] for category in content["categories"]]
    return ClassStatistics(
        image_count=[5, 50, 500, 10, 11, 100, 101][: len(ids)], num_images=1000, ids=ids
    )


def test_coco_format_takes_its_groups_from_the_training_counts() -> None:
    content = coco_style(random_case(7)[0])
    counts = training_counts(content)
    gt = load_annotations_of(content, exhaustive=True, statistics=counts)
    assert gt.exhaustive
    assert gt.image_count.tolist() == counts.image_count.tolist()
    assert gt.groups.tolist() == counts.groups.tolist()
    assert len(gt.neg) == len(gt.not_exhaustive) == 0


def test_lvis_format_keeps_its_groups_beside_the_training_counts() -> None:
    content, _ = random_case(7)
    counts = training_counts(content)
    gt = load_annotations_of(content, statistics=counts)
    by_id = {category["id"]: category["frequency"] for category in content["categories"]}
    assert gt.groups.tolist() == [by_id[i] for i in gt.category_ids.tolist()]
    assert gt.image_count.tolist() == counts.image_count.tolist()


def test_lvis_format_without_groups_takes_the_training_counts() -> None:
    content, _ = random_case(7)
    counts = training_counts(content)
    for category in content["categories"]:
        del category["frequency"]
    gt = load_annotations_of(content, statistics=counts)
    assert not gt.exhaustive
    assert gt.groups.tolist() == counts.groups.tolist()


def test_crowds_are_coco_s_alone() -> None:
    content, _ = random_case(7, ignore=False)
    content["annotations"][0]["iscrowd"] = 1
    assert not load_annotations_of(content).crowd.any()
    content["annotations"][1]["ignore"] = 1  # COCOeval overwrites it by iscrowd
    gt = load_annotations_of(coco_style(content))
    assert gt.crowd.tolist() == gt.ignore.tolist() == [True] + [False] * (len(gt.ann_ids) - 1)


def change(section: str, row: int, **values: Any) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        content[section][row].update(values)

    return apply


def drop(section: str, row: int, key: str) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        del content[section][row][key]

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("images", 0, "neg_category_ids"), r"no neg_category_ids.*annotation is exhaustive"),
        (
            drop("images", 0, "not_exhaustive_category_ids"),
            r"no not_exhaustive.*annotation is exhaustive",
        ),
        (
            drop("categories", 0, "frequency"),
            r"category \d+ has no frequency.*give the training annotations",
        ),
        (change("annotations", 0, id=2**63), r"annotations\[0\].id"),
        (change("images", 0, neg_category_ids=[2**63]), r"images\[0\].neg_category_ids"),
        (change("categories", 0, frequency="x"), r"frequency of category \d+ is 'x'"),
        (change("annotations", 0, image_id=5000), r"image_id 5000 of the annotation with id \d+"),
        (change("annotations", 0, category_id=5000), r"category_id 5000 .* not among categories"),
        (change("images", 0, neg_category_ids=[5000]), r"neg_category_ids of the image .* 5000"),
        (drop("annotations", 0, "bbox"), r"missing required field `bbox` - at `\$.annotations\[0"),
        (change("annotations", 0, bbox=[1, 2, 3]), r"annotations\[0\].bbox"),
        (lambda content: content["images"].append(content["images"][0]), "images: id .* once"),
        (lambda content: content["categories"].append(content["categories"][0]), "categories: id"),
        (
            lambda content: content["annotations"].append(content["annotations"][0]),
            "annotations: id",
        ),
        (lambda content: content.update(images=[]), "images is empty"),
        (lambda content: content.pop("categories"), "categories"),
        (change("images", 0, height=0), r"image \d+ is 0 x \d+ pixels .*`\$.images\[0\]`"),
        (change("images", 0, width=-3), r"image \d+ is \d+ x -3 pixels .*`\$.images\[0\]`"),
        (change("images", 0, height=2**31), r"image \d+ is 2147483648 x \d+ pixels"),
        (change("images", 0, height=2**70), r"images\[0\].height"),
        (change("categories", 0, image_count=-4), r"`int` >= 0 - at `\$.categories\[0\].image"),
    ],
)
def test_faults_are_named(tmp_path: Path, spoil: Callable[[dict], None], message: str) -> None:
    content, _ = random_case(7)
    spoil(content)
    with pytest.raises(InputError, match=message) as error:
        load_annotations(write(tmp_path, content))
    assert str(tmp_path / "gt.json") in str(error.value)


def test_a_missing_or_cut_off_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_annotations(tmp_path / "gt.json")
    text = json.dumps(random_case(7)[0])
    with pytest.raises(InputError, match="cut off"):
        load_annotations(write(tmp_path, text[: len(text) // 2]))


def test_coco_format_without_training_counts_has_no_groups() -> None:
    gt = load_annotations_of(coco_style(random_case(7)[0]))
    assert set(gt.groups) == {""}
    assert set(gt.image_count) == {-1}


def test_training_counts_of_another_data_set_are_refused() -> None:
    counts = ClassStatistics(image_count=[1], num_images=2, ids=[9999])
    with pytest.raises(InputError, match="not among the training categories"):
        load_annotations_of(random_case(7)[0], statistics=counts)


@pytest.mark.parametrize("counts", [[1], [-1, 1], ["1"], "1", "", "P", "\x7f"])
def test_runs_that_do_not_fill_the_image_name_their_annotation(counts: Any) -> None:
    content, _ = random_case(7, masks=True)
    annotation = content["annotations"][0]
    image = next(i for i in content["images"] if i["id"] == annotation["image_id"])
    size = [image["height"], image["width"]]
    annotation["segmentation"] = {"size": size, "counts": counts}
    gt = load_annotations_of(content, masks=True)
    with pytest.raises(InputError, match=f"id {annotation['id']}: .*; convert"):
        gt.rle(0)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "has no polygon"),
        ([1, 2, 3, 4, 5, 6], "not a list of polygons"),
        ([["x"] * 6], "not a list of polygons"),
        ([[1, 2]], "polygon 0 has 2 numbers, 3 points have 6; correct"),
        ([[1, 1, 5, 5, 1, 5], [1, 2, 3, 4]], "polygon 1 has 4 numbers.*a box .* is no polygon"),
        ([[1, 1, 5, 5, 1, 5, 9]], "polygon 0 has 7 numbers"),
        ([[1, 1, 5, 1e30, 1, 5]], r"has the coordinate 1e\+30, far out of the image"),
        ([[1, 1, 5, 5, -1e9, 5]], r"has the coordinate -1e\+09, far out of the image"),
        ([[1, 1, 5, 5, 2**70, 5]], "far out of the image"),
        ({"size": [1, 1], "counts": "1"}, r"size is \[1, 1\]"),
        ({"counts": "1"}, "size is None"),
        ({"size": [1, 1], "counts": 3}, "expected an RLE"),
        ({"size": [1, 1]}, "expected an RLE"),
        ("text", "expected an RLE"),
        (7, "expected an RLE"),
    ],
)
def test_a_bad_mask_names_its_annotation(segmentation: Any, message: str) -> None:
    content, _ = random_case(7, masks=True)
    content["annotations"][0]["segmentation"] = segmentation
    gt = load_annotations_of(content, masks=True)
    with pytest.raises(InputError, match=message) as error:
        gt.rle(0)
    assert f"id {content['annotations'][0]['id']}" in str(error.value)


# ------------------------------------------------------------------------ one decoding a process


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How many times files are decoded and hashed; a file may be kept as soon as it is written."""
    counted: Counter = Counter()
    decode, sha256 = annotation_file.decode, annotation_file.sha256_file
    monkeypatch.setattr(annotation_file, "_TICK_NS", 0)
    monkeypatch.setattr(
        annotation_file, "decode", lambda path: counted.update(decoded=1) or decode(path)
    )
    monkeypatch.setattr(
        annotation_file, "sha256_file", lambda path: counted.update(hashed=1) or sha256(path)
    )
    return counted


def test_a_file_is_decoded_and_hashed_once(tmp_path: Path, reads: Counter) -> None:
    content, _ = random_case(3, masks=True)
    path = write(tmp_path, content)
    counted = ClassStatistics.from_json(path)
    boxes = load_annotations(path, statistics=counted)
    masks = load_annotations(str(path), masks=True)
    assert reads == {"decoded": 1, "hashed": 1}
    assert boxes.segmentation is None
    assert list(masks.segmentation) == [a["segmentation"] for a in content["annotations"]]
    # The counts beside the file spare the decoding, too.
    forget_annotation_files()
    assert ClassStatistics.from_json(path).same_counts(counted)
    assert reads == {"decoded": 1, "hashed": 2}


def test_a_file_named_in_another_way_is_not_decoded_again(tmp_path: Path, reads: Counter) -> None:
    path = write(tmp_path, random_case(3)[0])
    link = tmp_path / "link.json"
    link.symlink_to(path)
    around = tmp_path / "." / ".." / tmp_path.name / "gt.json"
    named = [load_annotations(p).path for p in (path, link, around)]
    assert named == [str(path), str(link), str(around)]
    assert reads == {"decoded": 1, "hashed": 1}


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path, reads: Counter) -> None:
    content, _ = random_case(3)
    path = write(tmp_path, content)
    before = os.stat(path)
    names = load_annotations(path).category_names
    content["categories"].sort(key=lambda category: category["id"])
    content["categories"][0]["name"] = names[0][::-1].swapcase()
    # In place, with the size and the time of modification that it had.
    write(tmp_path, content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    assert load_annotations(path).category_names[0] == names[0][::-1].swapcase()
    assert reads == {"decoded": 2, "hashed": 2}


def test_a_file_that_was_just_written_is_not_kept(
    tmp_path: Path, reads: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_file, "_TICK_NS", 10**12)
    path = write(tmp_path, random_case(3)[0])
    for number in (1, 2):
        load_annotations(path)
        assert reads == {"decoded": number, "hashed": number}


def test_only_the_last_files_are_kept(tmp_path: Path, reads: Counter) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(6)]
    for path in paths:
        path.write_text(json.dumps(random_case(3)[0]))
        read_annotation_file(path)
    assert len(annotation_file._KEPT) == 4
    for path in paths[2:]:
        read_annotation_file(path)
    assert reads == {"decoded": 6}
    read_annotation_file(paths[0])
    assert reads == {"decoded": 7}
    forget_annotation_files()
    read_annotation_file(paths[5])
    assert reads == {"decoded": 8}


def test_what_is_shared_cannot_be_written_to(tmp_path: Path) -> None:
    gt = load_annotations(write(tmp_path, random_case(3)[0]))
    for array in (gt.image_ids, gt.category_ids, gt.ann_ids, gt.ann_image, gt.bbox, gt.area):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


def test_blocks_of_any_size_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = random_case(7, masks=True)
    path = write(tmp_path, content)
    whole = annotation_file.decode(path)
    del content["annotations"][4]["area"], content["annotations"][5]["segmentation"]
    content["annotations"][6]["bbox"] = [1]
    other = tmp_path / "faulty.json"
    other.write_text(json.dumps(content))
    for size in (1, 2, 3, 1000):
        monkeypatch.setattr(annotation_rows, "_BLOCK", size)
        again = annotation_file.decode(path)
        assert (again.bbox == whole.bbox).all()
        assert (again.ann_ids == whole.ann_ids).all()
        assert not again.faults
        faults = annotation_file.decode(other).faults
        assert set(faults) == {"segmentation", "bbox", "area"}
        assert "annotations[4]" in faults["area"].message
        assert "annotations[5]" in faults["segmentation"].message
        assert "annotations[6]" in faults["bbox"].message


# ------------------------------------------------------------------- keys that only some uses need


def test_the_format_is_told_by_content_unless_one_insists() -> None:
    lvis, _ = random_case(7)
    counts = training_counts(lvis)
    assert not load_annotations_of(lvis).exhaustive
    with pytest.raises(InputError, match="is in LVIS's format"):
        load_annotations_of(lvis, exhaustive=True)
    coco = coco_style(random_case(7)[0])
    assert load_annotations_of(coco, statistics=counts).exhaustive
    with pytest.raises(InputError, match="say that the annotation is exhaustive"):
        load_annotations_of(coco, statistics=counts, exhaustive=False)


@pytest.mark.parametrize("key", ["bbox", "area", "segmentation"])
def test_what_only_an_evaluation_needs_is_not_needed_to_count(tmp_path: Path, key: str) -> None:
    content, _ = random_case(7, masks=True)
    del content["annotations"][1][key]
    path = write(tmp_path, content)
    counted = ClassStatistics.from_json(path)
    assert counted.num_instances == len(content["annotations"])
    with pytest.raises(
        InputError, match=rf"missing required field `{key}` - at `\$.annotations\[1"
    ):
        load_annotations(path, masks=True)


@pytest.mark.parametrize("key", ["height", "width"])
def test_an_image_without_its_size_can_be_counted(tmp_path: Path, key: str) -> None:
    content, _ = random_case(7)
    del content["images"][2][key]
    path = write(tmp_path, content)
    assert ClassStatistics.from_json(path).num_images == len(content["images"])
    with pytest.raises(InputError, match=rf"missing required field `{key}` - at `\$.images\[2\]"):
        load_annotations(path)


def test_a_test_set_has_images_and_categories_alone(tmp_path: Path) -> None:
    content, _ = random_case(7)
    del content["annotations"]
    path = write(tmp_path, content)
    header = read_annotation_file(path)
    assert len(header.images) == len(content["images"])
    assert not header.annotated
    for use in (load_annotations, ClassStatistics.from_json):
        with pytest.raises(InputError, match="missing required field `annotations`"):
            use(path)


@pytest.mark.parametrize("value", ["text", 1, None, [], {}, {"id": "1"}, {"id": 1, "image_id": 1}])
def test_an_annotation_that_is_none_is_named_by_its_place(tmp_path: Path, value: Any) -> None:
    content, _ = random_case(7)
    content["annotations"][2] = value
    with pytest.raises(InputError, match=r"(Expected|missing).* - at `\$.annotations\[2\]"):
        load_annotations(write(tmp_path, content))
