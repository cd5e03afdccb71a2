"""Paired bootstrap over test images, within each class: how much of a difference may be noise.

Images are the unit, drawn with replacement within their true class: test sets of this field are
made so, with a fixed number of images of each class, and no class drops out of a mean. Every run is
evaluated on the same draw. Of a class with n test images n - 1 are drawn, each weighing n / (n - 1)
(Rao and Wu 1988, doi 10.1080/01621459.1988.10478591): n draws would understate the variance by
1 / n, a third on three images a class (iNaturalist 2018). A class with one image cannot vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from iif.evaluation.classification.measures import GROUPS
from iif.evaluation.classification.predictions import Predictions

# Columns of the replicates; false positives as counts, and per 1,000 images of other classes.
MEASURES = (
    *("top1", *GROUPS, "mean_class", "top5"),
    *(f"false_positives_{group}" for group in GROUPS),
    *(f"per_1000_{group}" for group in GROUPS),
)
_BATCH = 50


def paired_bootstrap(
    runs: Sequence[Predictions],
    groups: NDArray[np.str_],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return every measure of every run in every replicate.

    Args:
        runs: predictions on the same test set.
        groups: (K,) "many", "medium" or "few".
        replicates: how often to draw.
        seed: of the draws; they depend on nothing else.

    Returns:
        (runs, replicates, 12) in the order of MEASURES, shares in percent; NaN where a group has
        no class with a test image.
    """
    # Each measure is linear in the images' weights: a replicate is one product.
    parts = np.concatenate([contributions(run, groups) for run in runs], axis=1)
    weights = resampled_weights(runs[0].labels, replicates, np.random.default_rng(seed))
    with tqdm(total=replicates, desc="Bootstrap", disable=None) as bar:
        drawn = []
        for batch in weights:
            drawn.append(batch @ parts)
            bar.update(len(batch))
    shape = (replicates, len(runs), len(MEASURES))
    return np.concatenate(drawn).reshape(shape).transpose(1, 0, 2)


def contributions(run: Predictions, groups: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return (I, 12) what each image adds to each measure; columns sum to the measure itself."""
    labels, first = run.labels, run.top[:, 0]
    num_test = np.bincount(labels, minlength=run.num_classes)
    tested = num_test > 0
    correct = (labels == first).astype(np.float64)
    wrong = 1 - correct
    in_top = (run.top == labels[:, None]).any(axis=1)
    of_class = 100 * correct / num_test[labels]
    others = len(run) - num_test[first]

    def share(members: NDArray[np.bool_]) -> NDArray[np.float64]:
        classes = np.count_nonzero(members & tested)
        return of_class * members[labels] / classes if classes else np.full(len(run), np.nan)

    members = {group: groups == group for group in GROUPS}
    columns = [
        100 * correct / len(run),
        *(share(members[group]) for group in GROUPS),
        share(tested),
        100 * in_top / len(run)
        if run.top.shape[1] < run.num_classes
        else np.full(len(run), np.nan),
        *(wrong * members[group][first] for group in GROUPS),
    ]
    for group in GROUPS:
        defined = np.count_nonzero(members[group] & (num_test < len(run)))
        rate = 1000 * wrong * members[group][first] / np.maximum(others, 1)
        columns.append(rate / defined if defined else np.full(len(run), np.nan))
    return np.stack(columns, axis=1)


def resampled_weights(
    labels: NDArray[np.int64], replicates: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Yield batches (b, I) of the weights of all images, ``replicates`` rows together.

    The weights of a class's n images sum to n in each row.
    """
    order = np.argsort(labels, kind="stable")
    _, start, size = np.unique(labels[order], return_index=True, return_counts=True)
    draws = np.maximum(size - 1, 1)
    first, width = np.repeat(start, draws), np.repeat(size, draws)
    weight = np.empty(len(labels))
    weight[order] = np.repeat(size / draws, size)
    for done in range(0, replicates, _BATCH):
        rows = min(_BATCH, replicates - done)
        chosen = first + (rng.random((rows, len(first))) * width).astype(np.int64)
        chosen = order[chosen] + len(labels) * np.arange(rows)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=rows * len(labels))
        yield counts.reshape(rows, -1) * weight
