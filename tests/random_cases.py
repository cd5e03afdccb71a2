"""Random federated data sets with detections, small and full of the corners of LVIS's rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def random_case(
    seed: int, *, masks: bool = False, ignore: bool = True, crowded: bool = False
) -> Case:
    """Return an LVIS-format annotation file's content and a result file's.

    Among them are: ids in no order; scores that tie; copies of the same box; categories without
    ground truth; images without detections, annotations or either; categories that are not
    exhaustively annotated, verified absent, or neither; ground truth and detections of area zero;
    areas on both sides of LVIS's area ranges and on their limits.

    Args:
        seed: the same seed gives the same case.
        masks: give annotations polygons or RLEs, and detections RLEs.
        ignore: mark some ground truth as to be ignored.
        crowded: give an image more than 300 detections.
    """
    rng = np.random.default_rng(seed)
    num_images, num_categories = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    image_ids = rng.choice(np.arange(1, 1000), num_images, replace=False).tolist()
    category_ids = rng.choice(np.arange(1, 1300), num_categories, replace=False).tolist()
    sizes = {i: rng.integers(24, 161, 2).tolist() for i in image_ids}
    images, annotations, results = [], [], []
    levels = int(rng.choice([2, 10, 10_000]))
    for image_id in image_ids:
        height, width = sizes[image_id]
        present = _some(rng, category_ids, 0.5)
        shapes = []
        for _ in range(int(rng.integers(0, 8)) if present else 0):
            shape = _shape(rng, height, width)
            if shapes and rng.random() < 0.15:
                shape = shapes[int(rng.integers(len(shapes)))].copy()
            shapes.append(shape)
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": int(rng.choice(present)),
                    "bbox": shape.tolist(),
                    "area": _area(rng, shape),
                }
                | ({"segmentation": _segmentation(rng, shape, height, width)} if masks else {})
                | ({"ignore": int(rng.random() < 0.2)} if ignore and rng.random() < 0.5 else {})
            )
        images.append(
            {
                "id": image_id,
                "height": height,
                "width": width,
                "file_name": f"{image_id:012d}.jpg",
                "neg_category_ids": _some(rng, [c for c in category_ids if c not in present], 0.5),
                "not_exhaustive_category_ids": _some(rng, category_ids, 0.2),
            }
        )
        most = 320 if crowded and image_id == image_ids[0] else 14
        for _ in range(most if most > 14 else int(rng.integers(0, most))):
            shape = _shape(rng, height, width)
            if shapes and rng.random() < 0.8:
                shape = shapes[int(rng.integers(len(shapes)))].copy()
                if rng.random() < 0.8:
                    shape += rng.normal(0, 0.12, 4) * shape[[2, 3, 2, 3]]
            if rng.random() < 0.04:
                shape[2 + int(rng.integers(2))] *= rng.choice([0, -1])
            likely = present if present and rng.random() < 0.7 else category_ids
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(rng.choice(likely)),
                    "bbox": shape.tolist(),
                    "score": float(rng.integers(1, levels + 1) / levels),
                }
                | ({"segmentation": _rle(_mask(rng, shape, height, width))} if masks else {})
            )
    ids = rng.choice(np.arange(1, 10_000), len(annotations), replace=False).tolist()
    for annotation, annotation_id in zip(annotations, ids, strict=True):
        annotation["id"] = annotation_id
    groups = rng.choice(["r", "c", "f"], num_categories).tolist()
    categories = [
        {"id": i, "name": f"category {i}", "frequency": group, "image_count": int(count)}
        for i, group, count in zip(
            category_ids, groups, rng.integers(1, 500, num_categories), strict=True
        )
    ]
    if not results:
        return random_case(seed + 1_000_000, masks=masks, ignore=ignore, crowded=crowded)
    for items in (annotations, results):
        rng.shuffle(items)
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _some(rng: np.random.Generator, items: list[int], share: float) -> list[int]:
    return [item for item in items if rng.random() < share]


def _shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a box XYWH, on whole pixels half of the time."""
    size = np.array([width, height]) * rng.uniform(0.05, 0.9, 2)
    corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - size)
    box = np.concatenate([corner, size])
    return np.maximum(np.round(box), [0, 0, 1, 1]) if rng.random() < 0.5 else box


def _area(rng: np.random.Generator, shape: np.ndarray) -> float:
    roll = rng.random()
    if roll < 0.05:
        return 0.0
    if roll < 0.15:
        return float(rng.choice([32**2, 96**2, 5e9, 2e10]))
    return float(shape[2] * shape[3] * rng.uniform(0.5, 1))


def _mask(rng: np.random.Generator, shape: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an ellipse or a box with some pixels flipped, (height, width) uint8."""
    x, y, w, h = shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    mask = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    if w > 0 and h > 0 and rng.random() < 0.5:
        mask = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 <= 0.25
    if rng.random() < 0.3:
        mask &= rng.random(mask.shape) < 0.9
    return mask.astype(np.uint8)


def _rle(mask: np.ndarray) -> dict[str, Any]:
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def _segmentation(rng: np.random.Generator, shape: np.ndarray, height: int, width: int) -> Any:
    x, y, w, h = shape.tolist()
    roll = rng.random()
    if roll < 0.5:
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        inner = [x + w / 4, y, x + w, y + h / 2, x, y + h]
        return [polygon] if roll < 0.35 else [polygon[:6], inner]
    mask = _mask(rng, shape, height, width)
    if roll < 0.75:
        return _rle(mask)
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    bounds = np.concatenate([[0], changes, [pixels.size]])
    runs = np.diff(bounds).tolist()
    return {"size": [height, width], "counts": ([0] if pixels[0] else []) + runs}
