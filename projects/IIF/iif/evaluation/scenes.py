"""Scenes for pictures of an analysis of false positives: which images, and which detections."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.errors import InputError
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis
from iif.evaluation.matching import ErrorType, Matches, Outcome
from iif.evaluation.operating_points import all_runs_reach
from iif.evaluation.runs import Run

# Kinds of a detection in a picture; capped and degenerate ones are never shown.
KINDS = ("TP", *ERROR_TYPES, "Ignored", "Unverifiable")
GROUND_TRUTH = "Ground truth"
# Kind of a detection that is never shown.
_NOT_SHOWN = 255


@dataclass(frozen=True)
class SceneObject:
    """One object in a picture.

    Attributes:
        bbox: XYWH in pixels of the image.
        segmentation: RLE dict of the whole image; None where there is no mask.
        category: row; name: its name.
        kind: one of KINDS, or GROUND_TRUTH.
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
    """An image with its ground truth and each run's detections at the matched recall.

    Attributes:
        image: row; image_id, file_name, height, width of the image.
        false_positives: (runs,) the counts in this image by which it was chosen.
        ground_truth: all annotations.
        detections: (runs,) those at or above their category's threshold, best score first.
    """

    image: int
    image_id: int
    file_name: str
    height: int
    width: int
    false_positives: list[int]
    ground_truth: list[SceneObject]
    detections: list[list[SceneObject]]

    @property
    def change(self) -> int:
        """False positives of the last run minus those of the first; of one run, their number."""
        first, *later = self.false_positives
        return later[-1] - first if later else first


def choose_scenes(
    analysis: FalsePositiveAnalysis,
    gt: Annotations,
    runs: Sequence[Run],
    *,
    num_images: int = 8,
    categories: Sequence[int] | None = None,
    error_types: Sequence[str] | None = None,
    image_ids: Sequence[int] | None = None,
) -> list[Scene]:
    """Return the images with most false positives removed by the last run, and most added.

    Of a single run: the images with most false positives. Everything is at the matched recall. The
    filters limit what is counted; ``categories`` limits what is shown, too.

    Args:
        analysis, gt, runs: as given to and returned by `analyse`; ``gt`` with masks for segm.
        num_images: of each of the two kinds at most; an image without a change is never chosen.
        categories: rows; default all.
        error_types: of ERROR_TYPES; default all.
        image_ids: return exactly these images.

    Raises:
        InputError: an image id is not in the ground truth, or no run can show any of the
            categories at this recall.
    """
    chosen = np.ones(len(analysis.matched), bool)
    if categories is not None:
        chosen = np.isin(np.arange(len(chosen)), categories)
        _refuse_unmatched(analysis, chosen)
    wanted = [KINDS.index(t) for t in (error_types or ERROR_TYPES)]
    rows = [
        r[chosen[run.detections.category[r]]]
        for r, run in zip(shown(analysis, runs), runs, strict=True)
    ]
    counts = []
    for run, r in zip(runs, rows, strict=True):
        false = r[np.isin(kinds(run.matches, r), wanted)]
        counts.append(np.bincount(run.detections.image[false], minlength=len(gt.image_ids)))
    if image_ids is not None:
        check_image_ids(gt, image_ids)
        images = gt.image_row(image_ids).tolist()
    else:
        change = counts[-1] - counts[0] if len(counts) > 1 else counts[0]
        order = np.argsort(change, kind="stable").tolist()
        images = [i for i in order[:num_images] if change[i] < 0]
        images += [i for i in order[::-1][:num_images] if change[i] > 0]
    return [_scene(gt, runs, rows, i, [int(count[i]) for count in counts]) for i in images]


def shown(analysis: FalsePositiveAnalysis, runs: Sequence[Run]) -> list[NDArray[np.int64]]:
    """Return the rows of each run's detections at the matched recall, best score first.

    Their scores are at or above their category's threshold, and every run brings their category to
    the recall. Unverifiable and ignored detections are among them.
    """
    rows = []
    for run, part in zip(runs, analysis.runs, strict=True):
        threshold = np.where(analysis.matched, part.threshold, np.inf)
        detections = run.detections
        keep = detections.score >= threshold[detections.category]
        keep &= kinds(run.matches) != _NOT_SHOWN
        found = np.flatnonzero(keep)
        rows.append(found[np.argsort(-detections.score[found], kind="stable")])
    return rows


def kinds(matches: Matches, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.uint8]:
    """Return the kind of each detection in ``rows``: an index into KINDS, 255 if never shown."""
    table = np.full((len(Outcome), len(ErrorType)), _NOT_SHOWN, np.uint8)
    table[Outcome.TP] = KINDS.index("TP")
    table[Outcome.IGNORED] = KINDS.index("Ignored")
    table[Outcome.UNVERIFIED] = KINDS.index("Unverifiable")
    for error_type in ErrorType:
        if error_type != ErrorType.NONE:
            table[Outcome.FP, error_type] = KINDS.index(error_type.label)
    return table[matches.outcome[rows], matches.error_type[rows]]


def find_categories(
    gt: Annotations, wanted: Sequence[str] = (), groups: Sequence[str] = ()
) -> list[int] | None:
    """Return the rows of categories given by name or id, and of groups; None when none is given.

    Raises:
        InputError: no category has that name or id.
    """
    if not wanted and not groups:
        return None
    rows = set(np.flatnonzero(np.isin(gt.groups, list(groups))).tolist())
    by_name = {name: row for row, name in enumerate(gt.category_names)}
    by_id = {str(category): row for row, category in enumerate(gt.category_ids)}
    for key in wanted:
        row = by_name.get(key, by_id.get(key))
        if row is None:
            close = difflib.get_close_matches(key, by_name, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "give one of its categories"
            raise InputError(f"{gt.path}: no category has the name or id {key!r}; {hint}")
        rows.add(row)
    return sorted(rows)


def check_image_ids(gt: Annotations, image_ids: Sequence[int]) -> None:
    """Raise InputError when an image id is not in the annotations."""
    for image_id, row in zip(image_ids, gt.image_row(image_ids), strict=True):
        if row < 0:
            raise InputError(f"{gt.path}: no image has id {image_id}; give an id from this file")


def _refuse_unmatched(analysis: FalsePositiveAnalysis, chosen: NDArray[np.bool_]) -> None:
    if (analysis.matched & chosen).any():
        return
    best = [
        f"{run.name} {np.nanmax(run.max_recall[chosen], initial=0.0):.2f}" for run in analysis.runs
    ]
    raise InputError(
        f"there is no chosen category in which {all_runs_reach(analysis.names)} recall "
        f"{analysis.recall:g} (highest: {', '.join(best)}); choose others, or a lower recall"
    )


def _scene(
    gt: Annotations,
    runs: Sequence[Run],
    rows: Sequence[NDArray[np.int64]],
    image: int,
    false_positives: list[int],
) -> Scene:
    height, width = gt.image_sizes[image]
    return Scene(
        image=image,
        image_id=int(gt.image_ids[image]),
        file_name=gt.file_names[image],
        height=int(height),
        width=int(width),
        false_positives=false_positives,
        ground_truth=[
            SceneObject(
                bbox=tuple(gt.bbox[g].tolist()),
                segmentation=None if gt.segmentation is None else gt.rle(int(g)),
                category=int(gt.ann_category[g]),
                name=gt.category_names[gt.ann_category[g]],
                kind=GROUND_TRUTH,
                score=None,
                index=int(g),
            )
            for g in np.flatnonzero(gt.ann_image == image)
        ],
        detections=[
            [detection_object(gt, run, int(d)) for d in r[run.detections.image[r] == image]]
            for run, r in zip(runs, rows, strict=True)
        ],
    )


def detection_object(gt: Annotations, run: Run, row: int) -> SceneObject:
    """Return a detection, neither capped nor degenerate, as an object in a picture."""
    detections = run.detections
    rle = detections.rle[row] if detections.rle is not None else None
    bbox = detections.bbox[row].tolist() if detections.bbox is not None else _rle_box(rle)
    category = int(detections.category[row])
    return SceneObject(
        bbox=tuple(bbox),
        segmentation=rle,
        category=category,
        name=gt.category_names[category],
        kind=KINDS[kinds(run.matches, slice(row, row + 1))[0]],
        score=float(detections.score[row]),
        index=row,
    )


def _rle_box(rle: dict | None) -> list[float]:
    from pycocotools import mask

    return mask.toBbox(rle).tolist()
