"""Classification summaries and comparisons as text, Markdown, JSON and CSV."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from iif import layout
from iif.evaluation.classification.compare import ClassificationComparison
from iif.evaluation.classification.summary import ClassificationSummary
from iif.files import atomic_write, versions
from iif.report.classification.labels import FALSE_POSITIVES, METRIC_LABELS, PER_1000, group_of
from iif.report.records import json_text
from iif.report.tables import (
    Cell,
    csv_text,
    interval_text,
    markdown_table,
    number,
    signed,
    text_table,
)

COMPARISON_FORMAT = "iif-classification-comparison/1"
# Classes and pairs listed in a text.
NUM_LISTED = 10

_LABELS = {
    **{metric: label for metric, (label, _) in METRIC_LABELS.items()},
    **{metric: group_of(metric).capitalize() for metric in (*FALSE_POSITIVES, *PER_1000)},
}


def summary_text(summary: ClassificationSummary) -> str:
    """Return the measures of one evaluation as text tables, an undefined one as "-"."""
    test_set = summary.test_set
    metrics = [[_LABELS[m], number(summary.metrics[m])] for m in METRIC_LABELS]
    groups = [
        [
            row.group,
            f"{row.classes:,}",
            f"{row.test_images:,}",
            number(row.accuracy),
            f"{row.false_positives:,}",
            number(row.per_1000),
            number(row.false_share),
            number(row.ece),
        ]
        for row in summary.groups
    ]
    header = ["group", "classes", "test images", "accuracy", "false positives"]
    header += ["per 1,000 others", "wrong predictions (%)", "calibration error (%)"]
    return (
        f"{test_set.name or 'test set'}: {test_set.num_images:,} images, "
        f"{test_set.num_classes:,} classes; trained on {summary.training.num_images:,} images\n"
        f"{text_table(['measure', '%'], metrics)}\n\n{text_table(header, groups)}"
    )


def comparison_text(comparison: ClassificationComparison) -> str:
    """Return a comparison as aligned plain text."""
    return _comparison(comparison, text_table, "{}\n")


def comparison_markdown(comparison: ClassificationComparison) -> str:
    """Return a comparison as Markdown."""
    return _comparison(comparison, markdown_table, "## {}\n\n")


def save_comparison_tables(
    comparison: ClassificationComparison, folder: str | os.PathLike[str]
) -> list[Path]:
    """Write comparison.{txt,md,json,csv} and comparison_classes.csv; return their paths."""
    contents = {
        f"{layout.COMPARISON}.txt": comparison_text(comparison),
        f"{layout.COMPARISON}.md": comparison_markdown(comparison),
        f"{layout.COMPARISON}.json": json_text(comparison_json(comparison)),
        f"{layout.COMPARISON}.csv": comparison_csv(comparison),
        layout.COMPARISON_CLASSES: classes_csv(comparison),
    }
    paths = [Path(folder, name) for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        with atomic_write(path) as f:
            f.write(content.rstrip("\n") + "\n")
    return paths


def comparison_json(comparison: ClassificationComparison) -> dict[str, Any]:
    """Return the content of ``comparison.json``: every figure, unrounded."""
    first = comparison.first
    return {
        "format": COMPARISON_FORMAT,
        "versions": versions(),
        "test_set": msgspec.to_builtins(first.test_set),
        "runs": [
            {
                "name": run.name,
                "summary": run.path,
                **{
                    key: msgspec.to_builtins(getattr(run.summary, key))
                    for key in ("training", "predictions", "method", "config", "groups")
                },
            }
            for run in comparison.runs
        ],
        "metrics": msgspec.to_builtins(comparison.metrics),
        "classes": [
            {
                **{key: getattr(rows[0], key) for key in ("id", "name", "group", "image_count")},
                "num_test": rows[0].num_test,
                **{
                    key: [getattr(row, key) for row in rows]
                    for key in ("accuracy", "precision", "predicted", "false_positives")
                },
            }
            for rows in comparison.classes
        ],
        "confusions": [
            {
                "label": first.per_class[row.label].id,
                "predicted": first.per_class[row.predicted].id,
                "counts": row.counts,
            }
            for row in comparison.confusions
        ],
        "notes": comparison.notes,
        "replicates": comparison.replicates,
        "seed": comparison.seed,
    }


def comparison_csv(comparison: ClassificationComparison) -> str:
    """Return the measures, a row for each."""
    header = ["metric"]
    for name in comparison.names:
        header += [name, f"{name}: low", f"{name}: high"]
    for name in comparison.names[1:]:
        header += [f"difference {name}", f"difference {name}: low", f"difference {name}: high"]
    rows = []
    for row in comparison.metrics:
        cells: list[Cell] = [row.metric]
        for value, interval in (
            *zip(row.values, row.intervals, strict=True),
            *zip(row.differences, row.difference_intervals, strict=True),
        ):
            bounds = (None, None) if interval is None else (interval.low, interval.high)
            cells += [value, *bounds]
        rows.append(cells)
    return csv_text(header, rows)


def classes_csv(comparison: ClassificationComparison) -> str:
    """Return accuracy, precision and false positives by class."""
    header = ["id", "name", "group", "image_count", "num_test"]
    keys = ("accuracy", "precision", "predicted", "false_positives")
    header += [f"{key} {name}" for key in keys for name in comparison.names]
    rows = []
    for same in comparison.classes:
        first = same[0]
        cells: list[Cell] = [first.id, first.name, first.group, first.image_count, first.num_test]
        cells += [getattr(row, key) for key in keys for row in same]
        rows.append(cells)
    return csv_text(header, rows)


def _comparison(
    comparison: ClassificationComparison, table: Callable[..., str], heading: str
) -> str:
    test_set, names = comparison.first.test_set, comparison.names
    size = f"{test_set.num_images:,} images, {test_set.num_classes:,} classes"
    parts = [heading.format(f"{' | '.join(names)} on {test_set.name or 'test set'} ({size})")]
    for title, metrics, decimals in (
        ("Accuracy (percent)", tuple(METRIC_LABELS), 2),
        ("False positives by group of the predicted class", FALSE_POSITIVES, 0),
        ("False positives per 1,000 test images of other classes, mean over classes", PER_1000, 2),
    ):
        parts.append(heading.format(title) + table(*_measure_table(comparison, metrics, decimals)))
    parts.append(_interval_note(comparison))
    for run, name in enumerate(names[1:], start=1):
        for verb, sign in (("gained", 1), ("lost", -1)):
            rows = _extremes(comparison, run, sign)
            body = table(*_class_table(comparison, rows, run)) if rows else "None."
            parts.append(heading.format(f"Classes that {verb} most accuracy in {name}") + body)
    if comparison.confusions:
        parts.append(
            heading.format("Most frequent confusions")
            + table(*_confusion_table(comparison), left=2)
        )
    parts += [f"Note: {note}" for note in comparison.notes]
    return "\n\n".join(part.rstrip("\n") for part in parts)


def _measure_table(
    comparison: ClassificationComparison, metrics: tuple[str, ...], decimals: int
) -> tuple[list[str], list[list[str]]]:
    names = comparison.names
    header = ["measure", *names]
    for name in names[1:]:
        header.append("difference" if len(names) == 2 else f"{name} - {names[0]}")
        if comparison.replicates:
            header.append("95% interval")
    rows = []
    for row in map(comparison.metric, metrics):
        cells = [_LABELS[row.metric], *(number(value, decimals) for value in row.values)]
        for difference, interval in zip(row.differences, row.difference_intervals, strict=True):
            cells.append(signed(difference, decimals))
            if comparison.replicates:
                cells.append(interval_text(interval, decimals))
        rows.append(cells)
    return header, rows


def _extremes(comparison: ClassificationComparison, run: int, sign: int) -> list[int]:
    """Return the classes whose accuracy changed most in one direction."""
    changed = []
    for k, rows in enumerate(comparison.classes):
        before, after = rows[0].accuracy, rows[run].accuracy
        if before is not None and after is not None and sign * (after - before) > 0:
            changed.append((-sign * (after - before), k))
    return [k for _, k in sorted(changed)[:NUM_LISTED]]


def _class_table(
    comparison: ClassificationComparison, classes: list[int], run: int
) -> tuple[list[str], list[list[str]]]:
    names = comparison.names
    header = ["class", "group", "training images", "test images", names[0], names[run]]
    header += ["difference", f"FP {names[0]}", f"FP {names[run]}"]
    rows = []
    for k in classes:
        before, after = comparison.classes[k][0], comparison.classes[k][run]
        assert before.accuracy is not None
        assert after.accuracy is not None
        rows.append(
            [
                before.name,
                before.group,
                f"{before.image_count:,}",
                f"{before.num_test:,}",
                number(before.accuracy),
                number(after.accuracy),
                signed(after.accuracy - before.accuracy),
                f"{before.false_positives:,}",
                f"{after.false_positives:,}",
            ]
        )
    return header, rows


def _confusion_table(
    comparison: ClassificationComparison,
) -> tuple[list[str], list[list[str]]]:
    classes = comparison.first.per_class
    return ["class", "predicted as", *comparison.names], [
        [
            classes[row.label].name,
            classes[row.predicted].name,
            *(f"{count:,}" for count in row.counts),
        ]
        for row in comparison.confusions[:NUM_LISTED]
    ]


def _interval_note(comparison: ClassificationComparison) -> str:
    if len(comparison.runs) == 1:
        return "One run: no differences."
    if not comparison.replicates:
        return "No intervals: see the notes."
    return (
        f"Intervals: paired bootstrap over test images within each class, "
        f"{comparison.replicates:,} replicates, seed {comparison.seed}. They cover the choice of "
        "the test images, not that of the training seed. A difference whose interval contains 0 "
        "may be chance."
    )
