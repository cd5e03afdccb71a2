"""The label of each key that an evaluation uses; texts, charts, pictures and pages share them.

Keys are those of `iif.evaluation`: IoU types, groups, metrics, outcomes (`Outcome`), and the kinds
of an object in a picture (GROUND_TRUTH and KINDS of `iif.evaluation.scenes`).
"""

from __future__ import annotations

from iif.data.groups import GroupLimits
from iif.evaluation.scenes import GROUND_TRUTH

IOU_NAMES = {"bbox": "box", "segm": "mask"}

GROUP_LABELS = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}

METRIC_LABELS = {
    "AP": "all categories, IoU 0.5 to 0.95",
    "AP50": "IoU 0.5",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "APr": "rare categories",
    "APc": "common categories",
    "APf": "frequent categories",
    "AR@300": "recall with 300 detections",
    "AP-fixed": "10,000 detections per category, no cap per image",
    "APr-fixed": "the same, rare categories",
    "APc-fixed": "the same, common categories",
    "APf-fixed": "the same, frequent categories",
}

# Outcomes of detections as rows of a text table, and of a table on a page.
OUTCOME_WORDS = {
    "CAPPED": "beyond the cap per image",
    "DEGENERATE": "without area",
    "UNVERIFIED": "unverifiable",
    "IGNORED": "ignored",
    "TP": "true positive",
    "FP": "false positive",
}
OUTCOME_NAMES = {
    "TP": "true positives",
    "FP": "false positives",
    "IGNORED": "ignored: category not exhaustively annotated there",
    "UNVERIFIED": "unverifiable: category not annotated there",
    "CAPPED": "beyond the 300 best of their image",
    "DEGENERATE": "without area",
}

# Objects in a picture: ground truth, and detections by kind.
OUTCOME_LABELS = {
    GROUND_TRUTH: "ground truth",
    "TP": "true positive",
    "Loc": "Loc: right category, IoU 0.1 to 0.5",
    "Cls": "Cls: object of another category",
    "Dupe": "Dupe: object already found",
    "Bkg": "Bkg: no object there",
    "Both": "Both: another category, badly placed",
    "Ignored": "ignored: category not exhaustively annotated here",
    "Unverifiable": "unverifiable: category not annotated here",
}

# How a detection, or a miss, relates to those of the baseline at the same place.
CHANGE_LABELS = {
    "removed": "removed: only the baseline has it",
    "added": "added: the baseline does not have it",
    "kept": "kept: the baseline has it too",
}

# What becomes of an object, by the attributes of `MissedRow`.
FOUND_LABELS = {
    "found": "found",
    "loc": "Loc: detected, but badly placed",
    "cls": "Cls: detected as another category",
    "miss": "Miss: not detected",
}
# Why crops around missed objects were missed, and the same in the words of a filter.
MISSED_LABEL = "missed object"
WHY_LABELS = {"Loc": "badly placed", "Cls": "another category", "Miss": "not detected"}
# Why an object is missed, by the kind of the detection that lies nearest.
MISS_REASONS = {
    "Loc": "localisation: detected, but badly placed",
    "Cls": "class: another category is detected on it",
    "Both": "class and localisation: another category is detected near it",
    "Dupe": "duplicate: the detection there belongs to another object",
    "Bkg": "background: what is detected there hardly touches it",
    "Unverifiable": "class: detected as a category that was not looked for in this image",
    "Ignored": "the detection there is ignored",
    "None": "no detection: nothing overlaps it",
}


def groups_sentence(limits: GroupLimits | None) -> str:
    """Return which categories are rare, common and frequent; "" by LVIS's own limits."""
    if limits is None or limits.rule == "lvis":
        return ""
    reason = (
        "terciles of the categories, because LVIS's limits, 10 and 100, leave a group empty"
        if limits.rule == "terciles"
        else "as given; LVIS's limits are 10 and 100"
    )
    return (
        f"Rare categories are in at most {limits.rare:,} training images, common ones in at most "
        f"{limits.common:,}, frequent ones in more ({reason})."
    )


def short_name(name: str, limit: int = 18) -> str:
    """Return a category name that fits a label: without "(...)" at its end, cut off at ``limit``.

    "railcar_(part_of_a_train)" is "railcar"; legends and tooltips have the whole name.
    """
    head = name.partition("(")[0].rstrip(" _") or name
    text = head if len(name) > limit else name
    return (
        text if len(text) <= limit else f"{text[: limit - 1].rstrip(' _')}\N{HORIZONTAL ELLIPSIS}"
    )
