"""The classes of a training set: counts, groups, and the weights that IIF would give them."""

from __future__ import annotations

import warnings

import msgspec
import numpy as np

from iif.data.annotation_file import AnnotationFile
from iif.data.faults import Fault, Report, examples
from iif.evaluation.at_recall import GROUPS
from iif.methods.iif import iif_weights
from iif.statistics import ClassStatistics

_GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}


class ClassRow(msgspec.Struct):
    """A category: what shows it, and its weight by IIF (raw, by images); None where it has none."""

    id: int
    name: str
    group: str
    image_count: int
    instance_count: int
    crowd_count: int
    weight: float | None


class Group(msgspec.Struct):
    """A group of classes: how many, and the fewest and most training images of one."""

    classes: int
    fewest: int | None
    most: int | None


def check_classes(
    content: AnnotationFile, report: Report
) -> tuple[list[ClassRow], dict[str, Group], ClassStatistics | None]:
    """Count the classes of a training set, and report those that cannot be learned.

    Returns:
        the classes by id, those without an annotation too; the groups "r", "c" and "f"; and the
        statistics, None where there are none to make.
    """
    num_classes = len(content.categories)
    pairs = np.unique(content.ann_image.astype(np.int64) * num_classes + content.ann_category)
    images = np.bincount(pairs % num_classes, minlength=num_classes)
    instances = np.bincount(content.ann_category, minlength=num_classes)
    crowds = np.bincount(content.ann_category[content.crowd], minlength=num_classes)
    statistics = _statistics(content, images, instances)
    weights: dict[int, float] = {}
    groups: dict[int, str] = {}
    if statistics is not None:
        groups = dict(zip(statistics.ids.tolist(), statistics.groups.tolist(), strict=True))
        weights = _weights(statistics, report)
    rows = [
        ClassRow(
            id=category.id,
            name=category.name,
            group=groups.get(category.id, ""),
            image_count=int(images[k]),
            instance_count=int(instances[k]),
            crowd_count=int(crowds[k]),
            weight=weights.get(category.id),
        )
        for k, category in enumerate(content.categories)
    ]
    _report_classes(content, rows, report)
    return rows, _groups(rows, report), statistics


def _statistics(
    content: AnnotationFile, images: np.ndarray, instances: np.ndarray
) -> ClassStatistics | None:
    shown = content.shown_categories
    if not content.annotated:
        return None
    named = list(zip(content.categories, shown.tolist(), strict=True))
    kept = [category for category, is_shown in named if is_shown]
    return ClassStatistics(
        image_count=images[shown],
        instance_count=instances[shown],
        num_images=len(content.images),
        ids=[category.id for category in kept],
        names=[category.name for category in kept],
        source=content.path,
        left_out={category.id: category.name for category, is_shown in named if not is_shown},
    )


def _weights(statistics: ClassStatistics, report: Report) -> dict[int, float]:
    """Return IIF's weights by category id, of the classes that have one without clamping."""
    everywhere = statistics.image_count == statistics.num_images
    if everywhere.any():
        message = statistics.describe(np.flatnonzero(everywhere))
        found = examples(statistics.ids[everywhere].tolist())
        report(Fault("no_weight", message, int(everywhere.sum()), found))
    usable = ~everywhere & (statistics.image_count > 0)
    if not usable.any():
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is clamped has no weight here
        values = iif_weights(statistics, zero_count="clamp", nonpositive="clamp")
    weights = zip(statistics.ids.tolist(), values.tolist(), usable.tolist(), strict=True)
    return {key: value for key, value, is_usable in weights if is_usable}


def _report_classes(content: AnnotationFile, rows: list[ClassRow], report: Report) -> None:
    empty = [row for row in rows if not row.instance_count]
    if empty and len(empty) < len(rows):
        kind = "empty_lvis_categories" if content.federated else "empty_categories"
        report(_of_classes(kind, empty))
    crowd_only = [
        row for row in rows if row.instance_count and row.crowd_count == row.instance_count
    ]
    if crowd_only:
        report(_of_classes("crowd_only", crowd_only))
    wrong = [
        row
        for row, category in zip(rows, content.categories, strict=True)
        if category.image_count not in (None, row.image_count)
    ]
    if wrong:
        report(_of_classes("other_image_count", wrong))


def _of_classes(kind: str, rows: list[ClassRow]) -> Fault:
    names = ", ".join(f"{row.name!r} (id {row.id})" for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return Fault(kind, f"{names}{more}", len(rows), examples(row.id for row in rows))


def _groups(rows: list[ClassRow], report: Report) -> dict[str, Group]:
    groups = {}
    for group in GROUPS[1:]:
        counts = [row.image_count for row in rows if row.group == group]
        fewest, most = (min(counts), max(counts)) if counts else (None, None)
        groups[group] = Group(len(counts), fewest, most)
        if not counts and any(row.group for row in rows):
            name = _GROUP_NAMES[group]
            report(Fault("empty_group", f"no class is {name}", examples=(name,)))
    return groups
