"""Comparison of classification runs: same test set, same classes, intervals on differences.

Works on ``eval_summary.json`` files, and on the ``predictions.npz`` beside them for the intervals.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError
from iif.evaluation.bootstrap import percentile_interval
from iif.evaluation.classification.bootstrap import MEASURES, paired_bootstrap
from iif.evaluation.classification.predictions import Predictions
from iif.evaluation.classification.summary import (
    CLASSIFICATION_FORMAT,
    Class,
    ClassificationSummary,
    read_classification_summary,
)
from iif.evaluation.compare import Interval
from iif.evaluation.summary_file import SUMMARY_FORMAT, find_runs, read_format
from iif.files import sha256_file

# Rows of a comparison: those of the bootstrap, and the calibration error, which has no interval:
# it is biased upwards on resampled images.
METRICS = (*MEASURES[:6], "ece", *MEASURES[6:])


@dataclass(frozen=True)
class ClassificationRun:
    """An evaluated run.

    Attributes:
        name: the run's name.
        path: of its eval_summary.json.
        summary: its content.
        predictions: those beside it; None where they are missing.
    """

    name: str
    path: str
    summary: ClassificationSummary
    predictions: Predictions | None


@dataclass(frozen=True)
class MeasureRow:
    """One measure of every run; None where undefined or not computed.

    Attributes:
        metric: one of METRICS; percent, counts (false_positives_*) or per 1,000 (per_1000_*).
        values: (runs,) the first is the baseline's.
        intervals: (runs,) bootstrap interval of each value.
        differences: (runs - 1,) later runs minus the baseline.
        difference_intervals: (runs - 1,) paired bootstrap interval of each difference.
    """

    metric: str
    values: list[float | None]
    intervals: list[Interval | None]
    differences: list[float | None]
    difference_intervals: list[Interval | None]


@dataclass(frozen=True)
class ConfusionRow:
    """Images of one class that are predicted as another, by run; rows of the class table."""

    label: int
    predicted: int
    counts: list[int]


@dataclass(frozen=True)
class ClassificationComparison:
    """Runs side by side; the first is the baseline.

    Attributes:
        runs: (runs,).
        metrics: rows in the order of METRICS.
        confusions: pairs that any run confuses, the most frequent over all runs first.
        notes: sentences for the reader.
        replicates: bootstrap replicates behind the intervals; 0 when there are no intervals.
        seed: of the bootstrap.
    """

    runs: list[ClassificationRun]
    metrics: list[MeasureRow]
    confusions: list[ConfusionRow]
    notes: list[str]
    replicates: int
    seed: int

    @property
    def names(self) -> list[str]:
        """Names of the runs, the baseline's first."""
        return [run.name for run in self.runs]

    @property
    def first(self) -> ClassificationSummary:
        """The baseline's summary; the test set and the classes are those of all."""
        return self.runs[0].summary

    @property
    def classes(self) -> list[tuple[Class, ...]]:
        """(K,) the rows of a class in every run."""
        return list(zip(*(run.summary.per_class for run in self.runs), strict=True))

    def metric(self, name: str) -> MeasureRow:
        """Return the row of a measure."""
        return next(row for row in self.metrics if row.metric == name)


def are_classifications(paths: Sequence[str | os.PathLike[str]]) -> bool:
    """Return whether runs are of classification, not of detection.

    Args:
        paths: of each run its eval_summary.json or its folder.

    Raises:
        InputError: a summary is missing or of no known format, or runs of both kinds are given.
    """
    kinds = {SUMMARY_FORMAT: "detection", CLASSIFICATION_FORMAT: "classification"}
    found: dict[str, Path] = {}
    for _, path in find_runs(paths):
        kind = read_format(path)
        if kind not in kinds:
            raise InputError(
                f"{path}: format is {kind!r}, expected one of {', '.join(map(repr, kinds))}; "
                "evaluate the run again with this version"
            )
        found.setdefault(kinds[kind], path)
    if len(found) > 1:
        runs = " and ".join(f"{path} of {kind}" for kind, path in found.items())
        raise InputError(f"{runs} cannot be compared; give runs of one kind")
    return "classification" in found


def compare_classifications(
    paths: Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationComparison:
    """Compare evaluated runs; the first is the baseline. One run alone has no differences.

    Args:
        paths, names: as for `iif.evaluation.summary_file.find_runs`.
        bootstrap: replicates behind the 95% intervals, 0 for none.
        seed: of the bootstrap.

    Raises:
        InputError: a summary is missing or malformed, predictions are not those of their summary,
            or two runs have different test sets, classes or groups; the message names the fault.
    """
    found = find_runs(paths, names)
    runs: list[ClassificationRun] = []
    notes: list[str] = []
    for name, path in found:
        summary = read_classification_summary(path)
        predictions, note = _load_predictions(name, path, summary)
        notes += note
        runs.append(ClassificationRun(name, str(path), summary, predictions))
    for one, other in combinations(runs, 2):
        _refuse_differences(one, other)
    notes += _notes(runs)
    loaded = [run.predictions for run in runs if run.predictions is not None]
    drawn = None
    if bootstrap and len(loaded) == len(runs):
        groups = np.array([row.group for row in runs[0].summary.per_class])
        drawn = paired_bootstrap(loaded, groups, replicates=bootstrap, seed=seed)
    elif not bootstrap:
        notes.append("no intervals: the bootstrap was turned off.")
    return ClassificationComparison(
        runs=runs,
        metrics=[_row(metric, [run.summary for run in runs], drawn) for metric in METRICS],
        confusions=_confusions([run.summary for run in runs]),
        notes=notes,
        replicates=bootstrap if drawn is not None else 0,
        seed=seed,
    )


def value_of(summary: ClassificationSummary, metric: str) -> float | None:
    """Return one of METRICS from a summary."""
    if metric in summary.metrics:
        return summary.metrics[metric]
    kind, _, group = metric.rpartition("_")
    return getattr(summary.group(group), kind)


def _load_predictions(
    name: str, path: Path, summary: ClassificationSummary
) -> tuple[Predictions | None, list[str]]:
    if summary.predictions is None:
        return None, [f"no intervals: {path} names no predictions; evaluate {name} again."]
    file = path.with_name(Path(summary.predictions.file).name)
    if not file.is_file():
        return None, [f"no intervals: {file} is missing; evaluate {name} again to make it."]
    if sha256_file(file) != summary.predictions.sha256:
        raise InputError(
            f"{file} does not belong to the {path.name} beside it; evaluate the run again"
        )
    return Predictions.load(file), []


def _refuse_differences(one: ClassificationRun, other: ClassificationRun) -> None:
    refused = f"{one.name} and {other.name} cannot be compared"
    a, b = one.summary, other.summary

    def check(what: str, value_a: object, value_b: object, remedy: str) -> None:
        if value_a != value_b:
            raise InputError(
                f"{refused}: {what} is {value_a} in {one.name} and {value_b} in {other.name}; "
                f"{remedy}"
            )

    remedy = "evaluate both on the same test set"
    check("the number of classes", a.test_set.num_classes, b.test_set.num_classes, remedy)
    for row, (x, y) in enumerate(zip(a.per_class, b.per_class, strict=True)):
        name_a, name_b = (f"{c.name!r} (id {c.id})" for c in (x, y))
        check(f"class {row}", name_a, name_b, remedy)
    check("the number of test images", a.test_set.num_images, b.test_set.num_images, remedy)
    if a.test_set.sha256 != b.test_set.sha256:
        set_a, set_b = (f"{s.test_set.name} (sha256 {s.test_set.sha256[:12]})" for s in (a, b))
        check("the test set", set_a, set_b, f"{remedy}, with its images in the same order")
    remedy = "compare runs that were trained on the same training set"
    for x, y in zip(a.per_class, b.per_class, strict=True):
        check(f"the group of class {x.name!r}", x.group, y.group, remedy)


def _notes(runs: Sequence[ClassificationRun]) -> list[str]:
    """Return a note for each other training set than the baseline's, and for equal predictions."""
    baseline, *later = runs
    training = baseline.summary.training
    notes = [
        f"{baseline.name} and {run.name} were trained on different numbers of images "
        f"({training.num_images:,} and {run.summary.training.num_images:,}); counts shown are "
        f"those of {baseline.name}."
        for run in later
        if run.summary.training.sha256 != training.sha256
    ]
    files = [(run.name, run.summary.predictions) for run in runs]
    return notes + [
        f"{a} and {b} have the same predictions."
        for (a, one), (b, other) in combinations(files, 2)
        if one and other and one.sha256 == other.sha256
    ]


def _row(
    metric: str,
    summaries: Sequence[ClassificationSummary],
    drawn: NDArray[np.float64] | None,
) -> MeasureRow:
    values = [value_of(summary, metric) for summary in summaries]
    first, *later = values
    intervals: list[Interval | None] = [None] * len(values)
    difference_intervals: list[Interval | None] = [None] * len(later)
    if drawn is not None and metric in MEASURES:
        column = drawn[:, :, MEASURES.index(metric)]
        intervals = [_interval(run) for run in column]
        # Rounded: equal sums that differ in their last bits are no difference.
        difference_intervals = [_interval((run - column[0]).round(9)) for run in column[1:]]
    differences = [None if first is None or v is None else v - first for v in later]
    return MeasureRow(metric, values, intervals, differences, difference_intervals)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    bounds = percentile_interval(values)
    return bounds and Interval(*bounds)


def _confusions(summaries: Sequence[ClassificationSummary]) -> list[ConfusionRow]:
    counts = [{(i, j): n for i, j, n in summary.confusions} for summary in summaries]
    total: Counter[tuple[int, int]] = Counter()
    for of_run in counts:
        total.update(of_run)
    pairs = sorted(total, key=lambda pair: (-total[pair], pair))
    return [ConfusionRow(*pair, [of_run.get(pair, 0) for of_run in counts]) for pair in pairs]
