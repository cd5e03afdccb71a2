"""Misclassified test images as thumbnails: what each run makes of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.errors import InputError
from iif.evaluation.classification.compare import ClassificationComparison
from iif.evaluation.classification.measures import GROUPS
from iif.evaluation.classification.predictions import Predictions
from iif.report.crop_subjects import occurrence
from iif.report.crops import encode_picture

MAX_EXAMPLES = 24
SIDE = 160
MAX_BYTES = 12 * 1024

CHANGES = {
    "fixed": "corrected: wrong in the baseline",
    "broken": "lost: right in the baseline",
    "kept": "kept: wrong in every run",
    "": "",
}


@dataclass(frozen=True)
class Example:
    """One misclassified image.

    Attributes:
        image: its name.
        jpeg: the thumbnail.
        label, group: its true class, and that class's group.
        predicted: (runs,) name, probability in percent, whether it is right.
        change: "fixed" (the baseline wrong, a later run right), "broken" (the baseline is right),
            "kept" (all are wrong), or "" with a single run.
    """

    image: str
    jpeg: bytes
    label: str
    group: str
    predicted: list[tuple[str, float, bool]]
    change: str


def make_examples(
    comparison: ClassificationComparison,
    images: str | os.PathLike[str],
    count: int = MAX_EXAMPLES,
) -> list[Example]:
    """Return thumbnails of misclassified images, as varied as possible.

    One is taken of each change and group of the true class in turn; the predictions with the
    highest probability come first, and different classes before the second of one.

    Args:
        comparison: runs with their predictions; without them there is no example.
        images: the folder that the names of the images start from.
        count: at most so many.

    Raises:
        InputError: the folder or an image is missing, or cannot be read.
    """
    runs = [run.predictions for run in comparison.runs if run.predictions is not None]
    if len(runs) < len(comparison.runs):
        return []
    classes = comparison.first.per_class
    groups = np.array([row.group for row in classes])
    root = Path(images)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the image folder of the test set")
    rows, changes = choose(runs, groups, count)
    names = [runs[0].images[row] for row in rows]
    files = [root / name for name in names]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such image ({len(missing)} of the {len(files)} to be shown are "
            "missing); give the image folder that the names of the test images start from"
        )
    return [
        Example(
            image=name,
            jpeg=thumbnail(file),
            label=classes[runs[0].labels[row]].name,
            group=str(groups[runs[0].labels[row]]),
            predicted=[
                (
                    classes[run.top[row, 0]].name,
                    100 * float(run.probability[row, 0]),
                    bool(run.top[row, 0] == run.labels[row]),
                )
                for run in runs
            ],
            change=change,
        )
        for row, name, file, change in zip(rows, names, files, changes, strict=True)
    ]


def choose(
    runs: list[Predictions], groups: NDArray[np.str_], count: int
) -> tuple[list[int], list[str]]:
    """Return the images to show and the change of each."""
    labels = runs[0].labels
    right = np.stack([run.top[:, 0] == labels for run in runs])
    wrong = np.flatnonzero(~right.all(axis=0))
    if len(runs) == 1:
        change = np.full(len(wrong), "", "<U6")
    else:
        fixed, broken = ~right[0, wrong], right[0, wrong]
        fixed = fixed & right[1:, wrong].any(axis=0)
        change = np.select([fixed, broken], ["fixed", "broken"], "kept")
    # The most probable wrong prediction of any run.
    sure = np.where(right, 0, [run.probability[:, 0] for run in runs]).max(axis=0)[wrong]
    own = np.array([GROUPS.index(group) for group in groups])[labels[wrong]]
    order = np.argsort(-sure, kind="stable")
    order = order[np.argsort(occurrence(labels[wrong][order]), kind="stable")]
    kinds = np.unique(change, return_inverse=True)[1] * len(GROUPS) + own
    order = order[np.argsort(occurrence(kinds[order]), kind="stable")][:count]
    return wrong[order].tolist(), change[order].tolist()


def thumbnail(path: Path) -> bytes:
    """Return a JPEG of at most MAX_BYTES that fits SIDE x SIDE pixels.

    Raises:
        InputError: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return encode_picture(picture, MAX_BYTES)[0]
