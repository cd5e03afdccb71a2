"""Classes, counts and weights as a text table and as CSV."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from iif.files import atomic_write
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS
from iif.report.tables import csv_text
from iif.statistics import ClassStatistics


def write_weights_csv(
    path: str | os.PathLike[str], statistics: ClassStatistics, weights: ArrayLike
) -> None:
    """Write id, name, image_count, instance_count (empty when not known) and weight per class.

    Args:
        path: the CSV file.
        statistics: K classes.
        weights: (K,) in the order of ``statistics``, written with full precision.
    """
    instances = statistics.instance_count
    columns = (
        statistics.ids.tolist(),
        statistics.names,
        statistics.image_count.tolist(),
        [None] * len(statistics) if instances is None else instances.tolist(),
        np.asarray(weights, np.float64).tolist(),
    )
    header = ["id", "name", "image_count", "instance_count", "weight"]
    text = csv_text(header, list(zip(*columns, strict=True)))
    with atomic_write(path) as f:
        f.write(text)


def format_weights(statistics: ClassStatistics, weights: ArrayLike) -> str:
    """Return a text table of classes, training images and weights by frequency group."""
    values = np.asarray(weights, np.float64)
    lines = [f"{'group':<10}{'classes':>8}{'images':>18}{'weight':>20}"]
    for group in GROUP_COLORS:
        name = GROUP_LABELS[group]
        rows = np.flatnonzero(statistics.groups == group)
        cells = f"{name:<10}{len(rows):>8}"
        if len(rows):
            images, weight = statistics.image_count[rows], values[rows]
            cells += f"{f'{images.min()} - {images.max()}':>18}"
            cells += f"{f'{weight.min():.4f} - {weight.max():.4f}':>20}"
        lines.append(cells)
    return "\n".join(lines)


def format_classes(statistics: ClassStatistics, weights: ArrayLike) -> str:
    """Return a text table of each class, the rarest first: images, instances, weight, name."""
    values = np.asarray(weights, np.float64)
    instances = statistics.instance_count
    lines = [f"{'images':>8}{'instances':>11}{'weight':>10}  class"]
    for row in np.argsort(statistics.image_count, kind="stable"):
        count = "-" if instances is None else instances[row]
        cells = f"{statistics.image_count[row]:>8}{count:>11}{values[row]:>10.4f}"
        lines.append(f"{cells}  {statistics.names[row]}")
    return "\n".join(lines)
