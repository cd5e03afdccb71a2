"""Small made-up data sets and results for the tests of comparison and false positives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from iif.data.annotations import Annotations, load_annotations
from iif.data.results import IouType
from iif.evaluation.runs import Run, load_runs

SIZE = (96, 128)  # height, width


def make_gt(seed: int = 0, *, images: int = 12, categories: int = 6, masks: bool = True) -> dict:
    """An LVIS-format data set with unsorted ids, federated annotation and rectangular masks."""
    rng = np.random.default_rng(seed)
    image_ids = (10 + 3 * rng.permutation(images)).tolist()
    category_ids = (1 + 2 * rng.permutation(categories)).tolist()
    annotations = []
    image_entries = []
    for image_id in image_ids:
        status = rng.choice(3, size=categories, p=[0.4, 0.35, 0.25])  # unknown, present, absent
        present = [c for c, s in zip(category_ids, status, strict=True) if s == 1]
        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                box = _random_box(rng)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        **({"segmentation": [_polygon(box)]} if masks else {}),
                    }
                )
        image_entries.append(
            {
                "id": image_id,
                "height": SIZE[0],
                "width": SIZE[1],
                "file_name": f"val/{image_id:04d}.png",
                "neg_category_ids": [
                    c for c, s in zip(category_ids, status, strict=True) if s == 2
                ],
                "not_exhaustive_category_ids": [c for c in present if rng.random() < 0.2],
            }
        )
    return {
        "images": image_entries,
        "categories": [
            {
                "id": c,
                "name": f"category {c}",
                "frequency": "rcf"[i % 3],
                "image_count": (3, 40, 500)[i % 3] + i,
            }
            for i, c in enumerate(category_ids)
        ],
        "annotations": annotations,
    }


def make_results(
    gt: dict, seed: int = 0, *, quality: float = 0.7, extra: int = 6, masks: bool = True
) -> list[dict]:
    """Detections of a share ``quality`` of the objects, moved a little, and ``extra`` an image.

    No two scores are equal.
    """
    rng = np.random.default_rng(seed)
    category_ids = [category["id"] for category in gt["categories"]]
    rows = []
    for annotation in gt["annotations"]:
        if rng.random() < quality:
            box = (np.array(annotation["bbox"]) + rng.integers(-3, 4, 4)).clip([0, 0, 4, 4])
            category = annotation["category_id"]
            if rng.random() < 0.15:
                category = int(rng.choice(category_ids))
            rows.append((annotation["image_id"], category, box.tolist()))
    for image in gt["images"]:
        for _ in range(extra):
            rows.append((image["id"], int(rng.choice(category_ids)), _random_box(rng)))
    scores = rng.permutation(np.linspace(0.05, 0.95, len(rows)))
    results = []
    for (image_id, category_id, box), score in zip(rows, scores, strict=True):
        result = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        if masks:
            result["segmentation"] = _rle(box)
        results.append(result)
    return results


def make_runs(
    folder: Path,
    seed: int = 0,
    *,
    qualities: tuple[float, ...] = (0.6, 0.8),
    iou_type: IouType = "bbox",
    **options: int,
) -> tuple[Annotations, list[Run]]:
    """Write a data set and the results of runs of these qualities; read and match them."""
    gt_dict = make_gt(seed, **options)
    gt = load_annotations(write(folder / "gt.json", gt_dict), masks=True)
    paths = {
        f"run {i}": write(folder / f"{i}.json", make_results(gt_dict, 9 * seed + i, quality=q))
        for i, q in enumerate(qualities)
    }
    return gt, load_runs(gt, paths, iou_type=iou_type)


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def _random_box(rng: np.random.Generator) -> list[float]:
    w, h = rng.integers(8, 40, 2)
    x, y = rng.integers(0, SIZE[1] - 44), rng.integers(0, SIZE[0] - 44)
    return [float(x), float(y), float(w), float(h)]


def _polygon(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _rle(box: list[float]) -> dict:
    rle = mask_utils.merge(mask_utils.frPyObjects([_polygon(box)], *SIZE))
    return {"size": list(SIZE), "counts": rle["counts"].decode()}
