"""Class counts as methods take them: a class that was never seen is refused, or counted once."""

import warnings
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from iif.errors import InputError
from iif.statistics import ClassStatistics

OnFault = Literal["error", "clamp"]
ZeroCount = Annotated[
    OnFault,
    Meta(
        description='What to do about a class that was never seen: "error", or "clamp" to count '
        "it as seen once."
    ),
]

# An option and a value -> how they are written where the user makes settings.
Written = Callable[[str, str], str]


class CountsRefused(InputError):
    """Counts that a method cannot use as they are, though an option of it would let them pass.

    Attributes:
        text: returns the message, given how options are written.
    """

    def __init__(self, text: Callable[[Written], str]) -> None:
        """Write options as in a call: zero_count "clamp"."""
        super().__init__(text(lambda option, value: f'{option} "{value}"'))
        self.text = text


def image_counts(statistics: ClassStatistics, zero_count: str) -> Tensor:
    """Return the (K,) float64 training images that show each class.

    Args:
        statistics: of the training set.
        zero_count: "error" refuses a class without an image, "clamp" counts it as seen once.

    Raises:
        CountsRefused: a class was never seen; names it.
    """
    counts = statistics.image_count
    unseen = np.flatnonzero(counts == 0)
    if len(unseen) and zero_count == "error":
        others = f" (and {len(unseen) - 1} more classes)" if len(unseen) > 1 else ""
        fault = (
            f"{statistics.source}: class {statistics.describe(unseen[0])}{others} was never seen"
        )
        raise CountsRefused(
            lambda written: f"{fault}; count it as seen once with {written('zero_count', 'clamp')}"
        )
    if len(unseen):
        warn_of_unseen(statistics, unseen)
    return torch.from_numpy(np.maximum(counts, 1).astype(np.float64))


def warn_of_unseen(statistics: ClassStatistics, unseen: np.ndarray) -> None:
    """Warn that these rows are counted as seen once."""
    warnings.warn(
        f"{statistics.source}: never seen, counted as seen once (zero_count=clamp): "
        f"{statistics.describe(unseen)}",
        stacklevel=3,
    )
