"""The section on the data: groups, objects a category, and each method's weights by count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from markupsafe import Markup

from iif.evaluation.at_recall import GROUPS
from iif.evaluation.compare import CategoryRow
from iif.report import charts
from iif.report.labels import GROUP_LABELS

if TYPE_CHECKING:
    from iif.report.html import Report

# Bars of the histogram: two a factor of ten, 1 to 3, 3 to 10, ...
_BARS_PER_DECADE = 2


class CountedClass(Protocol):
    """What the histogram shows of a class."""

    @property
    def group(self) -> str:
        """Of GROUPS."""

    @property
    def image_count(self) -> int | None:
        """Training images that show it."""


def view(report: Report) -> dict[str, Any] | None:
    """Return the groups' sizes, the histogram and the weights; None without a comparison."""
    if report.comparison is None:
        return None
    rows = report.comparison.categories
    known = [row for row in rows if row.image_count is not None]
    return {
        "groups": [_group(rows, group) for group in GROUPS],
        "histogram": class_histogram(known) if known else None,
        "weights": _weights(report),
    }


def _group(rows: list[CategoryRow], group: str) -> list[str]:
    own = [row for row in rows if group in ("all", row.group)]
    counts = [row.image_count for row in own if row.image_count is not None]
    return [
        GROUP_LABELS[group],
        f"{len(own):,}",
        f"{min(counts):,} to {max(counts):,}" if counts else "-",
        f"{sum(row.num_gt > 0 for row in own):,}",
        f"{sum(row.num_gt for row in own):,}",
    ]


def class_histogram(known: Sequence[CountedClass]) -> Markup:
    """Return categories by training images, stacked by group; the last bar holds the greatest."""
    counts = np.array([row.image_count for row in known])
    groups = np.array([row.group for row in known])
    top = math.floor(_BARS_PER_DECADE * math.log10(max(counts.max(), 1))) + 1
    edges = [0.0, *(10 ** (i / _BARS_PER_DECADE) for i in range(top + 1))]
    bars = []
    for low, high in pairwise(edges):
        inside = (counts >= math.ceil(low)) & (counts < high)
        first, last = math.ceil(low), math.ceil(high) - 1
        text = "0" if last == 0 else f"{first:,} to {last:,}" if last > first else f"{first:,}"
        by_group = [(f"group-{g}", int((inside & (groups == g)).sum())) for g in GROUPS[1:]]
        bars.append((text, by_group))
    if not sum(n for _, n in bars[0][1]):
        bars = bars[1:]
    tips = [
        [
            (css, n, f"{n:,} {GROUP_LABELS[css[-1]]} categories\n{text} training images")
            for css, n in by_group
        ]
        for text, by_group in bars
    ]
    return charts.histogram(
        [text for text, _ in bars],
        tips,
        "training images that contain the category",
        "categories",
        label="Number of categories by training images",
    )


def _weights(report: Report) -> list[dict[str, Any]]:
    """Return, for each method that is fixed by the counts, its numbers against the counts."""
    charts_of: dict[str, dict[str, Any]] = {}
    for run in report.details:
        if run.weights is None or run.statistics is None or run.method in charts_of:
            continue
        words, values = run.weights
        counts = run.statistics
        images = np.maximum(counts.image_count, 1)
        low, high = charts.log_range(images.tolist())
        marks = [
            charts.Mark(
                float(images[k]),
                values[k],
                f"group-{counts.groups[k]}",
                f"{counts.names[k]}\n{counts.image_count[k]:,} training images\n"
                f"{words}: {values[k]:.3f}",
            )
            for k in np.argsort(images, kind="stable")
        ]
        least, most = min(0.0, *values), max(*values, 0.0)
        svg = charts.chart(
            charts.x_axis("training images that contain the category", low, high, "log"),
            charts.y_axis(words, least, most if most > least else least + 1),
            [],
            marks,
            label=f"{run.method}: {words} of each class against its training images",
            radius=2.5,
        )
        charts_of[run.method] = {"run": run.name, "method": run.method, "svg": svg}
    return list(charts_of.values())
