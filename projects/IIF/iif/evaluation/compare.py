"""An honest comparison of evaluated runs: same data, same settings, intervals on differences.

Works on ``eval_summary.json`` files, and on the ``eval_matches.npz`` beside them for the intervals;
docs/evaluation.md says what each figure means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from iif.errors import InputError
from iif.evaluation.bootstrap import (
    GROUP_METRICS,
    paired_bootstrap,
    percentile_interval,
    weighted_average_precision,
)
from iif.evaluation.matching import Matches, load_matches
from iif.evaluation.summary import MATCHES_FILE, SUMMARY_FILE, SUMMARY_FORMAT
from iif.evaluation.tables import Cell, csv_text, markdown_table, number, text_table
from iif.files import atomic_write, read_json, versions

FORMAT = "iif-comparison/1"
IOU_TYPES = {"bbox": "Box", "segm": "Mask"}
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300"),
    *("AP-fixed", "APr-fixed", "APc-fixed", "APf-fixed"),
)
# Categories listed as having gained or lost most.
NUM_EXTREMES = 10


@dataclass(frozen=True)
class Interval:
    """A 95% percentile interval, in percentage points."""

    low: float
    high: float


@dataclass(frozen=True)
class RunInfo:
    """Where a run's figures come from.

    Attributes:
        name: as printed.
        summary: path of its eval_summary.json.
        results, results_sha256: the result file that was evaluated (None when not recorded).
        num_detections: detections in that file.
        test_settings: score_threshold, nms_threshold, detections_per_image; None where unknown.
    """

    name: str
    summary: str
    results: str | None
    results_sha256: str | None
    num_detections: int | None
    test_settings: dict[str, float | None]


@dataclass(frozen=True)
class DatasetInfo:
    """The data set that all runs were evaluated on."""

    name: str | None
    path: str | None
    sha256: str
    num_images: int
    num_categories: int
    exhaustive: bool


@dataclass(frozen=True)
class MetricRow:
    """One metric (percent) of every run; None where undefined or not computed.

    Attributes:
        iou_type: "bbox" or "segm".
        metric: "AP", "APr", "AP-fixed", "AR@300", ...
        values: (runs,) the first is the baseline's.
        differences: (runs - 1,) later runs minus the baseline.
        difference_intervals: (runs - 1,) paired bootstrap interval of each difference.
    """

    iou_type: str
    metric: str
    values: list[float | None]
    differences: list[float | None]
    difference_intervals: list[Interval | None]


@dataclass(frozen=True)
class CategoryRow:
    """One category: AP (percent) of every run by IoU type, and later runs minus the baseline.

    Attributes:
        id, name: the category.
        group: "r", "c" or "f".
        image_count: training images that contain it; None when unknown.
        num_gt: ground-truth instances in the evaluated set.
        ap: IoU type -> (runs,) AP.
        difference: IoU type -> (runs - 1,) difference of AP.
    """

    id: int
    name: str
    group: str
    image_count: int | None
    num_gt: int
    ap: dict[str, list[float | None]]
    difference: dict[str, list[float | None]]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the first is the baseline.

    Attributes:
        runs: (runs,).
        dataset: what they were evaluated on.
        iou_types: those that every run has.
        metrics: rows in print order, box before mask.
        categories: (K,) in the order of ids.
        notes: what the reader must know (settings that are unknown, IoU types left out, ...).
        replicates: bootstrap replicates behind the intervals; 0 when there are no intervals.
        seed: of the bootstrap.
    """

    runs: list[RunInfo]
    dataset: DatasetInfo
    iou_types: list[str]
    metrics: list[MetricRow]
    categories: list[CategoryRow]
    notes: list[str]
    replicates: int
    seed: int

    @property
    def names(self) -> list[str]:
        """Names of the runs, the baseline's first."""
        return [run.name for run in self.runs]

    @property
    def main_iou_type(self) -> str:
        """The IoU type that rankings of categories use: masks where every run has them."""
        return self.iou_types[-1]

    def extremes(self, run: int = 1) -> tuple[list[CategoryRow], list[CategoryRow]]:
        """Return the categories that gained and that lost most AP in ``run``, the most first.

        Ranked by `main_iou_type`; ties go to the category with more ground truth.
        """
        changed = []
        for row in self.categories:
            difference = row.difference[self.main_iou_type][run - 1]
            if difference:
                changed.append((difference, row))
        gained = sorted((x for x in changed if x[0] > 0), key=lambda x: (-x[0], -x[1].num_gt))
        lost = sorted((x for x in changed if x[0] < 0), key=lambda x: (x[0], -x[1].num_gt))
        return [row for _, row in gained[:NUM_EXTREMES]], [row for _, row in lost[:NUM_EXTREMES]]

    def to_text(self) -> str:
        """Return the comparison as aligned plain text."""
        return self._render(text_table, "{}", "\n")

    def to_markdown(self) -> str:
        """Return the comparison as Markdown."""
        return self._render(markdown_table, "## {}", "\n\n")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; undefined is None."""
        return {"format": FORMAT, "versions": versions(), **asdict(self)}

    def to_csv(self) -> str:
        """Return the metric table as CSV with a row for each IoU type and metric."""
        header = ["iou_type", "metric", *self.names]
        for name in self.names[1:]:
            header += [f"difference {name}", f"difference {name}: low", f"difference {name}: high"]
        rows = []
        for row in self.metrics:
            cells: list[Cell] = [row.iou_type, row.metric, *row.values]
            for value, interval in zip(row.differences, row.difference_intervals, strict=True):
                bounds = (None, None) if interval is None else (interval.low, interval.high)
                cells += [value, *bounds]
            rows.append(cells)
        return csv_text(header, rows)

    def categories_to_csv(self) -> str:
        """Return AP by category as CSV."""
        header = ["id", "name", "frequency", "image_count", "num_gt"]
        for iou_type in self.iou_types:
            header += [f"{iou_type} AP {name}" for name in self.names]
            header += [f"{iou_type} AP difference {name}" for name in self.names[1:]]
        rows = []
        for row in self.categories:
            cells: list[Cell] = [row.id, row.name, row.group, row.image_count, row.num_gt]
            for iou_type in self.iou_types:
                cells += [*row.ap[iou_type], *row.difference[iou_type]]
            rows.append(cells)
        return csv_text(header, rows)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write comparison.{txt,md,json,csv} and comparison_categories.csv; return their paths."""
        contents = {
            "comparison.txt": self.to_text(),
            "comparison.md": self.to_markdown(),
            "comparison.json": msgspec.json.format(msgspec.json.encode(self.to_json())).decode(),
            "comparison.csv": self.to_csv(),
            "comparison_categories.csv": self.categories_to_csv(),
        }
        paths = [Path(folder, name) for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            with atomic_write(path) as f:
                f.write(content.rstrip("\n") + "\n")
        return paths

    def _render(self, table: Any, heading: str, gap: str) -> str:
        """Return all parts, each a heading, a gap and a table made by ``table``."""
        dataset = self.dataset
        size = f"{dataset.num_images:,} images, {dataset.num_categories:,} categories"
        title = f"{' | '.join(self.names)} on {dataset.name or dataset.path or 'data set'} ({size})"
        parts = [heading.format(title)]
        for iou_type in self.iou_types:
            title = f"{IOU_TYPES[iou_type]} AP and AR (percent)"
            parts.append(heading.format(title) + gap + self._metric_table(table, iou_type))
        parts.append(self._interval_note())
        for run, name in enumerate(self.names[1:], start=1):
            for verb, rows in zip(("gained", "lost"), self.extremes(run), strict=True):
                title = f"Categories that {verb} most {IOU_TYPES[self.main_iou_type].lower()} AP"
                title += f" in {name}"
                body = self._category_table(table, rows, run) if rows else "None."
                parts.append(heading.format(title) + gap + body)
        parts += [f"Note: {note}" for note in self.notes]
        return "\n\n".join(parts)

    def _metric_table(self, table: Any, iou_type: str) -> str:
        header = ["metric", *self.names]
        for name in self.names[1:]:
            header.append("difference" if len(self.runs) == 2 else f"{name} - {self.names[0]}")
            if self.replicates:
                header.append("95% interval")
        rows = []
        for row in self.metrics:
            if row.iou_type != iou_type:
                continue
            cells = [row.metric, *(number(value) for value in row.values)]
            for value, interval in zip(row.differences, row.difference_intervals, strict=True):
                cells.append(number(value, signed=True))
                if self.replicates:
                    cells.append(_bounds(interval))
            rows.append(cells)
        return table(header, rows)

    def _category_table(self, table: Any, rows: Sequence[CategoryRow], run: int) -> str:
        iou_type = self.main_iou_type
        header = ["category", "id", "group", "training images", "val instances"]
        return table(
            [*header, self.names[0], self.names[run], "difference"],
            [
                [
                    row.name,
                    str(row.id),
                    row.group,
                    number(row.image_count, 0),
                    number(row.num_gt, 0),
                    number(row.ap[iou_type][0]),
                    number(row.ap[iou_type][run]),
                    number(row.difference[iou_type][run - 1], signed=True),
                ]
                for row in rows
            ],
        )

    def _interval_note(self) -> str:
        if len(self.runs) == 1:
            return "One run: no differences, and no intervals."
        if not self.replicates:
            return "No intervals: see the notes."
        return (
            f"Intervals: paired bootstrap over images, {self.replicates:,} replicates, seed "
            f"{self.seed}. They cover the choice of the evaluated images, not that of the training "
            "seed. A difference whose interval contains 0 may be chance."
        )


class _Dataset(msgspec.Struct):
    sha256: str
    num_images: int
    num_categories: int
    name: str | None = None
    path: str | None = None
    exhaustive: bool = False


class _Results(msgspec.Struct):
    path: str | None = None
    sha256: str | None = None
    num_detections: int | None = None


class _Evaluation(msgspec.Struct):
    max_dets: int | None
    iou_thresholds: list[float]


class _CategoryAP(msgspec.Struct):
    AP: float | None = None


class _Category(msgspec.Struct):
    id: int
    name: str
    group: str = msgspec.field(name="frequency")  # as LVIS names it
    num_gt: int
    image_count: int | None = None
    bbox: _CategoryAP | None = None
    segm: _CategoryAP | None = None


class _Summary(msgspec.Struct):
    """The part of eval_summary.json that a comparison needs."""

    format: str
    dataset: _Dataset
    evaluation: _Evaluation
    metrics: dict[str, dict[str, float | None]]
    per_category: list[_Category]
    results: _Results = msgspec.field(default_factory=_Results)
    test_settings: dict[str, float | None] = msgspec.field(default_factory=dict)


def compare(
    paths: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare evaluated runs; the first is the baseline. One run alone has no differences.

    Args:
        paths: of each run its eval_summary.json, or a folder with one, in it or in its
            ``inference`` folder (Detectron2's layout).
        names: of the runs; default: the names of their folders.
        bootstrap: replicates behind the 95% intervals, 0 for none.
        seed: of the bootstrap.

    Raises:
        InputError: a summary is missing or malformed, or runs were evaluated differently (data set,
            frequency groups, test settings that both know, cap on detections), or names are not
            given for all or not different; the message names the fault.
    """
    if not paths:
        raise InputError("a comparison needs a run: give an evaluation summary or its folder")
    if names is not None and len(names) != len(paths):
        raise InputError(f"{len(names)} names for {len(paths)} runs; give one for each")
    if names is not None and len(set(names)) != len(names):
        raise InputError(f"the names {', '.join(names)} are not different; give each run its own")
    files = [find_summary(path) for path in paths]
    summaries = [_read_summary(path) for path in files]
    labels = list(names) if names is not None else _default_names(files)
    pairs = list(zip(labels, summaries, strict=True))
    for later in pairs[1:]:
        _refuse_differences(pairs[0], later)
    # Settings that the baseline does not know can still differ between two later runs.
    for one, other in combinations(pairs[1:], 2):
        _refuse_differences(one, other)
    iou_types, notes = _common_iou_types(pairs)
    if len(pairs) > 1:
        notes += _setting_notes(pairs) + _same_results_notes(pairs)

    replicates = {}
    if bootstrap and len(pairs) > 1:
        matches, missing = _load_all_matches(files, summaries, labels, iou_types)
        notes += missing
        if not missing:
            groups = np.array([row.group for row in summaries[0].per_category])
            num_images = summaries[0].dataset.num_images
            for iou_type in iou_types:
                replicates[iou_type] = paired_bootstrap(
                    [m[iou_type] for m in matches],
                    groups,
                    num_images,
                    replicates=bootstrap,
                    seed=seed,
                )
    elif len(pairs) > 1:
        notes.append("no intervals: the bootstrap was turned off.")

    dataset = summaries[0].dataset
    return Comparison(
        runs=[
            RunInfo(
                label,
                str(path),
                summary.results.path,
                summary.results.sha256,
                summary.results.num_detections,
                summary.test_settings,
            )
            for label, path, summary in zip(labels, files, summaries, strict=True)
        ],
        dataset=DatasetInfo(
            dataset.name,
            dataset.path,
            dataset.sha256,
            dataset.num_images,
            dataset.num_categories,
            dataset.exhaustive,
        ),
        iou_types=iou_types,
        metrics=[
            _metric_row(iou_type, metric, summaries, replicates.get(iou_type))
            for iou_type in iou_types
            for metric in METRICS
        ],
        categories=_category_rows(summaries, iou_types),
        notes=notes,
        replicates=bootstrap if replicates else 0,
        seed=seed,
    )


def find_summary(path: str | os.PathLike[str]) -> Path:
    """Return the eval_summary.json that ``path`` is, or that lies in it or in its ``inference``."""
    path = Path(path)
    if not path.is_dir():
        return path
    candidates = [path / SUMMARY_FILE, path / "inference" / SUMMARY_FILE]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{path}: neither {SUMMARY_FILE} nor inference/{SUMMARY_FILE} lies in this folder; "
        "evaluate the run first (iif evaluate, or train_net.py --eval-only)"
    )


def _read_summary(path: Path) -> _Summary:
    summary = read_json(path, _Summary, what="a summary written by iif evaluate")
    if summary.format != SUMMARY_FORMAT:
        raise InputError(
            f"{path}: format is {summary.format!r}, expected {SUMMARY_FORMAT!r}; "
            "evaluate the run again with this version"
        )
    return summary


def _default_names(files: Sequence[Path]) -> list[str]:
    """Name runs after their folders; where those agree, after as much of the path as differs."""
    folders = [file.absolute().parent for file in files]
    folders = [f.parent if f.name == "inference" else f for f in folders]
    for depth in range(1, max(len(f.parts) for f in folders)):
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(folders, start=1)]


def _refuse_differences(a: tuple[str, _Summary], b: tuple[str, _Summary]) -> None:
    """Raise InputError when two (name, summary) were evaluated differently."""
    (name_a, summary_a), (name_b, summary_b) = a, b

    def check(what: str, value_a: object, value_b: object, remedy: str) -> None:
        if value_a != value_b:
            raise InputError(
                f"{name_a} and {name_b} cannot be compared: {what} is {value_a} in {name_a} "
                f"and {value_b} in {name_b}; {remedy}"
            )

    data_a, data_b = summary_a.dataset, summary_b.dataset
    remedy = "evaluate both on the same annotation file"
    if data_a.sha256 != data_b.sha256:
        paths = data_a.path or data_a.name, data_b.path or data_b.name
        check(
            "the annotation file",
            f"{paths[0]} (sha256 {data_a.sha256[:12]})",
            f"{paths[1]} (sha256 {data_b.sha256[:12]})",
            remedy,
        )
    ids_a, ids_b = ([row.id for row in s.per_category] for s in (summary_a, summary_b))
    check("the number of categories", len(ids_a), len(ids_b), remedy)
    if ids_a != ids_b:
        raise InputError(f"{name_a} and {name_b} cannot be compared: category ids differ; {remedy}")
    for row_a, row_b in zip(summary_a.per_category, summary_b.per_category, strict=True):
        check(
            f"the frequency group of category {row_a.id}",
            row_a.group,
            row_b.group,
            "evaluate both with the counts of the same training annotations (iif evaluate "
            "--train-json)",
        )
    remedy = "evaluate both in the same way"
    check("exhaustive annotation", data_a.exhaustive, data_b.exhaustive, remedy)
    evaluation_a, evaluation_b = summary_a.evaluation, summary_b.evaluation
    check("max_dets", evaluation_a.max_dets, evaluation_b.max_dets, remedy)
    check("iou_thresholds", evaluation_a.iou_thresholds, evaluation_b.iou_thresholds, remedy)
    remedy = "run inference of both with the same test settings"
    for key in summary_a.test_settings.keys() & summary_b.test_settings.keys():
        values = summary_a.test_settings[key], summary_b.test_settings[key]
        if None not in values:
            check(key, *values, remedy)


def _common_iou_types(pairs: Sequence[tuple[str, _Summary]]) -> tuple[list[str], list[str]]:
    """Return the IoU types that all have, and a note for each that some lack."""
    common, notes = [], []
    for iou_type, label in IOU_TYPES.items():
        without = [name for name, summary in pairs if not summary.metrics.get(iou_type)]
        if not without:
            common.append(iou_type)
        elif len(without) < len(pairs):
            notes.append(f"{label.lower()} AP is left out: {', '.join(without)} has none.")
    if not common:
        raise InputError(
            "the runs have no IoU type in common; evaluate all with the same --iou-type"
        )
    return common, notes


def _setting_notes(pairs: Sequence[tuple[str, _Summary]]) -> list[str]:
    """Say which test settings could not be checked."""
    notes = []
    keys = sorted({key for _, summary in pairs for key in summary.test_settings})
    for key in keys or ["test_settings"]:
        unknown = [name for name, summary in pairs if summary.test_settings.get(key) is None]
        if unknown:
            notes.append(
                f"{key} is not recorded for {', '.join(unknown)}: "
                "whether it was the same could not be checked."
            )
    return notes


def _same_results_notes(pairs: Sequence[tuple[str, _Summary]]) -> list[str]:
    return [
        f"{a} and {b} were evaluated from the same result file."
        for (a, first), (b, second) in combinations(pairs, 2)
        if first.results.sha256 and first.results.sha256 == second.results.sha256
    ]


def _load_all_matches(
    files: Sequence[Path],
    summaries: Sequence[_Summary],
    names: Sequence[str],
    iou_types: Sequence[str],
) -> tuple[list[dict[str, Matches]], list[str]]:
    """Return each run's matches, or notes that say which are missing."""
    matches = []
    for file, summary, name in zip(files, summaries, names, strict=True):
        path = file.with_name(MATCHES_FILE)
        again = f"evaluate {name} again to make it"
        if not path.is_file():
            return [], [f"no intervals: {path} is missing; {again}."]
        loaded = load_matches(path)
        for iou_type in iou_types:
            if iou_type not in loaded:
                return [], [f"no intervals: {path} has no {iou_type} matches; {again}."]
            _check_same_evaluation(path, loaded[iou_type], summary)
        matches.append(loaded)
    return matches, []


def _check_same_evaluation(path: Path, matches: Matches, summary: _Summary) -> None:
    """Raise InputError when the matches give another AP than the summary beside them."""
    once = np.ones(summary.dataset.num_images, np.int64)
    remedy = f"{path} does not belong to the {SUMMARY_FILE} beside it; evaluate the run again"
    images = np.concatenate([matches.image, matches.gt_image])
    if (
        len(matches.category_offsets) - 1 != len(summary.per_category)
        or images.max(initial=-1) >= summary.dataset.num_images
    ):
        raise InputError(remedy)
    ap = weighted_average_precision(matches)(once)
    for row, value in zip(summary.per_category, ap, strict=True):
        recorded = _category_ap(row, matches.iou_type)
        expected = np.nan if recorded is None else recorded
        if not np.isclose(value, expected, rtol=0, atol=1e-6, equal_nan=True):
            raise InputError(remedy)


def _metric_row(
    iou_type: str, metric: str, summaries: Sequence[_Summary], replicates: np.ndarray | None
) -> MetricRow:
    values = [summary.metrics[iou_type].get(metric) for summary in summaries]
    difference_intervals: list[Interval | None] = [None] * (len(values) - 1)
    if replicates is not None and metric in GROUP_METRICS:
        drawn = replicates[:, :, GROUP_METRICS.index(metric)]
        difference_intervals = [_interval(run - drawn[0]) for run in drawn[1:]]
    return MetricRow(
        iou_type,
        metric,
        values,
        _differences(values),
        difference_intervals,
    )


def _category_rows(summaries: Sequence[_Summary], iou_types: Sequence[str]) -> list[CategoryRow]:
    rows = []
    for same in zip(*(summary.per_category for summary in summaries), strict=True):
        ap = {iou_type: [_category_ap(row, iou_type) for row in same] for iou_type in iou_types}
        first = same[0]
        rows.append(
            CategoryRow(
                first.id,
                first.name,
                first.group,
                first.image_count,
                first.num_gt,
                ap,
                {iou_type: _differences(values) for iou_type, values in ap.items()},
            )
        )
    return rows


def _category_ap(row: _Category, iou_type: str) -> float | None:
    entry = getattr(row, iou_type)
    return None if entry is None else entry.AP


def _differences(values: Sequence[float | None]) -> list[float | None]:
    """Return later values minus the first; None where either is undefined."""
    first, *later = values
    return [None if first is None or value is None else value - first for value in later]


def _interval(values: np.ndarray) -> Interval | None:
    bounds = percentile_interval(values)
    return bounds and Interval(*bounds)


def _bounds(interval: Interval | None) -> str:
    """Return "[-0.10, +2.40]", or nothing for a metric that the bootstrap does not cover."""
    if interval is None:
        return ""
    return f"[{number(interval.low, signed=True)}, {number(interval.high, signed=True)}]"
