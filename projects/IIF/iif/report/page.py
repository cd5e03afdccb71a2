"""The sections of the page, in order. A new one is a template, a view and a line of SECTIONS.

A section's words are in ``templates/sections/<id>.html.j2``, which gets what its view returns as
``view``, beside the page's own variables (`iif.report.html`). Where the view returns nothing the
section is left out, and its link too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from iif.report import (
    calibration_section,
    confusion_section,
    data_section,
    missed_section,
    several,
    threshold_section,
    training_section,
)
from iif.report.advice import advise

if TYPE_CHECKING:
    from iif.report.html import Report


class Section(NamedTuple):
    """A section of the page.

    Attributes:
        id: of the element, and the template's name.
        title: in the navigation.
        view: returns what its template needs; nothing or None where the section is left out.
    """

    id: str
    title: str
    view: Callable[[Report], Any]


def _has_analyses(report: Report) -> Any:
    return report.analyses


def _what_now(report: Report) -> Any:
    advice = advise(
        report.comparison, report.analyses[0] if report.analyses else None, report.pooled
    )
    return advice if advice.recommendation or advice.remedies or advice.to_label else None


SECTIONS = (
    Section("what-now", "What now", _what_now),
    Section("several", "All runs", several.view),
    Section("metrics", "Metrics", lambda report: report.comparison),
    Section("false-positives", "False positives", _has_analyses),
    Section("missed", "Missed objects", missed_section.view),
    Section("confusions", "Confusions", confusion_section.view),
    Section("thresholds", "Thresholds", threshold_section.view),
    Section("calibration", "Calibration", calibration_section.view),
    Section("curves", "Against recall", _has_analyses),
    Section("coverage", "Coverage", _has_analyses),
    Section("categories", "Categories", lambda report: True),
    Section("crops", "Crops", lambda report: True),
    Section("data", "Data", data_section.view),
    Section("training", "Training", training_section.view),
    Section("provenance", "Provenance", lambda report: True),
    Section("glossary", "Glossary", lambda report: True),
)


def page_sections(report: Report) -> list[dict[str, Any]]:
    """Return id, title and view of each section that the report has values for."""
    views = [(section, section.view(report)) for section in SECTIONS]
    return [
        {"id": section.id, "title": section.title, "view": view} for section, view in views if view
    ]
