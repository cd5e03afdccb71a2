"""Labelled images, in memory or in files, and the data sets that they make."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.errors import InputError
from iif.statistics import ClassStatistics

_NAMED = 10  # how many of the entries at fault a message names


@dataclass(frozen=True)
class ImageSet:
    """Images and their classes.

    Attributes:
        names: I names, each once: what a list or a folder calls the image.
        labels: (I,) int64 classes, 0 to K - 1.
        images: I files, or (I, H, W, 3) uint8 RGB.
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    images: Sequence[Path] | NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number I of images."""
        return len(self.labels)

    def read(self, row: int) -> Image.Image:
        """Return an image, RGB.

        Raises:
            InputError: its file cannot be read as an image.
        """
        image = self.images[row]
        if isinstance(image, np.ndarray):
            return Image.fromarray(image)
        try:
            with Image.open(image) as opened:
                return opened.convert("RGB")
        except OSError as error:
            raise InputError(f"{image}: cannot be read as an image ({error})") from None

    def part(self, rows: NDArray[np.int64]) -> ImageSet:
        """Return the images of these rows, in their order."""
        images = self.images
        return ImageSet(
            names=[self.names[row] for row in rows],
            labels=self.labels[rows],
            images=images[rows]
            if isinstance(images, np.ndarray)
            else [images[row] for row in rows],
        )

    def in_memory(self) -> ImageSet:
        """Return the images decoded; all must have one size.

        Raises:
            InputError: two images differ in size.
        """
        if isinstance(self.images, np.ndarray) or not len(self):
            return self
        pixels = [np.asarray(self.read(row)) for row in range(len(self))]
        for image, found in zip(self.images, pixels, strict=True):
            if found.shape != pixels[0].shape:
                raise InputError(
                    f"{image}: {found.shape[1]} x {found.shape[0]} pixels, {self.images[0]} has "
                    f"{pixels[0].shape[1]} x {pixels[0].shape[0]}; images of several sizes cannot "
                    "be kept in memory: set cache_images=false"
                )
        return ImageSet(self.names, self.labels, np.stack(pixels))


@dataclass(frozen=True)
class DataSet:
    """What a model is trained and tested on.

    Attributes:
        name: as settings choose it.
        source: the list, folder or file that the training images come from, for messages.
        classes: K names.
        train, test: the images; none of ``test`` is in ``train``.
    """

    name: str
    source: str
    classes: Sequence[str]
    train: ImageSet
    test: ImageSet

    def statistics(self) -> ClassStatistics:
        """Count the training images of each class; ids are the labels, 0 to K - 1."""
        return ClassStatistics(
            image_count=np.bincount(self.train.labels, minlength=len(self.classes)),
            num_images=len(self.train),
            names=self.classes,
            ids=np.arange(len(self.classes)),
            source=self.source,
        )


def refuse(faulty: Sequence[object], where: str, what: str, remedy: str) -> None:
    """Raise InputError where there are entries at fault; it names the first and how many more."""
    if faulty:
        shown = ", ".join(str(entry) for entry in faulty[:_NAMED])
        more = len(faulty) - _NAMED
        raise InputError(
            f"{where}: {len(faulty):,} {what}: {shown}"
            + (f" and {more:,} more" if more > 0 else "")
            + f"; {remedy}"
        )


def find_files(names: Sequence[str], root: str | os.PathLike[str], source: str) -> list[Path]:
    """Return the file of each name under ``root``; every folder is listed once.

    Raises:
        InputError: files are missing; names them.
    """
    files = [Path(root, name) for name in names]
    present: dict[Path, set[str]] = {}
    for folder in {file.parent for file in files}:
        try:
            present[folder] = {entry.name for entry in os.scandir(folder)}
        except OSError:
            present[folder] = set()
    missing = [file for file in files if file.name not in present[file.parent]]
    refuse(
        missing,
        source,
        f"of {len(files):,} images are missing",
        "give as root the folder that the names start from",
    )
    return files


def refuse_shared(train: ImageSet, test: ImageSet, source: str) -> None:
    """Raise InputError where an image is in a set twice, or a test image in the training set."""
    for images, what in ((train, "training"), (test, "test")):
        twice = [name for name, times in Counter(_places(images)).items() if times > 1]
        refuse(twice, source, f"{what} images are listed twice", "list each image once")
    trained = set(_places(train))
    shared = [name for name in _places(test) if name in trained]
    refuse(
        shared,
        source,
        "test images are among the training images",
        "a result on images that were trained on says nothing: take them out of the training list",
    )


def _places(images: ImageSet) -> Sequence[str]:
    if isinstance(images.images, np.ndarray):
        return images.names
    return [os.path.abspath(file) for file in images.images]
