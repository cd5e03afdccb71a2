"""The section on training: the settings in which runs differ, all settings, and the curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from iif.report import charts
from iif.report.run_details import RunDetails, thinned
from iif.report.tables import page_number

if TYPE_CHECKING:
    from iif.report.html import Report

# Curves that are drawn, where a run has them, by Detectron2's names.
CURVES = {
    "total_loss": "total loss",
    "loss_cls": "classification loss",
    "loss_box_reg": "box regression loss",
    "loss_mask": "mask loss",
    "lr": "learning rate",
}


def view(report: Report) -> dict[str, Any] | None:
    """Return settings and curves of the page's runs; None where none records any."""
    details = [run for run in report.details if run.name in report.runs]
    if not any(run.settings or run.curves for run in details):
        return None
    rows = setting_rows(details)
    return {
        "names": [run.name for run in details],
        "methods": [run.method or "-" for run in details],
        "different": [row for row in rows if len(set(row[1])) > 1],
        "same": [(key, values[0]) for key, values in rows if len(set(values)) == 1],
        "curves": [
            {"label": label, "svg": svg, "last": last}
            for key, label in CURVES.items()
            if (svg := _curve(details, key, label)) is not None
            for last in [[_last(run, key) for run in details]]
        ],
    }


def setting_rows(details: Sequence[RunDetails]) -> list[tuple[str, list[str]]]:
    """Return (name, value of each run) of all settings, "-" where a run has none."""
    keys = dict.fromkeys(key for run in details for key in run.settings)
    return [(key, [run.settings.get(key, "-") for run in details]) for key in sorted(keys)]


def _curve(details: Sequence[RunDetails], key: str, label: str) -> Markup | None:
    curves = [thinned(run.curves.get(key, [])) for run in details]
    points = [point for curve in curves for point in curve]
    if len({x for x, _ in points}) < 2:
        return None
    low, high = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    x = charts.x_axis("iteration", 0.0, float(max(x for x, _ in points)))
    y = charts.y_axis(label, low, high if high > low else low + 1)
    lines, marks = [], []
    for position, (run, curve) in enumerate(zip(details, curves, strict=True)):
        own = [
            charts.Mark(it, value, f"run-{position}", f"{run.name}\niteration {it:,}\n{value:.4g}")
            for it, value in curve
        ]
        lines.append((f"run-{position}", own))
        # A dot every so often carries the tooltip: one a point would hide the line.
        marks += own[:: max(1, len(own) // 20)]
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        x, y, lines, marks, label=f"{label.capitalize()} against iteration", radius=2
    )


def _last(run: RunDetails, key: str) -> str:
    points = run.curves.get(key)
    return f"{points[-1][1]:.4g}" if points else page_number(None)
