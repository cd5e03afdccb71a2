"""A tiny LVIS-format data set of coloured rectangles, a small model and a batch for it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# Ids with gaps, listed out of order, so that an id taken for a row shows.
CATEGORY_IDS = (11, 2, 7, 30)
COLOURS = {2: (220, 40, 40), 7: (40, 200, 60), 11: (50, 70, 220), 30: (210, 200, 40)}


def tiny_config(**values: Any):
    """Return training settings for the tiny data set."""
    from iif.tv import TrainConfig

    settings: dict[str, Any] = {
        "model": "maskrcnn_resnet18_fpn_small",
        "weights_backbone": None,
        "iif": {"variant": "smooth"},  # raw is 0 for a class that is in every image
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
    return TrainConfig.from_dict(settings | values)


def small_model(num_classes: int = 5, seed: int = 0, **options: Any):
    """Return a plain Mask R-CNN for images of 64 px, untrained, of so many foreground classes."""
    from iif.tv import maskrcnn_resnet18_fpn_small

    torch.manual_seed(seed)
    return maskrcnn_resnet18_fpn_small(num_classes + 1, min_size=64, max_size=64, **options)


def batch(num_classes: int = 5, seed: int = 1) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """Return two images and their targets."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 10.0, 60.0, 50.0]])
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 4:36, 4:40] = 1
    masks[1, 10:50, 20:60] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, num_classes]), "masks": masks}
    return images, [target, copy.deepcopy(target)]


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


def run(data: Path, output: Path, config: Any = None, **options: Any) -> dict[str, Any] | None:
    """Train on the tiny data set (by default `tiny_config`), on the CPU; return the summary."""
    from iif.tv import train

    options = {"device": "cpu", **options}
    return train(data, data.parent / "images", output, config or tiny_config(), **options)


def state(folder: Path) -> dict[str, Any]:
    """Return the content of a run's final checkpoint."""
    return torch.load(folder / "model_final.pth", weights_only=True)


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that two checkpoints, or parts of them, are equal."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif isinstance(value, dict):
            assert_same_state(value, other[key])
        else:
            assert value == other[key], key
