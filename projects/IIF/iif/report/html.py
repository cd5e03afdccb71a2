"""The report: one self-contained HTML file from a comparison, false positives and crops.

`build_report` makes everything that the page prints from one `Report`; the template
(templates/report.html.j2) lays it out and embeds the crops as JSON (`crops_payload`), which is all
that the page's script draws by itself. Each section is there when its data is.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from iif.errors import InputError
from iif.evaluation.compare import CategoryRow, Comparison, MetricRow
from iif.evaluation.false_positives import (
    ERROR_TYPES,
    GROUPS,
    FalsePositiveAnalysis,
    GroupRow,
    Secondary,
)
from iif.files import atomic_write, versions
from iif.report import charts
from iif.report.crops import Crop
from iif.report.palette import (
    DASHED,
    GROUP_COLORS,
    GROUP_LABELS,
    OUTCOME_COLORS,
    OUTCOME_LABELS,
    RUN_COLORS,
)
from iif.report.verdict import (
    IOU_NAMES,
    bounds,
    fixed,
    is_difference,
    percent_change,
    signed,
    verdicts,
)

METRIC_LABELS = {
    "AP": "all categories, IoU 0.5 to 0.95",
    "AP50": "IoU 0.5",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "APr": "rare categories",
    "APc": "common categories",
    "APf": "frequent categories",
    "AR@300": "recall with 300 detections",
    "AP-fixed": "10,000 detections a category, no cap an image",
    "APr-fixed": "the same, rare categories",
    "APc-fixed": "the same, common categories",
    "APf-fixed": "the same, frequent categories",
}
OUTCOME_NAMES = {
    "TP": "true positives",
    "FP": "false positives",
    "IGNORED": "ignored: category not exhaustively annotated there",
    "UNVERIFIED": "unverifiable: category not annotated there",
    "CAPPED": "beyond the 300 best of their image",
    "DEGENERATE": "without area",
}
CHANGE_LABELS = {
    "removed": "removed: only the baseline makes it",
    "added": "added: the baseline does not make it",
    "kept": "kept: the baseline makes it too",
}
MAX_CONFUSIONS = 50


@dataclass(frozen=True)
class Report:
    """All that a page is made from; at least one of the first two.

    Attributes:
        comparison: metrics of one run or several, the baseline first.
        analyses: false positives of the same runs, one for each IoU type, the main one first.
        crops: see iif.report.crops.
        crops_note: why there are no crops, or how they were chosen.
        versions: of the software that made the page.
    """

    comparison: Comparison | None = None
    analyses: Sequence[FalsePositiveAnalysis] = ()
    crops: Sequence[Crop] = ()
    crops_note: str = ""
    versions: dict[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        """Refuse a page about nothing, or about two data sets."""
        hashes = {str(a.dataset["sha256"]) for a in self.analyses}
        if self.comparison is not None:
            hashes.add(self.comparison.dataset.sha256)
        if len(hashes) > 1:
            raise InputError(
                "the summaries and the false positives belong to different annotation files "
                f"(SHA-256 {' and '.join(sorted(h[:12] for h in hashes))}); give --gt the file "
                "that the runs were evaluated on"
            )
        if not hashes:
            raise ValueError("a report needs a comparison or an analysis of false positives")

    @property
    def runs(self) -> list[str]:
        """Names of the runs, the baseline first."""
        if self.comparison is not None:
            return [run.name for run in self.comparison.runs]
        return [run.name for run in self.analyses[0].runs]


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page, whole or not at all."""
    text = render(report)
    with atomic_write(path) as f:
        f.write(text)


def render(report: Report) -> str:
    """Return the page as HTML text."""
    environment = Environment(
        loader=PackageLoader("iif.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, script = (
        Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        **page(report), style=style, script=script, script_hash=digest
    )


def page(report: Report) -> dict[str, Any]:
    """Return everything that the template prints, as text and SVG."""
    comparison = report.comparison
    main = report.analyses[0] if report.analyses else None
    runs = report.runs
    dataset = comparison.dataset.name if comparison is not None else None
    return {
        "runs": runs,
        "title": " vs ".join(runs) + (f" on {dataset}" if dataset else ""),
        "verdicts": verdicts(comparison, main),
        "caveat": _caveat(report),
        "notes": comparison.notes if comparison is not None else [],
        "run_colors": [RUN_COLORS[i % len(RUN_COLORS)] for i in range(len(runs))],
        "kinds": [
            {"kind": kind, "color": color, "label": OUTCOME_LABELS[kind], "dashed": kind in DASHED}
            for kind, color in OUTCOME_COLORS.items()
        ],
        "css_kind": css_kind,
        "error_types": ERROR_TYPES,
        "group_colors": GROUP_COLORS,
        "group_labels": GROUP_LABELS,
        "metrics": metric_tables(comparison) if comparison is not None else [],
        "replicates": comparison.replicates if comparison is not None else 0,
        "analyses": [false_positive_view(a) for a in report.analyses],
        "scatter": difference_charts(comparison) if comparison is not None else [],
        "categories": category_table(comparison, main),
        "facts": provenance(report),
        "versions": report.versions,
        "crops": crops_payload(report.crops, runs),
        "crops_note": report.crops_note,
        "has_masks": any(s.path for crop in report.crops for p in crop.panels for s in p),
    }


def css_kind(kind: str) -> str:
    """Return the CSS class of an outcome."""
    return "kind-" + kind.lower().replace(" ", "-")


def _caveat(report: Report) -> str:
    parts = []
    if report.comparison is not None and len(report.runs) > 1:
        if report.comparison.replicates:
            parts.append(
                "Brackets are 95% intervals over the choice of test images; they say nothing "
                "about another training run of the same model."
            )
        else:
            parts.append("There are no intervals, so a difference may be chance.")
    if report.analyses:
        parts.append("Only what the annotation can prove is counted as a false positive.")
    return " ".join(parts)


# Metrics


def metric_tables(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one table for each IoU type: values, differences, intervals."""
    tables = []
    for iou_type in _main_first(comparison.iou_types):
        rows = [row for row in comparison.metrics if row.iou_type == iou_type]
        intervals = [i for row in rows for i in row.difference_intervals if i is not None]
        extent = max([abs(b) for i in intervals for b in (i.low, i.high)], default=0.0)
        tables.append(
            {
                "iou": IOU_NAMES[iou_type],
                "intervals": bool(intervals),
                "extent": fixed(extent),
                "rows": [_metric_row(row, extent or 1.0) for row in rows],
            }
        )
    return tables


def _metric_row(row: MetricRow, extent: float) -> dict[str, Any]:
    changes = []
    for difference, interval in zip(row.differences, row.difference_intervals, strict=True):
        css = ""
        if interval is not None and is_difference(interval):
            css = "better" if interval.low > 0 else "worse"
        glyph = Markup("")
        if interval is not None and difference is not None:
            glyph = charts.interval_glyph(
                difference, interval.low, interval.high, extent, css or "open"
            )
        changes.append(
            {"text": signed(difference), "range": bounds(interval), "css": css, "glyph": glyph}
        )
    return {
        "metric": row.metric,
        "label": METRIC_LABELS.get(row.metric, ""),
        "values": [fixed(value) for value in row.values],
        "changes": changes,
    }


def _main_first(iou_types: Sequence[str]) -> list[str]:
    return sorted(iou_types, key=lambda iou_type: iou_type != "segm")


# False positives


def false_positive_view(analysis: FalsePositiveAnalysis) -> dict[str, Any]:
    """Return the tables and charts of one analysis."""
    groups = {row.group: row for row in analysis.groups}
    return {
        "iou": IOU_NAMES[analysis.iou_type],
        "recall": f"{100 * analysis.recall:g}%",
        "matched": groups["all"].matched,
        "groups": [GROUP_LABELS[group] for group in GROUPS],
        "rows": _type_rows([groups[group] for group in GROUPS]),
        "bars": [_bars(analysis, groups[group]) for group in GROUPS],
        "curves": [_curve(analysis, group) for group in GROUPS],
        "coverage": [
            {
                "group": GROUP_LABELS[group],
                "share": fixed(100 * analysis.coverage[group], 2),
                "categories": f"{groups[group].categories:,}",
                "matched": f"{groups[group].matched:,}",
                "reached": [f"{n:,}" for n in groups[group].reached],
            }
            for group in GROUPS
        ],
        "outcomes": [
            {"label": label, "counts": [f"{run.outcomes.get(key, 0):,}" for run in analysis.runs]}
            for key, label in OUTCOME_NAMES.items()
        ],
        "secondary": [_secondary(view) for view in analysis.secondary],
        "confusions": _confusions(analysis),
        "confusions_left": max(0, len(analysis.confusions) - MAX_CONFUSIONS),
    }


def _type_rows(groups: Sequence[GroupRow]) -> list[dict[str, Any]]:
    """Return rows of cells: for each group the runs' figures, then changes against the first."""

    def row(
        label: str, css: str, values: Callable[[GroupRow], Sequence[float]], decimals: int
    ) -> dict[str, Any]:
        cells = []
        for group in groups:
            of_runs = values(group) if group.matched else [math.nan] * len(group.total)
            changes = [percent_change(of_runs[0], v) for v in of_runs[1:]]
            cells.append([fixed(v, decimals) for v in of_runs])
            cells[-1] += [signed(c, 0) + ("%" if c is not None else "") for c in changes]
        return {"label": label, "css": css, "cells": cells}

    by_type = [
        row(kind, css_kind(kind), lambda g, i=i: [r[i] for r in g.by_type], 0)  # type: ignore[misc]
        for i, kind in enumerate(ERROR_TYPES)
    ]
    return [
        *by_type,
        row("All types", "total", lambda g: g.total, 0),
        row("Mean per category", "", lambda g: g.mean, 1),
        row("Per 1,000 verified images", "", lambda g: g.per_1000, 1),
    ]


def _bars(analysis: FalsePositiveAnalysis, group: GroupRow) -> dict[str, Any]:
    scale = max(1, *group.total)
    bars = []
    for run, total, counts in zip(analysis.runs, group.total, group.by_type, strict=True):
        parts = [
            (css_kind(kind), n, f"{run.name}\n{OUTCOME_LABELS[kind]}\n{n:,} of {total:,}")
            for kind, n in zip(ERROR_TYPES, counts, strict=True)
        ]
        words = ", ".join(f"{k} {n:,}" for k, n in zip(ERROR_TYPES, counts, strict=True))
        label = f"{run.name}, {GROUP_LABELS[group.group]} categories: {words}"
        bars.append(
            {
                "run": run.name,
                "total": f"{total:,}" if group.matched else "-",
                "svg": charts.stacked_bar(parts, scale, label=label),
            }
        )
    return {"group": GROUP_LABELS[group.group], "matched": f"{group.matched:,}", "bars": bars}


def _curve(analysis: FalsePositiveAnalysis, group: str) -> dict[str, Any]:
    recalls = analysis.curve_recalls
    behind = analysis.curve_categories[group]
    values = np.concatenate([run.curve[group] for run in analysis.runs])
    defined = values[~np.isnan(values)]
    low, high = charts.log_range(defined.tolist())
    x = charts.x_axis("recall", 0.0, 1.0)
    y = charts.y_axis(
        "false positives per 1,000", low, high, "log0" if (defined == 0).any() else "log"
    )
    lines, marks = [], []
    for position, run in enumerate(analysis.runs):
        points = [
            charts.Mark(
                float(recall),
                float(value),
                f"run-{position}",
                f"{run.name}\n{fixed(float(value), 2)} false positives per 1,000 verified images\n"
                f"at {100 * recall:g}% recall, mean of {count:,} categories",
            )
            for recall, value, count in zip(recalls, run.curve[group], behind, strict=True)
            if not math.isnan(value)
        ]
        lines.append((f"run-{position}", points))
        marks += points
    marks.sort(key=lambda mark: mark.x)
    label = f"False positives per 1,000 verified images against recall, {GROUP_LABELS[group]}"
    return {
        "group": GROUP_LABELS[group],
        "svg": charts.chart(x, y, lines, marks, label=label) if marks else None,
        "rows": [
            {
                "recall": f"{100 * recall:g}%",
                "values": [fixed(float(run.curve[group][i]), 2) for run in analysis.runs],
                "categories": f"{behind[i]:,}",
            }
            for i, recall in enumerate(recalls)
        ],
    }


def _secondary(view: Secondary) -> dict[str, Any]:
    rule = (
        f"the {view.value:,.0f} best of each image"
        if view.rule == "top_k"
        else f"score at least {view.value:g}"
    )
    return {
        "rule": rule,
        "counts": [
            [f"{counts.get(name, 0):,}" for name in ("TP", "FP", "IGNORED", "UNVERIFIED")]
            for counts in view.counts
        ],
    }


def _confusions(analysis: FalsePositiveAnalysis) -> list[dict[str, Any]]:
    names, groups = analysis.category_names, analysis.category_groups
    return [
        {
            "object": names[c.gt_category],
            "object_group": GROUP_LABELS[str(groups[c.gt_category])],
            "predicted": names[c.predicted],
            "predicted_group": GROUP_LABELS[str(groups[c.predicted])],
            "counts": [f"{n:,}" for n in c.counts],
            "changes": [signed(n - c.counts[0], 0) for n in c.counts[1:]],
        }
        for c in analysis.confusions[:MAX_CONFUSIONS]
    ]


# Categories


def difference_charts(comparison: Comparison) -> list[dict[str, Any]]:
    """Return, for each later run, the difference of AP against the training image count."""
    iou_type = _main_first(comparison.iou_types)[0]
    return [
        {
            "run": run.name,
            "iou": IOU_NAMES[iou_type],
            "svg": _difference_chart(comparison, iou_type, position),
        }
        for position, run in enumerate(comparison.runs[1:])
        if any(row.image_count for row in comparison.categories)
    ]


def _difference_chart(comparison: Comparison, iou_type: str, position: int) -> Markup | None:
    points = [
        (row, max(row.image_count, 0.5), difference)  # a logarithmic axis has no zero
        for row in comparison.categories
        if row.image_count is not None
        and (difference := row.difference[iou_type][position]) is not None
    ]
    if not points:
        return None
    points.sort(key=lambda point: point[1])
    low, high = charts.log_range([count for _, count, _ in points])
    reach = max(1.0, 1.04 * max(abs(difference) for _, _, difference in points))
    marks = [
        charts.Mark(count, difference, f"group-{row.group}", _difference_tip(row, difference))
        for row, count, difference in points
    ]
    return charts.chart(
        charts.x_axis(
            "training images that contain the category", low, high, "log", width=charts.WIDE
        ),
        charts.y_axis("difference of AP", -reach, reach),
        [],
        marks,
        label="Difference of AP against training images, one point a category",
        radius=3,
    )


def _difference_tip(row: CategoryRow, difference: float) -> str:
    return (
        f"{row.name} ({GROUP_LABELS[row.group]})\n{row.image_count:,} training images, "
        f"{row.num_gt:,} objects here\nAP {signed(difference)}"
    )


def category_table(
    comparison: Comparison | None, analysis: FalsePositiveAnalysis | None
) -> dict[str, Any]:
    """Return header groups and rows of text, one row a category.

    Returns:
        "headings": [(text, number of columns)]; "columns": [text]; "starts": positions of the
        columns that begin a later heading; "rows": [{"name", "group"
        (r, c or f), "cells"}], in the order of ids.
    """
    # The first column stays in view when the table scrolls: its heading spans it alone.
    headings: list[tuple[str, int]] = [("", 1), ("", 3)]
    columns = ["Category", "Group", "Training images", "Objects"]
    runs: list[str] = []
    if comparison is not None:
        runs = [run.name for run in comparison.runs]
        for iou_type in _main_first(comparison.iou_types):
            headings.append((f"{IOU_NAMES[iou_type].capitalize()} AP", 2 * len(runs) - 1))
            columns += runs + _difference_columns(runs)
    if analysis is not None:
        runs = [run.name for run in analysis.runs]
        headings.append(
            (f"False positives at {100 * analysis.recall:g}% recall", 2 * len(runs) - 1)
        )
        columns += runs + _difference_columns(runs)

    table = []
    for row, (name, group, images, objects) in enumerate(_category_heads(comparison, analysis)):
        cells = [GROUP_LABELS[group], images, objects]
        if comparison is not None:
            category = comparison.categories[row]
            for iou_type in _main_first(comparison.iou_types):
                cells += [fixed(v) for v in category.ap[iou_type]]
                cells += [signed(v) for v in category.difference[iou_type]]
        if analysis is not None:
            cells += _false_positive_cells(analysis, row)
        table.append({"name": name, "group": group, "cells": cells})
    widths = [width for _, width in headings]
    starts = set(np.cumsum(widths)[1:-1].tolist())
    return {"headings": headings, "columns": columns, "starts": starts, "rows": table}


def _difference_columns(runs: Sequence[str]) -> list[str]:
    if len(runs) == 2:
        return ["Difference"]
    return [f"{name} difference" for name in runs[1:]]


def _category_heads(
    comparison: Comparison | None, analysis: FalsePositiveAnalysis | None
) -> list[tuple[str, str, str, str]]:
    """Return (name, group, training images, objects) of every category."""
    if comparison is not None:
        return [
            (
                row.name,
                row.group,
                "-" if row.image_count is None else f"{row.image_count:,}",
                f"{row.num_gt:,}",
            )
            for row in comparison.categories
        ]
    if analysis is None:
        return []
    return [
        (name, str(group), "-", f"{objects:,}")
        for name, group, objects in zip(
            analysis.category_names, analysis.category_groups, analysis.num_gt, strict=True
        )
    ]


def _false_positive_cells(analysis: FalsePositiveAnalysis, row: int) -> list[str]:
    if not analysis.matched[row]:
        return ["-"] * (2 * len(analysis.runs) - 1)
    counts = [int(run.false_positives[row].sum()) for run in analysis.runs]
    return [f"{n:,}" for n in counts] + [signed(n - counts[0], 0) for n in counts[1:]]


# Provenance and crops


def provenance(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return headed lists of facts: (heading, [(term, text)])."""
    comparison, analyses = report.comparison, report.analyses
    facts: list[tuple[str, list[tuple[str, str]]]] = []
    if comparison is not None:
        data = comparison.dataset
        facts.append(
            (
                "Ground truth",
                [
                    ("Data set", data.name or "-"),
                    ("File", data.path or "-"),
                    ("SHA-256", data.sha256),
                    ("Images", f"{data.num_images:,}"),
                    ("Categories", f"{data.num_categories:,}"),
                    ("Annotation", _annotation_kind(data.exhaustive)),
                ],
            )
        )
        for run in comparison.runs:
            settings = run.test_settings
            facts.append(
                (
                    run.name,
                    [
                        ("Summary", run.summary),
                        ("Results", run.results or "-"),
                        ("SHA-256", run.results_sha256 or "-"),
                        (
                            "Detections",
                            "-" if run.num_detections is None else f"{run.num_detections:,}",
                        ),
                        *((_words(key), _setting(settings[key])) for key in settings),
                    ],
                )
            )
    elif analyses:
        data_set = analyses[0].dataset
        facts.append(
            (
                "Ground truth",
                [
                    ("File", str(data_set["path"])),
                    ("SHA-256", str(data_set["sha256"])),
                    ("Images", f"{data_set['num_images']:,}"),
                    ("Categories", f"{data_set['num_categories']:,}"),
                    ("Annotation", _annotation_kind(bool(data_set["exhaustive"]))),
                ],
            )
        )
        facts += [
            (
                run.name,
                [
                    ("Results", run.path),
                    ("SHA-256", run.sha256),
                    ("Detections", f"{run.num_detections:,}"),
                ],
            )
            for run in analyses[0].runs
        ]
    computation = _computation(report)
    return [*facts, ("Computation", computation)] if computation else facts


def _computation(report: Report) -> list[tuple[str, str]]:
    facts = []
    comparison = report.comparison
    if comparison is not None and comparison.replicates:
        facts.append(
            (
                "Intervals",
                f"paired bootstrap over images, {comparison.replicates:,} replicates, "
                f"seed {comparison.seed}",
            )
        )
    if report.analyses:
        facts.append(
            (
                "False positives",
                f"matching at IoU 0.5, counted at {100 * report.analyses[0].recall:g}% recall, "
                "300 detections an image",
            )
        )
    return facts


def _annotation_kind(exhaustive: bool) -> str:
    if exhaustive:
        return "exhaustive: every category is verified in every image"
    return "federated: each image is verified for some categories (LVIS)"


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize().replace("Nms", "NMS")


def _setting(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def crops_payload(crops: Sequence[Crop], runs: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script draws the crops from.

    Returns:
        "panels": names of a crop's panels; "kinds": kind -> {"label", "css", "greyed"}; "names":
        category names, which shapes refer to by position; "crops": each {"id", "src" (JPEG as
        data URI), "w", "h", "name", "group", "groupName", "kind", "change", "panels"
        (lists of shapes), "leftOut"}; a shape is [name, kind, score or null, box, path, subject].
    """
    names: dict[str, int] = {}
    for crop in crops:
        for panel in crop.panels:
            for shape in panel:
                names.setdefault(shape.name, len(names))
    return {
        "panels": [*runs, "Ground truth"],
        "kinds": {
            kind: {"label": label, "css": css_kind(kind), "greyed": kind in DASHED}
            for kind, label in OUTCOME_LABELS.items()
        },
        "changes": CHANGE_LABELS if len(runs) > 1 else {},
        "names": list(names),
        "crops": [
            {
                "id": crop.image_id,
                "src": "data:image/jpeg;base64," + base64.b64encode(crop.jpeg).decode(),
                "w": crop.width,
                "h": crop.height,
                "name": crop.category,
                "group": crop.group,
                "groupName": GROUP_LABELS[crop.group],
                "kind": crop.kind,
                "change": crop.change,
                "panels": [
                    [
                        [
                            names[s.name],
                            s.kind,
                            None if s.score is None else round(s.score, 4),
                            list(s.box),
                            s.path,
                            int(s.subject),
                        ]
                        for s in panel
                    ]
                    for panel in crop.panels
                ],
                "leftOut": crop.left_out,
            }
            for crop in crops
        ],
    }
