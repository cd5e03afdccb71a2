"""Which image comes next in training: Detectron2's samplers, image for image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def repeat_factors(
    image: NDArray[np.integer], category: NDArray[np.integer], num_images: int, threshold: float
) -> Tensor:
    """Return how often each image is to be shown in an epoch, as a fraction.

    r(i) = max over the categories c annotated in i of max(1, sqrt(threshold / f(c))), with f(c)
    the share of images that show c (LVIS, arXiv 1908.03195, appendix B.2; Detectron2's
    ``repeat_factors_from_category_frequency``).

    Args:
        image: (G,) image rows of the annotations.
        category: (G,) category rows of the annotations.
        num_images: the number I of images.
        threshold: the share below which a category's images are repeated.

    Returns:
        (I,) float32; an image without annotations has 1.
    """
    factors = np.ones(num_images)
    if len(image):
        shown = np.unique(np.stack([image, category], axis=1).astype(np.int64), axis=0)
        share = np.bincount(shown[:, 1]) / num_images
        of_category = np.sqrt(threshold / share[shown[:, 1]])
        np.maximum.at(factors, shown[:, 0], of_category)
    return torch.tensor(factors, dtype=torch.float32)


def image_stream(num_images: int, seed: int, factors: Tensor | None = None) -> Iterator[int]:
    """Yield image rows without end: epoch after epoch, each shuffled.

    With ``factors`` (I,) an image is repeated in an epoch its factor times, rounded up with the
    probability of the fraction, anew in each epoch. The order for a seed is that of Detectron2's
    ``TrainingSampler`` and ``RepeatFactorTrainingSampler``.
    """
    generator = torch.Generator().manual_seed(seed)
    epoch = torch.arange(num_images)
    while True:
        if factors is not None:
            whole = factors.trunc()
            round_up = torch.rand(len(factors), generator=generator) < factors - whole
            epoch = torch.arange(num_images).repeat_interleave(whole.long() + round_up)
        yield from epoch[torch.randperm(len(epoch), generator=generator)].tolist()


def batches(
    stream: Iterator[int],
    *,
    images_per_batch: int,
    start: int,
    stop: int,
    flip: bool,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[tuple[int, bool]]]:
    """Yield this process's share of iterations ``start`` to ``stop``: (image row, mirrored).

    What an iteration shows depends on the seed alone, so a resumed run goes on where it stopped,
    and the processes share the images of one and the same batch.
    """
    coin = torch.Generator().manual_seed(seed + 1)
    for iteration in range(stop):
        rows = list(itertools.islice(stream, images_per_batch))
        mirrored = torch.rand(images_per_batch, generator=coin) < (0.5 if flip else 0.0)
        if iteration >= start:
            yield list(zip(rows, mirrored.tolist(), strict=True))[rank::world_size]
