"""A tiny LVIS-format data set of coloured rectangles, for tests that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Ids with gaps, listed out of order, so that an id taken for a row shows.
CATEGORY_IDS = (11, 2, 7, 30)
COLOURS = {2: (220, 40, 40), 7: (40, 200, 60), 11: (50, 70, 220), 30: (210, 200, 40)}


def tiny_config(**values: Any):
    """Return training settings for the tiny data set."""
    from iif.tv import TrainConfig

    defaults: dict[str, Any] = {
        "model": "maskrcnn_resnet18_fpn_small",
        "weights_backbone": None,
        "variant": "smooth",  # raw is 0 for a class that is in every image
        "min_size": (64,),
        "max_size": 64,
        "images_per_batch": 2,
        "iterations": 4,
        "base_lr": 0.005,
        "steps": (),
        "warmup_iterations": 2,
        "clip_gradients": 5.0,
        "workers": 0,
        "cache_images": True,
        "detections_per_image": 20,
    }
    return TrainConfig(**{**defaults, **values})


def make_dataset(folder: Path, *, images: int = 8, size: int = 64, seed: int = 0) -> Path:
    """Write ``images`` pictures and ``annotations.json`` into ``folder``; return the JSON's path.

    Category 2 is in every image, the next ones in every second, third and fourth.
    """
    generator = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    counts = dict.fromkeys(CATEGORY_IDS, 0)
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        pixels = generator.integers(90, 130, (size, size, 3)).astype(np.uint8)
        shown = [c for step, c in enumerate(sorted(CATEGORY_IDS), 1) if number % step == 0]
        for category in shown:
            x, y = generator.integers(0, size // 2, 2).tolist()
            w, h = generator.integers(size // 4, size // 2, 2).tolist()
            pixels[y : y + h, x : x + w] = COLOURS[category]
            counts[category] += 1
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": 100 - number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        name = f"{number:03d}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        content["images"].append(
            {
                "id": 100 - number,
                "file_name": name,
                "height": size,
                "width": size,
                "neg_category_ids": sorted(set(CATEGORY_IDS) - set(shown)),
                "not_exhaustive_category_ids": [],
            }
        )
    content["categories"] = [
        {"id": c, "name": f"colour{c}", "frequency": "rcf"[i % 3], "image_count": counts[c]}
        for i, c in enumerate(CATEGORY_IDS)
    ]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path
