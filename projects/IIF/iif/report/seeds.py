"""A comparison of methods of several seeds as text, and its files."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from iif import layout
from iif.evaluation.seeds import SeedComparison, SeedRow
from iif.files import atomic_write, write_json
from iif.report.labels import IOU_NAMES
from iif.report.pooled import pooled_words
from iif.report.tables import MINUS, interval_text, number, signed, text_table


def seeds_text(found: SeedComparison) -> str:
    """Return which method to use; each metric's mean, spread, and differences to the first."""
    labels = [
        f"{name} ({count} seed{'s' if count > 1 else ''})"
        for name, count in zip(found.methods, found.seeds, strict=True)
    ]
    header = ["metric (%)", *labels]
    for name in found.methods[1:]:
        header += [f"{name} - {found.methods[0]}", "95% interval"]
    table = text_table(header, [_cells(row) for row in found.metrics])
    parts = [table, "", "Mean +- standard deviation over the seeds.", *found.notes]
    words = pooled_words(found, found.metrics[-1].iou_type)
    if words is not None:
        plain = (text.replace(MINUS, "-").replace("\N{PLUS-MINUS SIGN}", "+-") for text in words)
        parts = [*plain, "", *parts]
    return "\n".join(parts)


def save_seeds(found: SeedComparison, folder: str | os.PathLike[str]) -> None:
    """Write the comparison as text and JSON into a folder."""
    with atomic_write(Path(folder, f"{layout.SEEDS}.txt")) as f:
        f.write(seeds_text(found) + "\n")
    write_json(Path(folder, f"{layout.SEEDS}.json"), msgspec.to_builtins(found))


def _cells(row: SeedRow) -> list[str]:
    cells = [f"{IOU_NAMES[row.iou_type]} {row.metric}"]
    for mean, spread in zip(row.means, row.spreads, strict=True):
        cells.append(number(mean) + (f" +- {number(spread)}" if spread is not None else ""))
    for difference, interval in zip(row.differences, row.intervals, strict=True):
        cells += [signed(difference), interval_text(interval)]
    return cells
