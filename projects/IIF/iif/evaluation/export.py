"""Metrics of an evaluation for other tools: a CSV table, and TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from iif.errors import InputError
from iif.files import atomic_write

CSV_COLUMNS = ("iou_type", "category_id", "metric", "value")


def export_metrics(
    summary: Mapping[str, Any],
    *,
    csv_file: str | os.PathLike[str] | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    step: int = 0,
) -> None:
    """Write the metrics of an ``eval_summary.json`` where they are asked for.

    Args:
        summary: the content of the file.
        csv_file: a table of CSV_COLUMNS: metrics over all categories, whose ``category_id`` is
            empty, then those of each category. An undefined value is empty.
        tensorboard: a log folder, to which an event file is added: metrics over all categories, by
            tags such as "bbox/AP". Undefined ones are left out.
        step: the training step that they belong to, for TensorBoard.

    Raises:
        InputError: TensorBoard is not installed.
    """
    if csv_file is not None:
        with atomic_write(csv_file) as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(CSV_COLUMNS)
            writer.writerows(_rows(summary))
    if tensorboard is not None:
        _write_events(summary, os.fspath(tensorboard), step)


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for iou_type, metrics in summary["metrics"].items():
        for name, value in metrics.items():
            yield iou_type, "", name, value
    for iou_type in summary["metrics"]:
        for category in summary["per_category"]:
            for name, value in category.get(iou_type, {}).items():
                yield iou_type, category["id"], name, value


def require_tensorboard() -> None:
    """Raise InputError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed: pip install tensorboard")


def _write_events(summary: Mapping[str, Any], folder: str, step: int) -> None:
    require_tensorboard()
    from tensorboard.summary import Writer

    writer = Writer(folder)
    try:
        for iou_type, metrics in summary["metrics"].items():
            for name, value in metrics.items():
                if value is not None:
                    writer.add_scalar(f"{iou_type}/{name}", value, step=step)
    finally:
        writer.close()
