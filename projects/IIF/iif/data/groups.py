"""Rare, common and frequent classes: the limits between them, in training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError

GROUPS = ("r", "c", "f")


class GroupLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A class is rare up to ``rare`` training images, common up to ``common``, else frequent.

    Attributes:
        rare, common: the limits.
        rule: where they come from: "lvis", "terciles" of the classes, or "given" by the user.
    """

    rare: int
    common: int
    rule: Literal["lvis", "terciles", "given"] = "given"

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            InputError: they are not in ascending order from 0 on.
        """
        if not 0 <= self.rare < self.common:
            raise InputError(
                f"the limits of the groups are {self.rare} and {self.common}; rare classes end at "
                "the first, common ones at the second, which must be greater"
            )

    def groups(self, image_count: NDArray[np.int64]) -> NDArray[np.str_]:
        """Return (K,) "r", "c" or "f" of (K,) training images; never seen counts as rare."""
        return np.select([image_count <= self.rare, image_count <= self.common], ["r", "c"], "f")


# A rare class is shown by at most 10 training images, a common one by at most 100, a frequent one
# by more (LVIS, arXiv 1908.03195, section 5.1).
LVIS_LIMITS = GroupLimits(rare=10, common=100, rule="lvis")


def given_limits(limits: Sequence[int] | None) -> GroupLimits | None:
    """Return the two limits that a user gave, as they are checked; None for none.

    Raises:
        InputError: they are not two whole numbers in ascending order.
    """
    if not limits:
        return None
    if len(limits) != 2:
        raise InputError(f"the limits of the groups are {list(limits)}; give two, rare and common")
    return GroupLimits(rare=int(limits[0]), common=int(limits[1]))


def default_limits(image_count: NDArray[np.int64], *, own_data: bool) -> GroupLimits:
    """Return LVIS's limits, or terciles where those would leave a group of own data empty.

    Classes with equally many images stay together, so the three groups are as nearly of equal
    size as the counts allow. Fewer than three different counts make no three groups: then LVIS's
    limits stay.

    Args:
        image_count: (K,) training images that show each class.
        own_data: whether the training set is not in LVIS's format, to which its limits belong.
    """
    counts, sizes = np.unique(image_count, return_counts=True)
    if not own_data or len(counts) < 3 or len(set(LVIS_LIMITS.groups(image_count))) == 3:
        return LVIS_LIMITS
    ends = np.cumsum(sizes)  # classes up to each count
    first = int(np.argmin(np.abs(ends[:-2] - ends[-1] / 3)))
    rest = np.abs(ends[first + 1 : -1] - 2 * ends[-1] / 3)
    second = first + 1 + int(np.argmin(rest))
    return GroupLimits(rare=int(counts[first]), common=int(counts[second]), rule="terciles")
