"""Detections and missed objects to cut crops around: which, as varied as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_util

from iif.data.annotations import Annotations
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis
from iif.evaluation.matching import ErrorType
from iif.evaluation.missed import Found
from iif.evaluation.runs import Run
from iif.evaluation.scenes import KINDS, kinds, shown

CHANGES = ("removed", "added", "kept")
# Kind of a crop around an object that a run misses.
MISSED = "Missed"

_CANDIDATE = np.dtype(
    [
        *((field, np.int64) for field in ("run", "row", "image", "category", "kind", "change")),
        ("priority", np.float64),
        ("rank", np.int64),
    ]
)


@dataclass(frozen=True)
class Subject:
    """A detection to cut a crop around, or an object that a run misses; see `Crop`.

    Attributes:
        run: position of the run.
        row: of its result file; of the annotations where ``kind`` is MISSED.
        image, category: rows.
        kind: an error type, "TP" or MISSED.
        change: one of CHANGES, "" with a single run.
        why: of a missed object "Loc", "Cls" or "Miss"; else "".
    """

    run: int
    row: int
    image: int
    category: int
    kind: str
    change: str
    why: str = ""


def choose_subjects(
    analysis: FalsePositiveAnalysis, gt: Annotations, runs: Sequence[Run], count: int
) -> list[Subject]:
    """Return at most ``count`` detections at the matched recall, as varied as possible.

    One is taken from each combination of change, frequency group and kind (an error type, or a
    true positive), then a second one, and so on. Within a combination different categories and
    images come first, then the most frequent confusions, then higher scores.
    """
    confused = _confused(analysis, gt, runs)
    pools = []
    for wanted in (ERROR_TYPES, ("TP",)):
        found = [
            _of_kind(run, rows, wanted)
            for run, rows in zip(runs, shown(analysis, runs), strict=True)
        ]
        parts = enumerate(zip(runs, found, _changes(runs, found), confused, strict=True))
        pools += [
            _candidates(position, run, rows, change, often)
            for position, (run, rows, change, often) in parts
        ]
    return [
        Subject(
            run=int(candidate["run"]),
            row=int(candidate["row"]),
            image=int(candidate["image"]),
            category=int(candidate["category"]),
            kind=KINDS[candidate["kind"]],
            change=CHANGES[candidate["change"]] if len(runs) > 1 else "",
        )
        for candidate in _varied(np.concatenate(pools), gt, count)
    ]


def choose_missed(gt: Annotations, found: Sequence[NDArray[np.uint8]], count: int) -> list[Subject]:
    """Return at most ``count`` objects that a run misses at any score, as varied as possible.

    One is taken from each combination of change, frequency group and cause, then a second one, and
    so on. Within a combination different categories and images come first, then larger objects.

    Args:
        gt: the annotations.
        found: (G,) of each run, from `iif.evaluation.missed.found_objects`, the baseline first.
        count: at most so many.
    """
    pools = []
    missed = [fate > Found.FOUND for fate in found]
    for position, fate in enumerate(found):
        # One that a later run misses as the baseline does is shown once, as the baseline's.
        rows = np.flatnonzero(missed[position] & ~missed[0] if position else missed[0])
        rows = rows[np.argsort(-gt.area[rows], kind="stable")]
        pool = np.zeros(len(rows), _CANDIDATE)
        pool["run"], pool["row"], pool["change"] = position, rows, min(position, 1)
        if position == 0 and len(missed) > 1:
            pool["change"][np.any(missed[1:], axis=0)[rows]] = CHANGES.index("kept")
        pool["image"], pool["category"] = gt.ann_image[rows], gt.ann_category[rows]
        pool["kind"], pool["priority"] = fate[rows], gt.area[rows]
        pool["rank"] = np.maximum(occurrence(pool["category"]), occurrence(pool["image"]))
        pools.append(pool)
    return [
        Subject(
            run=int(candidate["run"]),
            row=int(candidate["row"]),
            image=int(candidate["image"]),
            category=int(candidate["category"]),
            kind=MISSED,
            change=CHANGES[candidate["change"]] if len(found) > 1 else "",
            why=Found(candidate["kind"]).label,
        )
        for candidate in _varied(np.concatenate(pools), gt, count)
    ]


def _varied(pool: NDArray[np.void], gt: Annotations, count: int) -> NDArray[np.void]:
    """Return at most ``count`` candidates, of each change, group and kind in turn."""
    best = np.lexsort((-pool["priority"], pool["rank"]))
    group = np.unique(gt.groups, return_inverse=True)[1]
    kind = pool["kind"]
    stratum = (pool["change"] * len(group) + group[pool["category"]]) * (
        kind.max(initial=0) + 1
    ) + kind
    return pool[best[np.argsort(occurrence(stratum[best]), kind="stable")][:count]]


def _candidates(
    position: int,
    run: Run,
    rows: NDArray[np.int64],
    change: NDArray[np.int64],
    often: NDArray[np.int64],
) -> NDArray[np.void]:
    """Return the detections ``rows`` of a run as records."""
    # One that a later run shares with the baseline is shown once, as the baseline's.
    if position > 0:
        own = change != CHANGES.index("kept")
        rows, change = rows[own], change[own]
    order = np.argsort(-often[rows], kind="stable")
    rows, change = rows[order], change[order]
    image, category = run.detections.image[rows], run.detections.category[rows]
    pool = np.zeros(len(rows), _CANDIDATE)
    pool["run"], pool["row"], pool["change"] = position, rows, change
    pool["image"], pool["category"] = image, category
    pool["kind"] = kinds(run.matches, rows)
    # A count outweighs any score from 0 to 1.
    pool["priority"] = often[rows] + run.detections.score[rows]
    # The second of a category or of an image comes after the first of every other.
    pool["rank"] = np.maximum(occurrence(category), occurrence(image))
    return pool


def _confused(
    analysis: FalsePositiveAnalysis, gt: Annotations, runs: Sequence[Run]
) -> list[NDArray[np.int64]]:
    """Return of each run (D,) how often a Cls error's two categories are confused; else 0."""
    size = len(gt.category_ids)
    pairs = np.zeros(size * size, np.int64)
    for confusion in analysis.confusions:
        pairs[confusion.gt_category * size + confusion.predicted] = sum(confusion.counts)
    counts = []
    for run in runs:
        often = np.zeros(len(run.detections), np.int64)
        rows = np.flatnonzero(run.matches.error_type == ErrorType.CLS)
        true = gt.ann_category[run.matches.gt_row[rows]].astype(np.int64)
        often[rows] = pairs[true * size + run.detections.category[rows]]
        counts.append(often)
    return counts


def _of_kind(run: Run, rows: NDArray[np.int64], wanted: Sequence[str]) -> NDArray[np.int64]:
    return rows[np.isin(kinds(run.matches, rows), [KINDS.index(kind) for kind in wanted])]


def occurrence(values: NDArray) -> NDArray[np.int64]:
    """Return for each value how often the same value occurs before it."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), np.int64)
    ranked = values[order]
    ranks[order] = np.arange(len(values)) - np.searchsorted(ranked, ranked)
    return ranks


def _changes(runs: Sequence[Run], found: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return for each run's detections their positions in CHANGES."""
    changes = []
    for position, rows in enumerate(found):
        others = range(1, len(runs)) if position == 0 else (0,)
        twin = np.zeros(len(rows), bool)
        for other in others:
            twin |= _has_twin(runs[position], rows, runs[other], found[other])
        changes.append(np.where(twin, CHANGES.index("kept"), min(position, 1)))
    return changes


def _has_twin(
    run: Run, rows: NDArray[np.int64], other: Run, other_rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether ``other`` has a box of the same image and category with IoU >= 0.5."""
    num_categories = 1 + max(
        run.detections.category[rows].max(initial=0),
        other.detections.category[other_rows].max(initial=0),
    )
    keys = [
        r.detections.image[d].astype(np.int64) * num_categories + r.detections.category[d]
        for r, d in ((run, rows), (other, other_rows))
    ]
    order = np.argsort(keys[1], kind="stable")
    start = np.searchsorted(keys[1][order], keys[0], side="left")
    size = np.searchsorted(keys[1][order], keys[0], side="right") - start
    # All pairs that share image and category: position in rows, position in other_rows.
    first = np.repeat(np.arange(len(rows)), size)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
    second = order[np.repeat(start, size) + offset]
    twins = _iou(_boxes(run, rows)[first], _boxes(other, other_rows)[second]) >= 0.5
    return np.bincount(first[twins], minlength=len(rows)) > 0


def _boxes(run: Run, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n, 4) XYWH; from the masks when the result file has no boxes."""
    detections = run.detections
    if detections.bbox is not None:
        return detections.bbox[rows]
    assert detections.rle is not None  # a result row has a box or a mask
    boxes = [mask_util.toBbox(detections.rle[row]) for row in rows.tolist()]
    return np.array(boxes, np.float64).reshape(-1, 4)


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (n,) IoU of boxes (n, 4) XYWH, pair by pair."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    overlap = (high - low).clip(0).prod(axis=1)
    return overlap / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - overlap)
