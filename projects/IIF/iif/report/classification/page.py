"""The page of classification runs: one self-contained HTML file.

The template (templates/classification.html.j2) has the page's words and its order; style and
script are those of the report on detection.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

from iif.evaluation.classification.compare import ClassificationComparison
from iif.files import atomic_write, versions
from iif.report.classification import charts, sections
from iif.report.classification.labels import GROUP_COLORS, GROUP_LABELS
from iif.report.classification.pictures import CHANGES, Example
from iif.report.classification.verdict import verdicts
from iif.report.palette import RUN_COLORS
from iif.report.templating import render_template


def write_classification_report(
    comparison: ClassificationComparison,
    path: str | os.PathLike[str],
    *,
    examples: Sequence[Example] | None = None,
) -> None:
    """Write the page, whole or not at all; arguments as for `render`."""
    text = render(comparison, examples=examples)
    with atomic_write(path) as f:
        f.write(text)


def render(
    comparison: ClassificationComparison, *, examples: Sequence[Example] | None = None
) -> str:
    """Return the page as HTML text.

    Args:
        comparison: of one run or several.
        examples: misclassified images; None where the images were not at hand.
    """
    return render_template("classification.html.j2", _page(comparison, examples))


def _page(
    comparison: ClassificationComparison, examples: Sequence[Example] | None
) -> dict[str, Any]:
    runs = comparison.names
    return {
        "comparison": comparison,
        "runs": runs,
        "first": comparison.first,
        "verdicts": verdicts(comparison),
        "run_colors": [RUN_COLORS[i % len(RUN_COLORS)] for i in range(len(runs))],
        "group_colors": GROUP_COLORS,
        "group_labels": GROUP_LABELS,
        "accuracy": sections.accuracy_table(comparison),
        "false_positives": sections.false_positive_tables(comparison),
        "groups": sections.group_rows(comparison),
        "errors": sections.error_rows(comparison),
        "accuracy_chart": charts.accuracy_chart(comparison),
        "false_positive_chart": charts.false_positive_chart(comparison),
        "reliability": charts.reliability_charts(comparison),
        "bins": sections.bin_rows(comparison),
        "classes": sections.class_table(comparison),
        "confusions": sections.confusion_rows(comparison),
        "confusions_left": max(0, len(comparison.confusions) - sections.MAX_CONFUSIONS),
        "settings": sections.setting_rows(comparison),
        "examples": None if examples is None else [_example(e) for e in examples],
        "versions": versions(),
    }


def _example(example: Example) -> dict[str, Any]:
    return {
        "src": "data:image/jpeg;base64," + base64.b64encode(example.jpeg).decode(),
        "image": example.image,
        "label": example.label,
        "group": example.group,
        "change": CHANGES[example.change],
        "predicted": example.predicted,
    }
