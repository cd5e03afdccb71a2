"""The long-tailed subsets of CIFAR, and which training images are held out.

Cui et al., CVPR 2019, arXiv 1901.05555, section 5.1, as the code of Cao et al. (NeurIPS 2019,
arXiv 1906.07413) draws them; every published figure on CIFAR-LT is on this subset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError


def long_tailed_counts(
    num_classes: int, largest: int, imbalance_factor: float
) -> NDArray[np.int64]:
    """Return how many training images each class keeps, exponentially fewer from class to class.

    n_k = int(n_max r^(k / (K - 1))), with r = 1 / imbalance factor and class 0 the most frequent.

    Args:
        num_classes: the number K of classes, 2 or more.
        largest: n_max, the images of class 0.
        imbalance_factor: n_max over the images of the last class, 1 or more.

    Returns:
        (K,) counts.

    Raises:
        InputError: an argument is out of its range, or a class would have no image.
    """
    if num_classes < 2 or largest < 1 or not imbalance_factor >= 1:
        raise InputError(
            f"{num_classes} classes, {largest} images of the largest, imbalance_factor "
            f"{imbalance_factor:g}: give 2 classes or more, 1 image or more, and a factor from 1 on"
        )
    ratio = 1 / imbalance_factor
    counts = np.array([int(largest * ratio ** (k / (num_classes - 1))) for k in range(num_classes)])
    if counts[-1] == 0:
        raise InputError(
            f"imbalance_factor {imbalance_factor:g} leaves no image of the last class, where the "
            f"largest has {largest}; it must be at most {largest}"
        )
    return counts


def long_tailed_rows(labels: NDArray[np.int64], counts: Sequence[int]) -> NDArray[np.int64]:
    """Return the rows of the authors' subset, class after class.

    One generator, numpy's RandomState(0), shuffles the rows of each class in turn; the first
    ``counts[k]`` are kept.

    Args:
        labels: (I,) classes of all images.
        counts: (K,) images to keep of each class.

    Raises:
        InputError: a class has fewer images than are to be kept.
    """
    generator = np.random.RandomState(0)
    kept = []
    for label, count in enumerate(counts):
        rows = np.flatnonzero(labels == label)
        if len(rows) < count:
            raise InputError(f"class {label} has {len(rows)} images, fewer than {count} to keep")
        generator.shuffle(rows)
        kept.append(rows[:count])
    return np.concatenate(kept)


def held_out_rows(labels: NDArray[np.int64], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Return for each training image whether it is held out of training.

    Of each class with two images or more the fraction is held out, rounded, but at least one
    image, and one is left: a value that is chosen on the images must see the rare classes.

    Args:
        labels: (I,) classes.
        fraction: the part to hold out, 0 or more and below 1.
        seed: of the choice.

    Raises:
        InputError: the fraction is out of its range.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction of images held out is {fraction}; it must be in [0, 1)")
    held_out = np.zeros(len(labels), dtype=bool)
    if fraction == 0:
        return held_out
    generator = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        number = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held_out[generator.permutation(rows)[:number]] = True
    return held_out
