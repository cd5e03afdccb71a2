"""The label of each key that a classification run uses, and which direction is better."""

from __future__ import annotations

from iif.evaluation.classification.measures import GROUPS
from iif.evaluation.compare import Interval
from iif.report.verdict import is_difference

METRIC_LABELS = {
    "top1": ("Top-1", "all test images"),
    "many": ("Many", "mean over classes of more than 100 training images"),
    "medium": ("Medium", "the same, 20 to 100"),
    "few": ("Few", "the same, fewer than 20"),
    "mean_class": ("Mean class", "mean over all classes"),
    "top5": ("Top-5", "the true class among the five most probable"),
    "ece": ("Calibration error", "expected, 15 bins; lower is better"),
}
GROUP_LABELS = {"all": "all", "many": "many", "medium": "medium", "few": "few"}

# Groups -> colour; those of frequent, common and rare in `iif.report.palette`.
GROUP_COLORS = {"many": "#009E73", "medium": "#0072B2", "few": "#D55E00"}

# What is measured in false positives: higher is worse. So is the calibration error.
FALSE_POSITIVES = tuple(f"false_positives_{group}" for group in GROUPS)
PER_1000 = tuple(f"per_1000_{group}" for group in GROUPS)


def group_of(metric: str) -> str:
    """Return the group of a measure of false positives."""
    return metric.rpartition("_")[2]


def css_of(metric: str, interval: Interval | None) -> str:
    """Return "better" or "worse" where the interval of a difference excludes zero, else ""."""
    if interval is None or not is_difference(interval):
        return ""
    falls = metric in (*FALSE_POSITIVES, *PER_1000, "ece")
    return "better" if (interval.low > 0) != falls else "worse"
