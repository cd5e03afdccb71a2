"""``predictions.npz``: labels of a test set and the classes that a model ranks first.

I images, K classes. A class is its row in the training set's `ClassStatistics`, 0 to K - 1.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iif.errors import InputError
from iif.files import atomic_write

TOP = 5
_FORMAT = "iif-predictions/1"
_KEYS = ("labels", "top", "probability", "images", "num_classes")
# Logits that are ranked at once: bounds the float64 copy to 128 MB.
_CHUNK = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Predictions:
    """A classifier's predictions on a test set, in the order of the test set.

    Attributes:
        labels: (I,) int64 true class of each image, 0 to K - 1.
        top: (I, min(5, K)) int64 classes by descending probability, equal ones by class.
        probability: (I, min(5, K)) float32 softmax probabilities of ``top``.
        images: I names, such as paths below the image root.
        num_classes: K.
    """

    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    probability: NDArray[np.float32]
    images: list[str]
    num_classes: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        wanted = (len(self.labels), min(TOP, self.num_classes))
        fault = ""
        if self.labels.ndim != 1 or not len(self.labels):
            fault = f"labels has shape {self.labels.shape}; it must be a list of at least one class"
        elif self.top.shape != wanted or self.probability.shape != wanted:
            fault = (
                f"top has shape {self.top.shape} and probability {self.probability.shape}; "
                f"both must be {wanted}"
            )
        elif len(self.images) != len(self.labels):
            fault = f"there are {len(self.images)} image names for {len(self.labels)} labels"
        if fault:
            raise InputError(f"predictions: {fault}")
        for key, values in (("label", self.labels), ("predicted class", self.top)):
            outside = np.flatnonzero(
                ((values < 0) | (values >= self.num_classes)).reshape(len(self.labels), -1).any(1)
            )
            if len(outside):
                raise InputError(
                    f"predictions: image {self.images[outside[0]]!r} has a {key} outside 0 to "
                    f"{self.num_classes - 1} ({len(outside):,} such images); number the classes as "
                    "the class statistics do"
                )
        low, high = self.probability.min(), self.probability.max()
        if not (low >= 0 and high <= 1 and (np.diff(self.probability) <= 0).all()):
            raise InputError(
                "predictions: probability must lie in [0, 1] and descend; make it with "
                "Predictions.from_logits"
            )

    def __len__(self) -> int:
        """Return the number I of images."""
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """SHA-256 of the test set: image names and labels, in order."""
        digest = hashlib.sha256(f"{self.num_classes}\n".encode())
        for image, label in zip(self.images, self.labels.tolist(), strict=True):
            line = f"{label} {len(image)} {image}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @classmethod
    def from_logits(
        cls, logits: ArrayLike, labels: ArrayLike, images: Sequence[str]
    ) -> Predictions:
        """Rank the classes of every image by their softmax probability.

        Args:
            logits: (I, K) finite, after the long-tail method.
            labels: (I,) true classes, 0 to K - 1.
            images: I names.

        Raises:
            InputError: shapes do not fit, a label is out of range, or a logit is not finite; names
                the first image.
        """
        scores, truth = np.asarray(logits), np.asarray(labels)
        if scores.ndim != 2 or not scores.shape[1] or truth.shape != scores.shape[:1]:
            raise InputError(
                f"predictions: logits have shape {scores.shape} and labels {truth.shape}; they "
                "must be (images, classes) and (images,)"
            )
        if truth.dtype.kind not in "iu":
            raise InputError(f"predictions: labels are {truth.dtype}; they must be whole numbers")
        num_images, num_classes = scores.shape
        wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if len(wrong):
            name = images[wrong[0]] if wrong[0] < len(images) else f"number {wrong[0]}"
            raise InputError(
                f"predictions: a logit of image {name!r} is not finite ({len(wrong):,} such "
                "images); the model has diverged"
            )
        top = np.empty((num_images, min(TOP, num_classes)), np.int64)
        probability = np.empty(top.shape, np.float32)
        step = max(1, _CHUNK // num_classes)
        for start in range(0, num_images, step):
            rows = slice(start, start + step)
            top[rows], probability[rows] = _rank(scores[rows].astype(np.float64), top.shape[1])
        return cls(truth.astype(np.int64), top, probability, list(images), num_classes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the predictions as ``.npz``, whole or not at all."""
        with atomic_write(path, "wb") as f:
            np.savez_compressed(
                f,
                format=np.array(_FORMAT),
                labels=self.labels.astype(np.int32),
                top=self.top.astype(np.int32),
                probability=self.probability,
                images=np.array(self.images, np.str_),
                num_classes=np.array(self.num_classes),
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, cut off or not of this format.
        """
        try:
            with np.load(path) as stored:  # refuses pickled objects
                if str(stored["format"]) != _FORMAT:
                    raise ValueError(f"its format is {stored['format']}")
                arrays: dict[str, Any] = {key: stored[key] for key in _KEYS}
            return cls(
                arrays["labels"].astype(np.int64),
                arrays["top"].astype(np.int64),
                arrays["probability"].astype(np.float32),
                arrays["images"].tolist(),
                int(arrays["num_classes"]),
            )
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; evaluate the model to make it") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OSError,
            EOFError,
            zlib.error,
            zipfile.BadZipFile,
        ) as error:
            raise InputError(
                f"{path}: not a file of {_FORMAT} ({error}); evaluate the model again"
            ) from None


def _rank(logits: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ``count`` best classes of each row and their probabilities; changes ``logits``."""
    logits -= logits.max(axis=1, keepdims=True)
    total = np.exp(logits).sum(axis=1)
    rows = np.arange(len(logits))
    top = np.empty((len(logits), count), np.int64)
    probability = np.empty((len(logits), count), np.float32)
    for place in range(count):
        # The first of equal maxima, which argpartition does not promise.
        best = top[:, place] = logits.argmax(axis=1)
        probability[:, place] = np.exp(logits[rows, best]) / total
        logits[rows, best] = -np.inf
    return top, probability
