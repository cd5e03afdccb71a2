"""Several training seeds of a method: pooled means, their spread, and intervals.

A comparison of single runs speaks of two checkpoints. With several seeds of each method the
interval covers the choice of the evaluated images and that of the seeds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from iif.data.groups import GroupLimits
from iif.errors import InputError
from iif.evaluation import compare as runs
from iif.evaluation.bootstrap import percentile_interval
from iif.evaluation.compare import Interval
from iif.evaluation.conditions import Conditions, common_iou_types, refuse_differences
from iif.evaluation.grouping import alike_grouped
from iif.evaluation.intervals import Replicates
from iif.evaluation.summary_file import find_summary, read_summary


@dataclass(frozen=True)
class SeedRow:
    """One metric (percent) of every method; None where a seed does not define it.

    Attributes:
        iou_type: "bbox" or "segm".
        metric: "AP", "APr", "AP-fixed", ...
        values: (methods,) of each the values of its seeds.
        means: (methods,) over the seeds.
        spreads: (methods,) sample standard deviation over the seeds; None of a single one.
        differences: (methods - 1,) later means minus the first.
        intervals: (methods - 1,) of each difference, over images and seeds; None without.
        behind: (methods,) interval of each mean minus the highest one; None of the highest itself,
            and without a bootstrap.
    """

    iou_type: str
    metric: str
    values: list[list[float | None]]
    means: list[float | None]
    spreads: list[float | None]
    differences: list[float | None]
    intervals: list[Interval | None]
    behind: list[Interval | None]

    @property
    def best(self) -> int | None:
        """Position of the method of the highest mean, the first of equal ones; None without."""
        known = [(mean, -i) for i, mean in enumerate(self.means) if mean is not None]
        return -max(known)[1] if known else None


@dataclass(frozen=True)
class SeedComparison:
    """Methods of several seeds side by side; the first is the baseline.

    Attributes:
        methods: names.
        seeds: (methods,) how many runs each has.
        summaries: (methods,) the paths of their summaries.
        metrics: box before mask.
        notes: sentences for the reader.
        replicates: bootstrap replicates behind the intervals; 0 when there are none.
        seed: of the bootstrap.
    """

    methods: list[str]
    seeds: list[int]
    summaries: list[list[str]]
    metrics: list[SeedRow]
    notes: list[str]
    replicates: int
    seed: int


def compare_seeds(
    paths: Sequence[str | os.PathLike[str]],
    names: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    group_limits: GroupLimits | None = None,
) -> SeedComparison:
    """Compare methods of which several runs were evaluated; the first method is the baseline.

    A replicate draws images with replacement, the same for all runs, and of each method with n
    seeds n - 1 of them with replacement: the mean of so many varies as that of the n seeds does.
    Seeds of different methods are drawn independently of each other.

    Args:
        paths: of each run, as for `iif.evaluation.compare.compare`.
        names: of each run its method: runs of one name are its seeds.
        bootstrap: replicates behind the 95% intervals, 0 for none.
        seed: of the bootstrap.
        group_limits: as for `iif.evaluation.compare.compare`.

    Raises:
        InputError: as `iif.evaluation.compare.compare`, or all runs are of one method.
    """
    if len(names) != len(paths):
        raise InputError(f"{len(names)} names for {len(paths)} runs; give one for each")
    methods = list(dict.fromkeys(names))
    if len(methods) < 2:
        raise InputError(f"{methods[0]} is one method alone; give another one's runs, too")
    files = [find_summary(path) for path in paths]
    summaries = [read_summary(path) for path in files]
    labels = [f"{name} ({file})" for name, file in zip(names, files, strict=True)]
    conditions = [
        (label, Conditions.of_summary(summary))
        for label, summary in zip(labels, summaries, strict=True)
    ]
    for one, other in combinations(conditions, 2):
        refuse_differences(one, other)
    summaries, group_notes = alike_grouped(list(zip(labels, summaries, strict=True)), group_limits)
    iou_types, notes = common_iou_types(list(zip(labels, summaries, strict=True)))
    notes += group_notes
    replicates: dict[str, Replicates] = {}
    if bootstrap:
        matches, fixed, missing = runs.load_all_matches(files, summaries, labels, iou_types)
        notes += missing
        if not missing:
            replicates = runs.replicate_runs(
                matches, fixed, summaries[0], iou_types, replicates=bootstrap, seed=seed
            )
    values = [
        (iou_type, metric, [summary.metrics[iou_type].get(metric) for summary in summaries])
        for iou_type in iou_types
        for metric in runs.metric_names(summaries[0].evaluation.max_dets)
    ]
    return _pool(
        names,
        [str(path) for path in files],
        values,
        replicates,
        bootstrap=bootstrap,
        seed=seed,
        notes=notes,
    )


def pool_runs(
    comparison: runs.Comparison, replicates: Mapping[str, Replicates], names: Sequence[str]
) -> SeedComparison:
    """Pool compared runs over their seeds, from the replicates that their comparison made.

    Args:
        comparison, replicates: from `iif.evaluation.compare.compare_replicated`.
        names: of each run its method; at least two methods.
    """
    return _pool(
        names,
        [run.summary for run in comparison.runs],
        [(row.iou_type, row.metric, row.values) for row in comparison.metrics],
        replicates,
        bootstrap=comparison.replicates,
        seed=comparison.seed,
        notes=[],
    )


def _pool(
    names: Sequence[str],
    summaries: Sequence[str],
    values: Sequence[tuple[str, str, Sequence[float | None]]],
    replicates: Mapping[str, Replicates],
    *,
    bootstrap: int,
    seed: int,
    notes: list[str],
) -> SeedComparison:
    """Pool runs: ``values`` are IoU type, metric and each run's value."""
    methods = list(dict.fromkeys(names))
    members = [[i for i, name in enumerate(names) if name == method] for method in methods]
    # The same picks for every metric: they do not depend on the images that are drawn.
    rng = np.random.default_rng([seed, len(names)])
    picks = [np.array(own)[_picks(len(own), bootstrap, rng)] for own in members]
    return SeedComparison(
        methods=methods,
        seeds=[len(own) for own in members],
        summaries=[[summaries[i] for i in own] for own in members],
        metrics=[
            _row(iou_type, metric, of_runs, members, replicates.get(iou_type), picks)
            for iou_type, metric, of_runs in values
        ],
        notes=notes,
        replicates=bootstrap if replicates else 0,
        seed=seed,
    )


def _picks(seeds: int, replicates: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return (replicates, n - 1) the seeds that each draws; of a single seed always that one."""
    return rng.integers(seeds, size=(replicates, max(1, seeds - 1)))


def _row(
    iou_type: str,
    metric: str,
    of_runs: Sequence[float | None],
    members: Sequence[Sequence[int]],
    replicates: Replicates | None,
    picks: Sequence[NDArray[np.int64]],
) -> SeedRow:
    values = [[of_runs[i] for i in own] for own in members]
    arrays = [np.array([np.nan if v is None else v for v in own]) for own in values]
    means = [_defined(array.mean()) for array in arrays]
    row = SeedRow(
        iou_type=iou_type,
        metric=metric,
        values=values,
        means=means,
        spreads=[_defined(a.std(ddof=1)) if len(a) > 1 else None for a in arrays],
        differences=[
            None if means[0] is None or mean is None else mean - means[0] for mean in means[1:]
        ],
        intervals=[None] * (len(members) - 1),
        behind=[None] * len(members),
    )
    best = row.best
    if replicates is None or metric not in replicates.metrics or best is None:
        return row
    drawn = replicates.metrics[metric]
    at = np.arange(drawn.shape[1])[:, None]
    pooled = [drawn[own, at].mean(axis=1) for own in picks]
    return replace(
        row,
        intervals=[_interval(method - pooled[0]) for method in pooled[1:]],
        behind=[
            None if i == best else _interval(method - pooled[best])
            for i, method in enumerate(pooled)
        ],
    )


def _interval(values: NDArray[np.float64]) -> Interval | None:
    bounds = percentile_interval(values)
    return None if bounds is None else Interval(*bounds)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
