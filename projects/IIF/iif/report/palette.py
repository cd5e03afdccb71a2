"""Colours that every picture, plot and page shares: safe for the colour-blind, each with a label.

The hues are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/). A colour never stands
alone: labels name the outcome, and what is not a false positive by right is dashed.
"""

from __future__ import annotations

GROUND_TRUTH = "Ground truth"

# Outcome of a detection, as in iif.evaluation.scenes.KINDS -> colour.
OUTCOME_COLORS = {
    GROUND_TRUTH: "#0072B2",
    "TP": "#009E73",
    "Loc": "#E69F00",
    "Cls": "#D55E00",
    "Dupe": "#56B4E9",
    "Bkg": "#CC79A7",
    "Both": "#F0E442",
    "Ignored": "#BBBBBB",
    "Unverifiable": "#8C8C8C",
}

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

# Neither right nor wrong by the annotation: drawn dashed.
DASHED = frozenset({"Ignored", "Unverifiable"})

GROUP_COLORS = {"r": "#D55E00", "c": "#0072B2", "f": "#009E73"}
GROUP_LABELS = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}

# Runs in order, the baseline first.
RUN_COLORS = ("#8C8C8C", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
