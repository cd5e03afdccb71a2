"""Data sets as annotation tools export them, taken as they are by both engines and by the check."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from exports import NAMES, SIDE, TOOLS, Export, scenes
from iif.check.run import Check, check
from iif.data.annotation_file import read_annotation_file
from iif.data.annotations import load_annotations
from iif.data.trainable import trainable
from iif.errors import InputError
from iif.statistics import ClassStatistics

MASKS = {"cvat", "roboflow", "datumaro", "make_sense"}


@pytest.fixture(scope="module", params=TOOLS)
def export(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Export]:
    return request.param, TOOLS[request.param](tmp_path_factory.mktemp(request.param))


def statistics_of(path: Path) -> ClassStatistics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ClassStatistics.from_json(path, cache=False)


def kinds(result: Check, file: int = 0) -> dict[str, str]:
    return {found.kind: found.level for found in result.files[file].findings}


def test_classes_counts_and_masks(export: tuple[str, Export]) -> None:
    tool, files = export
    statistics = statistics_of(files.train_json)
    assert statistics.names == list(NAMES)
    drawn = scenes("train")
    expected = [sum(any(t.kind == k for t in things) for things in drawn) for k in range(3)]
    assert statistics.image_count.tolist() == expected
    masks = tool in MASKS
    gt = load_annotations(files.train_json, masks=masks, statistics=statistics)
    assert gt.exhaustive
    assert gt.category_names == list(NAMES)
    assert len(gt.ann_ids) == sum(map(len, drawn))
    assert (gt.area > 0).all()
    used = trainable(read_annotation_file(files.train_json), masks=masks)
    assert len(used.trained) == len(gt.ann_ids) - gt.crowd.sum()
    if masks:
        for row, thing in enumerate(thing for things in drawn for thing in things):
            (expected_rle,) = mask_utils.frPyObjects([thing.outline], SIDE, SIDE)
            assert (mask_utils.decode(gt.rle(row)) == mask_utils.decode(expected_rle)).all()


def test_both_engines_see_the_same(export: tuple[str, Export]) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from iif.d2 import add_iif_config, register_custom_datasets
    from iif.d2.datasets import check_dataset
    from iif.tv.dataset import DetectionTargets
    from iif.tv.inference import check_classes

    tool, files = export
    statistics = statistics_of(files.train_json)
    cfg = get_cfg()
    add_iif_config(cfg)
    names = [f"custom_{tool}_{split}" for split in ("train", "val")]
    cfg.DATASETS.CUSTOM = [
        [names[0], str(files.train_json), str(files.train_images)],
        [names[1], str(files.val_json), str(files.val_images)],
    ]
    register_custom_datasets(cfg, statistics)
    for name, path, images in zip(
        names, files[::2], (files.train_images, files.val_images), strict=True
    ):
        check_dataset(name, "DATASETS", len(NAMES))
        records = {r["image_id"]: r for r in DatasetCatalog.get(name)}
        assert MetadataCatalog.get(name).thing_classes == list(NAMES)
        annotations = load_annotations(path, statistics=statistics)
        check_classes(annotations, statistics, "the model")
        targets = DetectionTargets(annotations, images, masks=False)
        for row in targets.shown_images.tolist():
            target = targets[row, False][1]
            record = records[int(annotations.image_ids[row])]
            theirs = [a for a in record["annotations"] if not a["iscrowd"]]
            assert (target["labels"] - 1).tolist() == [a["category_id"] for a in theirs]
            corners = np.array([a["bbox"] for a in theirs], np.float32)
            corners[:, 2:] += corners[:, :2]
            assert np.array_equal(target["boxes"].numpy(), corners)
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_check_takes_it_and_says_what_is_odd(export: tuple[str, Export]) -> None:
    tool, files = export
    result = check(
        files.train_json,
        images=files.train_images,
        val=files.val_json,
        val_images=files.val_images,
    )
    assert result.usable
    assert result.content.model == ("masks" if tool in MASKS else "boxes")
    warned = {kind for kind, level in kinds(result).items() if level == "warning"}
    assert warned == ({"empty_categories"} if tool == "roboflow" else set())
    assert ("boxes_only" in kinds(result)) == (tool == "label_studio")
    assert not {"shared_files", "shared_content", "other_categories"} & set(kinds(result, 1))
    weights = {row.name: row.weight for row in result.classes}
    assert weights.pop("shapes", None) is None
    assert all(weight > 0 for weight in weights.values())


def edited(export: Export, folder: Path, split: str, change: Any) -> Path:
    path = export.train_json if split == "train" else export.val_json
    content = json.loads(path.read_bytes().decode("utf-8-sig"))
    change(content)
    other = folder / f"{split}.json"
    other.write_text(json.dumps(content))
    return other


@pytest.fixture(scope="module")
def roboflow(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return TOOLS["roboflow"](tmp_path_factory.mktemp("roboflow"))


class TestCategoriesWithoutAnnotations:
    def test_are_left_out_in_one_line(self, roboflow: Export) -> None:
        line = r"left out 1 category without an annotation: 'shapes' \(id 0\)"
        with pytest.warns(UserWarning, match=line):
            statistics = ClassStatistics.from_json(roboflow.train_json, cache=False)
        assert statistics.ids.tolist() == [1, 2, 3]
        assert statistics.left_out == {0: "shapes"}
        assert ClassStatistics.from_dict(statistics.to_dict()).left_out == {0: "shapes"}

    @pytest.mark.parametrize("stands", [True, False])
    def test_may_stand_in_the_validation_file_or_not(
        self, roboflow: Export, tmp_path: Path, stands: bool
    ) -> None:
        def change(content: Any) -> None:
            if not stands:
                del content["categories"][0]

        path = edited(roboflow, tmp_path, "val", change)
        gt = load_annotations(path, statistics=statistics_of(roboflow.train_json))
        assert gt.category_ids.tolist() == [1, 2, 3]
        whole = load_annotations(roboflow.val_json)
        kept = gt.category_ids[gt.ann_category]
        assert kept.tolist() == whole.category_ids[whole.ann_category].tolist()

    def test_that_are_annotated_in_validation_alone_have_ap_0(
        self, roboflow: Export, tmp_path: Path
    ) -> None:
        from iif.evaluation.evaluate import evaluate_files

        def change(content: Any) -> None:
            content["annotations"][0]["category_id"] = 0

        path = edited(roboflow, tmp_path, "val", change)
        statistics = statistics_of(roboflow.train_json)
        with pytest.warns(UserWarning, match=r"annotates 'shapes' \(id 0\), of which"):
            gt = load_annotations(path, statistics=statistics)
        assert gt.category_ids.tolist() == [0, 1, 2, 3]
        assert gt.groups[0] == "r"
        assert gt.image_count[0] == 0
        rows = [
            {
                "image_id": int(gt.image_ids[gt.ann_image[row]]),
                "category_id": int(gt.category_ids[gt.ann_category[row]]),
                "score": 0.9,
                "bbox": gt.bbox[row].tolist(),
            }
            for row in range(1, len(gt.ann_ids))
        ]
        (tmp_path / "results.json").write_text(json.dumps(rows))
        found = {}
        for name, given in (("with", statistics), ("without", None)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                summary = evaluate_files(
                    path, tmp_path / "results.json", output_dir=tmp_path / name, statistics=given
                )
            found[name] = summary["metrics"]["bbox"]["AP"]
        assert found["with"] == found["without"] == pytest.approx(75)
        result = check(roboflow.train_json, val=path)
        assert kinds(result, 1)["never_trained"] == "warning"

    def test_of_two_training_files_count_together(self, roboflow: Export, tmp_path: Path) -> None:
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
        from iif.d2.statistics import _add

        def no_wedges(content: Any) -> None:
            content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 3]

        one = statistics_of(edited(roboflow, tmp_path, "train", no_wedges))
        two = statistics_of(roboflow.val_json)
        assert one.ids.tolist() == [1, 2]
        both = _add(one, two)
        assert both.ids.tolist() == [1, 2, 3]
        assert both.left_out == {0: "shapes"}
        assert both.image_count[2] == two.image_count[2]
        assert both.instance_count[0] == one.instance_count[0] + two.instance_count[0]

    def test_of_files_in_lvis_format_stay(self, roboflow: Export, tmp_path: Path) -> None:
        def change(content: Any) -> None:
            for image in content["images"]:
                image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}

        statistics = ClassStatistics.from_json(edited(roboflow, tmp_path, "train", change))
        assert statistics.ids.tolist() == [0, 1, 2, 3]
        assert not statistics.left_out


class TestNumbers:
    @staticmethod
    def floats(content: Any) -> None:
        for row in (*content["images"], *content["annotations"], *content["categories"]):
            for key in ("id", "image_id", "category_id", "height", "width", "iscrowd"):
                if key in row:
                    row[key] = float(row[key])

    def test_whole_floats_are_whole_numbers(self, roboflow: Export, tmp_path: Path) -> None:
        path = edited(roboflow, tmp_path, "train", self.floats)
        one, two = (read_annotation_file(p) for p in (path, roboflow.train_json))
        for key in ("image_ids", "category_ids", "ann_ids", "ann_image", "bbox", "crowd"):
            assert np.array_equal(getattr(one, key), getattr(two, key))
        assert one.image_sizes().tolist() == two.image_sizes().tolist()
        assert [one.segmentation[i] for i in range(3)] == [two.segmentation[i] for i in range(3)]
        assert one.whole_floats == len(one.images) + len(one.categories) + len(one.ann_ids)
        assert kinds(check(path))["whole_floats"] == "note"

    @pytest.mark.parametrize("value", [1.5, "1", True])
    def test_what_is_no_whole_number_is_refused(
        self, roboflow: Export, tmp_path: Path, value: Any
    ) -> None:
        def change(content: Any) -> None:
            content["annotations"][2]["image_id"] = value

        path = edited(roboflow, tmp_path, "train", change)
        with pytest.raises(InputError, match=r"Expected `int`.*annotations\[2\].image_id"):
            read_annotation_file(path)

    def test_of_files_in_lvis_format_are_whole(self, roboflow: Export, tmp_path: Path) -> None:
        def change(content: Any) -> None:
            for image in content["images"]:
                image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
            content["annotations"][0]["id"] = 0.0

        path = edited(roboflow, tmp_path, "train", change)
        with pytest.raises(InputError, match=r"Expected `int`, got `float`"):
            read_annotation_file(path)


def test_missing_areas_are_those_of_the_masks_or_boxes(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "height": 20, "width": 30, "file_name": "a.png"}],
        "categories": [{"id": 0, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 0, "bbox": [1, 2, 7, 5], **more}
            for i, more in enumerate(
                (
                    {},
                    {"segmentation": []},
                    {"segmentation": [[1, 2, 8, 2, 8, 7]]},
                    {"segmentation": {"size": [20, 30], "counts": [45, 11, 544]}},
                    {"segmentation": {"size": [20, 30], "counts": "broken"}},
                    {"area": 12.5},
                    {"area": None, "bbox": [1, 2, -7, 5]},
                )
            )
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    (triangle,) = mask_utils.frPyObjects([[1, 2, 8, 2, 8, 7]], 20, 30)
    expected = [35, 35, float(mask_utils.area(triangle)), 11, 35, 12.5, 0]
    assert load_annotations(path).area.tolist() == expected
    content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content["categories"][0]["frequency"] = "r"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="missing required field `area`"):
        load_annotations(path)


def test_masks_that_are_all_crowds_are_told_with_the_remedy(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    export = TOOLS["datumaro"](tmp_path_factory.mktemp("crowds"))

    def change(content: Any) -> None:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1

    path = edited(export, tmp_path, "train", change)
    with pytest.raises(InputError, match=r"annotations are crowds \(iscrowd: 1\).* set iscrowd"):
        trainable(read_annotation_file(path))
    result = check(path)
    assert not result.usable
    assert kinds(result)["nothing_to_train_on"] == "error"
    assert kinds(result)["crowd_only"] == "warning"
