"""Number formats, and tables as text, Markdown and CSV; an undefined number is "-" (empty in CSV).

Text files have two decimals and the keyboard's hyphen; pages have one decimal and a minus sign.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iif.evaluation.compare import Interval

# What begins a formula in a spreadsheet (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Cell = str | int | float | None
Row = Sequence[str]

MINUS = "\N{MINUS SIGN}"


def number(value: float | None, decimals: int = 2, *, minus: str = "-") -> str:
    """Return a number with fixed decimals; "-" when it is undefined (None or NaN)."""
    return _format(value, decimals, minus, sign="")


def signed(value: float | None, decimals: int = 2, *, minus: str = "-") -> str:
    """Return a difference: as `number`, with a plus sign when it is positive after rounding."""
    return _format(value, decimals, minus, sign="+")


def interval_text(interval: Interval | None, decimals: int = 2, *, minus: str = "-") -> str:
    """Return "[-0.10, +2.40]"; "" without an interval."""
    if interval is None:
        return ""
    low, high = (signed(v, decimals, minus=minus) for v in (interval.low, interval.high))
    return f"[{low}, {high}]"


def page_number(value: float | None, decimals: int = 1) -> str:
    """Return a number as pages print it."""
    return number(value, decimals, minus=MINUS)


def page_signed(value: float | None, decimals: int = 1) -> str:
    """Return a difference as pages print it."""
    return signed(value, decimals, minus=MINUS)


def page_interval(interval: Interval | None, decimals: int = 1) -> str:
    """Return an interval as pages print it; "" without one."""
    return interval_text(interval, decimals, minus=MINUS)


def text_table(header: Row, rows: Sequence[Row], *, left: int = 1) -> str:
    """Return aligned columns; the first ``left`` columns are flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(row: Row) -> str:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown_table(header: Row, rows: Sequence[Row], *, left: int = 1) -> str:
    """Return a Markdown table, aligned as `text_table`; "|" inside cells is escaped."""
    align = [":--" if column < left else "--:" for column in range(len(header))]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (header, *rows))
    first, *others = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([first, f"| {' | '.join(align)} |", *others])


def csv_text(header: Row, rows: Sequence[Sequence[Cell]]) -> str:
    """Return CSV (RFC 4180 quoting, "\\n" line ends) with full-precision numbers.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_inert(cell) for cell in row] for row in (header, *rows))
    return out.getvalue()


def _inert(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _format(value: float | None, decimals: int, minus: str, sign: str) -> str:
    if value is None or math.isnan(value):
        return "-"
    rounded = round(value, decimals) + 0.0  # + 0.0 turns -0.0, which would print a minus, into 0.0
    text = f"{rounded:{sign if rounded else ''},.{decimals}f}"
    return text.replace("-", minus)
