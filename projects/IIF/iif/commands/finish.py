"""The end of a training in plain words: what it reached, where it lies, what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iif import layout
from iif.files import read_json
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import number
from iif.report.text import summary_text


def finish_text(
    folder: str | os.PathLike[str],
    summary: Mapping[str, Any] | None,
    *,
    report: Path | None,
    baseline: str | None,
) -> str:
    """Return the end of a training with torchvision.

    Args:
        folder: the run's output folder.
        summary: of the last evaluation; None without one.
        report: the page that was written; None without one.
        baseline: the method of a baseline to compare with; None where the run is one.
    """
    final = Path(folder, layout.FINAL_CHECKPOINT)
    lines = [] if summary is None else [summary_text(summary), "", _in_words(summary)]
    lines.append(f"Last checkpoint: {final}")
    best = Path(folder, layout.BEST)
    use = final
    if summary is not None and best.is_file():
        found = read_json(best, dict[str, Any], what="the best checkpoint of a training")
        use = Path(folder, found["checkpoint"])
        lines.append(
            f"Best checkpoint: {use}, after {found['iteration']:,} iterations, "
            f"{IOU_NAMES[found['metric'].partition('/')[0]]} AP {number(found['score'])} (chosen "
            "on the images that it is measured on: compare runs by their last ones)"
        )
    if report is not None:
        lines.append(f"Report: {report}")
    run, other = shlex.quote(str(folder)), shlex.quote(f"{folder}_baseline")
    predictions = shlex.quote(str(Path(folder, "predictions")))
    steps = [f"iif predict {shlex.quote(str(use))} IMAGES --output {predictions}"]
    if summary is not None and baseline is not None:
        steps.append(f"the same command with method={baseline} --output {other}; then")
        steps.append(f"iif compare {other} {run}")
    return "\n".join([*lines, "Next:", *(f"  {step}" for step in steps)])


def _in_words(summary: Mapping[str, Any]) -> str:
    """Return the main figure in a sentence, and the categories that are found worst."""
    iou_type = list(summary["metrics"])[-1]
    metrics, kind = summary["metrics"][iou_type], IOU_NAMES[iou_type]
    groups = [
        f"{GROUP_LABELS[group]} {number(metrics[f'AP{group}'])}"
        for group in "rcf"
        if metrics.get(f"AP{group}") is not None
    ]
    sentence = (
        f"The last checkpoint reaches {kind} AP {number(metrics['AP'])} of 100"
        + (f" ({', '.join(groups)})" if groups else "")
        + f" on {summary['dataset']['num_images']:,} images."
    )
    known = [
        (row[iou_type]["AP"], row["name"])
        for row in summary["per_category"]
        if (row.get(iou_type) or {}).get("AP") is not None
    ]
    if len(known) > 3:
        worst = ", ".join(f"{name} ({number(ap)})" for ap, name in sorted(known)[:3])
        sentence += f" Found worst: {worst}."
    unseen = len(summary["per_category"]) - len(known)
    if unseen:
        sentence += f" {unseen:,} categories have no object in these images and are not measured."
    return sentence
