"""The images of an annotation file: find their files, read their pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.data.annotations import Annotations
from iif.data.faults import Fault, Report, examples, refuse
from iif.data.names import image_paths
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
        InputError: as of `locate_images`.
    """
    source, ids, names = annotations.path, annotations.image_ids, annotations.file_names
    return locate_images(source, ids.tolist(), names, folder, refuse(source))


def locate_images(
    source: str,
    ids: Sequence[int],
    names: Sequence[str],
    folder: str | os.PathLike[str],
    report: Report,
) -> list[Path]:
    """Return (I,) the file of every image, there or not.

    Args:
        source: the annotation file, for messages.
        ids, names: of the images, from `iif.data.names.image_name`.
        folder: the image folder.
        report: is handed the faults.

    Raises:
        InputError: the folder does not exist, an image has no name or one that leads out of the
            folder, is in neither place, or is in the folder itself under the last part of several
            images' names.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give that of the images of {source}")
    paths = [Path(p) for p in image_paths(source, ids, names, folder, report)]
    elsewhere = [row for row, path in enumerate(paths) if path.name and not path.is_file()]
    bare = {row: root / paths[row].name for row in elsewhere}
    missing = [row for row in elsewhere if not bare[row].is_file()]
    if missing:
        first, other = paths[missing[0]], bare[missing[0]]
        message = (
            f"{first}: no such image{'' if other == first else f', nor {other}'} "
            f"({len(missing):,} of the {len(paths):,} images are missing); give the folder that "
            "its file names start from"
        )
        found = examples(names[row] for row in missing)
        report(Fault("missing_images", message, len(missing), found))
    if bare:
        _find_ambiguous(names, root, set(bare.values()), report)
    return [bare.get(row, path) for row, path in enumerate(paths)]


def _find_ambiguous(names: Sequence[str], root: Path, bare: set[Path], report: Report) -> None:
    """Report a file found by the last part of a name in which another image's name ends too."""
    first: dict[Path, str] = {}
    for name in filter(None, names):
        path = root / Path(name).name
        other = first.setdefault(path, name)
        if path in bare and other != name:
            message = (
                f"{path}: would be both {other} and {name}; give the folder that these names start "
                f"from, not {root}"
            )
            report(Fault("ambiguous_images", message, examples=(name,)))


def read_image(path: str | os.PathLike[str], height: int, width: int) -> NDArray[np.uint8]:
    """Return an image's pixels, (height, width, 3) RGB, upright.

    Raises:
        InputError: the file is no image, or of another size than the annotations say.
    """
    pixels = read_upright(path)
    fault = size_fault(path, pixels.shape[:2], (height, width))
    if fault:
        raise InputError(fault)
    return pixels


def size_fault(
    path: str | os.PathLike[str], found: tuple[int, ...], annotated: tuple[int, int]
) -> str:
    """Return what is wrong where an image's height and width are not the annotated ones."""
    if found == annotated:
        return ""
    return (
        f"{path}: {found[1]} x {found[0]} pixels, but the annotations say "
        f"{annotated[1]} x {annotated[0]}; give the images that were annotated"
    )


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


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width of an opened image as `read_upright` turns it."""
    sideways = (
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    )
    turned = _turn(image) in sideways
    return (image.width, image.height) if turned else (image.height, image.width)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image upright by its EXIF; None for nothing, or where it is broken."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # Pillow raises many kinds for broken EXIF, as Detectron2 notes
        return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)
