"""Evaluated runs by other rare, common and frequent categories, or by none."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from iif.data.groups import GROUPS, GroupLimits
from iif.errors import InputError
from iif.evaluation.metrics import mean_by_group
from iif.evaluation.summary_file import Summary


def alike_grouped(
    runs: Sequence[tuple[str, Summary]], limits: GroupLimits | None = None
) -> tuple[list[Summary], list[str]]:
    """Return the summaries with the same groups, and notes on what was done to get there.

    Args:
        runs: the name and the summary of each run, evaluated on the same categories.
        limits: those to group all of them by; by default the groups stay where all agree, and are
            dropped where two runs differ.

    Raises:
        InputError: ``limits`` are given, but a run does not record the training images of each
            category.
    """
    summaries = [summary for _, summary in runs]
    if limits is not None:
        for name, summary in runs:
            if any(row.image_count is None for row in summary.per_category):
                raise InputError(
                    f"{name} does not record how many training images show each category: "
                    "evaluate it again with the training annotations to choose the groups' limits"
                )
        grouped = [_regrouped(summary, limits) for summary in summaries]
        alike = len({_groups(summary) for summary in grouped}) == 1
        return (grouped, []) if alike else ([_regrouped(s, None) for s in grouped], [_counts_note])
    different = next((run for run in runs[1:] if _groups(run[1]) != _groups(summaries[0])), None)
    if different is None:
        return summaries, []
    words = [f"{name} by {_limits_words(run)}" for name, run in (runs[0], different)]
    note = (
        f"no comparison of rare, common and frequent categories: {' and '.join(words)}; evaluate "
        "both with the same limits."
    )
    return [_regrouped(summary, None) for summary in summaries], [note]


_counts_note = (
    "no comparison of rare, common and frequent categories: the runs record other numbers of "
    "training images."
)


def _groups(summary: Summary) -> tuple[str, ...]:
    return tuple(row.group for row in summary.per_category)


def _limits_words(summary: Summary) -> str:
    limits = summary.evaluation.group_limits
    if not any(_groups(summary)):
        return "no groups"
    if limits is None:
        return "the groups of its annotation file"
    return f"the limits {limits.rare} and {limits.common}"


def _regrouped(summary: Summary, limits: GroupLimits | None) -> Summary:
    """Return a summary grouped by ``limits``, without groups where there are none."""
    rows = summary.per_category
    groups = np.full(len(rows), "", dtype="<U1")
    if limits is not None:
        groups = limits.groups(np.array([row.image_count for row in rows], np.int64))
    metrics = {iou_type: dict(values) for iou_type, values in summary.metrics.items()}
    for iou_type, values in metrics.items():
        for metric, suffix in (("AP", ""), ("AP-fixed", "-fixed")):
            if metric not in values:
                continue
            of_category = np.array([getattr(row, iou_type).get(metric) for row in rows], np.float64)
            means = mean_by_group(of_category, groups)[1:]
            values |= {
                f"AP{group}{suffix}": mean for group, mean in zip(GROUPS, means, strict=True)
            }
    return msgspec.structs.replace(
        summary,
        evaluation=msgspec.structs.replace(summary.evaluation, group_limits=limits),
        metrics=metrics,
        per_category=[
            msgspec.structs.replace(row, group=str(group))
            for row, group in zip(rows, groups, strict=True)
        ],
    )
