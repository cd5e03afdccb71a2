"""Crops around single false positives: each run's detections there, beside the ground truth."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_util
from tqdm import tqdm

from iif.data.annotations import Annotations
from iif.data.images import find_images, read_image
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis
from iif.evaluation.runs import Run
from iif.evaluation.scenes import KINDS, Scene, SceneObject, choose_scenes, kinds, shown
from iif.report.outlines import mask_path

# A crop is shown about 370 CSS pixels wide; these keep 200 of them well below 20 MB in base64.
MAX_CROPS = 200
MAX_SIDE = 420
MAX_BYTES = 48 * 1024
MAX_SHAPES = 40

CHANGES = ("removed", "added", "kept")

_CANDIDATE = np.dtype(
    [
        *((field, np.int64) for field in ("run", "row", "image", "category", "kind", "change")),
        ("score", np.float64),
        ("rank", np.int64),
    ]
)

Window = tuple[int, int, int, int]
"""x, y, width, height in pixels of the image."""


@dataclass(frozen=True)
class Shape:
    """One object drawn over a crop; coordinates in pixels of the embedded picture.

    Attributes:
        name: category name.
        kind: one of KINDS, or "Ground truth".
        score: None for ground truth.
        box: x, y, width, height; it may reach beyond the picture.
        path: SVG path data of the mask; empty without one.
        subject: whether it is the false positive that the crop was cut around.
    """

    name: str
    kind: str
    score: float | None
    box: tuple[float, float, float, float]
    path: str
    subject: bool


@dataclass(frozen=True)
class Crop:
    """One picture with a panel per run and one for the ground truth.

    Attributes:
        image_id: the image it was cut from.
        window: the part of the image that it shows.
        width, height: of the embedded picture.
        jpeg: its bytes.
        category, group, kind: of the false positive it was cut around.
        change: "removed" (no later run makes it), "added" (the baseline does not make it), "kept"
            (the baseline and a later run make it), or "" with a single run.
        panels: (runs + 1,) shapes, ground truth last.
        left_out: (runs + 1,) number of shapes of each panel beyond MAX_SHAPES, not drawn.
    """

    image_id: int
    window: Window
    width: int
    height: int
    jpeg: bytes
    category: str
    group: str
    kind: str
    change: str
    panels: list[list[Shape]]
    left_out: list[int]


@dataclass(frozen=True)
class Subject:
    """A false positive to cut a crop around: detection ``row`` of run ``run``; see `Crop`."""

    run: int
    row: int
    image: int
    category: int
    kind: str
    change: str


def make_crops(
    analysis: FalsePositiveAnalysis,
    gt: Annotations,
    runs: Sequence[Run],
    images: str | os.PathLike[str],
    count: int = MAX_CROPS,
) -> list[Crop]:
    """Cut crops around false positives at the matched recall.

    Args:
        analysis, gt, runs: as given to and returned by `analyse`; ``gt`` with masks for segm.
        images: folder of the images.
        count: at most so many crops.

    Raises:
        InputError: an image is missing, cannot be read or has another size.
    """
    files = find_images(gt, images)
    subjects = choose_subjects(analysis, runs, count)
    rows = sorted({subject.image for subject in subjects})
    ids = gt.image_ids[rows].tolist()
    scenes = choose_scenes(analysis, gt, runs, image_ids=ids)
    crops: dict[Subject, Crop] = {}
    for scene in tqdm(scenes, desc="Crops", disable=None):
        pixels = read_image(files[scene.image], scene.height, scene.width)
        for subject in (s for s in subjects if s.image == scene.image):
            objects = {o.index: o for o in scene.detections[subject.run]}
            crops[subject] = cut_crop(
                scene,
                subject.run,
                objects[subject.row],
                pixels,
                group=str(analysis.category_groups[subject.category]),
                change=subject.change,
            )
    return [crops[subject] for subject in subjects]


def choose_subjects(
    analysis: FalsePositiveAnalysis, runs: Sequence[Run], count: int
) -> list[Subject]:
    """Return at most ``count`` false positives at the matched recall, as varied as possible.

    One is taken from each combination of change, frequency group and error type, then a second
    one, and so on. Within a combination different categories and images come first, then higher
    scores.
    """
    found = [
        _false_positives(run, rows) for run, rows in zip(runs, shown(analysis, runs), strict=True)
    ]
    parts = enumerate(zip(runs, found, _changes(runs, found), strict=True))
    pool = np.concatenate(
        [_candidates(position, run, rows, change) for position, (run, rows, change) in parts]
    )
    best = np.lexsort((-pool["score"], pool["rank"]))
    group = np.unique(analysis.category_groups, return_inverse=True)[1]
    stratum = (pool["change"] * len(group) + group[pool["category"]]) * len(KINDS) + pool["kind"]
    chosen = best[np.argsort(occurrence(stratum[best]), kind="stable")][:count]
    return [
        Subject(
            run=int(candidate["run"]),
            row=int(candidate["row"]),
            image=int(candidate["image"]),
            category=int(candidate["category"]),
            kind=KINDS[candidate["kind"]],
            change=CHANGES[candidate["change"]] if len(runs) > 1 else "",
        )
        for candidate in pool[chosen]
    ]


def _candidates(
    position: int, run: Run, rows: NDArray[np.int64], change: NDArray[np.int64]
) -> NDArray[np.void]:
    """Return the false positives ``rows`` of a run as records."""
    # A false positive that a later run shares with the baseline is shown once, as the baseline's.
    if position > 0:
        own = change != CHANGES.index("kept")
        rows, change = rows[own], change[own]
    image, category = run.detections.image[rows], run.detections.category[rows]
    pool = np.zeros(len(rows), _CANDIDATE)
    pool["run"], pool["row"], pool["change"] = position, rows, change
    pool["image"], pool["category"] = image, category
    pool["score"], pool["kind"] = run.detections.score[rows], kinds(run.matches, rows)
    # The second of a category or of an image comes after the first of every other.
    pool["rank"] = np.maximum(occurrence(category), occurrence(image))
    return pool


def _false_positives(run: Run, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = [KINDS.index(error_type) for error_type in ERROR_TYPES]
    return rows[np.isin(kinds(run.matches, rows), wrong)]


def occurrence(values: NDArray) -> NDArray[np.int64]:
    """Return for each value how often the same value occurs before it."""
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), np.int64)
    ranked = values[order]
    ranks[order] = np.arange(len(values)) - np.searchsorted(ranked, ranked)
    return ranks


def _changes(runs: Sequence[Run], found: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return for each run's false positives their positions in CHANGES."""
    changes = []
    for position, rows in enumerate(found):
        others = range(1, len(runs)) if position == 0 else (0,)
        twin = np.zeros(len(rows), bool)
        for other in others:
            twin |= _has_twin(runs[position], rows, runs[other], found[other])
        changes.append(np.where(twin, CHANGES.index("kept"), min(position, 1)))
    return changes


def _has_twin(
    run: Run, rows: NDArray[np.int64], other: Run, other_rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether ``other`` has a box of the same image and category with IoU >= 0.5."""
    num_categories = 1 + max(
        run.detections.category[rows].max(initial=0),
        other.detections.category[other_rows].max(initial=0),
    )
    keys = [
        r.detections.image[d].astype(np.int64) * num_categories + r.detections.category[d]
        for r, d in ((run, rows), (other, other_rows))
    ]
    order = np.argsort(keys[1], kind="stable")
    start = np.searchsorted(keys[1][order], keys[0], side="left")
    size = np.searchsorted(keys[1][order], keys[0], side="right") - start
    # All pairs that share image and category: position in rows, position in other_rows.
    first = np.repeat(np.arange(len(rows)), size)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
    second = order[np.repeat(start, size) + offset]
    twins = _iou(_boxes(run, rows)[first], _boxes(other, other_rows)[second]) >= 0.5
    return np.bincount(first[twins], minlength=len(rows)) > 0


def _boxes(run: Run, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n, 4) XYWH; from the masks when the result file has no boxes."""
    detections = run.detections
    if detections.bbox is not None:
        return detections.bbox[rows]
    assert detections.rle is not None  # a result row has a box or a mask
    boxes = [mask_util.toBbox(detections.rle[row]) for row in rows.tolist()]
    return np.array(boxes, np.float64).reshape(-1, 4)


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (n,) IoU of boxes (n, 4) XYWH, pair by pair."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    overlap = (high - low).clip(0).prod(axis=1)
    return overlap / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - overlap)


def cut_crop(
    scene: Scene,
    run: int,
    subject: SceneObject,
    image: NDArray[np.uint8],
    *,
    group: str,
    change: str,
) -> Crop:
    """Cut the surroundings of one detection out of an image and outline all objects in it.

    Args:
        scene: the image's objects.
        run: position of the run that made the detection.
        subject: the detection, one of ``scene.detections[run]``.
        image: (H, W, 3) RGB, as large as the scene says.
        group: "r", "c" or "f", of the detection's category.
        change: see `Crop`.
    """
    window = crop_window(subject.bbox, scene.width, scene.height)
    x, y, width, height = window
    picture = Image.fromarray(image[y : y + height, x : x + width])
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    jpeg, picture = encode_jpeg(picture, MAX_BYTES)
    scale = picture.width / width

    panels, left_out = [], []
    for position, objects in enumerate([*scene.detections, scene.ground_truth]):
        visible = [o for o in objects if _is_in(o.bbox, window)]
        own = position == run
        visible.sort(key=lambda o: (o.index != subject.index or not own, o.name != subject.name))
        left_out.append(max(0, len(visible) - MAX_SHAPES))
        panels.append(
            [
                _shape(o, window, scale, subject=own and o.index == subject.index)
                for o in visible[:MAX_SHAPES]
            ]
        )
    return Crop(
        image_id=scene.image_id,
        window=window,
        width=picture.width,
        height=picture.height,
        jpeg=jpeg,
        category=subject.name,
        group=group,
        kind=subject.kind,
        change=change,
        panels=panels,
        left_out=left_out,
    )


def crop_window(bbox: Sequence[float], width: int, height: int) -> Window:
    """Return the part of an image to show around a box: some context, 4:3 where it fits.

    Args:
        bbox: XYWH in pixels.
        width, height: of the image.
    """
    x, y, w, h = bbox
    wide = max(1.8 * w, 2.4 * h, 160.0)  # 2.4 = 1.8 * 4 / 3
    crop_w, crop_h = min(width, round(wide)), min(height, round(wide * 3 / 4))
    left = round(x + w / 2 - crop_w / 2)
    top = round(y + h / 2 - crop_h / 2)
    return max(0, min(left, width - crop_w)), max(0, min(top, height - crop_h)), crop_w, crop_h


def encode_jpeg(picture: Image.Image, max_bytes: int) -> tuple[bytes, Image.Image]:
    """Return a JPEG of at most ``max_bytes`` and the picture in it, shrunk where it must be."""
    while True:
        for quality in (85, 75, 60):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue(), picture
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4))


def _is_in(bbox: Sequence[float], window: Window) -> bool:
    """Return whether a box and the window overlap by more than 10% of the smaller of the two."""
    x, y, w, h = bbox
    left, top, width, height = window
    inside_w = min(x + w, left + width) - max(x, left)
    inside_h = min(y + h, top + height) - max(y, top)
    return max(0.0, inside_w) * max(0.0, inside_h) > 0.1 * min(w * h, width * height)


def _shape(obj: SceneObject, window: Window, scale: float, *, subject: bool) -> Shape:
    left, top, width, height = window
    x, y, w, h = obj.bbox
    path = ""
    if obj.segmentation is not None:
        mask = mask_util.decode(obj.segmentation)[top : top + height, left : left + width]
        path = mask_path(mask.astype(np.bool_), scale=scale)
    return Shape(
        name=obj.name,
        kind=obj.kind,
        score=obj.score,
        box=(
            round((x - left) * scale, 1),
            round((y - top) * scale, 1),
            round(w * scale, 1),
            round(h * scale, 1),
        ),
        path=path,
        subject=subject,
    )
