"""The curve of "iif tune", as text and as a plot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from iif.evaluation.bootstrap import GROUP_METRICS as METRICS
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS


def curve_text(result: dict[str, Any]) -> str:
    """Return the curve of `iif.d2.tuning.tune` as a text table, the chosen value marked."""
    option = result["option"]
    width = max(8, len(option))
    lines = [f"{option:>{width}}" + "".join(f"{metric:>8}" for metric in METRICS)]
    for point in result["curve"]:
        values = ["-" if point[m] is None else f"{point[m]:.2f}" for m in METRICS]
        mark = "  <- chosen" if point["value"] == result["value"] else ""
        lines.append(f"{point['value']:>{width}g}" + "".join(f"{v:>8}" for v in values) + mark)
    return "\n".join(lines)


def plot_curve(result: dict[str, Any]) -> Figure:
    """Draw box AP, over all classes and by group, against the option's value."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    tried = [point["value"] for point in result["curve"]]
    for metric, group in zip(METRICS, ("all", "r", "c", "f"), strict=True):
        values = [np.nan if p[metric] is None else p[metric] for p in result["curve"]]
        axes.plot(
            tried,
            values,
            marker="o",
            markersize=4,
            label=GROUP_LABELS[group],
            color=GROUP_COLORS.get(group, "black"),
        )
    axes.axvline(result["value"], color="gray", linestyle=":", label="chosen")
    seen = "seen in training" if result["seen_in_training"] else "held out of training"
    axes.set(
        xlabel=f"{result['method']}: {result['option']}",
        ylabel="box AP (%)",
        title=f"{result['num_images']:,} images of {result['dataset']['name']}, {seen}",
    )
    axes.legend()
    return figure
