"""The images of an annotation file: find their files, read their pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.data.annotations import Annotations
from iif.errors import InputError


def find_images(annotations: Annotations, folder: str | os.PathLike[str]) -> list[Path]:
    """Return (I,) the file of every image: ``folder/file_name``, or its last part in ``folder``.

    Raises:
        InputError: the folder does not exist, an image is in neither place, or two images of
            different names would be the same file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give that of the images of {annotations.path}")
    candidates = [(root / name, root / Path(name).name) for name in annotations.file_names]
    found = [next((path for path in paths if path.is_file()), None) for paths in candidates]
    missing = [paths for paths, path in zip(candidates, found, strict=True) if path is None]
    if missing:
        named, bare = missing[0]
        raise InputError(
            f"{named}: no such image, nor {bare} ({len(missing):,} of the {len(found):,} images of "
            f"{annotations.path} are missing); give the folder that its file names start from"
        )
    paths = [path for path in found if path is not None]
    _refuse_shared(annotations, root, paths)
    return paths


def _refuse_shared(annotations: Annotations, root: Path, paths: list[Path]) -> None:
    """Refuse two images whose names end alike and were both found in the folder itself."""
    first: dict[Path, int] = {}
    for row, path in enumerate(paths):
        other = first.setdefault(path, row)
        one, two = annotations.file_names[other], annotations.file_names[row]
        if one != two:
            raise InputError(
                f"{path}: would be both {one} and {two} of {annotations.path}; give the folder "
                f"that these names start from, not {root}"
            )


def read_image(path: str | os.PathLike[str], height: int, width: int) -> NDArray[np.uint8]:
    """Return an image's pixels, (height, width, 3) RGB.

    Raises:
        InputError: the file is no image, or of another size than the annotations say.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, but the annotations say "
            f"{width} x {height}; give the images that were annotated"
        )
    return pixels
