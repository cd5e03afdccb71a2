"""What a classifier's predictions show of each class and group: hits, errors, calibration.

I images, K classes. Counts are exact; the shares made from them are in `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.classification.predictions import Predictions

# Groups by training images (OLTR, arXiv 1904.05160): many > 100, medium 20 to 100, few < 20.
GROUPS = ("many", "medium", "few")
MANY_ABOVE, FEW_BELOW = 100, 20
# Bins of the confidence for the expected calibration error (Guo et al., arXiv 1706.04599).
NUM_BINS = 15


@dataclass(frozen=True)
class ClassCounts:
    """Test images of each class by outcome, all (K,) int64.

    Attributes:
        images: test images whose true class it is.
        hits: of them, those predicted as this class.
        predicted: images predicted as this class, rightly or wrongly.
    """

    images: NDArray[np.int64]
    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @property
    def false_positives(self) -> NDArray[np.int64]:
        """(K,) images of other classes that are predicted as this class."""
        return self.predicted - self.hits


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy by bin: bin b holds confidences in (b / 15, (b + 1) / 15].

    Attributes:
        count: (15,) int64 images.
        confidence: (15,) mean probability of the predicted class; NaN in an empty bin.
        accuracy: (15,) share of right predictions; NaN in an empty bin.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| over images; NaN without any."""
        used = self.count > 0
        if not used.any():
            return float("nan")
        gap = np.abs(self.accuracy[used] - self.confidence[used])
        return float(np.average(gap, weights=self.count[used]))


def frequency_groups(image_count: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return (K,) "many", "medium" or "few" by the training images (K,) of each class."""
    return np.select([image_count > MANY_ABOVE, image_count >= FEW_BELOW], GROUPS[:2], GROUPS[2])


def count_classes(predictions: Predictions) -> ClassCounts:
    """Count every class's test images, hits and predictions."""
    labels, first = predictions.labels, predictions.top[:, 0]

    def count(classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=predictions.num_classes)

    return ClassCounts(count(labels), count(labels[labels == first]), count(first))


def confusions(predictions: Predictions) -> NDArray[np.int64]:
    """Return (P, 3) true class, predicted class, images; the most frequent first, no right ones."""
    labels, first = predictions.labels, predictions.top[:, 0]
    wrong = labels != first
    pairs, counts = np.unique(
        np.stack([labels[wrong], first[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return np.column_stack([pairs[order], counts[order]])


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> Reliability:
    """Bin predictions by confidence.

    Args:
        confidence: (n,) probability of the predicted class, in [0, 1].
        correct: (n,) whether the prediction is right.
    """
    values = confidence.astype(np.float64)
    place = np.searchsorted(np.arange(1, NUM_BINS) / NUM_BINS, values)
    count = np.bincount(place, minlength=NUM_BINS)
    sums = (np.bincount(place, weights, NUM_BINS) for weights in (values, correct))
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = (total / count for total in sums)
    return Reliability(count, mean_confidence, accuracy)
