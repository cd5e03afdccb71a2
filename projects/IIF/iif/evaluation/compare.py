"""An honest comparison of evaluated runs: same data, same settings, intervals on differences.

Works on ``eval_summary.json`` files, and on the ``eval_matches.npz`` beside them for the intervals;
docs/evaluation.md says what each figure means.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = "iif-comparison/1"


@dataclass(frozen=True)
class Interval:
    """A 95% percentile interval, in percentage points."""

    low: float
    high: float


@dataclass(frozen=True)
class RunInfo:
    """Where a run's figures come from.

    Attributes:
        name: as printed.
        summary: path of its eval_summary.json.
        results, results_sha256: the result file that was evaluated (None when not recorded).
        num_detections: detections in that file.
        test_settings: score_threshold, nms_threshold, detections_per_image; None where unknown.
    """

    name: str
    summary: str
    results: str | None
    results_sha256: str | None
    num_detections: int | None
    test_settings: dict[str, float | None]


@dataclass(frozen=True)
class DatasetInfo:
    """The data set that all runs were evaluated on."""

    name: str | None
    path: str | None
    sha256: str
    num_images: int
    num_categories: int
    exhaustive: bool


@dataclass(frozen=True)
class MetricRow:
    """One metric (percent) of every run; None where undefined or not computed.

    Attributes:
        iou_type: "bbox" or "segm".
        metric: "AP", "APr", "AP-fixed", "AR@300", ...
        values: (runs,) the first is the baseline's.
        value_intervals: (runs,) bootstrap interval of each value.
        differences: (runs - 1,) later runs minus the baseline.
        difference_intervals: (runs - 1,) paired bootstrap interval of each difference.
    """

    iou_type: str
    metric: str
    values: list[float | None]
    value_intervals: list[Interval | None]
    differences: list[float | None]
    difference_intervals: list[Interval | None]


@dataclass(frozen=True)
class CategoryRow:
    """One category: AP (percent) of every run by IoU type, and later runs minus the baseline.

    Attributes:
        id, name: the category.
        frequency: "r", "c" or "f".
        image_count: training images that contain it; None when unknown.
        num_gt: ground-truth instances in the evaluated set.
        ap: IoU type -> (runs,) AP.
        difference: IoU type -> (runs - 1,) difference of AP.
    """

    id: int
    name: str
    frequency: str
    image_count: int | None
    num_gt: int
    ap: dict[str, list[float | None]]
    difference: dict[str, list[float | None]]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the first is the baseline.

    Attributes:
        runs: (runs,).
        dataset: what they were evaluated on.
        iou_types: those that every run has.
        metrics: rows in print order, box before mask.
        categories: (K,) in the order of ids.
        notes: what the reader must know (settings that are unknown, IoU types left out, ...).
        replicates: bootstrap replicates behind the intervals; 0 when there are no intervals.
        seed: of the bootstrap.
    """

    runs: list[RunInfo]
    dataset: DatasetInfo
    iou_types: list[str]
    metrics: list[MetricRow]
    categories: list[CategoryRow]
    notes: list[str]
    replicates: int
    seed: int
