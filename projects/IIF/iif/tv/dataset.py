"""Images and targets as torchvision's detection models take them, and the batches of training."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from iif.data.annotation_file import read_annotation_file
from iif.data.annotations import Annotations
from iif.data.images import find_images, read_image
from iif.data.trainable import trainable
from iif.distributed import rank, world_size
from iif.errors import InputError
from iif.tv.config import TrainConfig
from iif.tv.sampling import batches, image_stream, repeat_factors

T = TypeVar("T")
Target = dict[str, Tensor]
Batch = tuple[list[Tensor], list[Target]]


class DetectionImages(Dataset[Tensor]):
    """The images of an annotation file, by image row: (3, H, W) float32 in 0 to 1."""

    def __init__(self, annotations: Annotations, image_root: str | os.PathLike[str]) -> None:
        """Check that the images are there.

        Raises:
            InputError: an image file is missing.
        """
        self.annotations = annotations
        self.paths = find_images(annotations, image_root)

    def __len__(self) -> int:
        """Return the number I of images."""
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        """Decode one image.

        Raises:
            InputError: the file is not an image, or not of the size that the annotations give.
        """
        return _to_float(self.read(row))

    def read(self, row: int) -> Tensor:
        """Return an image's pixels, (3, H, W) uint8; errors as for ``__getitem__``."""
        height, width = self.annotations.image_sizes[row].tolist()
        pixels = read_image(self.paths[row], height, width)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class DetectionTargets(Dataset[tuple[Tensor, Target]]):
    """Training images with their targets, by (image row, mirrored).

    They are those of `iif.data.trainable`. A target has ``boxes`` (G, 4) float32 corners inside
    the image, ``labels`` (G,) int64, category row + 1, and with masks ``masks`` (G, H, W) uint8.

    Attributes:
        shown_images: (S,) int64 rows of the images to show, ascending.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_root: str | os.PathLike[str],
        *,
        masks: bool,
        cache: bool = False,
        held_out: float = 0.0,
    ) -> None:
        """Index the annotations by image.

        Args:
            annotations: read with ``masks=True`` where masks are wanted.
            image_root: the folder that the file names start from.
            masks: whether targets have masks.
            cache: keep what was decoded once in memory.
            held_out: the part of the images whose annotations are left out of training.

        Raises:
            InputError: an image file is missing, no annotation can be trained on, or one has no
                mask or a broken RLE where masks are wanted.
        """
        self.images = DetectionImages(annotations, image_root)
        self.annotations = annotations
        found = trainable(read_annotation_file(annotations.path), held_out, masks=masks)
        self.shown_images = found.images
        self._counted = found.counted
        rows = found.trained
        order = rows[np.argsort(annotations.ann_image[rows], kind="stable")]
        starts = np.searchsorted(
            annotations.ann_image[order], np.arange(len(annotations.image_ids) + 1)
        )
        self._of_image = [order[a:b] for a, b in itertools.pairwise(starts)]
        self._masks = masks
        self._cache: dict[int, tuple[Tensor, Target]] | None = {} if cache else None

    def repeat_factors(self, threshold: float) -> Tensor:
        """Return (S,) float32 how often each of ``shown_images`` is to be shown in an epoch."""
        images = np.searchsorted(self.shown_images, self.annotations.ann_image[self._counted])
        categories = self.annotations.ann_category[self._counted]
        return repeat_factors(images, categories, len(self.shown_images), threshold)

    def __len__(self) -> int:
        """Return the number I of images, annotated or not."""
        return len(self.images)

    def __getitem__(self, item: tuple[int, bool]) -> tuple[Tensor, Target]:
        """Return an image (3, H, W) float32 in 0 to 1 and its target, both mirrored or not.

        Raises:
            InputError: the image cannot be read, or is not of the annotated size.
        """
        row, mirrored = item
        if self._cache is None:
            pixels, target = self._decode(row)
        else:
            if row not in self._cache:
                self._cache[row] = self._decode(row)
            pixels, target = self._cache[row]
        image = _to_float(pixels)
        return _mirror(image, target) if mirrored else (image, target)

    def _decode(self, row: int) -> tuple[Tensor, Target]:
        anns = self._of_image[row]
        boxes = torch.from_numpy(self.annotations.bbox[anns]).to(torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        height, width = self.annotations.image_sizes[row].tolist()
        boxes = boxes.clamp_(min=0).minimum(torch.tensor([width, height] * 2))
        labels = torch.from_numpy(self.annotations.ann_category[anns]).to(torch.int64) + 1
        target = {"boxes": boxes, "labels": labels}
        pixels = self.images.read(row)
        if self._masks:
            target["masks"] = self._decode_masks(anns, *pixels.shape[1:])
        return pixels, target

    def _decode_masks(self, anns: NDArray[np.int64], height: int, width: int) -> Tensor:
        if not len(anns):
            return torch.zeros(0, height, width, dtype=torch.uint8)
        bits = coco_mask.decode([self.annotations.encode(int(g), training=True) for g in anns])
        return torch.from_numpy(np.ascontiguousarray(bits.transpose(2, 0, 1)))


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) / 255


def _mirror(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    x0, y0, x1, y1 = target["boxes"].unbind(dim=1)
    width = image.shape[-1]
    mirrored = {**target, "boxes": torch.stack([width - x1, y0, width - x0, y1], dim=1)}
    if "masks" in target:
        mirrored["masks"] = target["masks"].flip(-1)
    return image.flip(-1), mirrored


def training_batches(data: DetectionTargets, config: TrainConfig, start: int) -> Iterator[Batch]:
    """Yield this process's share of the iterations from ``start`` on.

    Raises:
        InputError: an image or a mask cannot be decoded.
    """
    rows = data.shown_images
    factors = None
    if config.repeat_threshold > 0:
        factors = data.repeat_factors(config.repeat_threshold)
    items = batches(
        image_stream(len(rows), config.seed, factors),
        images_per_batch=config.images_per_batch,
        start=start,
        stop=config.iterations,
        flip=config.flip,
        seed=config.seed,
        rank=rank(),
        world_size=world_size(),
    )
    loader: Any = DataLoader(
        data,
        batch_sampler=([(int(rows[i]), flip) for i, flip in batch] for batch in items),
        num_workers=config.workers,
        collate_fn=_collate,
    )
    yield from without_traceback(loader)


def without_traceback(loader: Iterable[T]) -> Iterator[T]:
    """Yield what a DataLoader does; of an InputError of a worker process keep the message alone."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).strip().rpartition("InputError: ")[2]) from None


def image_loader(
    images: DetectionImages, device: torch.device, rows: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Yield single images in the order of their rows, by default all."""
    loader: Any = DataLoader(
        images,
        batch_size=None,
        sampler=range(len(images)) if rows is None else rows,
        num_workers=0 if device.type == "cpu" else 4,
    )
    return without_traceback(loader)


def _collate(items: list[tuple[Tensor, Target]]) -> Batch:
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
