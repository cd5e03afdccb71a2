"""Evaluation of a classifier: from predictions to accuracy, false positives and calibration."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif import layout
from iif.errors import InputError
from iif.evaluation.classification.measures import (
    GROUPS,
    ClassCounts,
    Reliability,
    confusions,
    count_classes,
    frequency_groups,
    reliability,
)
from iif.evaluation.classification.predictions import TOP, Predictions
from iif.evaluation.classification.summary import (
    CLASSIFICATION_FORMAT,
    Bins,
    Class,
    ClassificationSummary,
    Group,
    PredictionFile,
    TestSet,
    Training,
    write_classification_summary,
)
from iif.files import sha256_file, versions
from iif.statistics import ClassStatistics


def evaluate_predictions(
    predictions: Predictions,
    statistics: ClassStatistics,
    *,
    dataset_name: str | None = None,
    method: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ClassificationSummary:
    """Return every measure of a classifier's predictions.

    Args:
        predictions: on the test set.
        statistics: of the training set, of which class k is row k.
        dataset_name: of the test set, as recorded.
        method: the long-tail method as it ran, recorded as it is.
        config: the run's settings, recorded as they are.

    Raises:
        InputError: predictions and statistics differ in the number of classes.
    """
    if len(statistics) != predictions.num_classes:
        raise InputError(
            f"the predictions have {predictions.num_classes:,} classes, {statistics.source} has "
            f"{len(statistics):,}; give the statistics of the training set of the model"
        )
    groups = frequency_groups(statistics.image_count)
    counts = count_classes(predictions)
    accuracy = _percent(counts.hits, counts.images)
    rows = [_group(name, predictions, statistics, groups, counts) for name in ("all", *GROUPS)]
    labels, first = predictions.labels, predictions.top[:, 0]
    in_top = (predictions.top == labels[:, None]).any(axis=1)
    enough = predictions.num_classes > TOP
    return ClassificationSummary(
        format=CLASSIFICATION_FORMAT,
        versions=versions(),
        test_set=TestSet(
            name=dataset_name,
            sha256=predictions.sha256,
            num_images=len(predictions),
            num_classes=predictions.num_classes,
        ),
        training=Training(
            source=statistics.source,
            sha256=_statistics_sha256(statistics),
            num_images=statistics.num_images,
        ),
        method=None if method is None else dict(method),
        config=None if config is None else dict(config),
        metrics={
            "top1": 100 * float((labels == first).mean()),
            "mean_class": rows[0].accuracy,
            **{row.group: row.accuracy for row in rows[1:]},
            "top5": 100 * float(in_top.mean()) if enough else None,
            "ece": rows[0].ece,
        },
        groups=rows,
        group_errors=_group_errors(predictions, groups),
        per_class=[
            Class(
                id=int(statistics.ids[k]),
                name=statistics.names[k],
                group=str(groups[k]),
                image_count=int(statistics.image_count[k]),
                num_test=int(counts.images[k]),
                accuracy=_defined(accuracy[k]),
                precision=_defined(precision),
                predicted=int(counts.predicted[k]),
                false_positives=int(counts.false_positives[k]),
            )
            for k, precision in enumerate(_percent(counts.hits, counts.predicted))
        ],
        confusions=[(i, j, n) for i, j, n in confusions(predictions).tolist()],
    )


def write_evaluation(
    folder: str | os.PathLike[str],
    predictions: Predictions,
    statistics: ClassStatistics,
    *,
    dataset_name: str | None = None,
    method: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ClassificationSummary:
    """Evaluate; write ``predictions.npz`` and then ``eval_summary.json`` into a folder.

    Args:
        folder: of one evaluation, ``<output folder>/inference``.
        predictions, statistics, dataset_name, method, config: as for `evaluate_predictions`.

    Raises:
        InputError: as `evaluate_predictions`, and nothing is written.
    """
    summary = evaluate_predictions(
        predictions, statistics, dataset_name=dataset_name, method=method, config=config
    )
    path = Path(folder, layout.CLASS_PREDICTIONS)
    predictions.save(path)
    summary.predictions = PredictionFile(path.name, sha256_file(path))
    write_classification_summary(path.with_name(layout.SUMMARY), summary)
    return summary


def _group(
    name: str,
    predictions: Predictions,
    statistics: ClassStatistics,
    groups: NDArray[np.str_],
    counts: ClassCounts,
) -> Group:
    members = (groups == name) | (name == "all")
    tested = members & (counts.images > 0)
    first = predictions.top[:, 0]
    chosen = members[first]
    bins = reliability(predictions.probability[chosen, 0], (predictions.labels == first)[chosen])
    wrong, predicted = counts.false_positives[members], int(counts.predicted[members].sum())
    others = len(predictions) - counts.images[members]
    return Group(
        group=name,
        classes=int(members.sum()),
        test_images=int(counts.images[members].sum()),
        training_images=int(statistics.image_count[members].sum()),
        accuracy=_mean(_percent(counts.hits[tested], counts.images[tested])),
        predicted=predicted,
        false_positives=int(wrong.sum()),
        false_share=100 * int(wrong.sum()) / predicted if predicted else None,
        per_1000=_mean(10 * _percent(wrong[others > 0], others[others > 0])),
        ece=_defined(100 * bins.error),
        bins=_bins(bins),
    )


def _group_errors(predictions: Predictions, groups: NDArray[np.str_]) -> list[list[int]]:
    place = np.array([GROUPS.index(group) for group in groups])
    wrong = predictions.labels != predictions.top[:, 0]
    pairs = place[predictions.labels[wrong]], place[predictions.top[wrong, 0]]
    errors = np.zeros((len(GROUPS), len(GROUPS)), np.int64)
    np.add.at(errors, pairs, 1)
    return errors.tolist()


def _bins(bins: Reliability) -> Bins:
    shares = ([_defined(100 * v) for v in values] for values in (bins.confidence, bins.accuracy))
    return Bins(bins.count.tolist(), *shares)


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 100 part / whole; NaN where the whole is 0."""
    return np.divide(100.0 * part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _statistics_sha256(statistics: ClassStatistics) -> str:
    values = statistics.to_dict()
    content = [values[key] for key in ("ids", "names", "image_count", "num_images")]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()
