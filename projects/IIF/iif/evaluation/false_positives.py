"""False positives that the annotation can prove, compared where two runs find equally much.

Under LVIS's federated annotation a category is verified in some images only; a detection elsewhere
is unverifiable, never a false positive. Scores of two runs live on different scales, so the primary
comparison is made per category at matched recall; docs/evaluation.md has the definitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORMAT = "iif-false-positives/1"
GROUPS = ("all", "r", "c", "f")
ERROR_TYPES = ("Loc", "Cls", "Dupe", "Bkg", "Both")
# What a picture can show of a detection; capped and degenerate ones are never shown.
KINDS = ("TP", *ERROR_TYPES, "Ignored", "Unverifiable")


@dataclass(frozen=True)
class RunFalsePositives:
    """One run's part of the analysis; K categories in the order of ids.

    Attributes:
        name: as printed.
        path, sha256, num_detections: the result file.
        outcomes: outcome name ("CAPPED", ..., "FP") -> detections in the whole file.
        error_types: error type -> false positives in the whole file.
        max_recall: (K,) highest recall that the run reaches; NaN without ground truth.
        threshold: (K,) score at which it reaches the matched recall; NaN where it does not.
        true_positives: (K,) with a score at or above the threshold.
        false_positives: (K, 5) with a score at or above the threshold, by ERROR_TYPES.
        curve: group -> (recalls,) false positives per 1,000 verified images, mean over the
            categories that every run brings to that recall; NaN where there is none.
    """

    name: str
    path: str
    sha256: str
    num_detections: int
    outcomes: dict[str, int]
    error_types: dict[str, int]
    max_recall: NDArray[np.float64]
    threshold: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    curve: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Secondary:
    """A secondary view: detections of each run kept by a rule that ignores score scales or recall.

    Attributes:
        rule: "top_k" (the ``value`` best-scoring of each image) or "score" (score >= ``value``).
        value: k, or the score.
        counts: (runs,) each "TP", "FP", "IGNORED", "UNVERIFIED" -> detections.
        by_group: (runs,) each group -> false positives.
    """

    rule: str
    value: float
    counts: list[dict[str, int]]
    by_group: list[dict[str, int]]


@dataclass(frozen=True)
class Confusion:
    """Cls errors at matched recall: objects of ``gt_category`` detected as ``predicted``.

    Attributes:
        gt_category, predicted: category rows.
        counts: (runs,) number of such errors.
    """

    gt_category: int
    predicted: int
    counts: list[int]


@dataclass(frozen=True)
class GroupRow:
    """False positives at matched recall over one frequency group; lists are (runs,).

    Attributes:
        group: "all", "r", "c" or "f".
        categories: those with ground truth.
        matched: those of them that every run brings to the recall; all sums are over these.
        reached: categories that each run reaches.
        total: sum of false positives.
        mean: mean per category; NaN when matched is 0.
        per_1000: per 1,000 verified images of the category, mean over categories.
        by_type: (runs, 5) sums by ERROR_TYPES.
    """

    group: str
    categories: int
    matched: int
    reached: list[int]
    total: list[int]
    mean: list[float]
    per_1000: list[float]
    by_type: list[list[int]]


@dataclass(frozen=True)
class FalsePositiveAnalysis:
    """False positives of one run, or of several with the baseline first.

    Attributes:
        dataset: path, sha256, num_images, num_categories, exhaustive.
        iou_type: "bbox" or "segm"; matching is at IoU 0.5.
        recall: the matched recall.
        category_ids, category_names, frequency, num_gt, verified_images: (K,).
        matched: (K,) bool, categories that every run brings to the recall.
        coverage: group -> share of image-category cells that are verified, 0 to 1.
        runs: (runs,).
        groups: one row each of GROUPS.
        curve_recalls: (recalls,); curve_categories: group -> (recalls,) categories behind a point.
        secondary: views at equal K per image and at equal score.
        confusions: most frequent first.
    """

    dataset: dict[str, str | int | bool]
    iou_type: str
    recall: float
    category_ids: NDArray[np.int64]
    category_names: list[str]
    frequency: NDArray[np.str_]
    num_gt: NDArray[np.int64]
    verified_images: NDArray[np.int64]
    matched: NDArray[np.bool_]
    coverage: dict[str, float]
    runs: list[RunFalsePositives]
    groups: list[GroupRow]
    curve_recalls: NDArray[np.float64]
    curve_categories: dict[str, NDArray[np.int64]]
    secondary: list[Secondary]
    confusions: list[Confusion]


@dataclass(frozen=True)
class SceneObject:
    """One object in a picture.

    Attributes:
        bbox: XYWH in pixels of the image.
        segmentation: RLE dict of the whole image; None where there is no mask.
        category: row; name: its name.
        kind: one of KINDS, or "Ground truth".
        score: None for ground truth.
        index: row in the result file, or of the annotation.
    """

    bbox: tuple[float, float, float, float]
    segmentation: dict | None
    category: int
    name: str
    kind: str
    score: float | None
    index: int


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth and what each run shows there at the matched recall.

    Attributes:
        image: row; image_id, file_name, height, width of the image.
        reason: why it was chosen ("3 false positives removed").
        ground_truth: all annotations.
        detections: (runs,) those at or above their category's threshold, best score first.
    """

    image: int
    image_id: int
    file_name: str
    height: int
    width: int
    reason: str
    ground_truth: list[SceneObject]
    detections: list[list[SceneObject]]
