"""The evaluator's category ids: LVIS's own names keep no mapping, custom sets keep one."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.lvis import get_lvis_instances_meta
from detectron2.structures import Boxes, Instances

from helpers_compare import make_gt
from iif.d2.evaluator import IIFEvaluator


@pytest.fixture
def data_set(tmp_path):
    """Return a function that registers a file's metadata under a name, and takes it away again."""
    names = []

    def register(name, json_file, classes, mapping):
        names.append(name)
        metadata = MetadataCatalog.get(name).set(json_file=str(json_file), thing_classes=classes)
        if mapping is not None:
            metadata.thing_dataset_id_to_contiguous_id = mapping
        return name

    yield register
    for name in names:
        MetadataCatalog.remove(name)


def annotations(ids, path):
    """Write a file with the categories ``ids``, one box of each, in one image."""
    content = make_gt(0, images=1)
    (image,) = content["images"]
    category, annotation = content["categories"][0], content["annotations"][0]
    content["categories"] = [{**category, "id": i, "name": f"class {i}"} for i in ids]
    content["annotations"] = [
        {
            **annotation,
            "id": number,
            "image_id": image["id"],
            "category_id": i,
            "bbox": [4.0 * number, 0.0, 4.0, 4.0],
            "area": 16.0,
        }
        for number, i in enumerate(ids, 1)
    ]
    image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    path.write_text(json.dumps(content))
    return image


def ideal_detections(image, number):
    """Return one detection a class, each where that class's box is."""
    instances = Instances((image["height"], image["width"]))
    x = 4.0 * torch.arange(1, number + 1)
    instances.pred_boxes = Boxes(torch.stack([x, 0 * x, x + 4, 0 * x + 4], dim=1))
    instances.pred_classes = torch.arange(number)
    instances.scores = torch.linspace(0.9, 0.5, number)
    return instances


@pytest.mark.parametrize(
    ("ids", "mapping"),
    [
        ([1, 2, 3, 4], None),  # as LVIS's built-in names: contiguous index + 1
        ([7, 3, 40, 2], {2: 0, 3: 1, 7: 2, 40: 3}),
    ],
)
def test_ideal_detections_have_an_ap_of_100(tmp_path, data_set, ids, mapping):
    path = tmp_path / "gt.json"
    image = annotations(sorted(ids), path)
    name = data_set("evaluator_ids", path, [f"class {i}" for i in sorted(ids)], mapping)
    evaluator = IIFEvaluator(name, tmp_path / "out", iou_types=("bbox",), distributed=False)
    evaluator.reset()
    output = {"instances": ideal_detections(image, len(ids))}
    evaluator.process([{"image_id": image["id"]}], [output])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    rows = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert sorted(row["category_id"] for row in rows) == sorted(ids)


def test_lvis_own_metadata_has_no_mapping_and_ids_from_1(tmp_path, data_set):
    meta = get_lvis_instances_meta("lvis_v1")
    assert "thing_dataset_id_to_contiguous_id" not in meta
    name = data_set("evaluator_lvis", tmp_path / "none.json", meta["thing_classes"], None)
    evaluator = IIFEvaluator(name, tmp_path, iou_types=("bbox",), distributed=False)
    instances = Instances((10, 10))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 5]]))
    instances.pred_classes = torch.tensor([0, 1202])
    instances.scores = torch.tensor([0.5, 0.5])
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    assert [row["category_id"] for row in evaluator._results] == [1, 1203]
