"""The section on confusions: the matrix at the thresholds of best F1, and pairs at equal recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.confusion import ConfusionCell
from iif.evaluation.false_positives import FalsePositiveAnalysis
from iif.report.crops_payload import CropLinks
from iif.report.labels import GROUP_LABELS, IOU_NAMES, short_name

if TYPE_CHECKING:
    from iif.report.html import Report

# Categories in the matrix that is drawn.
MAX_CATEGORIES = 20
# Cells of all runs that the page holds for its CSV.
MAX_CELLS = 10_000


def view(report: Report) -> dict[str, Any] | None:
    """Return the matrices of the most confused categories; None without false positives."""
    if not report.analyses:
        return None
    analysis = report.analyses[0]
    if not report.findings:
        return {"matrices": [], "iou": IOU_NAMES[analysis.iou_type]}
    cells = [_rows(analysis, found.confusion) for found in report.findings]
    shown = most_confused(cells, len(analysis.category_ids))
    link = CropLinks(report.crops)
    sizes = [len(of_run) for of_run in cells]
    return {
        "iou": IOU_NAMES[analysis.iou_type],
        "shown": len(shown),
        "all": len(analysis.category_ids),
        "heads": [
            {
                "name": analysis.category_names[k],
                "short": short_name(analysis.category_names[k]),
                "group": GROUP_LABELS.get(str(analysis.category_groups[k]), ""),
            }
            for k in shown
        ],
        "matrices": [
            {"run": name, "rows": _matrix(analysis, of_run, shown, link)}
            for name, of_run in zip(report.runs, cells, strict=True)
        ],
        "left_out": sum(sizes) - sum(min(n, MAX_CELLS // len(cells)) for n in sizes),
    }


def confusion_payload(report: Report) -> list[list[int]] | None:
    """Return of each run the most frequent cells: object's row, detected row, count, ...

    Rows are those of the categories; K stands for background and for missed.
    """
    if not report.findings:
        return None
    analysis = report.analyses[0]
    kept = []
    for found in report.findings:
        cells = _rows(analysis, found.confusion)
        order = np.argsort(-cells[:, 2], kind="stable")[: MAX_CELLS // len(report.findings)]
        kept.append(cells[np.sort(order)].ravel().tolist())
    return kept


def most_confused(cells: Sequence[NDArray[np.int64]], num_categories: int) -> list[int]:
    """Return at most MAX_CATEGORIES rows of categories, the most confused, neighbours together.

    Each is followed by the one that it is confused with most of those that are left.

    Args:
        cells: of each run (n, 3): object's row, detected row, count.
        num_categories: K; higher rows are background and missed.
    """
    counts = np.zeros((num_categories, num_categories), np.int64)
    for of_run in cells:
        pairs = of_run[(of_run[:, :2] < num_categories).all(axis=1)]
        np.add.at(counts, (pairs[:, 0], pairs[:, 1]), pairs[:, 2])
    np.fill_diagonal(counts, 0)
    counts += counts.T
    total = counts.sum(axis=1)
    left = np.argsort(-total, kind="stable")[:MAX_CATEGORIES].tolist()
    chain = [left.pop(0)]
    while left:
        chain.append(left.pop(int(np.argmax(counts[chain[-1], left]))))
    return chain


def _rows(analysis: FalsePositiveAnalysis, cells: Sequence[ConfusionCell]) -> NDArray[np.int64]:
    """Return (n, 3) cells by the categories' rows; background and missed are K."""
    rows: dict[int | None, int] = {
        category: k for k, category in enumerate(analysis.category_ids.tolist())
    }
    rows[None] = len(rows)
    found = [(rows[cell.category_id], rows[cell.predicted_id], cell.count) for cell in cells]
    return np.array(found, np.int64).reshape(-1, 3)


def _matrix(
    analysis: FalsePositiveAnalysis,
    cells: NDArray[np.int64],
    shown: Sequence[int],
    link: Callable[..., str | None],
) -> list[dict[str, Any]]:
    """Return a row for each category shown, one for all others, one for background."""
    size, num_categories = len(shown), len(analysis.category_ids)
    place = np.full(num_categories + 1, size)  # all others
    place[list(shown)] = np.arange(size)
    place[num_categories] = size + 1  # background, missed
    counts = np.zeros((size + 2, size + 2), np.int64)
    np.add.at(counts, (place[cells[:, 0]], place[cells[:, 1]]), cells[:, 2])
    names = [analysis.category_names[k] for k in shown]
    objects, detected = [*names, "another category", "background"], [*names, "another", "missed"]
    rows = []
    for i, of_row in enumerate(counts.tolist()):
        total = sum(of_row)
        entries: list[dict[str, Any] | None] = []
        for j, count in enumerate(of_row):
            if not count:
                entries.append(None)
                continue
            target = _link(link, names, i, j)
            tip = f"{objects[i]}, detected as {detected[j]}"
            if j == size + 1:
                tip = f"{objects[i]}, missed"
            elif i == size + 1:
                tip = f"{detected[j]}, detected on background"
            share = count / total
            tip += f"\n{count:,} of {total:,} ({100 * share:.0f}%) in this row"
            entries.append(
                {
                    "text": _short(count),
                    "share": round(100 * share),
                    "css": "right" if i == j < size else "mixed" if i == j else "",
                    "tip": tip + ("\nclick: the crops" if target else ""),
                    "link": target,
                }
            )
        rows.append({"cells": entries, "total": _short(total)})
    return rows


def _short(count: int) -> str:
    """Return a count in at most four characters: "950", "8.3k", "15k"."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"


def _link(link: Callable[..., str | None], names: Sequence[str], i: int, j: int) -> str | None:
    """Return the link to a cell's crops."""
    size = len(names)
    if i < size and j < size:
        return link(kind="TP" if i == j else "Cls", name=names[j], truth=names[i])
    if i < size and j == size + 1:
        return link(kind="Missed", truth=names[i])
    if i == size + 1 and j < size:
        return link(kind="Bkg", name=names[j])
    return None
