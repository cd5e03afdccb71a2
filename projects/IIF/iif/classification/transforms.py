"""From images to batches: augmentation, and loaders whose content the seed alone decides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import AutoAugmentPolicy, v2

from iif.classification.images import ImageSet
from iif.distributed import rank, world_size

if TYPE_CHECKING:
    from iif.classification.config import ClassifyConfig

# The shorter side that a test image is scaled to before its centre is cut out, relative to the
# side of what is cut out, where training cuts out random parts.
_MARGIN = 256 / 224
_POLICIES = {
    "autoaugment_cifar10": lambda: v2.AutoAugment(AutoAugmentPolicy.CIFAR10),
    "autoaugment_imagenet": lambda: v2.AutoAugment(AutoAugmentPolicy.IMAGENET),
    "randaugment": v2.RandAugment,
}
# How likely an image of class c is drawn: as its class's count to this power.
_POWERS = {"instance_balanced": 1.0, "square_root": 0.5, "class_balanced": 0.0}


class Cutout(nn.Module):
    """Fill a square around a random pixel of each image with 0; parts outside are cut off.

    DeVries and Taylor, arXiv 1708.04552. After normalisation 0 is the mean colour.
    """

    def __init__(self, side: int) -> None:
        """Keep the side of the square, in pixels."""
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        """Return a copy of an image (C, H, W) with the square filled."""
        top, left = (
            int(torch.randint(size, ())) - self.side // 2 for size in tuple(image.shape[-2:])
        )
        rows = slice(max(0, top), max(0, top + self.side))
        columns = slice(max(0, left), max(0, left + self.side))
        image = image.clone()
        image[..., rows, columns] = 0
        return image


def training_transform(config: ClassifyConfig) -> Any:
    """Return what makes a training image (3, S, S) float32 of a PIL image."""
    steps: list[Any] = []
    if config.crop == "padded":
        padding = config.image_size // 8
        steps += [_Fit(config.image_size), v2.RandomCrop(config.image_size, padding)]
    elif config.crop == "random_resized":
        steps.append(v2.RandomResizedCrop(config.image_size, antialias=True))
    else:
        steps.append(_Fit(config.image_size))
    if config.flip:
        steps.append(v2.RandomHorizontalFlip())
    if config.policy is not None:
        steps.append(_POLICIES[config.policy]())
    steps += _to_tensor(config)
    if config.cutout:
        steps.append(Cutout(config.cutout))
    return v2.Compose(steps)


def evaluation_transform(config: ClassifyConfig) -> Any:
    """Return what makes a test image (3, S, S) float32 of a PIL image."""
    if config.crop != "random_resized":
        return v2.Compose([_Fit(config.image_size), *_to_tensor(config)])
    resize = v2.Resize(round(_MARGIN * config.image_size), antialias=True)
    return v2.Compose([resize, v2.CenterCrop(config.image_size), *_to_tensor(config)])


class _Fit(nn.Module):
    """Scale an image to a square, unless it has that size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Image.Image) -> Image.Image:
        wanted = (self.size, self.size)
        return image if image.size == wanted else image.resize(wanted, Image.Resampling.BILINEAR)


def _to_tensor(config: ClassifyConfig) -> list[Any]:
    return [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(config.mean), list(config.std), inplace=True),
    ]


def mixer(config: ClassifyConfig, num_classes: int) -> Any:
    """Return what mixes the images of a batch and gives soft labels (B, K); None without."""
    kinds: list[Any] = []
    if config.mixup:
        kinds.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix:
        kinds.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    return v2.RandomChoice(kinds) if len(kinds) > 1 else (kinds[0] if kinds else None)


def iterations_per_epoch(config: ClassifyConfig, num_images: int) -> int:
    """Return the batches of an epoch; the images of an incomplete last one are left out of it."""
    return num_images // config.images_per_batch


def epoch_rows(
    labels: NDArray[np.int64], sampling: str, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the rows of an epoch, as many as there are images.

    "instance_balanced" shows each image once; "class_balanced" draws each class, and
    "square_root" each class by the root of its count, with replacement (Kang et al., ICLR 2020,
    arXiv 1910.09217, equation 1 with q = 0 and 1/2).
    """
    power = _POWERS[sampling]
    if power == 1:
        return generator.permutation(len(labels))
    counts = np.bincount(labels)
    chance = counts[labels] ** (power - 1)
    return generator.choice(len(labels), len(labels), p=chance / chance.sum())


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Augmented images; an item is asked for by its row and the seed of its augmentation."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        """Keep the images and what augments them."""
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Return the image (3, S, S) and its class."""
        row, seed = item
        torch.default_generator.manual_seed(seed)
        return self.transform(self.images.read(row)), int(self.images.labels[row])


class EvaluationImages(Dataset[Tensor]):
    """Images as they are at test."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        """Keep the images and what scales them."""
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        """Return the image (3, S, S)."""
        return self.transform(self.images.read(row))


class _Batches:
    """This process's share of the batches from an epoch on: lists of (row, seed)."""

    def __init__(self, labels: NDArray[np.int64], config: ClassifyConfig, start: int) -> None:
        self.labels, self.config, self.start = labels, config, start

    def __len__(self) -> int:
        epochs = self.config.epochs - self.start
        return epochs * iterations_per_epoch(self.config, len(self.labels))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self.config.images_per_batch
        for epoch in range(self.start, self.config.epochs):
            generator = np.random.default_rng([self.config.seed, epoch])
            rows = epoch_rows(self.labels, self.config.sampling, generator).tolist()
            seeds = generator.integers(2**63, size=len(rows)).tolist()
            for first in range(0, len(rows) - size + 1, size):
                share = slice(first + rank(), first + size, world_size())
                yield list(zip(rows[share], seeds[share], strict=True))


def training_loader(
    images: ImageSet, config: ClassifyConfig, start: int, device: torch.device
) -> DataLoader[Any]:
    """Return a loader of the batches from epoch ``start`` on.

    What a batch holds depends on the seed, the epoch and the place alone: a resumed run goes on
    as the uninterrupted one would have, and processes share each batch.
    """
    return DataLoader(
        TrainingImages(images, training_transform(config)),
        batch_sampler=_Batches(images.labels, config, start),
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
    )


def evaluation_loader(
    images: ImageSet, config: ClassifyConfig, device: torch.device
) -> DataLoader[Tensor]:
    """Return a loader of this process's share of the images: rows rank, rank + processes, ..."""
    share = images.part(np.arange(rank(), len(images), world_size()))
    return DataLoader(
        EvaluationImages(share, evaluation_transform(config)),
        batch_size=max(1, config.images_per_batch // world_size()),
        num_workers=min(config.workers, os.cpu_count() or 1),
        pin_memory=device.type == "cuda",
    )
