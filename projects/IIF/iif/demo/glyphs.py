"""A small real long-tailed data set: characters to find, in LVIS v1's format and manner.

Category c stands for one character, drawn in several fonts, sizes, colours and angles, partly
overlapping, on textured backgrounds. Annotation is federated as in LVIS (arXiv 1908.03195, section
3): an image's annotated categories and its ``neg_category_ids`` are verified there, other
categories are unverified even where they are present, and those in ``not_exhaustive_category_ids``
are annotated in part.
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
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from iif.data.outlines import coverage_to_polygons
from iif.demo.characters import Character, choose_characters
from iif.demo.drawing import Glyph, draw_image
from iif.demo.plan import GlyphSettings, ImagePlan, plan_images
from iif.errors import InputError
from iif.files import atomic_write, read_json, versions
from iif.statistics import COMMON_MAX_IMAGES, RARE_MAX_IMAGES

TRAIN_JSON = "glyphs_train.json"
VAL_JSON = "glyphs_val.json"
_FORMAT = "iif-glyphs/1"
# Pictures to draw of an image until every annotated character can be outlined.
_ATTEMPTS = 100
_JPEG_QUALITY = 92


def make_glyphs(
    out_dir: str | os.PathLike[str],
    settings: GlyphSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make the glyph data set; do nothing when it exists with the same settings.

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
    plans = plan_images(settings)
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


def _draw_all(
    plans: Sequence[ImagePlan],
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
    """Draws planned images in any process."""

    characters: tuple[Character, ...]
    settings: GlyphSettings
    folder: Path

    def __call__(self, plan: ImagePlan) -> list[dict[str, Any]]:
        """Draw and save an image; return its annotations, without their ids."""
        for attempt in range(_ATTEMPTS):
            image, glyphs = draw_image(plan, self.characters, self.settings, attempt)
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


def _annotate(plan: ImagePlan, glyphs: Sequence[Glyph]) -> Iterator[dict[str, Any]]:
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
            # As text it takes a tenth of the memory.
            "segmentation": msgspec.json.encode(polygons),
        }


def _write_annotations(
    folder: Path,
    settings: GlyphSettings,
    characters: Sequence[Character],
    plans: Sequence[ImagePlan],
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


def _image_entry(plan: ImagePlan, size: int) -> dict[str, Any]:
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
    """Return whether the folder holds this data set; raise InputError for anything else in it."""
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
            "choose another folder, or replace it"
        )
    return False


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to ``target`` when the block succeeds."""
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
