"""The section on what is missed, and what each type of error costs in AP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from iif.evaluation.missed import MAIN_ERRORS, ErrorImpact, MissedRow
from iif.report import charts
from iif.report.crops_payload import CropLinks
from iif.report.labels import FOUND_LABELS, GROUP_LABELS, IOU_NAMES
from iif.report.tables import page_number

if TYPE_CHECKING:
    from iif.report.html import Report

# Of a missed row: the attribute, and why such an object is missed ("" where it is not).
_FATES = (("found", ""), ("loc", "Loc"), ("cls", "Cls"), ("miss", "Miss"))


def view(report: Report) -> dict[str, Any] | None:
    """Return bars and tables of the main IoU type; None without findings."""
    if not report.findings:
        return None
    link = CropLinks(report.crops)
    missed = list(zip(*(found.missed for found in report.findings), strict=True))
    impact = zip(*(found.error_impact for found in report.findings), strict=True)
    return {
        "iou": IOU_NAMES[report.analyses[0].iou_type],
        "kinds": [{"css": _css(name), "label": FOUND_LABELS[name]} for name, _ in _FATES],
        "bars": [_bars(report.runs, rows, link) for rows in missed],
        "missed": [
            {
                "group": GROUP_LABELS[rows[0].group],
                "cells": [_missed_cells(row, link) for row in rows],
            }
            for rows in missed
        ],
        "errors": MAIN_ERRORS,
        "impact": [
            {"group": GROUP_LABELS[rows[0].group], "cells": [_impact_cells(row) for row in rows]}
            for rows in impact
        ],
    }


def _css(name: str) -> str:
    return f"fate-{name}"


def _link(link: Callable[..., str | None], row: MissedRow, why: str) -> str | None:
    group = "" if row.group == "all" else row.group
    return link(kind="Missed", why=why, group=group) if why else None


def _bars(
    names: Sequence[str], rows: Sequence[MissedRow], link: Callable[..., str | None]
) -> dict[str, Any]:
    """Return a group's bar of each run: objects found and missed."""
    bars = []
    for name, row in zip(names, rows, strict=True):
        parts = []
        for key, why in _FATES:
            count = getattr(row, key)
            target = _link(link, row, why)
            tip = f"{name}\n{FOUND_LABELS[key]}\n{count:,} of {row.objects:,} objects"
            tip += "\nclick, or Enter: the crops" if target else ""
            parts.append((_css(key), count, tip, target))
        words = ", ".join(f"{FOUND_LABELS[key]} {getattr(row, key):,}" for key, _ in _FATES)
        label = f"{name}, objects of {GROUP_LABELS[row.group]} categories: {words}"
        svg = charts.stacked_bar(parts, max(1, row.objects), label=label)
        bars.append({"run": name, "total": _share(row), "svg": svg})
    return {"group": GROUP_LABELS[rows[0].group], "objects": f"{rows[0].objects:,}", "bars": bars}


def _share(row: MissedRow) -> str:
    if not row.objects:
        return "-"
    return f"{page_number(100 * row.found / row.objects)}%"


def _missed_cells(row: MissedRow, link: Callable[..., str | None]) -> list[tuple[str, str | None]]:
    """Return (text, link to the crops) of the objects, of each fate, and of the share found."""
    counts = [(f"{getattr(row, key):,}", _link(link, row, why)) for key, why in _FATES]
    return [(f"{row.objects:,}", None), *counts, (_share(row), None)]


def _impact_cells(row: ErrorImpact) -> list[str]:
    gains = [page_number(row.gains[name]) for name in MAIN_ERRORS]
    both = [page_number(row.false_positives), page_number(row.false_negatives)]
    return [page_number(row.ap50), *gains, *both]
