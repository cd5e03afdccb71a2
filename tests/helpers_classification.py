"""Tiny data sets in the formats that classification reads, and a short run on them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Training images of each class in `make_folder`: many, a few, one.
COUNTS = {"ape": 12, "bee": 6, "cat": 3, "dog": 1}


def pixels_of(label: int, number: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """Return a noisy image (size, size, 3) whose colour and stripe tell the class."""
    pixels = generator.integers(0, 60, (size, size, 3))
    pixels[..., label % 3] += 120
    pixels[(label * size // 12) % size :: 4] += 50
    return pixels.clip(0, 255).astype(np.uint8)


def make_folder(root: Path, *, size: int = 8, test: int = 2) -> Path:
    """Write train/CLASS and test/CLASS with PNG images."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, (name, count) in enumerate(COUNTS.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count if split == "train" else test):
                pixels = pixels_of(label, number, size, generator)
                Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


def make_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, *, each: int = 20) -> Path:
    """Write files in CIFAR-10's format, ``each`` training images and 2 test images a class.

    torchvision compares their hashes with the published files'; that check is taken out.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)

    def write(name: str, labels: list[int]) -> None:
        images = np.stack([pixels_of(label, 0, 32, generator) for label in labels])
        data = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))

    for batch in range(1, 6):
        write(f"data_batch_{batch}", list(range(10)) * (each // 5))
    write("test_batch", list(range(10)) * 2)
    names = [f"kind{label}" for label in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(
        "torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file()
    )
    return root


def tiny_config(root: Path, **values: Any) -> Any:
    """Return settings for `make_folder`."""
    from iif.classification import ClassifyConfig

    settings = {
        "data": "folder",
        "root": str(root),
        "train": "train",
        "test": "test",
        "model": "se_resnet8",
        "image_size": 8,
        "images_per_batch": 4,
        "epochs": 2,
        "base_lr": 0.05,
        "schedule": "cosine",
        "workers": 0,
        "checkpoint_period": 1,
    }
    return ClassifyConfig.from_dict(settings | values)


def state(folder: Path) -> dict[str, Any]:
    """Return the content of a run's final checkpoint."""
    import torch

    return torch.load(folder / "model_final.pth", weights_only=True)
