"""Plots of a comparison: AP by frequency group, and its difference by training images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from iif.evaluation.bootstrap import GROUP_METRICS
from iif.evaluation.compare import Comparison, MetricRow
from iif.files import atomic_write
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.palette import GROUP_COLORS, RUN_COLORS
from iif.report.tables import number, signed

_GROUP_METRICS = dict(zip(GROUP_METRICS, GROUP_LABELS.values(), strict=True))


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
    """Return AP over all categories and by frequency group, above differences with intervals."""
    columns = len(comparison.iou_types)
    figure = Figure(figsize=(5.5 * columns, 5.5), dpi=150, layout=_layout())
    grid = figure.subplots(2, columns, squeeze=False, sharex=True, height_ratios=(3, 2))
    for column, iou_type in enumerate(comparison.iou_types):
        metrics = {row.metric: row for row in comparison.metrics if row.iou_type == iou_type}
        rows = [metrics[metric] for metric in _GROUP_METRICS]
        _draw_bars(grid[0, column], comparison.names, rows)
        grid[0, column].set_ylabel(f"{IOU_NAMES[iou_type].capitalize()} AP (percent)")
        _draw_differences(grid[1, column], comparison.names, rows)
        grid[1, column].set_ylabel(f"minus {comparison.names[0]}")
        grid[1, column].set_xticks(range(len(rows)), list(_GROUP_METRICS.values()))
    if comparison.replicates:
        figure.supxlabel("Lines: 95% interval of the paired bootstrap over images", size=8)
    return figure


def _draw_bars(axes: Axes, names: list[str], rows: list[MetricRow]) -> None:
    width = 0.8 / len(names)
    for run, name in enumerate(names):
        x = np.arange(len(rows)) + (run - (len(names) - 1) / 2) * width
        values = [row.values[run] for row in rows]
        heights = [value or 0.0 for value in values]
        bars = axes.bar(x, heights, 0.92 * width, color=_run_color(run), label=name)
        axes.bar_label(bars, [number(value, 1) for value in values], padding=2, size=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)
    _legend_above(axes, len(names))


def _draw_differences(axes: Axes, names: list[str], rows: list[MetricRow]) -> None:
    axes.axhline(0, color="black", lw=0.8)
    # Below the bars of the same runs, of which the first is the baseline's.
    width = 0.8 / len(names)
    for run in range(1, len(names)):
        for position, row in enumerate(rows):
            difference, interval = row.differences[run - 1], row.difference_intervals[run - 1]
            if difference is None:
                continue
            x = position + (run - (len(names) - 1) / 2) * width
            if interval is not None:
                axes.plot([x, x], [interval.low, interval.high], color=_run_color(run), lw=2)
            axes.plot(x, difference, "o", color=_run_color(run), ms=6)
            axes.annotate(
                signed(difference, 1),
                (x, difference),
                (-7, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                size=8,
            )
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)


def plot_difference_by_image_count(comparison: Comparison, iou_type: str) -> Figure:
    """Return the AP difference of every category over its number of training images."""
    later = comparison.names[1:]
    figure = Figure(figsize=(7 * len(later), 4.2), dpi=150, layout=_layout())
    for run, (axes, name) in enumerate(zip(_row_of_axes(figure, len(later)), later, strict=True)):
        for group, color in GROUP_COLORS.items():
            _scatter_group(axes, comparison, iou_type, run, group, color)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
        axes.set_xlabel("Training images that contain the category")
        difference = f"{name} - {comparison.names[0]}"
        axes.set_ylabel(f"{IOU_NAMES[iou_type].capitalize()} AP: {difference} (percentage points)")
        axes.spines[["top", "right"]].set_visible(False)
        _legend_above(axes, 3)
    return figure


def _scatter_group(
    axes: Axes, comparison: Comparison, iou_type: str, run: int, group: str, color: str
) -> None:
    points = [
        # A logarithmic axis has no zero: a category never seen in training stands at a half.
        (max(row.image_count, 0.5), row.difference[iou_type][run])
        for row in comparison.categories
        if row.group == group
        and row.image_count is not None
        and row.difference[iou_type][run] is not None
    ]
    if not points:
        return
    x, y = np.array(points, dtype=float).T
    label = f"{GROUP_LABELS[group]}: mean {signed(y.mean(), 1)} over {len(y):,}"
    axes.scatter(x, y, s=12 if len(y) > 100 else 24, color=color, alpha=0.6, lw=0, label=label)
    ends = [x.min() / 1.08, x.max() * 1.08]
    axes.plot(ends, [y.mean()] * 2, color="white", lw=4.5, solid_capstyle="butt", zorder=3)
    axes.plot(ends, [y.mean()] * 2, color=color, lw=2.5, solid_capstyle="butt", zorder=4)


def _legend_above(axes: Axes, columns: int) -> None:
    legend = axes.legend(
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=8.5,
        handletextpad=0.3,
        columnspacing=1.0,
    )
    # Axes keep their width when the legend is wider; the layout leaves room above them.
    legend.set_in_layout(False)


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(rect=(0, 0, 1, 0.94))


def _run_color(run: int) -> str:
    return RUN_COLORS[run % len(RUN_COLORS)]


def _row_of_axes(figure: Figure, number: int) -> Any:
    return figure.subplots(1, number, squeeze=False)[0]
