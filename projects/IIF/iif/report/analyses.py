"""Missed objects, dAP, calibration and the other analyses of an evaluation as text tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iif.evaluation.missed import MAIN_ERRORS
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.tables import number, text_table

# Confusions listed.
_NUM_PAIRS = 10


def analyses_text(summary: Mapping[str, Any]) -> str:
    """Return the analyses of an eval_summary.json, IoU type by IoU type; "" without any."""
    parts = []
    for iou_type, found in summary["analyses"].items():
        name = IOU_NAMES[iou_type]
        parts.append(f"Objects, {name}, IoU 0.5 (missed: Loc, Cls, Miss)\n" + _missed(found))
        parts.append(f"AP50 and what repairing one type of error adds, {name}\n" + _impact(found))
        confusions = _confusions(found, summary["per_category"])
        if confusions:
            parts.append(f"Confusions at the thresholds of best F1, {name}\n" + confusions)
        if found["calibration"]:
            parts.append(f"Calibration of scores, {name} (%)\n" + _calibration(found))
        recall = {k: v for k, v in found["class_agnostic_recall"].items() if k.startswith("AR@")}
        parts.append(f"Recall without regard to categories, {name} (%)\n" + _metrics(recall))
        if found["boundary"] is not None:
            parts.append("Boundary AP (%)\n" + _metrics(found["boundary"]))
    return "\n\n".join(parts)


def _missed(found: Mapping[str, Any]) -> str:
    return text_table(
        ["categories", "objects", "found", "Loc", "Cls", "Miss"],
        [
            [GROUP_LABELS.get(row["group"], "-")]
            + [f"{row[key]:,}" for key in ("objects", "found", "loc", "cls", "miss")]
            for row in found["missed"]
        ],
    )


def _impact(found: Mapping[str, Any]) -> str:
    return text_table(
        ["categories", "AP50", *MAIN_ERRORS, "FalsePos", "FalseNeg"],
        [
            [
                GROUP_LABELS.get(row["group"], "-"),
                number(row["ap50"]),
                *(number(row["gains"][name]) for name in MAIN_ERRORS),
                number(row["false_positives"]),
                number(row["false_negatives"]),
            ]
            for row in found["error_impact"]
        ],
    )


def _confusions(found: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> str:
    """Return the most frequent pairs of categories; "" without any."""
    names = {category["id"]: category["name"] for category in categories}
    rows = [
        [names[cell["category_id"]], names[cell["predicted_id"]], f"{cell['count']:,}"]
        for cell in found["confusion"][:_NUM_PAIRS]
    ]
    return text_table(["object", "detected as", "objects"], rows, left=2) if rows else ""


def _calibration(found: Mapping[str, Any]) -> str:
    keys = ("ece", "category_ece", "score", "precision")
    return text_table(
        ["categories", "detections", "ECE", "ECE by category", "mean score", "precision"],
        [
            [
                GROUP_LABELS.get(row["group"], "-"),
                f"{row['detections']:,}",
                *(number(row[k]) for k in keys),
            ]
            for row in found["calibration"]
        ],
    )


def _metrics(values: Mapping[str, float | None]) -> str:
    return text_table(list(values), [[number(value) for value in values.values()]])
