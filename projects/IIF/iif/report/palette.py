"""Colours that every picture, plot and page shares, safe for the colour-blind.

The hues are those of Okabe and Ito (2008, https://jfly.uni-koeln.de/color/). Colour is
never the only sign: each has a label of `iif.report.labels`, and detections that are ignored or
unverifiable are dashed (on the page: the unverifiable ones dotted).
"""

from __future__ import annotations

from iif.evaluation.scenes import GROUND_TRUTH

# Kind of an object in a picture -> colour.
OUTCOME_COLORS = {
    GROUND_TRUTH: "#0072B2",
    "TP": "#009E73",
    "Loc": "#E69F00",
    "Cls": "#D55E00",
    "Dupe": "#56B4E9",
    "Bkg": "#CC79A7",
    "Both": "#F0E442",
    "Ignored": "#A98A4B",
    "Unverifiable": "#8C8C8C",
}

# Kinds that the annotation shows to be neither true nor false positives: drawn dashed.
DASHED = frozenset({"Ignored", "Unverifiable"})

# What becomes of an object -> colour; a missed one has that of the error that misses it.
FOUND_COLORS = {
    "found": OUTCOME_COLORS["TP"],
    "loc": OUTCOME_COLORS["Loc"],
    "cls": OUTCOME_COLORS["Cls"],
    "miss": "#8C8C8C",
}

GROUP_COLORS = {"r": "#D55E00", "c": "#0072B2", "f": "#009E73"}

# Runs in order, the baseline first.
RUN_COLORS = ("#8C8C8C", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
