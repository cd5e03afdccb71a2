"""The plan of a glyph data set: which characters each image shows, and which are annotated.

Training counts follow a Zipf-Mandelbrot law; validation is balanced. Words used here: a *pair* is
an image and a category that it shows; K categories, N images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError

# Pairs per image on average, and the most that still leave room to draw them.
_PAIRS_PER_IMAGE = 3
_MAX_PAIRS_PER_IMAGE = 6
# Zipf-Mandelbrot: the category of rank r is shown by (r + _SHIFT * K) ** -_EXPONENT of the pairs.
# Relative to K, so that the shape stays the same from 60 categories to LVIS's 1,203; the head is
# as flat as that of LVIS.
_EXPONENT = 3.8
_SHIFT = 0.25
# The largest share of the training images that shows a category. Above one half, the weights of
# the variants "prob" and "normit" would be negative.
_MAX_SHARE = 0.45

# Chances that a pair has a second instance, and a third.
_MORE_INSTANCES = (0.25, 0.06)
# Pairs left unannotated, as a share of the annotated ones, and pairs annotated in part, as a
# share of those with several instances.
_UNANNOTATED = 0.1
_PARTIAL = 0.25
# Verified absences per image: up to so many, and up to a quarter of the categories.
_MAX_NEGATIVES = 14


@dataclasses.dataclass(frozen=True)
class GlyphSettings:
    """What a glyph data set is made from.

    Attributes:
        categories: the number K of categories.
        train: training images.
        val: validation images.
        image_size: height and width in pixels.
        seed: two sets made with the same settings and versions are equal byte for byte.
    """

    categories: int = 60
    train: int = 1000
    val: int = 300
    image_size: int = 128
    seed: int = 0

    def check(self) -> None:
        """Raise InputError where a value is out of range or the values do not fit together."""
        for key, least in (("categories", 2), ("train", 1), ("val", 1), ("image_size", 64)):
            if getattr(self, key) < least:
                raise InputError(f"{key} is {getattr(self, key)}; it must be at least {least}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")
        for key in ("train", "val"):
            if self.categories > _MAX_PAIRS_PER_IMAGE * getattr(self, key):
                least = -(-self.categories // _MAX_PAIRS_PER_IMAGE)
                raise InputError(
                    f"{key} is {getattr(self, key)}; {self.categories} categories need at least "
                    f"{least} images to be shown in"
                )


@dataclasses.dataclass(frozen=True)
class Pair:
    """A category (row) to draw in an image.

    ``annotated`` of its ``instances`` are annotated: none, some or all.
    """

    category: int
    instances: int
    annotated: int


@dataclasses.dataclass(frozen=True)
class ImagePlan:
    """What one image shows; ``negatives`` are rows of categories that it does not."""

    image_id: int
    split: str
    pairs: tuple[Pair, ...]
    negatives: tuple[int, ...]

    @property
    def file_name(self) -> str:
        """The image's path within the data set."""
        return f"{self.split}/{self.image_id:012d}.jpg"


def training_counts(num_categories: int, num_images: int) -> NDArray[np.int64]:
    """Return the number of training images that show each category, by descending rank.

    Returns:
        (K,) counts, at least 1, that fall by a Zipf-Mandelbrot law.
    """
    rank = np.arange(1, num_categories + 1)
    share = (rank + _SHIFT * num_categories) ** -_EXPONENT
    counts = np.rint(share / share.sum() * _PAIRS_PER_IMAGE * num_images).astype(np.int64)
    return np.clip(counts, 1, max(1, int(_MAX_SHARE * num_images)))


def plan_images(settings: GlyphSettings) -> list[ImagePlan]:
    """Plan every image of a data set, those of training first."""
    rng = np.random.default_rng(settings.seed)
    train = rng.permutation(training_counts(settings.categories, settings.train))
    each = max(1, round(_PAIRS_PER_IMAGE * settings.val / settings.categories))
    val = np.full(settings.categories, min(each, settings.val))
    return [
        *_plan_split("train", 1, train, settings.train, rng),
        *_plan_split("val", settings.train + 1, val, settings.val, rng),
    ]


def _plan_split(
    split: str,
    first_id: int,
    counts: NDArray[np.int64],
    num_images: int,
    rng: np.random.Generator,
) -> Iterator[ImagePlan]:
    """Plan a split in which ``counts`` (K,) images are annotated with each category."""
    # At least one, of the most frequent category, whatever the size of the set.
    unannotated = rng.binomial(counts, _UNANNOTATED)
    unannotated[counts.argmax()] += unannotated.sum() == 0
    unannotated = np.minimum(unannotated, num_images - counts)

    categories, images, known = [], [], []
    load = np.zeros(num_images)
    # The most frequent first, because they need room in many images.
    for category in np.argsort(-counts, kind="stable"):
        total = counts[category] + unannotated[category]
        chance = 4.0 ** (load.min() - load)
        chosen = rng.choice(num_images, total, replace=False, p=chance / chance.sum())
        load[chosen] += 1
        categories += [int(category)] * total
        images += chosen.tolist()
        known += [True] * counts[category] + [False] * unannotated[category]

    instances = 1 + (rng.random((len(images), 1)) < _MORE_INSTANCES).sum(axis=1)
    annotated = instances * known
    several = np.flatnonzero(annotated > 1)
    partial = rng.permutation(several)[: int(np.ceil(len(several) * _PARTIAL))]
    annotated[partial] = rng.integers(1, instances[partial])

    pairs: list[list[Pair]] = [[] for _ in range(num_images)]
    for image, *pair in zip(
        images, categories, instances.tolist(), annotated.tolist(), strict=True
    ):
        pairs[image].append(Pair(*pair))
    for image in range(num_images):
        yield ImagePlan(
            image_id=first_id + image,
            split=split,
            pairs=tuple(pairs[image]),
            negatives=_choose_negatives(pairs[image], len(counts), rng),
        )


def _choose_negatives(
    pairs: Sequence[Pair], num_categories: int, rng: np.random.Generator
) -> tuple[int, ...]:
    absent = np.setdiff1d(np.arange(num_categories), [pair.category for pair in pairs])
    most = max(1, min(_MAX_NEGATIVES, num_categories // 4))
    number = min(len(absent), int(rng.integers((most + 1) // 2, most + 1)))
    return tuple(sorted(rng.choice(absent, number, replace=False).tolist()))
