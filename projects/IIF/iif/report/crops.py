"""Crops around single detections and missed objects: what each run finds there."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_util

from iif.data.annotations import Annotations
from iif.data.images import find_images, read_image
from iif.evaluation.false_positives import FalsePositiveAnalysis
from iif.evaluation.runs import Run
from iif.evaluation.scenes import Scene, SceneObject, choose_scenes
from iif.progress import progress
from iif.report.crop_subjects import MISSED, Subject, choose_missed, choose_subjects
from iif.report.nearest import miss_reason, nearest_detection
from iif.report.outlines import mask_path

# A crop is shown about 370 CSS pixels wide. With these a page for LVIS val stays below 3 MB.
MAX_CROPS = 100
MAX_SIDE = 360
MAX_BYTES = 8 * 1024
MAX_SHAPES = 24
# The whole image beside a crop: just to see where the crop lies.
WHOLE_SIDE = 200
WHOLE_BYTES = 3 * 1024

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
        subject: whether it is the detection that the crop was cut around.
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
        picture: its bytes, WebP.
        category, group, kind: of the detection it was cut around, a false or true positive; of an
            object that a run misses, with the kind MISSED.
        truth: category of the object that decided about it; "" where there is none.
        change: "removed" (no later run has the detection or the miss), "added" (the baseline does
            not have it), "kept" (the baseline and a later run have it), or "" with a single run.
        whole: the whole image, small, WebP; empty where the crop is all of it.
        file_name: of the image.
        image_size: height, width of the whole image in pixels.
        panels: (runs + 1,) shapes, ground truth last.
        why: of a missed object "Loc", "Cls" or "Miss"; else "".
        reason: why it is missed, in words, with the nearest detection; else "".
        left_out: (runs + 1,) number of shapes of each panel beyond MAX_SHAPES, not drawn.
    """

    image_id: int
    window: Window
    width: int
    height: int
    picture: bytes
    category: str
    group: str
    kind: str
    change: str
    panels: list[list[Shape]]
    left_out: list[int]
    truth: str = ""
    why: str = ""
    reason: str = ""
    file_name: str = ""
    whole: bytes = b""
    image_size: tuple[int, int] = (0, 0)


def make_crops(
    analysis: FalsePositiveAnalysis,
    gt: Annotations,
    runs: Sequence[Run],
    images: str | os.PathLike[str],
    count: int = MAX_CROPS,
    found: Sequence[NDArray[np.uint8]] = (),
) -> list[Crop]:
    """Cut crops around false positives, some true ones and missed objects.

    Args:
        analysis, gt, runs: as given to and returned by `analyse`; ``gt`` with masks for segm.
        images: folder of the images.
        count: at most so many crops, a quarter of them around missed objects.
        found: (G,) of each run what became of each object, from
            `iif.evaluation.missed.found_objects`; without it there are no missed objects.

    Raises:
        InputError: an image is missing, cannot be read or has another size.
    """
    files = find_images(gt, images)
    missed = choose_missed(gt, found, count // 4) if found else []
    subjects = [*choose_subjects(analysis, gt, runs, count - len(missed)), *missed]
    rows = sorted({subject.image for subject in subjects})
    ids = gt.image_ids[rows].tolist()
    scenes = choose_scenes(analysis, gt, runs, image_ids=ids)
    crops: dict[Subject, Crop] = {}
    for scene in progress(scenes, desc="Crops"):
        pixels = read_image(files[scene.image], scene.height, scene.width)
        for subject in (s for s in subjects if s.image == scene.image):
            cut = _missed_crop if subject.kind == MISSED else _detection_crop
            crops[subject] = cut(scene, subject, pixels, gt, runs)
    return [crops[subject] for subject in subjects]


def _detection_crop(
    scene: Scene, subject: Subject, pixels: NDArray[np.uint8], gt: Annotations, runs: Sequence[Run]
) -> Crop:
    objects = {o.index: o for o in scene.detections[subject.run]}
    return cut_crop(
        scene,
        subject.run,
        objects[subject.row],
        pixels,
        group=str(gt.groups[subject.category]),
        change=subject.change,
        truth=_truth(gt, runs[subject.run], subject.row),
    )


def _missed_crop(
    scene: Scene, subject: Subject, pixels: NDArray[np.uint8], gt: Annotations, runs: Sequence[Run]
) -> Crop:
    """Cut a crop around a missed object; in each run's panel it stands with what lies nearest."""
    (object_,) = (o for o in scene.ground_truth if o.index == subject.row)
    nearest = [nearest_detection(gt, run, subject.row) for run in runs]
    crop = cut_crop(
        scene,
        len(runs),
        object_,
        pixels,
        group=str(gt.groups[subject.category]),
        change=subject.change,
        truth=object_.name,
        also=[[object_, *([] if near is None else [near.object])] for near in nearest],
    )
    reason = miss_reason(subject.why, nearest[subject.run])
    return replace(crop, kind=MISSED, why=subject.why, reason=reason)


def _truth(gt: Annotations, run: Run, row: int) -> str:
    """Return the category of the object that decided about a detection; "" where none did."""
    object_ = int(run.matches.gt_row[row])
    return "" if object_ < 0 else gt.category_names[int(gt.ann_category[object_])]


def cut_crop(
    scene: Scene,
    run: int,
    subject: SceneObject,
    image: NDArray[np.uint8],
    *,
    group: str,
    change: str,
    truth: str = "",
    also: Sequence[Sequence[SceneObject]] = (),
) -> Crop:
    """Cut the surroundings of one object out of an image and outline all objects in it.

    Args:
        scene: the image's objects.
        run: position of the panel of the subject: of the run that made the detection, or one
            beyond the last for ground truth.
        subject: the detection, one of ``scene.detections[run]``, or ground truth.
        image: (H, W, 3) RGB, as large as the scene says.
        group: "r", "c" or "f", of the subject's category.
        change, truth: see `Crop`.
        also: more objects to stress in each run's panel; those that are not there are added.
    """
    window = crop_window(subject.bbox, scene.width, scene.height)
    x, y, width, height = window
    picture = Image.fromarray(image[y : y + height, x : x + width])
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded, picture = encode_picture(picture, MAX_BYTES)
    scale = picture.width / width
    small = b""
    if (width, height) != (scene.width, scene.height):
        whole = Image.fromarray(image)
        whole.thumbnail((WHOLE_SIDE, WHOLE_SIDE), Image.Resampling.LANCZOS)
        small = encode_picture(whole, WHOLE_BYTES)[0]

    panels, left_out = [], []
    for position, objects in enumerate([*scene.detections, scene.ground_truth]):
        stressed = [subject] if position == run else []
        stressed += also[position] if position < len(also) else []
        marks = {(o.kind, o.index) for o in stressed}
        others = [o for o in objects if (o.kind, o.index) not in marks and _is_in(o.bbox, window)]
        others.sort(key=lambda o: o.name != subject.name)
        left_out.append(max(0, len(stressed) + len(others) - MAX_SHAPES))
        panels.append(
            [
                *(_shape(o, window, scale, subject=True) for o in stressed),
                *(
                    _shape(o, window, scale, subject=False)
                    for o in others[: MAX_SHAPES - len(stressed)]
                ),
            ]
        )
    return Crop(
        image_id=scene.image_id,
        window=window,
        width=picture.width,
        height=picture.height,
        picture=encoded,
        category=subject.name,
        group=group,
        kind=subject.kind,
        change=change,
        panels=panels,
        left_out=left_out,
        truth=truth,
        file_name=scene.file_name,
        whole=small,
        image_size=(scene.height, scene.width),
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


def encode_picture(picture: Image.Image, max_bytes: int) -> tuple[bytes, Image.Image]:
    """Return a WebP of at most ``max_bytes`` and its picture, made smaller when it must be."""
    while True:
        for quality in (80, 60, 40):
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=4)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue(), picture
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5))


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
