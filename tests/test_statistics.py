from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iif import ClassStatistics, InputError
from iif.data import counts


def annotation_file(
    images: list[int], annotations: list[tuple[int, int]], categories: dict[int, str]
) -> dict[str, Any]:
    return {
        "info": {"year": 2020},
        "images": [
            {
                "id": i,
                "file_name": f"{i}.jpg",
                "height": 4,
                "width": 4,
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for i in images
        ],
        "annotations": [
            {
                "id": row + 1,
                "image_id": image,
                "category_id": category,
                "bbox": [0, 0, 2, 2],
                "area": 4,
                "segmentation": [[0, 0, 2, 0, 2, 2]],
            }
            for row, (image, category) in enumerate(annotations)
        ],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }


def small_file() -> dict[str, Any]:
    """Five images, one of them bare; "b" never annotated; categories not in order."""
    return annotation_file(
        [7, 3, 9, 100, 42],
        [(7, 30), (7, 30), (7, 4), (3, 30), (9, 4), (42, 30), (42, 30)],
        {30: "a", 11: "b", 4: "c"},
    )


@pytest.fixture
def write(tmp_path: Path):
    def write_file(content: Any) -> Path:
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def test_counts_images_and_instances_by_category_id(write):
    counted = ClassStatistics.from_json(write(small_file()))
    assert counted.ids.tolist() == [4, 11, 30]
    assert counted.names == ["c", "b", "a"]
    assert counted.image_count.tolist() == [2, 0, 3]
    assert counted.instance_count.tolist() == [2, 0, 5]
    assert counted.num_images == 5
    assert counted.num_instances == 7
    assert counted.source.endswith("annotations.json")


@settings(max_examples=50)
@given(data=st.data())
def test_counts_equal_an_independent_count_whatever_the_order(data, tmp_path_factory):
    images = data.draw(st.lists(st.integers(0, 10**12), unique=True, min_size=1, max_size=8))
    keys = data.draw(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=6))
    annotations = data.draw(
        st.lists(st.tuples(st.sampled_from(images), st.sampled_from(keys)), max_size=40)
    )
    path = tmp_path_factory.mktemp("counts") / "a.json"
    path.write_text(json.dumps(annotation_file(images, annotations, {k: f"n{k}" for k in keys})))
    counted = ClassStatistics.from_json(path, cache=False)

    shown: dict[int, set[int]] = defaultdict(set)
    instances: dict[int, int] = defaultdict(int)
    for image, category in annotations:
        shown[category].add(image)
        instances[category] += 1
    assert counted.ids.tolist() == sorted(keys)
    assert counted.names == [f"n{k}" for k in sorted(keys)]
    assert counted.image_count.tolist() == [len(shown[k]) for k in sorted(keys)]
    assert counted.instance_count.tolist() == [instances[k] for k in sorted(keys)]
    assert counted.num_images == len(images)


def without(section: str, key: str):
    def change(content: dict[str, Any]) -> None:
        del content[section][1][key]

    return change


def repeated(section: str):
    def change(content: dict[str, Any]) -> None:
        content[section][1]["id"] = content[section][0]["id"]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "images"),
        (lambda c: c.pop("annotations"), "annotations"),
        (lambda c: c.pop("categories"), "categories"),
        (lambda c: c["images"].clear(), "images is empty"),
        (lambda c: c["categories"].clear(), "categories is empty"),
        (without("annotations", "image_id"), r"image_id.*\$\.annotations\[1\]"),
        (without("annotations", "category_id"), r"category_id.*\$\.annotations\[1\]"),
        (without("images", "id"), r"`id`.*\$\.images\[1\]"),
        (without("categories", "name"), r"name.*\$\.categories\[1\]"),
        (repeated("annotations"), "annotations: id 1 occurs more than once"),
        (repeated("images"), "images: id 7 occurs more than once"),
        (repeated("categories"), "categories: id 30 occurs more than once"),
        (lambda c: c["annotations"][2].update(image_id=8), "image_id 8.*id 3 is not among images"),
        (
            lambda c: c["annotations"][4].update(category_id=31),
            "category_id 31.*id 5 is not among categories",
        ),
        (lambda c: c["images"][0].update(id=2**64), r"int.*\$\.images\[0\]\.id"),
        (lambda c: c["images"][0].update(id="x"), r"int.*\$\.images\[0\]\.id"),
    ],
)
def test_a_faulty_file_is_refused_with_file_and_place_named(write, change, message):
    content = small_file()
    change(content)
    path = write(content)
    with pytest.raises(InputError, match=message) as error:
        ClassStatistics.from_json(path)
    assert str(path) in str(error.value)
    assert os.listdir(path.parent) == ["annotations.json"]


def test_missing_empty_and_cut_off_files_are_refused(write, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        ClassStatistics.from_json(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="is a folder"):
        ClassStatistics.from_json(tmp_path)
    with pytest.raises(InputError, match="empty"):
        ClassStatistics.from_json(write(""))
    with pytest.raises(InputError, match="cut off"):
        ClassStatistics.from_json(write(json.dumps(small_file())[:-20]))


def test_a_wrong_image_count_is_said_once_and_not_followed(write):
    content = small_file()
    for category, said in zip(content["categories"], (3, 5, 999), strict=True):
        category["image_count"] = said
    path = write(content)
    # The second reading comes from the cache and must say so too.
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 categories disagrees") as caught:
            counted = ClassStatistics.from_json(path)
        assert len(caught) == 1
        assert "'c' (id 4" in str(caught[0].message)
        assert "999" in str(caught[0].message)
        assert counted.image_count.tolist() == [2, 0, 3]


def test_a_right_image_count_is_not_warned_about(write):
    content = small_file()
    for category, said in zip(content["categories"], (3, 0, 2), strict=True):
        category["image_count"] = said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassStatistics.from_json(write(content))


def test_an_image_that_is_listed_twice_is_warned_of(write):
    """Under another id; the counts come from the file, and then from the cache."""
    content = small_file()
    names = [f"{image['id']}.jpg" for image in content["images"]]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassStatistics.from_json(write(content))
    content["images"][-1]["file_name"] = names[0]
    path = write(content)
    number = len(names)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"1 image of {number} have the file name of another"):
            assert ClassStatistics.from_json(path).num_images == number


def test_the_cache_is_used_for_the_same_content_only(write, monkeypatch):
    path = write(small_file())
    first = ClassStatistics.from_json(path)
    times = os.stat(path)
    counting = []
    real = counts._count
    monkeypatch.setattr(counts, "_count", lambda p: counting.append(p) or real(p))
    again = ClassStatistics.from_json(path)
    assert not counting
    assert again.to_dict() == first.to_dict()

    # Same size and times, other content: only the hash can tell.
    text = path.read_text()
    changed = text.replace('"category_id": 30', '"category_id": 11', 1)
    assert len(changed) == len(text)
    assert changed != text
    path.write_text(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ClassStatistics.from_json(path).instance_count.tolist() == [2, 1, 4]
    assert len(counting) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"format": "other", "sha256": "", "counts": 1}'])
def test_a_damaged_cache_is_replaced(write, damage):
    path = write(small_file())
    cache = Path(f"{path}.statistics.json")
    first = ClassStatistics.from_json(path)
    good = cache.read_bytes()
    cache.write_text(damage)
    assert ClassStatistics.from_json(path).to_dict() == first.to_dict()
    assert cache.read_bytes() == good


def test_without_write_permission_the_counts_come_without_a_cache(write, monkeypatch):
    path = write(small_file())

    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(counts, "write_json", denied)
    assert ClassStatistics.from_json(path).image_count.tolist() == [2, 0, 3]
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert ClassStatistics.from_json(path).image_count.tolist() == [2, 0, 3]
    assert os.listdir(path.parent) == ["annotations.json"]


def _count_in_process(path: str, barrier: Any, results: Any) -> None:
    counted = []
    real = counts._count
    counts._count = lambda p: counted.append(p) or real(p)
    barrier.wait()
    results.put((len(counted), ClassStatistics.from_json(path).to_dict(), len(counted)))


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_of_processes_that_start_together_one_counts(write):
    path = write(small_file())
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_count_in_process, args=(str(path), barrier, results))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert sum(after for _, _, after in found) == 1
    assert all(values == found[0][1] for _, values, _ in found)
    assert sorted(os.listdir(path.parent)) == [
        "annotations.json",
        "annotations.json.statistics.json",
    ]


def test_arrays_are_ordered_by_id():
    counted = ClassStatistics(
        image_count=[1, 20, 300],
        num_images=1000,
        instance_count=[2, 30, 400],
        names=["x", "y", "z"],
        ids=[9, 5, 7],
    )
    assert counted.ids.tolist() == [5, 7, 9]
    assert counted.names == ["y", "z", "x"]
    assert counted.image_count.tolist() == [20, 300, 1]
    assert counted.instance_count.tolist() == [30, 400, 2]
    assert counted.groups.tolist() == ["c", "f", "r"]
    assert len(counted) == 3
    with pytest.raises(ValueError, match="read-only"):
        counted.image_count[0] = 5


def test_groups_have_the_limits_of_lvis():
    counted = ClassStatistics(image_count=[0, 1, 10, 11, 100, 101, 5000], num_images=5000)
    assert counted.groups.tolist() == ["r", "r", "r", "c", "c", "f", "f"]
    assert counted.ids.tolist() == list(range(1, 8))
    assert counted.instance_count is None
    assert counted.num_instances is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_count": [], "num_images": 5}, "no class"),
        ({"image_count": [1, 2], "num_images": 0}, "num_images is 0"),
        ({"image_count": [1, 2], "num_images": 2.5}, "num_images is 2.5"),
        ({"image_count": [1, 2], "num_images": None}, "num_images is None"),
        ({"image_count": [1, 6], "num_images": 5}, r"above 5 images.*'2' \(id 2: 6 images"),
        ({"image_count": [-1, 2], "num_images": 5}, "negative"),
        ({"image_count": [1.5, 2], "num_images": 5}, "not a whole number"),
        ({"image_count": [np.nan, 2], "num_images": 5}, "not a whole number"),
        ({"image_count": ["1", "2"], "num_images": 5}, "whole numbers"),
        ({"image_count": [[1, 2]], "num_images": 5}, "shape"),
        ({"image_count": [1, 2], "num_images": 5, "ids": [1]}, "ids has 1 entries"),
        ({"image_count": [1, 2], "num_images": 5, "ids": [3, 3]}, "id 3 occurs more than once"),
        ({"image_count": [1, 2], "num_images": 5, "names": "abc"}, "names has 3 entries"),
        ({"image_count": [1, 2], "num_images": 5, "instance_count": [1]}, "instance_count has 1"),
        ({"image_count": [1, 2], "num_images": 5, "instance_count": [1, 1]}, "below image_count"),
        ({"image_count": [1, 0], "num_images": 5, "instance_count": [1, 1]}, "image_count is 0"),
    ],
)
def test_impossible_arrays_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ClassStatistics(**arguments)


def test_dict_round_trip_through_json():
    counted = ClassStatistics(
        image_count=[1, 20],
        num_images=30,
        instance_count=[2, 30],
        names=["ä", "y"],
        ids=[9, 5],
        source="here",
    )
    values = json.loads(json.dumps(counted.to_dict()))
    assert ClassStatistics.from_dict(values).to_dict() == counted.to_dict()
    without_instances = ClassStatistics(image_count=[1, 20], num_images=30)
    assert ClassStatistics.from_dict(without_instances.to_dict()).instance_count is None
    del values["num_images"]
    with pytest.raises(InputError, match="lack num_images"):
        ClassStatistics.from_dict(values)


def test_metadata_gives_counts_by_id_and_needs_the_number_of_images():
    metadata = SimpleNamespace(
        name="mine",
        class_image_count=[{"id": 3, "image_count": 7}, {"id": 1, "image_count": 5}],
        thing_classes=["a", "b"],
    )
    counted = ClassStatistics.from_metadata(metadata, num_images=50)
    assert counted.ids.tolist() == [1, 3]
    assert counted.image_count.tolist() == [5, 7]
    assert counted.names == ["a", "b"]
    with pytest.raises(InputError, match=r"'mine'.*num_images"):
        ClassStatistics.from_metadata(metadata)
    with pytest.raises(InputError, match="no class_image_count"):
        ClassStatistics.from_metadata(SimpleNamespace(name="bare"))
    metadata.name = "lvis_v1_train"
    assert ClassStatistics.from_metadata(metadata).num_images == 100_170


def test_detectron2_knows_the_counts_of_lvis_v1():
    data = pytest.importorskip("detectron2.data", reason="Detectron2 is not installed")
    counted = ClassStatistics.from_metadata(data.MetadataCatalog.get("lvis_v1_train"))
    assert len(counted) == 1203
    assert counted.num_images == 100_170
    assert counted.image_count[0] == 64
    assert np.unique(counted.groups, return_counts=True)[1].tolist() == [461, 405, 337]


def test_what_is_saved_is_loaded_and_another_format_is_not(tmp_path: Path) -> None:
    statistics = ClassStatistics(
        image_count=[3, 1], num_images=9, instance_count=[4, 1], names=["a", "b"], ids=[7, 2]
    )
    path = tmp_path / "class_statistics.json"
    statistics.save(path)
    assert ClassStatistics.load(path).to_dict() == statistics.to_dict()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "other/1"}))
    with pytest.raises(InputError, match="not class statistics"):
        ClassStatistics.load(path)


@pytest.mark.parametrize(
    ("rows", "limit", "end"), [(range(7), 5, " and 2 more"), (range(7), 2, " and 5 more")]
)
def test_classes_beyond_the_limit_are_counted(rows: range, limit: int, end: str) -> None:
    statistics = ClassStatistics(image_count=[1] * 7, num_images=9)
    text = statistics.describe(list(rows), limit)
    assert text.endswith(end)
    assert text.count("(id ") == limit
    assert "more" not in statistics.describe(list(rows), 7)
