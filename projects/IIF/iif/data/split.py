"""Which images of a training set are held out of training, and the annotations of some images."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.annotation_file import WHAT
from iif.data.annotations import Annotations
from iif.errors import InputError
from iif.files import read_json, together, write_json


def held_out_images(image_ids: Iterable[int], fraction: float) -> NDArray[np.bool_]:
    """Return a boolean for each image id: whether the image is held out.

    The choice depends on the id and the fraction alone; a larger fraction holds out all images of
    a smaller one and more.

    Raises:
        InputError: the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction of images held out is {fraction}; it must be in [0, 1)")
    hashes = [zlib.crc32(str(image_id).encode()) for image_id in image_ids]
    return np.array(hashes, dtype=np.int64) < fraction * 2**32


def write_split(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], fraction: float
) -> tuple[Path, Path]:
    """Split an annotation file by images into ``train.json`` and ``val.json`` in a folder.

    The choice depends on the images' ids alone, so the same file is split in the same way; all
    else that the file says is in both.

    Args:
        path: the file.
        folder: where to write.
        fraction: the part of the images that goes into ``val.json``; at least one does.

    Returns:
        The paths of the two files.

    Raises:
        InputError: the file is malformed, has fewer than two images, or the fraction is not in
            (0, 1).
    """
    if not 0 < fraction < 1:
        raise InputError(
            f"the part of the images to evaluate on is {fraction}; it must be in (0, 1)"
        )
    content = read_json(path, dict[str, Any], what=WHAT)
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list) or len(images) < 2:
        raise InputError(f"{path}: has fewer than two images: none can be held out to evaluate on")
    try:
        order = sorted(zlib.crc32(str(int(image["id"])).encode()) for image in images)
        last = order[max(1, round(fraction * len(order))) - 1]
        held_out = {int(i["id"]) for i in images if zlib.crc32(str(int(i["id"])).encode()) <= last}
        parts = [
            {
                **content,
                "images": [i for i in images if (int(i["id"]) in held_out) == chosen],
                "annotations": [
                    a for a in annotations if (int(a["image_id"]) in held_out) == chosen
                ],
            }
            for chosen in (False, True)
        ]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: an image has no id, or an annotation no image_id") from None
    written = Path(folder, "train.json"), Path(folder, "val.json")
    with together():
        for target, part in zip(written, parts, strict=True):
            write_json(target, part, indent=None)
    return written


def part_of(gt: Annotations, chosen: NDArray[np.bool_]) -> Annotations:
    """Return the annotations of some of the images, as if the file had no others.

    Args:
        gt: the annotations.
        chosen: (I,) which images.
    """
    new_row = np.cumsum(chosen) - 1
    images = np.flatnonzero(chosen)
    anns = np.flatnonzero(chosen[gt.ann_image])

    def cells(pairs: NDArray[np.int32]) -> NDArray[np.int32]:
        kept = pairs[chosen[pairs[:, 0]]].copy()
        kept[:, 0] = new_row[kept[:, 0]]
        return kept

    return replace(
        gt,
        image_ids=gt.image_ids[images],
        image_sizes=gt.image_sizes[images],
        file_names=[gt.file_names[row] for row in images],
        ann_ids=gt.ann_ids[anns],
        ann_image=new_row[gt.ann_image[anns]].astype(np.int32),
        ann_category=gt.ann_category[anns],
        bbox=gt.bbox[anns],
        area=gt.area[anns],
        ignore=gt.ignore[anns],
        crowd=gt.crowd[anns],
        segmentation=None if gt.segmentation is None else _Rows(gt.segmentation, anns),
        neg=cells(gt.neg),
        not_exhaustive=cells(gt.not_exhaustive),
        _rles={},
    )


class _Rows(Sequence[Any]):
    """Some rows of a sequence whose items are made on access."""

    def __init__(self, items: Sequence[Any], rows: NDArray[np.int64]) -> None:
        self._items, self._rows = items, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._items[int(self._rows[index])]
