"""Progress of long work on stderr: bars on a terminal, elsewhere a line every half minute.

TQDM_DISABLE=1 switches both off. Of several training processes the first alone shows progress.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

# Off a terminal: at most so many seconds pass without a line, unless one step takes longer.
SILENCE = 30.0
_LINE = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left{postfix}"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}, {rate_fmt}{postfix}"


def progress(iterable: Iterable[Any] | None = None, *, desc: str, **options: Any) -> tqdm[Any]:
    """Return tqdm's bar, or its like that prints plain lines where stderr is no terminal.

    Args:
        iterable: what to iterate over; None where ``update`` is called.
        desc: what is being done.
        options: others of tqdm.
    """
    if _Place.name:
        desc = f"{_Place.name}: {desc}"
        options |= {"position": _Place.row, "leave": False}
    options["disable"] = _is_switched_off() or _rank() > 0
    kind = tqdm if sys.stderr.isatty() else _Lines
    return kind(iterable, desc=desc, **options)


def show_as(name: str, row: int) -> None:
    """Show the progress of this process under a name, on a terminal row of its own, from 0 on."""
    _Place.name, _Place.row = name, row


def share_terminal(lock: Any) -> None:
    """Let processes that hold this lock write to the terminal one after another."""
    tqdm.set_lock(lock)


class _Place:
    """Where this process shows its progress."""

    name = ""
    row = 0


class _Lines(tqdm):
    """A bar that prints a line when all bars of this process were silent for SILENCE seconds."""

    last_line = time.monotonic()

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        """Start without a line."""
        self._printed: float | None = None  # how far the last line said
        options |= {"miniters": 1, "mininterval": min(1.0, SILENCE)}
        super().__init__(iterable, gui=True, **options)  # gui: its subclass does the display

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line when it is time."""
        if time.monotonic() - _Lines.last_line >= SILENCE:
            self._print()

    def clear(self, nolock: bool = False) -> None:
        """Leave the lines where they are: ``write`` clears bars alone."""

    def close(self) -> None:
        """Print where the work ended if there were lines of it."""
        if not self.disable and self._printed not in (None, self.n):
            self._print()
        super().close()

    def _print(self) -> None:
        self._printed = self.n
        self.bar_format = _LINE if self.total else _LINE_WITHOUT_TOTAL
        _Lines.last_line = time.monotonic()
        self.fp.write(f"{self}\n".replace(",  ", ", "))
        self.fp.flush()


def _is_switched_off() -> bool:
    return os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def _rank() -> int:
    """Return this process's rank in the process group, 0 without one; does not import torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0
    return int(distributed.get_rank())
