"""What is trained on: Detectron2's rule, on crowds, ignored objects and boxes without an area."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from iif.data import rle
from iif.data.annotation_file import read_annotation_file
from iif.data.masks import Form, mask_forms
from iif.data.split import held_out_images
from iif.data.trainable import trainable
from iif.errors import InputError

SIZE = 40
BOXES = (
    [5.0, 5.0, 12.0, 10.0],
    [5.0, 5.0, 0.4, 10.0],  # thinner than a pixel
    [5.0, 5.0, 0.005, 0.005],
    [5.0, 5.0, 0.0, 10.0],
    [30.0, 5.0, 25.0, 10.0],  # ends outside
    [45.0, 5.0, 10.0, 10.0],  # lies outside
    [-8.0, 5.0, 10.0, 10.0],
)
RLE = {"size": [SIZE, SIZE], "counts": [100, 200, SIZE * SIZE - 300]}


def random_file(folder: Path, seed: int, images: int = 60) -> Path:
    """Write images whose annotations are crowds, ignored, boxes without area or no polygons."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(images):
        for _ in range(random.integers(0, 4)):
            crowd = random.random() < 0.3
            box = BOXES[int(random.choice(len(BOXES), p=[0.4, *[0.1] * 6]))]
            x, y, w, h = box
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            masks = ([polygon], [polygon, [1, 2, 3, 4]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 1000 - image,
                    "category_id": int(random.choice(6, p=[0.4, 0.3, 0.15, 0.05, 0.05, 0.05])) + 3,
                    "bbox": box,
                    "area": max(w * h, 1e-3),
                    "iscrowd": int(crowd),
                    "ignore": int(random.random() < 0.2),
                    "segmentation": RLE
                    if crowd
                    else masks[random.choice(4, p=[0.7, 0.1, 0.1, 0.1])],
                }
            )
    content = {
        "images": [
            {"id": 1000 - i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE}
            for i in range(images)
        ],
        "categories": [{"id": c + 3, "name": f"class {c}"} for c in range(6)],
        "annotations": annotations,
    }
    path = folder / f"{seed}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", range(8))
def test_images_factors_and_instances_are_detectron2s(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from detectron2.data import DatasetMapper, MetadataCatalog
    from detectron2.data.build import filter_images_with_only_crowd_annotations
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    from iif.d2.datasets import load_instances, set_classes
    from iif.data.annotation_rows import Category
    from iif.data.annotations import load_annotations
    from iif.statistics import ClassStatistics
    from iif.tv.dataset import DetectionTargets

    path = random_file(tmp_path, seed)
    for image in json.loads(path.read_text())["images"]:
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / image["file_name"])
    name = f"custom_trainable_{seed}"
    statistics = ClassStatistics.from_json(path)
    classes = zip(statistics.ids.tolist(), statistics.names, strict=True)
    set_classes(MetadataCatalog.get(name), [Category(*pair) for pair in classes], str(path))
    records = load_instances(str(path), str(tmp_path), name)
    MetadataCatalog.remove(name)
    reference = filter_images_with_only_crowd_annotations(records)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(reference, 0.3)

    annotations = load_annotations(path, masks=True, statistics=statistics, exhaustive=True)
    data = DetectionTargets(annotations, tmp_path, masks=True)
    shown = annotations.image_ids[data.shown_images].tolist()
    assert shown == [record["image_id"] for record in reference]
    assert 0 < len(shown) < len(records)
    assert torch.equal(data.repeat_factors(0.3), factors)
    assert factors.max() > 1
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    for row, record in zip(data.shown_images.tolist(), reference, strict=True):
        theirs = mapper(record)["instances"]
        ours = data[row, False][1]
        assert torch.equal(ours["boxes"], theirs.gt_boxes.tensor)
        assert torch.equal(ours["labels"] - 1, theirs.gt_classes)


def test_what_is_counted_and_what_is_trained(tmp_path: Path) -> None:
    path = random_file(tmp_path, 0)
    content = read_annotation_file(path)
    found = trainable(content)
    assert set(found.trained) <= set(found.counted)
    assert not content.crowd[found.trained].any()
    assert content.crowd[found.counted].any()
    assert content.ignore[found.trained].any()
    assert set(content.ann_image[found.counted]) == set(found.images)
    forms = mask_forms(content)
    assert (forms == Form.NO_POLYGON).any()
    assert not (forms[found.counted] == Form.NO_POLYGON).any()


def test_images_held_out_are_left_out(tmp_path: Path) -> None:
    content = read_annotation_file(random_file(tmp_path, 0))
    out = held_out_images(content.image_ids.tolist(), 0.3)
    found = trainable(content, 0.3)
    assert set(found.images) == {row for row in trainable(content).images if not out[row]}
    assert not out[content.ann_image[found.counted]].any()


@pytest.mark.parametrize(
    ("segmentation", "form"),
    [
        (None, Form.NONE),
        ([], Form.NONE),
        (RLE, Form.RLE),
        ([[1, 2, 3, 4, 5, 6]], Form.POLYGONS),
        ([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]], Form.POLYGONS),
        ([[1, 2, 3, 4], [1, 2, 3, 4, 5]], Form.NO_POLYGON),
        ([[]], Form.NO_POLYGON),
        ([[1, 2, 3, 4, 5]], Form.NO_POLYGON),
        # Malformed: whoever decodes it says so.
        ([1, 2, 3, 4, 5, 6], Form.POLYGONS),
        ([[1, 2], "x", []], Form.POLYGONS),
    ],
)
def test_forms_of_masks(tmp_path: Path, segmentation: Any, form: Form) -> None:
    path = random_file(tmp_path, 0)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.update(segmentation=segmentation, iscrowd=0)
    path.write_text(json.dumps(content))
    read = read_annotation_file(path)
    if form == Form.NO_POLYGON:
        with pytest.raises(InputError, match="no annotation to train on"):
            trainable(read)
    assert set(mask_forms(read)) == {form}


def with_mask(folder: Path, segmentation: Any) -> Path:
    """Write a file one of whose annotations, 77, has this mask."""
    path = random_file(folder, 0)
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"], 50):
        annotation.update(id=number, segmentation=[[1, 1, 9, 1, 9, 9]], bbox=BOXES[0], iscrowd=0)
    content["annotations"][27]["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    return path


def compressed(last: str = "") -> dict[str, Any]:
    """Return a mask of 60 pixels, whose last character can be damaged."""
    counts = rle.from_runs([100, 60, SIZE * SIZE - 160], SIZE, SIZE).decode()
    return {"size": [SIZE, SIZE], "counts": counts[:-1] + last if last else counts}


BROKEN = [
    (compressed(chr(ord(compressed()["counts"][-1]) - 1)), "do not sum to height"),
    (compressed("~"), "outside of the RLE alphabet"),
    ({**compressed(), "size": [SIZE, SIZE - 1]}, r"has size \[40, 39\] but the image is"),
    ({**RLE, "counts": [100, 200, 5]}, "do not sum to height"),
    ({"size": [SIZE, SIZE]}, "is neither polygons nor an RLE"),
]


@pytest.mark.parametrize(("segmentation", "fault"), BROKEN)
def test_a_broken_rle_is_refused_before_training(
    tmp_path: Path, segmentation: Any, fault: str
) -> None:
    content = read_annotation_file(with_mask(tmp_path, segmentation))
    with pytest.raises(InputError, match=f"the annotation with id 77.*{fault}"):
        trainable(content, masks=True)
    trainable(content)  # without masks it does not matter


@pytest.mark.parametrize(("segmentation", "fault"), BROKEN)
def test_detectron2_refuses_a_broken_rle_before_training(
    tmp_path: Path, segmentation: Any, fault: str
) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    from iif.d2.datasets import check_masks, load_instances

    path = with_mask(tmp_path, segmentation)
    name = "broken_rle"
    try:
        with pytest.raises(InputError, match=f"id 77.*{fault}"):
            load_instances(str(path), str(tmp_path), name)
        register_coco_instances(name, {}, str(path), str(tmp_path))
        with pytest.raises(
            InputError, match=f"DATASETS.TRAIN: data set 'broken_rle': .*id 77.*{fault}"
        ):
            check_masks(name, "DATASETS.TRAIN", "bitmask")
    finally:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_sound_rles_are_trained_on_but_for_those_without_a_pixel(tmp_path: Path) -> None:
    for segmentation, left_out in (
        (compressed(), 0),
        (RLE, 0),
        ({"size": [SIZE, SIZE], "counts": [SIZE * SIZE]}, 1),
    ):
        content = read_annotation_file(with_mask(tmp_path, segmentation))
        trained = trainable(content, masks=True).trained
        assert len(trained) == len(content.ann_ids) - left_out
        assert (27 in trained) == (not left_out)
        assert 27 in trainable(content).trained


@pytest.mark.parametrize("segmentation", [None, []])
def test_an_annotation_without_a_mask_is_refused(tmp_path: Path, segmentation: Any) -> None:
    content = read_annotation_file(with_mask(tmp_path, segmentation))
    with pytest.raises(InputError, match=r"annotation 77 has no mask \(1 such\); add it, or train"):
        trainable(content, masks=True)
