"""The report: one self-contained HTML file from a comparison, false positives and crops.

The template (templates/report.html.j2) has the page's words and its order; each section is there
when its data is. Tables and charts come from `iif.report.sections` and `iif.report.page_charts`.
The crops are embedded as JSON (`crops_payload`), which is all that the page's script draws.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iif.data.groups import LVIS_LIMITS
from iif.errors import InputError
from iif.evaluation.analyses import Findings
from iif.evaluation.compare import Comparison
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis
from iif.evaluation.seeds import SeedComparison
from iif.files import atomic_write, versions
from iif.report import confusion_section, page_charts, sections, threshold_section
from iif.report.crop_subjects import MISSED
from iif.report.crops import Crop
from iif.report.crops_payload import CropLinks, crops_payload
from iif.report.labels import (
    CHANGE_LABELS,
    GROUP_LABELS,
    OUTCOME_LABELS,
    OUTCOME_NAMES,
    WHY_LABELS,
    groups_sentence,
)
from iif.report.page import page_sections
from iif.report.palette import (
    DASHED,
    FOUND_COLORS,
    GROUP_COLORS,
    OUTCOME_COLORS,
    RUN_COLORS,
)
from iif.report.pooled import pooled_words
from iif.report.run_details import RunDetails
from iif.report.templating import render_template
from iif.report.verdict import shown_verdicts

# Put into the page one after the other.
STYLES = ("report.css", "sections.css")
SCRIPTS = ("report.js", "tables.js", "crops.js", "curves.js", "state.js")
# Kinds of crops that have another name in the filter.
_KIND_NAMES = {"TP": "True positive", MISSED: "Missed object"}


@dataclass(frozen=True)
class Report:
    """All that a page is made from; at least one of the first two.

    Attributes:
        comparison: metrics of one run or several, the baseline first.
        analyses: false positives of the same runs, one for each IoU type, the main one first.
        crops: see iif.report.crops.
        images: whether the images were there to cut crops from.
        versions: of the software that made the page.
        attribution: whom the images of the data set are by; empty where its file does not say it.
        details: of each run's training, of all runs where there is ``everything``; may be empty.
        everything: all runs, where the rest of the page is about two of them; else None.
        pooled: all runs by method, over their seeds; None where they are not pooled.
        findings: missed objects, curves, confusions and calibration of each run, of the IoU type
            of the first analysis; empty without them.
        extra: values of sections that come from elsewhere, by the section's id.
    """

    comparison: Comparison | None = None
    analyses: Sequence[FalsePositiveAnalysis] = ()
    crops: Sequence[Crop] = ()
    images: bool = False
    versions: dict[str, str] = field(default_factory=versions)
    attribution: str = ""
    details: Sequence[RunDetails] = ()
    everything: Comparison | None = None
    pooled: SeedComparison | None = None
    findings: Sequence[Findings] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a page without content, or about two data sets."""
        hashes = {str(a.dataset["sha256"]) for a in self.analyses}
        if self.comparison is not None:
            hashes.add(self.comparison.dataset.sha256)
        if len(hashes) > 1:
            raise InputError(
                "the summaries and the false positives belong to different annotation files "
                f"(SHA-256 {' and '.join(sorted(h[:12] for h in hashes))}); give the annotation "
                "file that the runs were evaluated on"
            )
        if not hashes:
            raise ValueError("a report needs a comparison or an analysis of false positives")

    @property
    def runs(self) -> list[str]:
        """Names of the runs, the baseline first."""
        return self.comparison.names if self.comparison is not None else self.analyses[0].names


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all."""
    text = render(report)
    with atomic_write(path) as f:
        f.write(text)


def render(report: Report) -> str:
    """Return the page as HTML text."""
    return render_template(
        "report.html.j2",
        _page(report),
        filters={"css_kind": sections.css_kind},
        styles=STYLES,
        scripts=SCRIPTS,
    )


def _page(report: Report) -> dict[str, Any]:
    """Return the template's variables."""
    comparison, runs = report.comparison, report.runs
    main = report.analyses[0] if report.analyses else None
    links = CropLinks(report.crops)
    limits = None if comparison is None else comparison.group_limits
    pooled = None
    if report.pooled is not None and comparison is not None:
        pooled = pooled_words(report.pooled, comparison.main_iou_type)
    return {
        "report": report,
        "comparison": comparison,
        "runs": runs,
        "pooled": pooled and pooled.lead,
        "verdicts": shown_verdicts(comparison, report.analyses),
        "page_sections": page_sections(report),
        "run_colors": [RUN_COLORS[i % len(RUN_COLORS)] for i in range(len(runs))],
        "kinds": [
            {"kind": kind, "color": color, "label": OUTCOME_LABELS[kind], "dashed": kind in DASHED}
            for kind, color in OUTCOME_COLORS.items()
        ],
        "error_types": ERROR_TYPES,
        "outcome_names": OUTCOME_NAMES,
        "change_labels": CHANGE_LABELS,
        "group_colors": GROUP_COLORS,
        "found_colors": FOUND_COLORS,
        "group_labels": GROUP_LABELS,
        "group_limits": limits or LVIS_LIMITS,
        "groups_sentence": groups_sentence(limits),
        "metrics": sections.metric_tables(comparison) if comparison is not None else [],
        "further": sections.further_figures(report),
        "analyses": [sections.false_positive_view(a, links) for a in report.analyses],
        "crop_link": links,
        "crop_kinds": [
            {"kind": kind, "label": _KIND_NAMES.get(kind, kind)}
            for kind in (*ERROR_TYPES, MISSED, "TP")
            if links(kind=kind)
        ],
        "crop_causes": {w: text for w, text in WHY_LABELS.items() if links(kind=MISSED, why=w)},
        "scatter": page_charts.difference_charts(comparison) if comparison is not None else [],
        "categories": sections.category_table(comparison, main),
        "payload": _payload(report),
        "has_masks": any(s.path for crop in report.crops for p in crop.panels for s in p),
    }


def _payload(report: Report) -> dict[str, Any]:
    """Return what the page's scripts draw from: the crops, curves and confusions by category."""
    payload = crops_payload(report.crops, report.runs)
    curves = threshold_section.curves_payload(report)
    if curves is None:
        return payload
    analysis = report.analyses[0]
    return payload | {
        "categories": {"ids": analysis.category_ids.tolist(), "names": analysis.category_names},
        "curves": curves,
        "confusion": confusion_section.confusion_payload(report),
    }
