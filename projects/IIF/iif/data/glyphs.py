"""A small real long-tailed data set: characters to find, in LVIS v1's format and manner.

Category c stands for one character, drawn in several fonts, sizes, colours and angles, partly
overlapping, on textured backgrounds. Training counts follow a Zipf-Mandelbrot law; validation is
balanced. The annotation is federated as in LVIS (arXiv 1908.03195, section 3): an image's
annotated categories and its ``neg_category_ids`` are verified there, other categories are not even
where they are present, and those in ``not_exhaustive_category_ids`` are annotated in part.

Words used here: a *pair* is an image and a category that it shows; K categories, N images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from iif.data.characters import Character, choose_characters, draw_character, font_path
from iif.data.polygons import coverage_to_polygons
from iif.errors import InputError
from iif.files import atomic_write, read_json, versions
from iif.statistics import COMMON_MAX_IMAGES, RARE_MAX_IMAGES

TRAIN_JSON = "glyphs_train.json"
VAL_JSON = "glyphs_val.json"
_FORMAT = "iif-glyphs/1"

# Pairs per image on average, and the most that still leave room to draw them.
_PAIRS_PER_IMAGE = 3
_MAX_PAIRS_PER_IMAGE = 6
# Zipf-Mandelbrot: the category of rank r is shown by (r + _SHIFT * K) ** -_EXPONENT of the pairs.
# Relative to K, so that the shape stays the same from 60 categories to LVIS's 1,203; the head is
# as flat as that of LVIS.
_EXPONENT = 3.8
_SHIFT = 0.25
# No category is shown by more of the training images; above one half, the weights of the variants
# "prob" and "normit" would be negative.
_MAX_SHARE = 0.45

# Chances that a pair has a second instance, and a third.
_MORE_INSTANCES = (0.25, 0.06)
# Pairs left unannotated, as a share of the annotated ones, and pairs annotated in part, as a
# share of those with several instances.
_UNANNOTATED = 0.1
_PARTIAL = 0.25
# Verified absences per image: up to so many, and up to a quarter of the categories.
_MAX_NEGATIVES = 14

# Larger side of a character as a share of the image's, and degrees by which it is turned: few
# enough to tell 6 from 9 and u from n.
_SIZES = (0.2, 0.48)
_MAX_ANGLE = 15.0
# What must stay visible of a character, as a share of it, whatever is drawn over it; and how much
# of the smaller of two characters' boxes may lie in the other's.
_MIN_VISIBLE = 0.55
_MAX_OVERLAP = 0.4
# A place is looked for so many times, with a smaller character each time, down to the least size.
_ATTEMPTS = 100
_SHRINK = 0.97
_MIN_SIZE = 0.14
# Least distance in RGB, of 0-255, between a character and what is behind it.
_MIN_CONTRAST = 120.0
_JPEG_QUALITY = 92


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
class _Pair:
    """A category (row) to draw in an image.

    ``annotated`` of its ``instances`` are annotated: none, some or all.
    """

    category: int
    instances: int
    annotated: int


@dataclasses.dataclass(frozen=True)
class _ImagePlan:
    """What one image shows; ``negatives`` are rows of categories that it does not."""

    image_id: int
    split: str
    pairs: tuple[_Pair, ...]
    negatives: tuple[int, ...]

    @property
    def file_name(self) -> str:
        return f"{self.split}/{self.image_id:012d}.jpg"


_Window = tuple[slice, slice]


@dataclasses.dataclass
class _Glyph:
    """A drawn instance; ``coverage`` (S, S) is what is visible of it, from 0 to 1."""

    category: int
    coverage: NDArray[np.float32]
    window: _Window  # its bounding box when it was drawn
    area: int  # in pixels, when it was drawn


def make_glyphs(
    out_dir: str | os.PathLike[str],
    settings: GlyphSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make the glyph data set, or leave it as it is when it is there with the same settings.

    The folder gets ``train/`` and ``val/`` with JPEG images, ``glyphs_train.json`` and
    ``glyphs_val.json``. It appears whole or not at all.

    Args:
        out_dir: the folder to make.
        settings: what to make; the defaults are small enough to train on two CPU cores.
        workers: processes to draw in; by default one per core. The result does not depend on it.
        overwrite: replace a glyph data set that was made with other settings.

    Returns:
        ``out_dir``.

    Raises:
        InputError: the settings cannot be met, or the folder holds something else.
    """
    settings = settings or GlyphSettings()
    settings.check()
    target = Path(out_dir)
    if _holds_the_same(target, settings, overwrite):
        return target
    characters = choose_characters(settings.categories)
    plans = _plan(settings)
    with _new_folder(target) as folder:
        for split in ("train", "val"):
            (folder / split).mkdir()
        bar = tqdm(
            _draw_all(plans, characters, settings, folder, workers),
            total=len(plans),
            desc="glyphs",
            unit="image",
            disable=None,
        )
        _write_annotations(folder, settings, characters, plans, bar)
    return target


# ------------------------------------------------------------------------------------ planning


def training_counts(num_categories: int, num_images: int) -> NDArray[np.int64]:
    """Return the number of training images that show each category, by descending rank.

    Returns:
        (K,) counts, at least 1, that fall by a Zipf-Mandelbrot law.
    """
    rank = np.arange(1, num_categories + 1)
    share = (rank + _SHIFT * num_categories) ** -_EXPONENT
    counts = np.rint(share / share.sum() * _PAIRS_PER_IMAGE * num_images).astype(np.int64)
    return np.clip(counts, 1, max(1, int(_MAX_SHARE * num_images)))


def _plan(settings: GlyphSettings) -> list[_ImagePlan]:
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
) -> Iterator[_ImagePlan]:
    """Plan a split in which ``counts`` (K,) images are annotated with each category."""
    # At least one, of the most frequent category, whatever the size of the set.
    unannotated = rng.binomial(counts, _UNANNOTATED)
    unannotated[counts.argmax()] += unannotated.sum() == 0
    unannotated = np.minimum(unannotated, num_images - counts)

    categories, images, known = [], [], []
    load = np.zeros(num_images)
    # The most frequent first: it is they that need room in many images.
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

    pairs: list[list[_Pair]] = [[] for _ in range(num_images)]
    for image, *pair in zip(
        images, categories, instances.tolist(), annotated.tolist(), strict=True
    ):
        pairs[image].append(_Pair(*pair))
    for image in range(num_images):
        yield _ImagePlan(
            image_id=first_id + image,
            split=split,
            pairs=tuple(pairs[image]),
            negatives=_choose_negatives(pairs[image], len(counts), rng),
        )


def _choose_negatives(
    pairs: Sequence[_Pair], num_categories: int, rng: np.random.Generator
) -> tuple[int, ...]:
    absent = np.setdiff1d(np.arange(num_categories), [pair.category for pair in pairs])
    most = max(1, min(_MAX_NEGATIVES, num_categories // 4))
    number = min(len(absent), int(rng.integers((most + 1) // 2, most + 1)))
    return tuple(sorted(rng.choice(absent, number, replace=False).tolist()))


# ------------------------------------------------------------------------------------- drawing


def _draw_all(
    plans: Sequence[_ImagePlan],
    characters: Sequence[Character],
    settings: GlyphSettings,
    folder: Path,
    workers: int | None,
) -> Iterator[list[dict[str, Any]]]:
    """Draw and save every image; yield the annotations of each, in the order of ``plans``."""
    artist = _Artist(tuple(characters), settings, folder)
    workers = min(workers or _available_cores(), len(plans))
    if workers == 1:
        yield from map(artist, plans)
        return
    # Spawned, not forked: the caller may have threads (those of PyTorch, for one).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        chunk = max(1, min(32, len(plans) // (4 * workers)))
        yield from pool.map(artist, plans, chunksize=chunk)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class _Artist:
    """Draws planned images; each has its own random numbers, whichever process draws it."""

    characters: tuple[Character, ...]
    settings: GlyphSettings
    folder: Path

    def __call__(self, plan: _ImagePlan) -> list[dict[str, Any]]:
        """Draw and save an image; return its annotations, without their ids."""
        for attempt in range(_ATTEMPTS):
            image, glyphs = self.draw(plan, attempt)
            annotations = list(_annotate(plan, glyphs))
            if all(annotation["area"] for annotation in annotations):
                break
        else:
            raise InputError(
                f"image_size {self.settings.image_size} is too small for all characters of an "
                "image to be seen; choose a larger one"
            )
        Image.fromarray(image).save(
            self.folder / plan.file_name, quality=_JPEG_QUALITY, subsampling=0
        )
        return annotations

    def draw(self, plan: _ImagePlan, attempt: int = 0) -> tuple[NDArray[np.uint8], list[_Glyph]]:
        """Return the image (S, S, 3) and what is visible of its glyphs, the first drawn first."""
        again = [attempt] if attempt else []
        rng = np.random.default_rng([self.settings.seed, plan.image_id, *again])
        size = self.settings.image_size
        canvas, colours = _background(size, rng)
        glyphs: list[_Glyph] = []
        rows = [pair.category for pair in plan.pairs for _ in range(pair.instances)]
        for row in rng.permutation(rows):
            placed = self._place(int(row), glyphs, rng)
            if placed is not None:
                alpha = placed.coverage[placed.window]
                colours.append(_contrasting_colour(colours, rng))
                _paint(canvas[placed.window], alpha, colours[-1], rng)
                for below in glyphs:
                    below.coverage[placed.window] *= 1 - alpha
                glyphs.append(placed)
        noise = rng.standard_normal((size, size, 1), dtype=np.float32)
        canvas += np.float32(rng.uniform(1, 7)) * noise
        return canvas.clip(0, 255).astype(np.uint8), glyphs

    def _place(self, row: int, below: Sequence[_Glyph], rng: np.random.Generator) -> _Glyph | None:
        """Put a character where enough of the others remains to be seen; None without a place."""
        image_size = self.settings.image_size
        character = self.characters[row]
        font = font_path(character.fonts[rng.integers(len(character.fonts))])
        angle = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE)
        size = rng.uniform(*_SIZES)
        for _ in range(_ATTEMPTS):
            picture = draw_character(character.text, font, size * image_size, angle)
            alpha = np.asarray(picture, dtype=np.float32) / np.float32(255)
            height, width = alpha.shape
            top = int(rng.integers(image_size - height + 1))
            left = int(rng.integers(image_size - width + 1))
            window = (slice(top, top + height), slice(left, left + width))
            if all(_leaves_visible(glyph, window, alpha) for glyph in below):
                coverage = np.zeros((image_size, image_size), dtype=np.float32)
                coverage[window] = alpha
                return _Glyph(row, coverage, window, int((alpha > 0.5).sum()))
            size = max(size * _SHRINK, _MIN_SIZE)
        return None


def _leaves_visible(glyph: _Glyph, window: _Window, alpha: NDArray[np.float32]) -> bool:
    """Return whether a glyph can still be made out under another one in this window."""
    shared = _box_area(_intersection(glyph.window, window))
    if shared > _MAX_OVERLAP * min(_box_area(glyph.window), _box_area(window)):
        return False
    covered = glyph.coverage[window]
    outside = np.count_nonzero(glyph.coverage > 0.5) - np.count_nonzero(covered > 0.5)
    inside = np.count_nonzero(covered * (1 - alpha) > 0.5)
    return bool(outside + inside >= _MIN_VISIBLE * glyph.area)


def _intersection(a: _Window, b: _Window) -> _Window:
    y, x = (
        slice(max(m.start, n.start), max(m.start, n.start, min(m.stop, n.stop)))
        for m, n in zip(a, b, strict=True)
    )
    return y, x


def _box_area(window: _Window) -> int:
    y, x = window
    return (y.stop - y.start) * (x.stop - x.start)


def _background(
    size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[NDArray[np.float64]]]:
    """Return a textured picture (S, S, 3) of values from 0 to 255, and its two colours."""
    first = rng.uniform(0, 255, 3)
    second = (first + rng.normal(0, 40, 3)).clip(0, 255)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    frequency = rng.uniform(3, 14)
    pattern = rng.choice(["smooth", "stripes", "checks", "gradient"])
    if pattern == "stripes":
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * along)
    elif pattern == "checks":
        mix = ((np.floor(frequency * along) + np.floor(frequency * across)) % 2).astype(np.float32)
    elif pattern == "gradient":
        mix = (along - along.min()) / np.ptp(along)
    else:
        mix = _smooth_noise(size, int(rng.integers(3, 9)), rng)
    mix = 0.75 * mix + 0.25 * _smooth_noise(size, max(4, size // 8), rng)
    change = (second - first).astype(np.float32)
    return first.astype(np.float32) + change * mix.astype(np.float32)[..., None], [first, second]


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise (S, S) from 0 to 1 whose grain is a ``cells``-th of the picture."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _contrasting_colour(
    colours: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a random colour far from these, or the farthest of some when none is far enough."""
    candidates = rng.uniform(0, 255, (64, 3))
    distance = np.linalg.norm(candidates[:, None] - np.stack(colours), axis=2).min(axis=1)
    far = np.flatnonzero(distance >= _MIN_CONTRAST)
    return candidates[far[0] if len(far) else distance.argmax()]


def _paint(
    canvas: NDArray[np.float32],
    alpha: NDArray[np.float32],
    colour: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Paint a glyph into its window of the canvas, a little lighter towards one side."""
    height, width = alpha.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = rng.uniform(0, 25) * (x * np.cos(angle) + y * np.sin(angle))
    canvas += alpha[..., None] * (colour + shade[..., None] - canvas)


# ------------------------------------------------------------------------------------- writing


def _annotate(plan: _ImagePlan, glyphs: Sequence[_Glyph]) -> Iterator[dict[str, Any]]:
    """Yield LVIS annotations of the planned number of glyphs of each category.

    One with no part large enough to be outlined has area 0.
    """
    left = {pair.category: pair.annotated for pair in plan.pairs}
    for glyph in glyphs:
        if not left[glyph.category]:
            continue
        left[glyph.category] -= 1
        polygons = coverage_to_polygons(glyph.coverage)
        if not polygons:
            yield {"area": 0.0}
            return
        xy = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        corner, extent = xy.min(axis=0), np.ptp(xy, axis=0)
        # The area is that of the mask which the polygons stand for, not of the drawn pixels.
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *glyph.coverage.shape))
        yield {
            "image_id": plan.image_id,
            "category_id": glyph.category + 1,
            "bbox": [*corner.tolist(), *extent.round(2).tolist()],
            "area": float(coco_mask.area(rle)),
            # Encoded here, where it is made: as text it takes a tenth of the memory.
            "segmentation": msgspec.json.encode(polygons),
        }


def _write_annotations(
    folder: Path,
    settings: GlyphSettings,
    characters: Sequence[Character],
    plans: Sequence[_ImagePlan],
    drawn: Iterable[list[dict[str, Any]]],
) -> None:
    """Write both annotation files from the plans and the annotations, one list per plan."""
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for plan, found in zip(plans, drawn, strict=True):
        for annotation in found:
            annotation["segmentation"] = msgspec.Raw(annotation["segmentation"])
            annotations[plan.split].append({"id": len(annotations[plan.split]) + 1, **annotation})
    categories = _categories(characters, annotations["train"])
    for split, name in (("train", TRAIN_JSON), ("val", VAL_JSON)):
        content = {
            "info": {
                "description": f"Glyphs ({split}): characters to find, in the format of LVIS v1",
                "format": _FORMAT,
                "settings": dataclasses.asdict(settings),
                "versions": versions(),
            },
            "images": [
                _image_entry(plan, settings.image_size) for plan in plans if plan.split == split
            ],
            "annotations": annotations[split],
            "categories": categories,
            "licenses": [],
        }
        with atomic_write(folder / name, "wb") as f:
            f.write(msgspec.json.encode(content))


def _image_entry(plan: _ImagePlan, size: int) -> dict[str, Any]:
    partial = [pair.category + 1 for pair in plan.pairs if 0 < pair.annotated < pair.instances]
    return {
        "id": plan.image_id,
        "file_name": plan.file_name,
        # LVIS v1 names an image by its address; the last two parts are folder and file.
        "coco_url": f"http://glyphs.invalid/{plan.file_name}",
        "height": size,
        "width": size,
        "neg_category_ids": [row + 1 for row in plan.negatives],
        "not_exhaustive_category_ids": sorted(partial),
    }


def _categories(
    characters: Sequence[Character], annotations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return LVIS's category entries, with counts from the training annotations."""
    shown = np.array([(a["image_id"], a["category_id"] - 1) for a in annotations])
    bins = len(characters)
    instance_count = np.bincount(shown[:, 1], minlength=bins).tolist()
    image_count = np.bincount(np.unique(shown, axis=0)[:, 1], minlength=bins).tolist()
    return [
        {
            "id": row + 1,
            "name": character.name,
            "synonyms": [character.name, character.text],
            "def": f"the character {character.text}, U+{ord(character.text):04X}",
            "synset": f"{character.name}.n.01",
            "image_count": image_count[row],
            "instance_count": instance_count[row],
            "frequency": (
                "r"
                if image_count[row] <= RARE_MAX_IMAGES
                else "c"
                if image_count[row] <= COMMON_MAX_IMAGES
                else "f"
            ),
        }
        for row, character in enumerate(characters)
    ]


class _Info(msgspec.Struct):
    format: str
    settings: GlyphSettings


class _GlyphFile(msgspec.Struct):
    info: _Info


def _holds_the_same(target: Path, settings: GlyphSettings, overwrite: bool) -> bool:
    """Return whether the folder holds this data set already; refuse what may not be replaced."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder for the glyph data set")
    if not any(target.iterdir()):
        return False
    try:
        info = read_json(target / TRAIN_JSON, _GlyphFile, what="glyph annotations").info
    except InputError:
        info = None
    if info is None or info.format != _FORMAT:
        raise InputError(
            f"{target}: the folder is not empty and holds no glyph data set; choose another folder"
        )
    if info.settings == settings:
        return True
    if not overwrite:
        raise InputError(
            f"{target}: holds a glyph data set made with other settings ({info.settings}); "
            "choose another folder, or replace it with --overwrite"
        )
    return False


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``target`` when the block succeeds."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=".tmp", ignore_cleanup_errors=True
    ) as temporary:
        # The temporary folder itself is private; the one within gets the usual permissions.
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
