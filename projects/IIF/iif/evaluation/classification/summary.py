"""``eval_summary.json`` of a classification run: its content, written and read here alone.

Shares are in percent; None where undefined.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from iif.evaluation.summary_file import Metrics, check_format
from iif.files import read_json, write_json

CLASSIFICATION_FORMAT = "iif-classification-summary/1"


class TestSet(msgspec.Struct, kw_only=True):
    """The images that were classified; ``sha256`` is of their names and labels, in order."""

    __test__ = False  # not one of pytest's

    name: str | None = None
    sha256: str
    num_images: int
    num_classes: int


class Training(msgspec.Struct, kw_only=True):
    """The counts of the training set; ``sha256`` is of ids, names and image counts."""

    source: str
    sha256: str
    num_images: int


class PredictionFile(msgspec.Struct):
    """The file beside the summary that it was made from."""

    file: str
    sha256: str


class Bins(msgspec.Struct):
    """A reliability diagram: images of each bin, mean confidence and accuracy in percent."""

    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


class Group(msgspec.Struct, kw_only=True):
    """The classes of a group, or all of them.

    Attributes:
        group: "all", "many", "medium" or "few".
        classes: with test images and without.
        test_images: whose true class is of the group.
        training_images: of its classes, summed.
        accuracy: mean over the classes that have test images.
        predicted: images predicted as one of its classes.
        false_positives: of them, the wrong ones.
        false_share: of the predictions as one of its classes, those that are wrong: 100 less the
            precision of all of them together.
        per_1000: false positives per 1,000 test images of other classes, mean over the classes.
        ece: expected calibration error of the predictions as one of its classes.
        bins: their reliability diagram.
    """

    group: str
    classes: int
    test_images: int
    training_images: int
    accuracy: float | None
    predicted: int
    false_positives: int
    false_share: float | None
    per_1000: float | None
    ece: float | None
    bins: Bins


class Class(msgspec.Struct, kw_only=True):
    """One class; accuracy is recall. A class without predictions has no precision."""

    id: int
    name: str
    group: str
    image_count: int
    num_test: int
    accuracy: float | None
    precision: float | None
    predicted: int
    false_positives: int


class ClassificationSummary(msgspec.Struct, kw_only=True):
    """The content of ``eval_summary.json``.

    Attributes:
        format: CLASSIFICATION_FORMAT.
        versions: of the software.
        test_set, training, predictions: what was evaluated.
        method: the long-tail method as it ran; None where not known.
        config: the run's settings; None where not known.
        metrics: by name (METRICS).
        groups: all, many, medium, few.
        group_errors: (3, 3) wrong predictions by the group of the true class (rows) and of the
            predicted one: many, medium, few.
        per_class: in the order of the class statistics.
        confusions: [row of the true class, row of the predicted one, images], the most frequent
            first; rows are positions in ``per_class``.
    """

    format: str
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    test_set: TestSet
    training: Training
    predictions: PredictionFile | None = None
    method: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    metrics: Metrics
    groups: list[Group]
    group_errors: list[list[int]]
    per_class: list[Class]
    confusions: list[tuple[int, int, int]]

    def group(self, name: str) -> Group:
        """Return the row of a group."""
        return next(row for row in self.groups if row.group == name)


def write_classification_summary(
    path: str | os.PathLike[str], summary: ClassificationSummary
) -> None:
    """Write a summary, whole or not at all."""
    write_json(path, msgspec.to_builtins(summary))


def read_classification_summary(path: str | os.PathLike[str]) -> ClassificationSummary:
    """Read a summary.

    Raises:
        InputError: the file is missing, malformed, or of another format.
    """
    check_format(path, CLASSIFICATION_FORMAT)
    return read_json(path, ClassificationSummary, what="the summary of a classification run")
