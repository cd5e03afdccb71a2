"""A small data set as an engineer has one: COCO's format, none of LVIS's keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from iif.demo.openmoji import TRAIN_JSON, VAL_JSON


def as_own_data(
    folder: Path, target: Path, *, masks: bool = True, everywhere: bool = False
) -> dict:
    """Write train.json and val.json of an OpenMoji data set in COCO's format, without LVIS's keys.

    Args:
        folder: of the data set.
        target: where to write.
        masks: whether annotations have masks.
        everywhere: the first category gets a box in every image.

    Returns:
        The content of train.json.
    """
    target.mkdir(parents=True, exist_ok=True)
    first: dict = {}
    for name, own in ((VAL_JSON, "val.json"), (TRAIN_JSON, "train.json")):
        content = json.loads((folder / name).read_text())
        keys = ("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd")
        annotations = [{k: a[k] for k in keys if k in a} for a in content["annotations"]]
        if not masks:
            annotations = [{**a, "segmentation": []} for a in annotations]
        if everywhere:
            category = content["categories"][0]["id"]
            there = {a["image_id"] for a in annotations if a["category_id"] == category}
            box = {"bbox": [2, 2, 20, 20], "area": 400, "category_id": category}
            if masks:
                box["segmentation"] = [[2, 2, 22, 2, 22, 22, 2, 22]]
            last = max(a["id"] for a in annotations)
            missing = [i["id"] for i in content["images"] if i["id"] not in there]
            annotations += [
                {**box, "image_id": image, "id": last + number}
                for number, image in enumerate(missing, start=1)
            ]
        first = {
            "images": [
                {k: image[k] for k in ("id", "file_name", "height", "width")}
                for image in content["images"]
            ],
            "annotations": annotations,
            "categories": [{k: c[k] for k in ("id", "name")} for c in content["categories"]],
        }
        (target / own).write_text(json.dumps(first))
    return first


def image_numbers(path: Path) -> np.ndarray:
    """Return the ids of a file's images, ascending."""
    return np.sort([image["id"] for image in json.loads(path.read_text())["images"]])
