"""The images of an annotation file: find their files, read their pixels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.data.annotations import Annotations
from iif.errors import InputError

# EXIF's orientation -> what turns the pixels upright.
_ORIENTATION = 274
_UPRIGHT: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """Return an image's pixels, (height, width, 3) RGB, upright.

    Raises:
        InputError: the file is no image, or of another size than the annotations say.
    """
    pixels = read_upright(path)
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels, but the annotations say "
            f"{width} x {height}; give the images that were annotated"
        )
    return pixels


def read_upright(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3), RGB, of an image of any size.

    They are turned by the file's EXIF orientation, as Detectron2 turns them: height, width and
    boxes are those of the upright image.

    Raises:
        InputError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return np.array(_upright(image).convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; one whose EXIF is broken stays as it is."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # Pillow raises many kinds for broken EXIF, as Detectron2 notes
        return image
    return image if turn is None else image.transpose(turn)
