"""What the training set shows of each class: the statistics that every method is made from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.data.annotation_file import refuse_duplicates
from iif.data.counts import Counts, count_annotations
from iif.data.groups import GroupLimits, default_limits, given_limits
from iif.errors import InputError
from iif.files import read_json, write_json

_FORMAT = "iif-class-statistics/1"
_COLUMNS = ("ids", "image_count", "instance_count", "fractal_dimension")

# Detectron2's metadata of every LVIS v1 split carries the counts of the training split, but not
# the number of training images.
_KNOWN_NUM_IMAGES = dict.fromkeys(
    ("lvis_v1_train", "lvis_v1_val", "lvis_v1_test_dev", "lvis_v1_test_challenge"), 100_170
)


class ClassStatistics:
    """What the training set shows of each class, keyed by category id and ordered by it.

    An image counts once for a class however many of its instances it shows; every image of the
    training set counts towards ``num_images``, annotated or not.

    Attributes:
        ids: (K,) int64 category ids, ascending.
        names: K category names.
        image_count: (K,) int64, the images that show the class.
        instance_count: (K,) int64, the instances of the class, or None when not known.
        num_images: the number N of images.
        fractal_dimension: (K,) float64 in [1, 2], of the centres of the class's boxes, or None when
            it was not computed.
        federated: whether the annotations that were counted are in LVIS's format; None when not
            known.
        given_limits: the limits of rare and common classes that the user gave; None for none.
        source: where the statistics come from, for messages and provenance.
        left_out: names by id of the categories that the annotations name without showing one; a
            model has no class for them.
    """

    ids: NDArray[np.int64]
    names: list[str]
    image_count: NDArray[np.int64]
    instance_count: NDArray[np.int64] | None
    num_images: int
    fractal_dimension: NDArray[np.float64] | None
    federated: bool | None
    given_limits: GroupLimits | None
    source: str
    left_out: dict[int, str]

    def __init__(
        self,
        *,
        image_count: ArrayLike,
        num_images: int,
        instance_count: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        ids: ArrayLike | None = None,
        fractal_dimension: ArrayLike | None = None,
        federated: bool | None = None,
        group_limits: Sequence[int] | None = None,
        source: str = "arrays",
        left_out: Mapping[int, str] | None = None,
    ) -> None:
        """Check the counts and order them by category id.

        Args:
            image_count: (K,) images that show the class.
            num_images: the number of images, annotated or not.
            instance_count: (K,) instances of the class, when known.
            names: K names; by default the ids.
            ids: (K,) category ids in any order; by default 1 to K, as in LVIS.
            fractal_dimension: (K,) of the centres of the class's boxes, when known.
            federated: whether the annotations are in LVIS's format, when known.
            group_limits: the most training images of a rare and of a common class; by default
                LVIS's, 10 and 100, or terciles where these would leave a group empty and the
                annotations are not in LVIS's format.
            source: where the statistics come from.
            left_out: names by id of categories without an annotation.

        Raises:
            InputError: the arrays differ in length, an id occurs twice, or a count is impossible
                (negative, not whole, more than there are images, fewer instances than images).
        """
        images = _whole_numbers(image_count, "image_count", source)
        num_classes = len(images)
        keys = np.arange(1, num_classes + 1) if ids is None else _whole_numbers(ids, "ids", source)
        labels = [str(i) for i in keys] if names is None else [str(name) for name in names]
        columns: dict[str, Any] = {"ids": keys, "names": labels}
        if instance_count is not None:
            columns["instance_count"] = _whole_numbers(instance_count, "instance_count", source)
        if fractal_dimension is not None:
            columns["fractal_dimension"] = _dimensions(fractal_dimension, source)
        if num_classes == 0:
            raise InputError(f"{source}: there is no class; give one image_count per class")
        for key, column in columns.items():
            if len(column) != num_classes:
                raise InputError(
                    f"{source}: {key} has {len(column)} entries but image_count has {num_classes}; "
                    "give one of each per class"
                )
        if not isinstance(num_images, int | np.integer) or num_images < 1:
            raise InputError(
                f"{source}: num_images is {num_images!r}; it must be a whole number above 0"
            )
        refuse_duplicates(keys, f"{source}: category id")

        order = np.argsort(keys)

        def ordered(key: str) -> Any:
            return _frozen(columns[key][order]) if key in columns else None

        self.ids = _frozen(keys[order])
        self.names = [labels[i] for i in order]
        self.image_count = _frozen(images[order])
        self.instance_count = ordered("instance_count")
        self.num_images = int(num_images)
        self.fractal_dimension = ordered("fractal_dimension")
        self.federated = federated
        self.given_limits = given_limits(group_limits)
        self.source = source
        self.left_out = {int(key): str(name) for key, name in (left_out or {}).items()}
        self._refuse_impossible_counts()

    def _refuse_impossible_counts(self) -> None:
        faults = [
            (self.image_count < 0, "image_count is negative"),
            (self.image_count > self.num_images, f"image_count is above {self.num_images} images"),
        ]
        if self.instance_count is not None:
            faults += [
                (self.instance_count < self.image_count, "instance_count is below image_count"),
                (
                    (self.image_count == 0) & (self.instance_count > 0),
                    "instance_count is positive though image_count is 0",
                ),
            ]
        for wrong, fault in faults:
            if wrong.any():
                rows = np.flatnonzero(wrong)
                raise InputError(
                    f"{self.source}: {fault} for {self.describe(rows)}; "
                    "count the training annotations again"
                )

    def __len__(self) -> int:
        """Return the number K of classes."""
        return len(self.ids)

    def __repr__(self) -> str:
        """Return the totals and the source."""
        return (
            f"ClassStatistics({len(self)} classes, {self.num_images} images, "
            f"{self.num_instances} instances, source={self.source!r})"
        )

    @property
    def num_instances(self) -> int | None:
        """The number of instances of all classes, or None when not known."""
        return None if self.instance_count is None else int(self.instance_count.sum())

    @property
    def group_limits(self) -> GroupLimits:
        """The limits between rare, common and frequent classes."""
        if self.given_limits is not None:
            return self.given_limits
        return default_limits(self.image_count, own_data=self.federated is False)

    @property
    def groups(self) -> NDArray[np.str_]:
        """(K,) "r", "c" or "f" by `group_limits`: rare, common or frequent."""
        return self.group_limits.groups(self.image_count)

    def describe(self, rows: ArrayLike, limit: int = 5) -> str:
        """Name the classes in these rows, at most ``limit`` of them, with ids and counts."""
        chosen = np.atleast_1d(np.asarray(rows))
        shown = []
        for row in chosen[:limit]:
            counts = _plural(self.image_count[row], "image")
            if self.instance_count is not None:
                counts += f", {_plural(self.instance_count[row], 'instance')}"
            shown.append(f"{self.names[row]!r} (id {self.ids[row]}: {counts})")
        more = len(chosen) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], *, cache: bool = True) -> ClassStatistics:
        """Count the annotations of an LVIS- or COCO-format file.

        Categories without an annotation are left out of a file in COCO's format, with a warning
        (`iif.data.annotation_file.AnnotationFile.shown_categories`). A category's own
        ``image_count``, which LVIS files carry, is not trusted: where it
        disagrees with the annotations a warning says so, and the annotations are followed.

        Args:
            path: the training set's annotation file. The counts are kept beside it, in
                ``<path>.statistics.json`` (:func:`iif.data.counts.count_annotations`).
            cache: False to neither read nor write the cache.

        Raises:
            InputError: the file is missing, empty, cut off, lacks a key, has an id twice, or has
                an annotation of an unknown image or category.
        """
        return cls._checked(count_annotations(path, cache=cache), os.fspath(path))

    @classmethod
    def _checked(cls, counts: Counts, source: str) -> ClassStatistics:
        shown = np.flatnonzero(counts.shown).tolist()
        left_out = {
            key: name
            for key, name, is_shown in zip(counts.ids, counts.names, counts.shown, strict=True)
            if not is_shown
        }
        dimension = counts.fractal_dimension

        def chosen(values: Sequence[Any]) -> list[Any]:
            return [values[row] for row in shown]

        statistics = cls(
            image_count=chosen(counts.image_count),
            num_images=counts.num_images,
            instance_count=chosen(counts.instance_count),
            names=chosen(counts.names),
            ids=chosen(counts.ids),
            fractal_dimension=None if dimension is None else chosen(dimension),
            federated=counts.federated,
            source=source,
            left_out=left_out,
        )
        if left_out:
            names = [f"{name!r} (id {key})" for key, name in left_out.items()]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            warnings.warn(
                f"{source}: left out {_plural(len(names), 'category', 'categories')} without an "
                f"annotation: {', '.join(names[:5])}{more}",
                stacklevel=3,
            )
        if counts.repeated_images:
            warnings.warn(
                f"{source}: {_plural(counts.repeated_images, 'image')} of {counts.num_images} have "
                "the file name of another one and count again, in N and in their classes; list "
                "each image once",
                stacklevel=3,
            )
        declared = dict(zip(counts.ids, counts.declared_image_count, strict=True))
        rows = [
            row
            for row, (key, count) in enumerate(
                zip(statistics.ids, statistics.image_count, strict=True)
            )
            if declared[int(key)] not in (None, count)
        ]
        if rows:
            said = declared[int(statistics.ids[rows[0]])]
            warnings.warn(
                f"{source}: the image_count of {_plural(len(rows), 'category', 'categories')} "
                f"disagrees with the annotations, which are followed: {statistics.describe(rows)}; "
                f"the first one's image_count says {said}",
                stacklevel=3,
            )
        return statistics

    @classmethod
    def from_metadata(cls, metadata: Any, num_images: int | None = None) -> ClassStatistics:
        """Take the counts from a Detectron2 data set's metadata.

        Args:
            metadata: any object with ``class_image_count`` (a list of ``{"id", "image_count"}``)
                and, for the names, ``thing_classes`` in the order of the ids.
            num_images: the number of training images; known for Detectron2's LVIS v1 data sets.

        Raises:
            InputError: the metadata has no counts, or the number of images is not known.
        """
        name = getattr(metadata, "name", "metadata")
        entries = getattr(metadata, "class_image_count", None)
        if not entries:
            raise InputError(
                f"data set {name!r}: its metadata has no class_image_count; "
                "count its training annotation file instead"
            )
        if num_images is None:
            num_images = _KNOWN_NUM_IMAGES.get(name)
        if num_images is None:
            raise InputError(
                f"data set {name!r}: its metadata has class_image_count but not the number of "
                "training images; give it as num_images"
            )
        entries = sorted(entries, key=lambda entry: entry["id"])
        return cls(
            image_count=[entry["image_count"] for entry in entries],
            num_images=num_images,
            names=getattr(metadata, "thing_classes", None),
            ids=[entry["id"] for entry in entries],
            source=f"class_image_count of the metadata of {name!r}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as plain numbers, strings and lists, ready for JSON."""
        columns = {key: getattr(self, key) for key in _COLUMNS}
        limits = self.given_limits
        return {
            "source": self.source,
            "num_images": self.num_images,
            "federated": self.federated,
            "group_limits": None if limits is None else [limits.rare, limits.common],
            "names": list(self.names),
            **{key: None if column is None else column.tolist() for key, column in columns.items()},
            **({"left_out": list(map(list, self.left_out.items()))} if self.left_out else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassStatistics:
        """Rebuild the statistics from :meth:`to_dict`.

        Raises:
            InputError: a key is missing or its value is impossible.
        """
        required = ("source", "num_images", "ids", "names", "image_count", "instance_count")
        missing = [key for key in required if key not in values]
        if missing:
            raise InputError(
                f"class statistics lack {', '.join(missing)}; make them with "
                "ClassStatistics.to_dict"
            )
        arguments: dict[str, Any] = {key: values[key] for key in required}
        for key in ("fractal_dimension", "federated", "group_limits"):
            arguments[key] = values.get(key)
        return cls(**arguments, left_out=dict(values.get("left_out") or ()))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as JSON (``class_statistics.json``), whole or not at all."""
        write_json(path, {"format": _FORMAT, **self.to_dict()}, indent=None)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassStatistics:
        """Read the statistics that :meth:`save` wrote.

        Raises:
            InputError: the file is missing or not one of these.
        """
        values = read_json(path, dict[str, Any], what="class statistics (class_statistics.json)")
        if values.get("format") != _FORMAT:
            raise InputError(
                f"{path}: not class statistics (expected format {_FORMAT}); count the training "
                "annotations again"
            )
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @staticmethod
    def is_saved(path: str | os.PathLike[str]) -> bool:
        """Return whether a file is what :meth:`save` writes, by its first bytes."""
        try:
            with open(path, "rb") as f:
                return _FORMAT.encode() in f.read(len(_FORMAT) + 32)
        except OSError:
            return False

    def replace(self, **changes: Any) -> ClassStatistics:
        """Return the statistics with some of the constructor's arguments changed."""
        return ClassStatistics.from_dict({**self.to_dict(), **changes})

    def same_counts(self, other: ClassStatistics) -> bool:
        """Return whether classes and counts are equal, whatever the source and the groups."""
        free = dict.fromkeys(("source", "federated", "group_limits"))
        return {**self.to_dict(), **free} == {**other.to_dict(), **free}


def _whole_numbers(values: ArrayLike, key: str, source: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{source}: {key} has shape {array.shape}; it must be a flat list")
    if array.dtype.kind not in "iuf" and len(array):
        raise InputError(f"{source}: {key} holds {array.dtype}; it must hold whole numbers")
    whole = array.astype(np.int64) if np.isfinite(array.astype(np.float64)).all() else None
    if whole is None or (whole != array).any():
        raise InputError(f"{source}: {key} holds a value that is not a whole number")
    return whole


def _dimensions(values: ArrayLike, source: str) -> NDArray[np.float64]:
    dimensions = np.asarray(values, dtype=np.float64)
    if dimensions.ndim != 1 or not ((dimensions >= 1) & np.isfinite(dimensions)).all():
        raise InputError(f"{source}: fractal_dimension must be a flat list of numbers from 1 on")
    return dimensions


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
