"""Crops around single false positives: what each run shows there, beside the ground truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_util

from iif.evaluation.false_positives import Scene, SceneObject
from iif.report.outlines import mask_path

# A crop is shown about 370 CSS pixels wide; these keep 200 of them well below 20 MB in base64.
MAX_SIDE = 420
MAX_BYTES = 48 * 1024
MAX_SHAPES = 40

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
        subject: whether the crop was cut around it.
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
        image_id, file_name: the image it was cut from.
        window: the part of the image that it shows.
        width, height: of the embedded picture.
        jpeg: its bytes.
        category, group, kind: of the false positive it was cut around.
        change: "removed" (only the baseline makes it), "added" (only a later run does), "kept"
            (several do), or "" with a single run.
        panels: (runs + 1,) shapes, ground truth last.
        left_out: (runs + 1,) shapes of each panel that were too many to draw.
    """

    image_id: int
    file_name: str
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
    jpeg, picture = _encode(picture)
    scale = picture.width / width

    panels, left_out = [], []
    for position, objects in enumerate([*scene.detections, scene.ground_truth]):
        visible = [o for o in objects if _share_inside(o.bbox, window) > 0.1]
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
        file_name=scene.file_name,
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


def _encode(picture: Image.Image) -> tuple[bytes, Image.Image]:
    """Return a JPEG of at most MAX_BYTES and the picture in it, made smaller when it must be."""
    while True:
        for quality in (85, 75, 60):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= MAX_BYTES:
                return buffer.getvalue(), picture
        picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4))


def _share_inside(bbox: Sequence[float], window: Window) -> float:
    x, y, w, h = bbox
    left, top, width, height = window
    inside_w = min(x + w, left + width) - max(x, left)
    inside_h = min(y + h, top + height) - max(y, top)
    return max(0.0, inside_w) * max(0.0, inside_h) / (w * h) if w > 0 and h > 0 else 0.0


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
