"""Data sets named in the configuration, against Detectron2's own loaders."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_coco_json
from detectron2.data.samplers import RepeatFactorTrainingSampler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers_d2 import STATISTICS, tiny_cfg
from iif import InputError
from iif.d2 import register_custom_datasets
from iif.d2.datasets import check_dataset, check_masks, load_instances
from iif.d2.statistics import statistics_from_config
from iif.data import annotation_file
from iif.data.annotations import load_annotations
from iif.statistics import ClassStatistics


def polygon(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def coco_content(num_images=3, category_ids=(7, 2, 90)):
    """Return a COCO-format file with unordered ids, a crowd, and polygons that are no polygons."""
    annotations = []
    for image in range(num_images):
        for k, category in enumerate(category_ids[: image + 1]):
            box = [4 + 5 * k, 3 + 4 * k, 20.5, 18]
            annotations.append(
                {
                    "id": 10 * image + k,
                    "image_id": 100 - image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [polygon(*box), [1, 2, 3, 4]],
                }
            )
    annotations[-1]["segmentation"] = [[1, 2, 3, 4]]
    annotations[0].update(iscrowd=1, segmentation={"size": [64, 48], "counts": [100, 900, 2072]})
    return {
        "images": [
            {"id": 100 - i, "file_name": f"{i}.png", "height": 64, "width": 48}
            for i in range(num_images)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
        "annotations": annotations,
    }


def lvis_content():
    content = coco_content(category_ids=(1, 2, 3))
    content["annotations"][0].update(
        iscrowd=0, segmentation=[polygon(*content["annotations"][0]["bbox"])]
    )
    for image in content["images"]:
        image["coco_url"] = f"http://images.example/val2017/{image.pop('file_name')}"
        image["neg_category_ids"] = [2]
        image["not_exhaustive_category_ids"] = [3]
    for category in content["categories"]:
        category["frequency"] = "r"
    return content


@pytest.fixture
def write(tmp_path):
    def write_dataset(content, name="ann.json"):
        for image in content["images"]:
            relative = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
            path = tmp_path / "images" / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (image["width"], image["height"])).save(path)
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name), str(tmp_path / "images")

    yield write_dataset
    for name in DatasetCatalog.list():
        if name.startswith("custom_"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def registered(*entries, statistics=STATISTICS):
    cfg = tiny_cfg("DATASETS.CUSTOM", repr([list(e) for e in entries]), statistics=statistics)
    register_custom_datasets(cfg, statistics)
    return cfg


def test_coco_format_loads_as_with_detectron2s_loader(write):
    json_file, root = write(coco_content())
    ours = load_instances(json_file, root, "custom_ours")
    reference = load_coco_json(json_file, root, "custom_reference")
    assert ours == reference
    assert len(ours) == 3
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        expected = getattr(MetadataCatalog.get("custom_reference"), key)
        assert getattr(MetadataCatalog.get("custom_ours"), key) == expected
    MetadataCatalog.remove("custom_ours")
    MetadataCatalog.remove("custom_reference")


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=6, unique=True),
    st.data(),
)
def test_any_ids_load_as_with_detectron2s_loader(categories, images, data):
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(images), st.sampled_from(categories))))
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 8} for i in images],
        "categories": [{"id": c, "name": str(c)} for c in categories],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": category,
                "bbox": [1, 1, 5, 5],
                "iscrowd": 0,
                "segmentation": [polygon(1, 1, 5, 5)],
            }
            for n, (image, category) in enumerate(pairs)
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ann.json")
        path.write_text(json.dumps(content))
        ours = load_instances(str(path), folder, "custom_ours")
        assert ours == load_coco_json(str(path), folder, "custom_reference")
    MetadataCatalog.remove("custom_ours")
    MetadataCatalog.remove("custom_reference")


def test_lvis_format_is_told_by_its_content(write, monkeypatch):
    json_file, root = write(lvis_content())
    monkeypatch.setenv("WHERE", root)
    registered(("custom_lvis", json_file, "$WHERE"), statistics=None)
    check_dataset("custom_lvis", "DATASETS.TEST", 3)
    records = DatasetCatalog.get("custom_lvis")
    assert [r["image_id"] for r in records] == [98, 99, 100]
    assert records[0]["file_name"] == f"{root}/val2017/2.png"
    assert records[0]["neg_category_ids"] == [2]
    assert records[0]["not_exhaustive_category_ids"] == [3]
    assert [a["category_id"] for a in records[0]["annotations"]] == [0, 1]


def test_a_registered_data_set_feeds_training_with_repeat_factors(write):
    json_file, root = write(lvis_content())
    cfg = registered(("custom_train", json_file, root), statistics=None)
    dicts = DatasetCatalog.get("custom_train")
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.9)
    # Class 1 is in all 3 images, class 2 in two of them and class 3 in none (no valid polygon).
    assert factors.tolist() == pytest.approx([(0.9 * 3 / 2) ** 0.5, (0.9 * 3 / 2) ** 0.5, 1.0])
    loader = build_detection_train_loader(
        dicts, mapper=DatasetMapper(cfg, is_train=True), total_batch_size=2
    )
    batch = next(iter(loader))
    assert len(batch) == 2
    assert all(len(image["instances"]) > 0 for image in batch)


def test_a_name_can_be_registered_again_with_other_files(write):
    first = write(coco_content(num_images=3), "first.json")
    second = write(coco_content(num_images=2), "second.json")
    registered(("custom_set", *first), statistics=None)
    assert len(DatasetCatalog.get("custom_set")) == 3
    registered(("custom_set", *second), statistics=None)
    assert len(DatasetCatalog.get("custom_set")) == 2


def test_class_names_come_from_the_model_where_the_file_is_not_there():
    registered(("custom_absent", "/nowhere/ann.json", "/nowhere"))
    metadata = MetadataCatalog.get("custom_absent")
    assert metadata.thing_classes == ["a", "b", "c", "d", "e"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
    DatasetCatalog.remove("custom_absent")
    MetadataCatalog.remove("custom_absent")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("coco_2017_val", "a.json", "images"), "'coco_2017_val' exists already"),
        (("custom_x", "a.json"), r"is not \[name, annotation file, image folder\]"),
        (("custom_x", "a.json", 3), r"is not \[name, annotation file, image folder\]"),
        (("custom_x", "", "images"), r"is not \[name, annotation file, image folder\]"),
    ],
)
def test_a_malformed_entry_is_refused(entry, message):
    with pytest.raises(InputError, match=message):
        registered(entry)


def faulty(write, tmp_path, fault):
    """Register custom_set with a fault; return the message to expect."""
    content = coco_content()
    json_file, root = write(content)
    if fault == "images":
        (tmp_path / "images" / "2.png").unlink()
        message = r"the first image of .*ann.json is not there: .*2.png; correct its entry"
    elif fault == "folder":
        root = "/nowhere"
        message = "is not there: /nowhere/2.png"
    elif fault == "file":
        json_file = "/nowhere/ann.json"
        message = r"DATASETS.TEST: data set 'custom_set': no such file /nowhere/ann.json; correct"
    elif fault == "cut":
        with open(json_file, "r+") as f:
            f.truncate(200)
        message = "ann.json: not valid JSON"
    elif fault == "empty":
        json_file, _ = write({**content, "images": []})
        message = "ann.json: images is empty"
    elif fault == "no name":
        del content["images"][0]["file_name"]
        with open(json_file, "w") as f:
            json.dump(content, f)
        message = "image 100 has neither file_name nor coco_url"
    registered(("custom_set", json_file, root), statistics=None)
    return message


def test_images_of_lvis_v05_lie_where_their_url_says(write):
    """Their file_name is that of COCO 2014, which is not on the disk."""
    json_file, root = write(lvis_content())
    with open(json_file) as f:
        content = json.load(f)
    for image in content["images"]:
        image["file_name"] = f"COCO_val2014_{image['id']:012}.jpg"
    with open(json_file, "w") as f:
        json.dump(content, f)
    registered(("custom_set", json_file, root), statistics=None)
    check_dataset("custom_set", "DATASETS.TEST", 3)
    assert all(os.path.isfile(record["file_name"]) for record in DatasetCatalog.get("custom_set"))


@pytest.mark.parametrize("fault", ["images", "folder", "file", "cut", "empty", "no name"])
def test_a_fault_of_the_files_is_named(write, tmp_path, fault):
    message = faulty(write, tmp_path, fault)
    with pytest.raises(InputError, match=message):
        check_dataset("custom_set", "DATASETS.TEST", 3)


def test_the_number_of_classes_and_their_names_are_checked(write):
    entry = ("custom_set", *write(coco_content()))
    registered(entry, statistics=None)
    with pytest.raises(InputError, match=r"NUM_CLASSES is 5.*has 3 categories.*NUM_CLASSES 3"):
        check_dataset("custom_set", "DATASETS.TRAIN", 5)
    content = coco_content(category_ids=(1, 2, 3, 4, 5))
    registered(("custom_set", *write(content)))
    with pytest.raises(InputError, match=r"category 1 is 'class 1' instead of 'a'"):
        check_dataset("custom_set", "DATASETS.TEST", 5)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"no data set 'lvis_v1_vall'; did you mean 'lvis_v1_val'"):
        check_dataset("lvis_v1_vall", "DATASETS.TEST", 3)


def test_a_missing_built_in_file_names_the_environment_variable():
    with pytest.raises(InputError, match=r"no such file .*lvis_v1_val.json.*DETECTRON2_DATASETS"):
        check_dataset("lvis_v1_val", "DATASETS.TEST", 1203)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id 5 of the annotation with id 0 is not among images"),
        ({"category_id": 5}, "category_id 5 of the annotation with id 0 is not among categories"),
        ({"bbox": [1, 2, 3]}, r"bbox of annotation 0 is \[1.0, 2.0, 3.0\]"),
    ],
)
def test_a_contradiction_within_the_file_is_named(write, change, message):
    content = coco_content()
    content["annotations"][0].update(change)
    json_file, root = write(content)
    with pytest.raises(InputError, match=message):
        load_instances(json_file, root, "custom_set")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "has no mask; set MODEL.MASK_ON False"),
        ([], "has no mask; set MODEL.MASK_ON False"),
        ({"size": [64, 48], "counts": [3072]}, "has an RLE as its mask; set INPUT.MASK_FORMAT"),
    ],
)
def test_an_annotation_without_a_mask_to_train_on_is_named(write, segmentation, message):
    content = coco_content()
    assert content["annotations"][0]["iscrowd"]
    content["annotations"][2]["segmentation"] = segmentation
    registered(("custom_set", *write(content)), statistics=None)
    number = content["annotations"][2]["id"]
    with pytest.raises(
        InputError, match=rf"DATASETS.TRAIN: .* annotation {number} of .* {message}"
    ):
        check_masks("custom_set", "DATASETS.TRAIN", "polygon")
    del content["annotations"][2]["segmentation"]
    registered(("custom_set", *write(content)), statistics=None)
    with pytest.raises(InputError, match=rf"annotation {number} of .* has no mask"):
        check_masks("custom_set", "DATASETS.TRAIN", "bitmask")


@pytest.mark.parametrize("segmentation", ["text", [["x"]], 7, [1, 2, 3, 4, 5, 6]])
def test_a_mask_that_is_none_is_named(write, segmentation):
    content = coco_content()
    content["annotations"][1]["segmentation"] = segmentation
    number = content["annotations"][1]["id"]
    registered(("custom_set", *write(content)), statistics=None)
    with pytest.raises(InputError, match=f"id {number} is neither polygons nor an RLE"):
        DatasetCatalog.get("custom_set")


@pytest.mark.parametrize("value", [1e30, -1e9, 1e6])
def test_a_coordinate_far_out_of_the_image_is_refused_before_training(write, value):
    """Detectron2 would draw it without end, or die of it."""
    content = coco_content()
    content["annotations"][2]["segmentation"][0][3] = value
    number = content["annotations"][2]["id"]
    registered(("custom_set", *write(content)), statistics=None)
    message = f"id {number}: polygon 0 has the coordinate {value:g}, far out".replace("+", r"\+")
    with pytest.raises(InputError, match=f"DATASETS.TRAIN: data set 'custom_set': .*{message}"):
        check_masks("custom_set", "DATASETS.TRAIN", "polygon")
    with pytest.raises(InputError, match=message):
        DatasetCatalog.get("custom_set")


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a/../../secret.png"])
def test_a_file_name_that_leaves_the_image_folder_is_refused(write, tmp_path, name):
    content = coco_content()
    json_file, root = write(content)
    Image.new("RGB", (48, 64)).save(tmp_path / "secret.png")
    content["images"][2]["file_name"] = name.format(tmp_path)
    with open(json_file, "w") as f:
        json.dump(content, f)
    registered(("custom_set", json_file, root), statistics=None)
    with pytest.raises(InputError, match="leads out of the image folder"):
        check_dataset("custom_set", "DATASETS.TRAIN", 3)
    with pytest.raises(InputError, match="leads out of the image folder"):
        DatasetCatalog.get("custom_set")


def counted_together(*names):
    cfg = tiny_cfg("DATASETS.TRAIN", repr(list(names)), statistics=None)
    return statistics_from_config(cfg)


def test_images_that_count_twice_are_warned_of(write):
    first = coco_content()
    other = coco_content()
    for image in other["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    partly = coco_content()
    partly["images"][0]["file_name"] = "val2017/0.png"  # the same file name in another folder
    partly["images"][1]["file_name"] = "another.png"
    partly["images"][2]["file_name"] = "one more.png"
    contents = {"first": first, "copy": first, "other": other, "partly": partly}
    entries = [(f"custom_{n}", *write(c, f"{n}.json")) for n, c in contents.items()]
    registered(*entries, statistics=None)
    for names, number in (
        (("custom_first", "custom_first"), 3),
        (("custom_first", "custom_copy"), 3),
        (("custom_first", "custom_partly"), 1),
        (("custom_other", "custom_first", "custom_copy"), 3),
    ):
        said = rf"'{names[-2]}' and '{names[-1]}': {number} of their images are the same"
        with pytest.warns(UserWarning, match=said):
            assert counted_together(*names).num_images == 3 * len(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted_together("custom_first", "custom_other")


def test_counts_without_a_file_that_are_listed_twice_are_warned_of(request):
    name = "custom_counts_without_a_file"
    DatasetCatalog.register(name, list)
    request.addfinalizer(lambda: (DatasetCatalog.remove(name), MetadataCatalog.remove(name)))
    counts = [{"id": i + 1, "image_count": n} for i, n in enumerate(STATISTICS.image_count)]
    MetadataCatalog.get(name).set(thing_classes=STATISTICS.names, class_image_count=counts)
    cfg = tiny_cfg("DATASETS.TRAIN", (name, name), statistics=None)
    cfg.MODEL.LONG_TAIL.NUM_IMAGES = 200
    with pytest.warns(UserWarning, match="their images are the same"):
        statistics_from_config(cfg)


def test_a_test_set_without_annotations_loads(write):
    content = lvis_content()
    del content["annotations"]
    entry = ("custom_set", *write(content))
    registered(entry, statistics=None)
    check_dataset("custom_set", "DATASETS.TEST", 3)
    records = DatasetCatalog.get("custom_set")
    assert [record["image_id"] for record in records] == [98, 99, 100]
    assert not any(record["annotations"] for record in records)
    with pytest.raises(InputError, match="missing required field `annotations`"):
        check_masks("custom_set", "DATASETS.TRAIN", "polygon")


def test_all_uses_share_one_decoding(write, monkeypatch):
    read = []
    monkeypatch.setattr(annotation_file, "_TICK_NS", 0)
    for name in ("decode", "sha256_file"):
        real = getattr(annotation_file, name)
        monkeypatch.setattr(
            annotation_file, name, lambda p, n=name, real=real: read.append(n) or real(p)
        )
    content = lvis_content()
    json_file, root = write(content)
    registered(("custom_set", json_file, root), statistics=None)
    check_dataset("custom_set", "DATASETS.TRAIN", 3)
    check_masks("custom_set", "DATASETS.TRAIN", "polygon")
    counted = ClassStatistics.from_json(json_file)
    gt = load_annotations(json_file, masks=True, statistics=counted)
    records = DatasetCatalog.get("custom_set")
    assert len(records) == len(gt.image_ids) == counted.num_images == 3
    assert sorted(read) == ["decode", "sha256_file"]
