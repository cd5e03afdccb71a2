"""The curves of "iif tune" and the table of "iif tune --all": as text, as plots and as a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from iif import layout
from iif.evaluation.bootstrap import GROUP_METRICS as METRICS
from iif.evaluation.compare import Interval
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS
from iif.report.tables import interval_text, number, signed, text_table

PLAIN_MODEL = "plain model"


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


def trial_name(result: Mapping[str, Any], row: int) -> str:
    """Return a trial in words: the method, and its option's value where it has one."""
    trial = result["trials"][row]
    if row == 0:
        return PLAIN_MODEL
    if trial["option"] is None:
        return str(trial["method"])
    return f"{trial['method']}, {trial['option']} {trial['value']:g}"


def trials_text(result: Mapping[str, Any]) -> str:
    """Return the result of "iif tune --all" as text: every method and value, and the best."""
    lines = [
        f"Boxes in {result['num_images']:,} images of {result['dataset']['name']}, "
        f"{'some of them seen in training' if result['seen_in_training'] else 'held out'}:",
        "",
        text_table(_header(result), _rows(result), left=2),
        "",
        _legend(result),
        *(f"Skipped: {s['method']}: {s['reason']}" for s in result["skipped"]),
        verdict(result),
    ]
    if result["masks"] and result["best"]:
        lines += ["", "Masks of the plain model and the best:", text_table(*_mask_table(result))]
    return "\n".join(lines)


def verdict(result: Mapping[str, Any]) -> str:
    """Return in words which trial is the best, and whether its gain may be chance."""
    words = f"Best by box AP: {trial_name(result, result['best'])}."
    bounds = result["trials"][result["best"]]["intervals"].get("AP")
    if bounds is not None and bounds["low"] <= 0 <= bounds["high"]:
        words += " The interval of its gain contains 0: it may be chance."
    return words


def plot_trials(result: Mapping[str, Any]) -> Figure:
    """Draw the box AP of each method against its option's value, over all classes and by group."""
    methods = [
        (name, list(trials))
        for name, trials in groupby(result["trials"], key=lambda trial: trial["method"])
    ]
    plain, *others = methods
    curves = [(name, trials) for name, trials in others if trials[0]["option"] is not None]
    single = [trials[0] for _, trials in others if trials[0]["option"] is None]
    columns = max(1, min(3, len(curves)))
    rows = max(1, math.ceil(len(curves) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, trials) in zip(panels, curves, strict=False):
        for metric, group in zip(METRICS, ("all", "r", "c", "f"), strict=True):
            color = GROUP_COLORS.get(group, "black")
            values = [_value(trial, metric) for trial in trials]
            tried = [trial["value"] for trial in trials]
            label = GROUP_LABELS[group]
            axes.plot(tried, values, marker="o", markersize=3, color=color, label=label)
            axes.axhline(_value(plain[1][0], metric), color=color, linestyle=":", linewidth=0.8)
        for trial in single:
            axes.axhline(_value(trial, "AP"), color="gray", linestyle="--", linewidth=0.8)
        axes.set(xlabel=f"{name}: {trials[0]['option']}", ylabel="box AP (%)")
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    if curves:
        panels[0].legend(fontsize="small")
    note = "dotted: the plain model"
    if single:
        note += f"; dashed: {', '.join(trial['method'] for trial in single)}, all classes"
    figure.suptitle(f"Box AP on {result['num_images']:,} training images ({note})", fontsize=9)
    return figure


def tuning_page(result: Mapping[str, Any], curves: bytes) -> str:
    """Return the result of "iif tune --all" as one self-contained page.

    Args:
        result: the content of tuning.json.
        curves: the PNG of `plot_trials`.
    """
    environment = Environment(
        loader=PackageLoader("iif.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    return environment.get_template("tuning.html.j2").render(
        result=result,
        verdict=verdict(result),
        header=_header(result),
        rows=list(zip(_rows(result), result["trials"], strict=True)),
        legend=_legend(result),
        masks=_mask_table(result) if result["masks"] and result["best"] else None,
        curves=base64.b64encode(curves).decode(),
        style=Markup(style),
        report=layout.REPORT,
    )


def _header(result: Mapping[str, Any]) -> list[str]:
    interval = ["95% interval"] if result["bootstrap"] else []
    return [
        *("method", "value", "AP", "change", *interval, "APr", "APc", "APf", "AP-fixed"),
        *("FP", "FP plain", "categories"),
    ]


def _rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for place, trial in enumerate(result["trials"]):
        value = "" if trial["option"] is None else f"{trial['option']} {trial['value']:g}"
        metrics = trial["metrics"]
        mark = " (best)" if place == result["best"] else ""
        change = signed(trial["difference"]["AP"]) if place else ""
        interval = [_interval(trial["intervals"].get("AP"))] if result["bootstrap"] else []
        rows.append(
            [
                (trial["method"] if place else PLAIN_MODEL) + mark,
                value,
                number(metrics["AP"]),
                change,
                *interval,
                *(number(metrics[name]) for name in ("APr", "APc", "APf", "AP-fixed")),
                number(trial["false_positives"], 0),
                number(trial["plain_false_positives"], 0),
                f"{trial['categories']:,}",
            ]
        )
    return rows


def _legend(result: Mapping[str, Any]) -> str:
    text = (
        f"FP: false positives at recall {result['recall']:g} and IoU 0.5, and those of the plain "
        "model (FP plain), over the categories that both bring to that recall (categories)."
    )
    if result["bootstrap"]:
        text += (
            " Intervals: paired bootstrap over images of the change in AP, for the best value of "
            "each method. The value is chosen on the same images, which flatters it a little."
        )
    return text


def _mask_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["metric", PLAIN_MODEL, "best", "change"]
    rows = []
    for row in result["masks"]:
        plain, best = row["values"]
        interval = row["difference_intervals"][0]
        change = signed(row["differences"][0])
        rows.append(
            [row["metric"], number(plain), number(best), f"{change} {_interval(interval)}".strip()]
        )
    return header, rows


def _interval(bounds: Mapping[str, float] | None) -> str:
    return "" if bounds is None else interval_text(Interval(**bounds))


def _value(trial: Mapping[str, Any], metric: str) -> float:
    value = trial["metrics"][metric]
    return math.nan if value is None else float(value)
