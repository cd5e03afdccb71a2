"""The kinds of thing in the OpenMoji data set: one category each."""

from __future__ import annotations

import csv
import dataclasses
from functools import cache
from pathlib import Path

from iif.errors import InputError

# Made by tools/list_kinds.py: drawings that differ to the eye, in order of preference.
KINDS_CSV = Path(__file__).with_name("openmoji_kinds.csv")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A drawing that is a category.

    Attributes:
        code: its code point.
        name: its name in Unicode's CLDR, in lower case: "red_apple".
        family: lookalikes that it belongs to: "fruit".
        synonyms: other names; the first is ``name``.
        keywords: what CLDR files it under: "apple", "diet", "food".
    """

    code: int
    name: str
    family: str
    synonyms: tuple[str, ...]
    keywords: tuple[str, ...]

    @property
    def definition(self) -> str:
        """What the drawing shows, in a line."""
        words = ", ".join(self.keywords)
        shown = self.name.replace("_", " ")
        return f"OpenMoji's drawing U+{self.code:04X}, {shown}" + (f" ({words})" if words else "")


def choose_kinds(count: int) -> list[Kind]:
    """Return the first ``count`` kinds, by name.

    Raises:
        InputError: there are not so many; the message says how many there are.
    """
    kinds = all_kinds()
    if count > len(kinds):
        raise InputError(
            f"categories is {count}; OpenMoji has {len(kinds)} drawings that can be told apart"
        )
    return sorted(kinds[:count], key=lambda kind: kind.name)


@cache
def all_kinds() -> tuple[Kind, ...]:
    """Return every kind in the order in which they are taken."""
    with KINDS_CSV.open(encoding="utf-8", newline="") as f:
        return tuple(
            Kind(
                code=int(row["code"], 16),
                name=row["name"],
                family=row["family"],
                synonyms=(row["name"], *row["synonyms"].split()),
                keywords=tuple(filter(None, row["keywords"].split("; "))),
            )
            for row in csv.DictReader(f)
        )
