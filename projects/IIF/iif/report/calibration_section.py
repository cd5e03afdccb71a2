"""The section on calibration: whether a score says how often a detection is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from iif.report import charts
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import page_number

if TYPE_CHECKING:
    from iif.report.html import Report

_FIGURES = ("ece", "category_ece", "score", "precision")


def view(report: Report) -> dict[str, Any] | None:
    """Return diagrams and a table; None without findings, or where scores are not from 0 to 1."""
    if not report.findings or not all(found.calibration for found in report.findings):
        return None
    groups = list(zip(*(found.calibration for found in report.findings), strict=True))
    groups = [rows for rows in groups if any(row.detections for row in rows)]
    return {
        "iou": IOU_NAMES[report.analyses[0].iou_type],
        "charts": [
            {"group": GROUP_LABELS[rows[0].group], "svg": _diagram(report.runs, rows)}
            for rows in groups
        ],
        "rows": [
            {
                "group": GROUP_LABELS[rows[0].group],
                "cells": [
                    [f"{row.detections:,}", *(page_number(getattr(row, key)) for key in _FIGURES)]
                    for row in rows
                ],
            }
            for rows in groups
        ],
    }


def _diagram(names: list[str], rows: Any) -> Markup:
    diagonal = [charts.Mark(0, 0, "", ""), charts.Mark(100, 100, "", "")]
    lines, marks = [("zero", diagonal)], []
    for position, (name, row) in enumerate(zip(names, rows, strict=True)):
        css = f"run-{position}"
        points = [
            charts.Mark(
                score,
                precision,
                css,
                f"{name}\n{count:,} detections of mean score {score / 100:.2f}\n"
                f"{page_number(precision)}% of them are right",
            )
            for count, score, precision in zip(
                row.counts, row.bin_score, row.bin_precision, strict=True
            )
            if score is not None and precision is not None
        ]
        lines.append((css, points))
        marks += points
    marks.sort(key=lambda mark: mark.x)
    return charts.chart(
        charts.x_axis("mean score, %", 0, 100),
        charts.y_axis("right, %", 0, 100),
        lines,
        marks,
        label=f"Share of right detections against score, {GROUP_LABELS[rows[0].group]} categories",
    )
