"""Faults of an input file: a strict reader raises the first, "iif check" collects them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from iif.errors import InputError

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file, once or several times.

    Attributes:
        kind: a stable key.
        message: what an error says behind the file's name: the place, the fault and the remedy.
        number: how often it occurs.
        examples: what tells the first of them: ids, rows or names.
    """

    kind: str
    message: str
    number: int = 1
    examples: tuple[int | str, ...] = ()


# A reader hands its faults to one of these. It raises, or the reader goes on without what is wrong.
Report = Callable[[Fault], None]


def refuse(source: str) -> Report:
    """Return the report of a strict reader: it raises InputError for the first fault."""

    def report(fault: Fault) -> None:
        raise InputError(f"{source}: {fault.message}")

    return report


class Faults:
    """A report that collects: faults of one kind become one, with the first one's message."""

    def __init__(self) -> None:
        """Begin without a fault."""
        self._found: dict[str, Fault] = {}

    def __call__(self, fault: Fault) -> None:
        """Add a fault."""
        before = self._found.get(fault.kind)
        if before is not None:
            examples = (*before.examples, *fault.examples)[:MAX_EXAMPLES]
            fault = Fault(fault.kind, before.message, before.number + fault.number, examples)
        self._found[fault.kind] = fault

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over the faults, in the order in which their kinds were found."""
        return iter(self._found.values())


def examples(values: Iterable[int | str]) -> tuple[int | str, ...]:
    """Return the first values, as the examples of a fault."""
    return tuple(value for value, _ in zip(values, range(MAX_EXAMPLES), strict=False))
