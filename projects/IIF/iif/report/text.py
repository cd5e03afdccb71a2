"""Summaries, comparisons and false positives in words: text, Markdown, and the files of each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from iif import layout
from iif.data.groups import GroupLimits
from iif.evaluation.compare import CategoryRow, Comparison
from iif.evaluation.false_positives import (
    ERROR_TYPES,
    GROUPS,
    FalsePositiveAnalysis,
    GroupRow,
)
from iif.evaluation.fixed_cuts import FixedCut
from iif.evaluation.operating_points import all_runs_reach
from iif.evaluation.scenes import Scene
from iif.files import atomic_write, together
from iif.report.advice import recommendation
from iif.report.labels import GROUP_LABELS, IOU_NAMES, OUTCOME_WORDS, groups_sentence
from iif.report.records import (
    comparison_categories_csv,
    comparison_csv,
    comparison_json,
    false_positives_csv,
    false_positives_json,
    json_text,
)
from iif.report.tables import MINUS, interval_text, markdown_table, number, signed, text_table
from iif.report.verdict import found_categories, shown_verdicts, verdict_lines, verdicts

# Confusions listed in a text.
NUM_CONFUSIONS = 10

# What a verdict's words mean, as in the page's glossary: always, at equal recall, of intervals.
_TERMS = (
    "AP: mean precision over recalls, IoU thresholds and categories, each counting the same; 0 to "
    "100, higher is better.",
    "AP-fixed: the same without a limit on the detections of an image.",
    "Rare, common, frequent: categories in at most 10, 11 to 100, and more training images.",
)
_RECALL_TERMS = (
    "False positives at {recall:g}% recall: wrong detections among those with which a run finds "
    "{recall:g}% of each category's objects; lower is better.",
    "False discovery rate: the share of wrong ones among these detections, 100 for a category that "
    "a run does not bring to that recall; lower is better.",
)
_INTERVAL_TERM = (
    "[low, high]: 95% interval of the difference over the choice of test images. One that leaves "
    "out 0 is called a difference."
)

Table = tuple[list[str], list[list[str]]]


class _Style:
    """How headings and tables are written: as plain text or as Markdown."""

    def __init__(self, table: Callable[..., str], heading: str, gap: str, item: str) -> None:
        self.table, self._heading, self._gap, self._item = table, heading, gap, item

    def heading(self, title: str) -> str:
        return self._heading.format(title)

    def part(self, title: str, body: str) -> str:
        return self.heading(title) + self._gap + body

    def words(self, lines: Sequence[str]) -> str:
        """Return lines of a verdict; those that are indented are items of a list."""
        return "\n".join(
            self._item.format(line.strip()) if line.startswith("  ") else f"{gap}{line}"
            for line, gap in zip(lines, ["", *[self._gap[1:]] * len(lines)], strict=False)
        )


_TEXT = _Style(text_table, "{}", "\n", "  {}")
_MARKDOWN = _Style(markdown_table, "## {}", "\n\n", "- {}")


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the metrics of an eval_summary.json as a text table, an undefined one as "-"."""
    metrics: Mapping[str, Mapping[str, float | None]] = summary["metrics"]
    names = dict.fromkeys(name for of in metrics.values() for name in of)
    table = text_table(
        ["metric (%)", *(IOU_NAMES[iou_type] for iou_type in metrics)],
        [[name, *(number(of.get(name)) for of in metrics.values())] for name in names],
    )
    dataset, results = summary["dataset"], summary["results"]
    return (
        f"{dataset['name']}: {dataset['num_images']:,} images, "
        f"{dataset['num_annotations']:,} annotations, {dataset['num_categories']:,} categories; "
        f"{results['num_detections']:,} detections\n{table}\n\n"
        + "\n".join([*found_categories(summary), *_groups_of(summary)])
    ).rstrip()


def _groups_of(summary: Mapping[str, Any]) -> list[str]:
    limits = summary["evaluation"].get("group_limits")
    sentence = groups_sentence(None if limits is None else GroupLimits(**limits))
    return [sentence] if sentence else []


# Comparison


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as aligned plain text."""
    return _comparison(comparison, _TEXT)


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    return _comparison(comparison, _MARKDOWN)


def save_comparison_tables(comparison: Comparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write comparison.{txt,md,json,csv} and comparison_categories.csv; return their paths."""
    contents = {
        f"{layout.COMPARISON}.txt": comparison_text(comparison),
        f"{layout.COMPARISON}.md": comparison_markdown(comparison),
        f"{layout.COMPARISON}.json": json_text(comparison_json(comparison)),
        f"{layout.COMPARISON}.csv": comparison_csv(comparison),
        layout.COMPARISON_CATEGORIES: comparison_categories_csv(comparison),
    }
    return _save(contents, folder)


def _comparison(comparison: Comparison, style: _Style) -> str:
    dataset, names = comparison.dataset, comparison.names
    size = f"{dataset.num_images:,} images, {dataset.num_categories:,} categories"
    title = f"{' | '.join(names)} on {dataset.name or dataset.path or 'data set'} ({size})"
    parts = [style.heading(title), *_in_words(comparison, style)]
    for iou_type in comparison.iou_types:
        title = f"{IOU_NAMES[iou_type].capitalize()} AP and AR (percent)"
        parts.append(style.part(title, style.table(*_metric_table(comparison, iou_type))))
    parts.append(_interval_note(comparison))
    for run, name in enumerate(names[1:], start=1):
        for verb, rows in zip(("gained", "lost"), comparison.extremes(run), strict=True):
            kind = IOU_NAMES[comparison.main_iou_type]
            title = f"Categories that {verb} most {kind} AP in {name}"
            table = style.table(*_category_table(comparison, rows, run)) if rows else "None."
            parts.append(style.part(title, table))
    groups = groups_sentence(comparison.group_limits)
    parts += [f"Note: {note}" for note in [*comparison.notes, groups] if note]
    return "\n\n".join(parts)


def _in_words(comparison: Comparison, style: _Style) -> list[str]:
    """Return the verdicts, the recommended run and the terms; of many runs one verdict."""
    found = shown_verdicts(comparison)
    parts = [style.part(f"In words: {v.run}", style.words(verdict_lines(v))) for v in found]
    use = recommendation(comparison).replace(MINUS, "-")
    parts += [style.part("What now", use)] if use else []
    if len(comparison.runs) > 1:
        parts.append(style.part("Terms", style.words([f"  {t}" for t in _terms(comparison)])))
    return parts


def _terms(comparison: Comparison) -> list[str]:
    terms = list(_TERMS)
    if comparison.at_recall:
        recall = 100 * comparison.at_recall[0].recall
        terms += [term.format(recall=recall) for term in _RECALL_TERMS]
    return [*terms, _INTERVAL_TERM] if comparison.replicates else terms


def _metric_table(comparison: Comparison, iou_type: str) -> Table:
    names = comparison.names
    header = ["metric", *names]
    for name in names[1:]:
        header.append("difference" if len(names) == 2 else f"{name} - {names[0]}")
        if comparison.replicates:
            header.append("95% interval")
    rows = []
    for row in comparison.metrics:
        if row.iou_type != iou_type:
            continue
        cells = [row.metric, *(number(value) for value in row.values)]
        for value, interval in zip(row.differences, row.difference_intervals, strict=True):
            cells.append(signed(value))
            if comparison.replicates:
                cells.append(interval_text(interval))
        rows.append(cells)
    return header, rows


def _category_table(comparison: Comparison, rows: Sequence[CategoryRow], run: int) -> Table:
    iou_type, names = comparison.main_iou_type, comparison.names
    header = ["category", "id", "group", "training images", "val instances"]
    return [*header, names[0], names[run], "difference"], [
        [
            row.name,
            str(row.id),
            row.group,
            number(row.image_count, 0),
            number(row.num_gt, 0),
            number(row.ap[iou_type][0]),
            number(row.ap[iou_type][run]),
            signed(row.difference[iou_type][run - 1]),
        ]
        for row in rows
    ]


def _interval_note(comparison: Comparison) -> str:
    if len(comparison.runs) == 1:
        return "One run: no differences, and no intervals."
    if not comparison.replicates:
        return "No intervals: see the notes."
    return (
        f"Intervals: paired bootstrap over images, {comparison.replicates:,} replicates, seed "
        f"{comparison.seed}. They cover the choice of the evaluated images, not that of the "
        "training seed. A difference whose interval contains 0 may be chance."
    )


# False positives


def false_positives_text(analysis: FalsePositiveAnalysis) -> str:
    """Return the tables of an analysis of false positives as aligned plain text."""
    return _false_positives(analysis, _TEXT)


def false_positives_markdown(analysis: FalsePositiveAnalysis) -> str:
    """Return the tables of an analysis of false positives as Markdown."""
    return _false_positives(analysis, _MARKDOWN)


def save_false_positives(
    analysis: FalsePositiveAnalysis, folder: str | os.PathLike[str]
) -> list[Path]:
    """Write false_positives.{txt,md,json,csv}; return their paths."""
    contents = {
        f"{layout.FALSE_POSITIVES}.txt": false_positives_text(analysis),
        f"{layout.FALSE_POSITIVES}.md": false_positives_markdown(analysis),
        f"{layout.FALSE_POSITIVES}.json": json_text(false_positives_json(analysis)),
        f"{layout.FALSE_POSITIVES}.csv": false_positives_csv(analysis),
    }
    return _save(contents, folder)


def _false_positives(analysis: FalsePositiveAnalysis, style: _Style) -> str:
    at = f"at recall {analysis.recall:g} ({IOU_NAMES[analysis.iou_type]} IoU 0.5)"
    shares = {group: f"{100 * share:.2f}%" for group, share in analysis.coverage.items()}
    by_group = ", ".join(f"{GROUP_LABELS[g]} {shares[g]}" for g in GROUPS if g != "all")
    words = [line for verdict in verdicts(None, [analysis]) for line in verdict_lines(verdict)]
    parts = [
        style.heading(f"False positives {at}"),
        style.words(words),
        _matched_note(analysis),
        style.table(*_total_table(analysis, lambda row: row.total, 0)),
        style.part(
            "Per 1,000 verified images of the category, mean over categories",
            style.table(*_total_table(analysis, lambda row: row.per_1000, 1)),
        ),
        style.part(f"By error type {at}", style.table(*_type_table(analysis))),
        f"Coverage: {shares['all']} of all image-category cells are verified ({by_group}). "
        "Detections elsewhere are unverifiable and are no false positives.",
        style.part("All detections by outcome", style.table(*_outcome_table(analysis))),
    ]
    if analysis.confusions:
        table = style.table(*_confusion_table(analysis), left=2)
        parts.append(style.part(f"Most frequent confusions {at}", table))
    note = "One score or one K per image means another recall in each run.\n\n"
    table = style.table(*_fixed_cut_table(analysis))
    parts.append(style.part("Secondary views, not comparable between runs", note + table))
    return "\n\n".join(parts)


def _matched_note(analysis: FalsePositiveAnalysis) -> str:
    row, names = analysis.groups[0], analysis.names
    note = f"Over {row.matched:,} of {row.categories:,} categories with ground truth, those in "
    note += f"which {all_runs_reach(names)} this recall"
    if len(names) > 1:
        reached = zip(names, row.reached, strict=True)
        note += f" ({', '.join(f'{name} in {count:,}' for name, count in reached)})"
    return note + ("." if row.matched else "; choose a lower recall.")


def scene_text(scene: Scene) -> str:
    """Return the counts of a scene in words: "3 false positives removed"."""
    first, *later = scene.false_positives
    count = _false_positives_in_words(abs(scene.change))
    if not later:
        return count
    if scene.change == 0:
        return f"{_false_positives_in_words(first)} in both"
    return f"{count} {'added' if scene.change > 0 else 'removed'}"


def _false_positives_in_words(count: int) -> str:
    return f"{count} false positive{'' if count == 1 else 's'}"


def _total_table(
    analysis: FalsePositiveAnalysis, values: Callable[[GroupRow], Sequence[float]], decimals: int
) -> Table:
    names = analysis.names
    header = ["group", "categories", *names, *(f"{name} - {names[0]}" for name in names[1:])]
    rows = []
    for row in analysis.groups:
        first, *later = values(row) if row.matched else [math.nan] * len(names)
        rows.append(
            [
                GROUP_LABELS[row.group],
                f"{row.matched:,} of {row.categories:,}",
                *(number(value, decimals) for value in (first, *later)),
                *(signed(value - first, decimals) for value in later),
            ]
        )
    return header, rows


def _type_table(analysis: FalsePositiveAnalysis) -> Table:
    header = ["type"]
    for row in analysis.groups:
        header += [f"{GROUP_LABELS[row.group]}: {name}" for name in analysis.names]
    rows = []
    for column, error_type in enumerate(ERROR_TYPES):
        counts = [run[column] for row in analysis.groups for run in row.by_type]
        rows.append([error_type, *(number(count, 0) for count in counts)])
    return header, rows


def _outcome_table(analysis: FalsePositiveAnalysis) -> Table:
    runs = analysis.runs
    rows = [
        [label, *(number(run.outcomes[outcome], 0) for run in runs)]
        for outcome, label in OUTCOME_WORDS.items()
    ]
    rows += [
        [f"  {error_type}", *(number(run.error_types[error_type], 0) for run in runs)]
        for error_type in ERROR_TYPES
    ]
    rows.append(["in the file", *(number(run.num_detections, 0) for run in runs)])
    return ["outcome", *analysis.names], rows


def _confusion_table(analysis: FalsePositiveAnalysis) -> Table:
    rows = [
        [
            analysis.category_names[confusion.gt_category],
            analysis.category_names[confusion.predicted],
            *(number(count, 0) for count in confusion.counts),
        ]
        for confusion in analysis.confusions[:NUM_CONFUSIONS]
    ]
    return ["object", "detected as", *analysis.names], rows


def _fixed_cut_table(analysis: FalsePositiveAnalysis) -> Table:
    shown = {"FP": "false", "TP": "true", "UNVERIFIED": "unverifiable"}
    header = ["view", *(f"{name}: {word}" for name in analysis.names for word in shown.values())]
    rows = [
        [_fixed_cut(cut), *(number(counts[key], 0) for counts in cut.counts for key in shown)]
        for cut in analysis.fixed_cuts
    ]
    return header, rows


def _fixed_cut(cut: FixedCut) -> str:
    if cut.rule == "top_k":
        return f"best {cut.value:g} of each image"
    return f"score >= {cut.value:g}"


def _save(contents: Mapping[str, str], folder: str | os.PathLike[str]) -> list[Path]:
    paths = [Path(folder, name) for name in contents]
    with together():
        for path, content in zip(paths, contents.values(), strict=True):
            with atomic_write(path) as f:
                f.write(content.rstrip("\n") + "\n")
    return paths
