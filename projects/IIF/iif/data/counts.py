"""What an annotation file shows of each category, kept beside the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from iif.data.annotation_file import (
    AnnotationFile,
    annotation_file_sha256,
    read_annotation_file,
    rows_of,
)
from iif.data.fractal import box_counting_dimension
from iif.errors import InputError
from iif.files import read_json, write_json

_CACHE_FORMAT = "iif-class-counts/4"


class Counts(msgspec.Struct):
    """The images, instances and boxes of each category; the K categories are in ascending id."""

    num_images: int
    ids: list[int]
    names: list[str]
    image_count: list[int]
    instance_count: list[int]
    # What the categories' own image_count says, None where they have none.
    declared_image_count: list[int | None]
    # Of where the boxes lie; None where the file has no boxes or no image sizes.
    fractal_dimension: list[float] | None
    # Images beyond the first of each file name: the same one under several ids.
    repeated_images: int
    # Whether a category is trained on: `AnnotationFile.shown_categories`.
    shown: list[bool]
    federated: bool  # whether the file is in LVIS's format


class _Cache(msgspec.Struct):
    format: str
    sha256: str
    counts: Counts


def count_annotations(path: str | os.PathLike[str], *, cache: bool = True) -> Counts:
    """Count the images and instances of each category of an LVIS- or COCO-format file.

    An image counts once for a category however many of its instances it shows. Crowd annotations
    count like any other. The counts are kept in ``<path>.statistics.json`` together with the
    SHA-256 of the file; size and modification time would not do as the key, because those of a
    different file can be the same. Of several processes that start at once, one counts and the
    others wait for it. Without write permission there is no cache.

    Args:
        path: the annotation file.
        cache: False to neither read nor write the cache.

    Raises:
        InputError: the file is missing, empty, cut off, lacks a key, has an id twice, or has an
            annotation of an unknown image or category.
    """
    if not cache or not os.path.isfile(path) or not os.access(_folder(path), os.W_OK):
        return _count(path)
    cache_path = Path(f"{os.fspath(path)}.statistics.json")
    digest = annotation_file_sha256(path)
    counts = _read_cache(cache_path, digest)
    if counts is None:
        with _locked(path):
            counts = _read_cache(cache_path, digest)
            if counts is None:
                counts = _count(path)
                _write_cache(cache_path, digest, counts)
    return counts


def _count(path: str | os.PathLike[str]) -> Counts:
    content = read_annotation_file(path)
    content.require("annotations")
    num_classes = len(content.category_ids)
    pairs = np.unique(content.ann_image.astype(np.int64) * num_classes + content.ann_category)
    return Counts(
        num_images=len(content.image_ids),
        ids=content.category_ids.tolist(),
        names=[category.name for category in content.categories],
        image_count=np.bincount(pairs % num_classes, minlength=num_classes).tolist(),
        instance_count=np.bincount(content.ann_category, minlength=num_classes).tolist(),
        declared_image_count=[category.image_count for category in content.categories],
        fractal_dimension=_fractal_dimension(content),
        repeated_images=_repeated_images(content),
        shown=content.shown_categories.tolist(),
        federated=content.federated,
    )


def _repeated_images(content: AnnotationFile) -> int:
    names = [name for name in content.file_names() if name]
    return len(names) - len(set(names))


def shared_images(first: AnnotationFile, second: AnnotationFile) -> int:
    """Return how many images of a file are in another one: their ids and file names are equal.

    Folders in front of the names may differ; where a file has no names, the ids decide.
    """
    rows = rows_of(first.image_ids, second.image_ids)
    names, others = ([_last_part(n) for n in f.file_names()] for f in (first, second))
    return sum(
        row >= 0 and (not other or names[row] in ("", other))
        for row, other in zip(rows.tolist(), others, strict=True)
    )


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _fractal_dimension(content: AnnotationFile) -> list[float] | None:
    if not {"bbox", "height", "width"}.isdisjoint(content.faults):
        return None
    sizes = content.image_sizes()[content.ann_image][:, ::-1]
    centres = (content.bbox[:, :2] + content.bbox[:, 2:] / 2) / np.maximum(sizes, 1)
    centres = np.nan_to_num(centres)
    dimension = box_counting_dimension(centres, content.ann_category, len(content.category_ids))
    return dimension.tolist()


def _folder(path: str | os.PathLike[str]) -> Path:
    return Path(path).absolute().parent


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold an advisory lock on ``path``, where platform and file system have such locks.

    It saves work and nothing depends on it: the cache is written whole or not at all.
    """
    with open(path, "rb") as f:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _read_cache(path: Path, digest: str) -> Counts | None:
    """Return the cached counts of the file with this SHA-256, or None when there are none."""
    try:
        cached = read_json(path, _Cache, what="cached class statistics")
    except (InputError, OSError):
        # Missing, from another version or unreadable: it is only a cache, so count again.
        return None
    matches = cached.format == _CACHE_FORMAT and cached.sha256 == digest
    return cached.counts if matches else None


def _write_cache(path: Path, digest: str, counts: Counts) -> None:
    cache = _Cache(format=_CACHE_FORMAT, sha256=digest, counts=counts)
    # A full or read-only disk costs the cache, not the counts.
    with contextlib.suppress(OSError):
        write_json(path, msgspec.to_builtins(cache), indent=None)
