"""Plots of a comparison: where along the long tail a run gains or loses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from iif.evaluation.compare import IOU_TYPES, Comparison
from iif.files import atomic_write
from iif.report.palette import GROUP_COLORS, GROUP_LABELS, RUN_COLORS

_GROUP_METRICS = {"AP": "all", "APr": "rare", "APc": "common", "APf": "frequent"}


def save_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a comparison's tables and plots into a folder; return the paths."""
    return comparison.save(folder) + save_plots(comparison, folder)


def save_plots(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ap_by_group.png and difference_by_image_count_<IoU type>.png; return the paths.

    The second needs the training image counts and is left out where the summaries lack them.
    """
    figures = {"ap_by_group.png": plot_ap_by_group(comparison)}
    if any(row.image_count is not None for row in comparison.categories):
        for iou_type in comparison.iou_types:
            name = f"difference_by_image_count_{iou_type}.png"
            figures[name] = plot_difference_by_image_count(comparison, iou_type)
    paths = [Path(folder, name) for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        with atomic_write(path, "wb") as f:
            FigureCanvasAgg(figure).print_png(f)
    return paths


def plot_ap_by_group(comparison: Comparison) -> Figure:
    """Return bars of AP over all categories and by frequency group, with 95% intervals."""
    number = len(comparison.iou_types)
    figure = Figure(figsize=(5.5 * number, 4), dpi=150, layout="constrained")
    for axes, iou_type in zip(_row_of_axes(figure, number), comparison.iou_types, strict=True):
        rows = {row.metric: row for row in comparison.metrics if row.iou_type == iou_type}
        width = 0.8 / len(comparison.runs)
        for run, name in enumerate(comparison.names):
            color = RUN_COLORS[run % len(RUN_COLORS)]
            x = np.arange(len(_GROUP_METRICS)) + (run - (len(comparison.runs) - 1) / 2) * width
            for position, metric in zip(x, _GROUP_METRICS, strict=True):
                value, interval = rows[metric].values[run], rows[metric].value_intervals[run]
                label = name if metric == "AP" else None
                axes.bar(position, value or 0.0, 0.92 * width, color=color, label=label)
                top = 0.0 if value is None else value
                if interval is not None:
                    axes.plot([position] * 2, [interval.low, interval.high], color="black", lw=1)
                    top = max(top, interval.high)
                text = "-" if value is None else f"{value:.1f}"
                axes.annotate(
                    text, (position, top), (0, 2), textcoords="offset points", ha="center", size=8
                )
        axes.set_xticks(range(len(_GROUP_METRICS)), list(_GROUP_METRICS.values()))
        axes.set_ylabel(f"{IOU_TYPES[iou_type]} AP (percent)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(y=0.1)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12), ncols=4)
    if comparison.replicates:
        figure.supxlabel("Lines: 95% bootstrap interval over images", size=8)
    return figure


def plot_difference_by_image_count(comparison: Comparison, iou_type: str) -> Figure:
    """Return the AP difference of every category over its number of training images."""
    later = comparison.names[1:]
    figure = Figure(figsize=(6.5 * len(later), 4.2), dpi=150, layout="constrained")
    for run, (axes, name) in enumerate(zip(_row_of_axes(figure, len(later)), later, strict=True)):
        for group, color in GROUP_COLORS.items():
            _scatter_group(axes, comparison, iou_type, run, group, color)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.set_xlabel("Training images that contain the category")
        axes.set_ylabel(
            f"{IOU_TYPES[iou_type]} AP: {name} - {comparison.names[0]} (percentage points)"
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.12), ncols=3)
    return figure


def _scatter_group(
    axes: Axes, comparison: Comparison, iou_type: str, run: int, group: str, color: str
) -> None:
    points = [
        # A logarithmic axis has no zero: a category never seen in training stands at a half.
        (max(row.image_count, 0.5), row.difference[iou_type][run])
        for row in comparison.categories
        if row.frequency == group
        and row.image_count is not None
        and row.difference[iou_type][run] is not None
    ]
    if not points:
        return
    x, y = np.array(points, dtype=float).T
    label = f"{GROUP_LABELS[group]}: mean {y.mean():+.1f} of {len(y):,}"
    axes.scatter(x, y, s=12 if len(y) > 100 else 24, color=color, alpha=0.6, lw=0, label=label)
    ends = [x.min() / 1.08, x.max() * 1.08]
    axes.plot(ends, [y.mean()] * 2, color="white", lw=4.5, solid_capstyle="butt", zorder=3)
    axes.plot(ends, [y.mean()] * 2, color=color, lw=2.5, solid_capstyle="butt", zorder=4)


def _row_of_axes(figure: Figure, number: int) -> Any:
    return figure.subplots(1, number, squeeze=False)[0]
