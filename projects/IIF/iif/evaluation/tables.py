"""Tables as text, Markdown and CSV; an undefined number is "-" (empty in CSV)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

Cell = str | int | float | None
Row = Sequence[str]


def number(value: float | None, decimals: int = 2, *, signed: bool = False) -> str:
    """Return a number with fixed decimals; "-" when it is undefined (None or NaN)."""
    if value is None or math.isnan(value):
        return "-"
    rounded = round(value, decimals) + 0.0  # + 0.0 turns -0.0, which would print a minus, into 0.0
    return f"{rounded:{'+' if signed and rounded else ''},.{decimals}f}"


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
    """Return CSV (RFC 4180 quoting, "\\n" line ends) with full-precision numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
