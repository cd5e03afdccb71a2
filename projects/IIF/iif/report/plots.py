"""Plot of the weights of classes over their counts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike

from iif.errors import InputError
from iif.files import atomic_write
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS
from iif.statistics import ClassStatistics

_FORMATS = ("png", "pdf", "svg")


def save_weights_plot(
    path: str | os.PathLike[str],
    statistics: ClassStatistics,
    weights: ArrayLike,
    *,
    variant: str,
    count_by: str = "image",
) -> None:
    """Write :func:`plot_weights` as PNG, PDF or SVG, by the ending of ``path``.

    Raises:
        InputError: the ending is none of these.
    """
    kind = Path(path).suffix[1:].lower()
    if kind not in _FORMATS:
        raise InputError(f"{path}: the plot's file name must end in {', '.join(_FORMATS)}")
    figure = plot_weights(statistics, weights, variant=variant, count_by=count_by)
    with atomic_write(path, "wb") as f:
        figure.savefig(f, format=kind)


def plot_weights(
    statistics: ClassStatistics, weights: ArrayLike, *, variant: str, count_by: str = "image"
) -> Figure:
    """Plot the weight of every class over its count, beside the counts by rank.

    Args:
        statistics: the counts.
        weights: (K,) of the classes of ``statistics`` (:func:`iif.methods.iif.iif_weights`).
        variant: of the weights, for the label.
        count_by: "image" or "instance", the counts that the weights are made from.
    """
    counts = statistics.image_count if count_by == "image" else statistics.instance_count
    if counts is None:
        raise InputError(f"{statistics.source}: the instances were not counted")
    # A logarithmic axis has no zero: a class never seen stands at a half.
    counts = np.maximum(counts, 0.5)
    rank = np.empty(len(counts))
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)

    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    by_count, by_rank = figure.subplots(1, 2)
    _scatter_groups(by_count, statistics, counts, np.asarray(weights, dtype=np.float64))
    _scatter_groups(by_rank, statistics, rank, counts)

    by_count.set_xscale("log")
    by_count.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    by_count.set_xlabel(f"Training {count_by}s of the class")
    by_count.set_ylabel(f"Weight of the class ({variant} by {count_by})")
    by_count.set_ylim(bottom=0)
    by_count.axhline(1, color="0.5", lw=0.8, ls="--", label="background (1)", zorder=0)
    by_count.legend(edgecolor="none", framealpha=1)
    by_rank.set_yscale("log")
    by_rank.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    by_rank.set_xlabel("Rank of the class")
    by_rank.set_ylabel(f"Training {count_by}s of the class")
    if count_by == "image":
        # The lines between rare, common and frequent.
        limits = statistics.group_limits
        for limit in (limits.rare, limits.common):
            by_count.axvline(limit + 0.5, color="0.85", lw=0.8, zorder=0)
            by_rank.axhline(limit + 0.5, color="0.85", lw=0.8, zorder=0)
    return figure


def _scatter_groups(axes: Axes, statistics: ClassStatistics, x: np.ndarray, y: np.ndarray) -> None:
    for group, color in GROUP_COLORS.items():
        rows = statistics.groups == group
        axes.scatter(
            x[rows],
            y[rows],
            s=12 if len(rows) > 200 else 24,
            color=color,
            alpha=0.6,
            lw=0,
            label=f"{GROUP_LABELS[group]} ({np.count_nonzero(rows):,})",
        )
    axes.spines[["top", "right"]].set_visible(False)
