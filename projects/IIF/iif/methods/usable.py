"""What lets a method use the class counts of a data set that LVIS's rules would refuse."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from iif.methods.base import Options
from iif.methods.counts import CountsRefused
from iif.methods.registry import build_method, method_type, option_types
from iif.statistics import ClassStatistics

# In the order in which they are tried.
_OPTIONS = ("zero_count", "nonpositive")


class Clamps(NamedTuple):
    """What `clamps_needed` returns.

    Attributes:
        options: to be set to "clamp"; none where the counts can be used as they are.
        usable: whether the counts can then be used.
        fact: what would be refused, without the name of the file; empty where nothing is.
    """

    options: list[str]
    usable: bool
    fact: str


def clamps_needed(
    name: str, statistics: ClassStatistics, options: Options, given: Collection[str]
) -> Clamps:
    """Return which options a method needs as "clamp" to use the counts.

    Args:
        name: the method.
        statistics: of the training set.
        options: of the method.
        given: options that the user set; they stay.
    """
    values = msgspec.structs.asdict(options)
    known = option_types(method_type(name))
    clamped: list[str] = []
    fact = ""
    for option in ("", *(o for o in _OPTIONS if o in known and o not in given)):
        if option:
            values[option] = "clamp"
            clamped.append(option)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                build_method(name, statistics, values)
        except CountsRefused as error:
            told = str(error).removeprefix(f"{statistics.source}: ")
            fact = fact or told.partition("; ")[0]
        else:
            if len(clamped) == len(_OPTIONS) and not (statistics.image_count == 0).any():
                clamped = clamped[1:]
            return Clamps(clamped, True, fact)
    return Clamps(clamped, False, fact)
