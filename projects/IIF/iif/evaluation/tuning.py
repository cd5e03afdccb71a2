"""Measuring one plain model under many methods: boxes of one pass -> metrics of each, and a choice.

A *trial* is a method at one value of its tuned option; the first trial is the plain model. The
images are part of the training set, so this chooses, it does not report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.evaluation.bootstrap import GROUP_METRICS, paired_bootstrap, percentile_interval
from iif.evaluation.compare import Interval
from iif.evaluation.evaluate import fixed_average_precision
from iif.evaluation.matching import FALSE_POSITIVE, Matches, match
from iif.evaluation.metrics import average_precision, mean_by_group
from iif.evaluation.operating_points import check_recall, num_kept, select_kept
from iif.evaluation.overlaps import find_overlaps


class FoundBoxes:
    """The boxes that one trial finds, image after image: 28 bytes each."""

    def __init__(self) -> None:
        """Start without an image."""
        self._image: list[NDArray[np.int32]] = []
        self._category: list[NDArray[np.int32]] = []
        self._score: list[NDArray[np.float32]] = []
        self._corners: list[NDArray[np.float32]] = []

    def add(self, image: int, corners: ArrayLike, scores: ArrayLike, categories: ArrayLike) -> None:
        """Add an image's D boxes.

        Args:
            image: its row.
            corners: (D, 4) x0, y0, x1, y1 in pixels of the image.
            scores: (D,).
            categories: (D,) category rows.
        """
        self._score.append(np.asarray(scores, np.float32))
        self._corners.append(np.asarray(corners, np.float32).reshape(-1, 4))
        self._category.append(np.asarray(categories, np.int32))
        self._image.append(np.full(len(self._score[-1]), image, np.int32))

    def detections(self) -> Detections:
        """Return all boxes as an evaluation takes them."""
        corners = np.concatenate([np.zeros((0, 4), np.float32), *self._corners]).astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        return Detections(
            path="",
            sha256="",
            image=np.concatenate([np.zeros(0, np.int32), *self._image]),
            category=np.concatenate([np.zeros(0, np.int32), *self._category]),
            score=np.concatenate([np.zeros(0, np.float32), *self._score]).astype(np.float64),
            bbox=corners,
        )


class Trial(msgspec.Struct, kw_only=True):
    """A method at one value, and what it measures on the boxes.

    Attributes:
        method: its name.
        option, value: the tuned option and its value; None for a method without one.
        options: all options of the method, as plain values.
        metrics: AP, APr, APc, APf and AP-fixed in percent; None where undefined.
        false_positives: at matched recall, over the categories that this trial and the plain
            model both bring to it; None without such a category.
        plain_false_positives: those of the plain model over the same categories.
        categories: how many categories are compared.
        best: whether it is the best of its method.
        difference: of AP, APr, APc and APf to the plain model's.
        intervals: paired bootstrap intervals of these differences, of the best of each method.
    """

    method: str
    option: str | None
    value: float | None
    options: dict[str, Any]
    metrics: dict[str, float | None]
    false_positives: int | None
    plain_false_positives: int | None
    categories: int
    best: bool = False
    difference: dict[str, float | None] = msgspec.field(default_factory=dict)
    intervals: dict[str, Interval | None] = msgspec.field(default_factory=dict)


class Setting(msgspec.Struct, kw_only=True, frozen=True):
    """What is tried: method, tuned option, its value, and all options."""

    method: str
    option: str | None
    value: float | None
    options: dict[str, Any]


def measure(
    gt: Annotations,
    settings: Sequence[Setting],
    boxes: Iterable[Callable[[], Detections]],
    *,
    recall: float = 0.5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Trial]:
    """Measure every trial on its boxes; mark the best of each method and give it intervals.

    Detections are made and matched one trial at a time; matches are kept of the best alone.

    Args:
        gt: the images that were looked at, without masks.
        settings: of the trials, the plain model's first.
        boxes: of each trial, a function that returns its detections.
        recall: the recall at which false positives are compared.
        bootstrap: replicates behind the intervals; 0 for none.
        seed: of the bootstrap.

    Raises:
        InputError: the recall is out of range.
    """
    check_recall(recall)
    trials: list[Trial] = []
    best: dict[str, tuple[int, Matches]] = {}
    plain_matches: Matches | None = None
    bar = tqdm(settings, desc="measuring", unit="trial", disable=None)
    for setting, make in zip(bar, boxes, strict=True):
        detections = make()
        overlaps = find_overlaps(gt, detections, "bbox")
        matches = match(gt, detections, "bbox", classify_errors=False, overlaps=overlaps)
        if plain_matches is None:
            plain_matches = matches
        metrics = dict(
            zip(GROUP_METRICS, mean_by_group(average_precision(matches), gt.groups), strict=True)
        )
        fixed = mean_by_group(fixed_average_precision(gt, detections, overlaps, matches), gt.groups)
        metrics["AP-fixed"] = fixed[0]
        counts, categories = false_positives_at([plain_matches, matches], recall)
        trials.append(
            Trial(
                **msgspec.structs.asdict(setting),
                metrics=metrics,
                false_positives=counts[1] if categories else None,
                plain_false_positives=counts[0] if categories else None,
                categories=categories,
                difference={
                    name: _difference(
                        metrics[name], (trials[0].metrics if trials else metrics)[name]
                    )
                    for name in GROUP_METRICS
                },
            )
        )
        row, _ = best.get(setting.method, (len(trials) - 1, matches))
        if setting.method not in best or _ap(trials[-1]) > _ap(trials[row]):
            best[setting.method] = (len(trials) - 1, matches)
    for row, _ in best.values():
        trials[row].best = True
    if bootstrap and len(best) > 1:
        _add_intervals(trials, list(best.values()), gt, bootstrap, seed)
    return trials


def winner(trials: Sequence[Trial]) -> int:
    """Return the row of the trial with the highest box AP, of equal ones the first."""
    return max(range(len(trials)), key=lambda row: (_ap(trials[row]), -row))


def false_positives_at(runs: Sequence[Matches], recall: float) -> tuple[list[int], int]:
    """Return each run's false positives at a recall, and the number of categories compared.

    Compared are the categories that every run brings to the recall.
    """
    kept = [num_kept(matches, [recall])[0] for matches in runs]
    compared = np.all([k >= 0 for k in kept], axis=0)
    counts = []
    for matches, keep in zip(runs, kept, strict=True):
        category, at_point = select_kept(matches, keep)
        false = at_point & (matches.flags[0, 0] == FALSE_POSITIVE) & compared[category]
        counts.append(int(false.sum()))
    return counts, int(compared.sum())


def _add_intervals(
    trials: list[Trial],
    best: Sequence[tuple[int, Matches]],
    gt: Annotations,
    replicates: int,
    seed: int,
) -> None:
    drawn = paired_bootstrap(
        [matches for _, matches in best],
        gt.groups,
        len(gt.image_ids),
        replicates=replicates,
        seed=seed,
    )
    for (row, _), values in list(zip(best, drawn, strict=True))[1:]:
        for column, metric in enumerate(GROUP_METRICS):
            bounds = percentile_interval(values[:, column] - drawn[0, :, column])
            trials[row].intervals[metric] = None if bounds is None else Interval(*bounds)


def _ap(trial: Trial) -> float:
    value = trial.metrics["AP"]
    return -np.inf if value is None else value


def _difference(value: float | None, plain: float | None) -> float | None:
    return None if value is None or plain is None else value - plain
