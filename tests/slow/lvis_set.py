"""Small data sets of LVIS's and COCO's exact schema, with their real category names and ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 128, 96
TRAIN, VAL = 40, 4
# Classes that are in most images, so that counts differ.
FREQUENT = 12


def real_categories(num_classes: int) -> tuple[str, list[dict[str, Any]]]:
    """Return a data set's name in Detectron2 and its categories, by their number."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.data.datasets.lvis_v0_5_categories import LVIS_CATEGORIES as V0_5
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES as V1

    if num_classes == len(V1):
        return "lvis_v1", V1
    if num_classes == len(V0_5):
        return "lvis_v0.5", V0_5
    if num_classes == 80:
        things = [category for category in COCO_CATEGORIES if category["isthing"]]
        keys = ("id", "name", "supercategory")
        return "coco", [{key: c.get(key, c["name"]) for key in keys} for c in things]
    made_up = {"synset": "thing.n.01", "synonyms": ["thing"], "def": "a thing"}
    ids = range(1, num_classes + 1)
    return f"things_{num_classes}", [{"id": i, "name": f"thing {i}", **made_up} for i in ids]


def write_set(folder: Path, num_classes: int, seed: int = 0) -> dict[str, tuple[Path, Path]]:
    """Write a data set as Detectron2 lays it out (``lvis/`` and ``coco/`` in ``folder``).

    Every class has a training instance.

    Returns:
        annotation file and image folder of "train" and "val".
    """
    name, categories = real_categories(num_classes)
    rng = np.random.default_rng(seed)
    files = {}
    for split, images in (("train", TRAIN), ("val", VAL)):
        shares = np.array_split(rng.permutation(num_classes), images)
        classes = [
            [*share.tolist()[:40], *rng.permutation(num_classes)[:FREQUENT].tolist()]
            if split == "val"
            else [*share.tolist(), *[c for c in range(FREQUENT) if rng.random() < 0.6]]
            for share in shares
        ]
        path = folder / "lvis" / f"{name}_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _content(folder / "coco", f"{split}2017", classes, categories, rng)
        path.write_text(json.dumps(content))
        files[split] = path, folder / "coco"
    return files


def _content(
    root: Path,
    subset: str,
    classes: list[list[int]],
    categories: list[dict[str, Any]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    lvis = "synset" in categories[0]
    (root / subset).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, present in enumerate(classes, start=1):
        picture = Image.new("RGB", (WIDTH, HEIGHT), tuple(rng.integers(0, 256, 3).tolist()))
        draw = ImageDraw.Draw(picture)
        for row in present:
            x, y = rng.integers(0, WIDTH - 20), rng.integers(0, HEIGHT - 20)
            w, h = rng.integers(8, 20, 2)
            corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
            draw.polygon([(int(a), int(b)) for a, b in corners], fill=(row % 256, row // 5, 90))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories[row]["id"],
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h),
                    "segmentation": [[float(value) for corner in corners for value in corner]],
                    **({} if lvis else {"iscrowd": 0}),
                }
            )
        file = f"{number:012d}.jpg"
        picture.save(root / subset / file)
        absent = [c["id"] for row, c in enumerate(categories) if row not in present]
        federated = {
            "neg_category_ids": absent[:10],
            "not_exhaustive_category_ids": [categories[present[0]]["id"]],
        }
        images.append(
            {
                "id": number,
                "width": WIDTH,
                "height": HEIGHT,
                "license": 1,
                "date_captured": "2013-11-14 17:02:52",
                "coco_url": f"http://images.cocodataset.org/{subset}/{file}",
                "flickr_url": "http://farm.staticflickr.com/0.jpg",
                **(federated if lvis else {"file_name": f"{subset}/{file}"}),
            }
        )
    return {
        "info": {"description": "made for a test", "version": "1.0", "year": 2020},
        "licenses": [{"id": 1, "name": "none", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": _counted(categories, annotations) if lvis else categories,
    }


def _counted(
    categories: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the categories with LVIS's counts and frequency groups."""
    shown: dict[int, list[int]] = {category["id"]: [] for category in categories}
    for annotation in annotations:
        shown[annotation["category_id"]].append(annotation["image_id"])
    counted = []
    for category in categories:
        images = len(set(shown[category["id"]]))
        counted.append(
            {
                **category,
                "frequency": "r" if images <= 10 else "c" if images <= 100 else "f",
                "image_count": images,
                "instance_count": len(shown[category["id"]]),
            }
        )
    return counted
