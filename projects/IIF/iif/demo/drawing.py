"""Pictures of OpenMoji's drawings on textured backgrounds, and what is visible of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from iif.demo.font import ink_ratio, render
from iif.demo.kinds import Kind
from iif.demo.plan import ImagePlan, OpenMojiSettings

# Larger side of a drawing as a share of the image's. With more drawings than fit at that size, all
# are smaller.
_SIZES = (0.22, 0.5)
_FIT = 5
# Degrees by which it is turned, and the factor by which it is wider or slimmer.
_MAX_ANGLE = 25.0
_MAX_STRETCH = 1.25
# Degrees by which its hue is turned, and factors of its saturation and brightness.
_MAX_HUE = 15.0
_SATURATION = (0.4, 1.3)
_BRIGHTNESS = (0.55, 1.15)
_BACKGROUND_SATURATION = 0.6
# Half of the drawings cast a shadow: its darkness, and its distance and blur relative to a
# drawing's size.
_SHADOWS = 0.5
_DARKNESS = (0.2, 0.5)
_DISTANCE = (0.03, 0.09)
_BLUR = 0.03

# The least share of a drawing that stays visible whatever is drawn over it, and the largest share
# of the smaller of two drawings' boxes that may lie in the other box.
_MIN_VISIBLE = 0.55
_MAX_OVERLAP = 0.4
# Random places to try at a size, then smaller sizes, down to the least.
_PLACES = 6
_SHRINKS = 16
_SHRINK = 0.92
_MIN_SIZE = 0.14

# Size of the font from which on its outlines are exact, and pixels around a drawing.
_LARGE = 96
_BORDER = 2

_Window = tuple[slice, slice]


@dataclasses.dataclass(frozen=True)
class Pose:
    """How a drawing is laid on an image.

    Attributes:
        size: its larger side before it is stretched and turned, in pixels.
        angle: degrees by which it is turned counter-clockwise, after stretching.
        stretch: its width is multiplied by the root of this and its height divided by it.
        mirrored: whether left and right are exchanged first.
    """

    size: float
    angle: float = 0.0
    stretch: float = 1.0
    mirrored: bool = False


@dataclasses.dataclass
class Drawing:
    """A drawn instance; ``coverage`` (S, S) is what is visible of it, from 0 to 1."""

    category: int
    pose: Pose
    middle: tuple[float, float]  # x, y of the middle of the upright drawing's box, in pixels
    coverage: NDArray[np.float32]
    window: _Window  # its bounding box when it was drawn
    area: int  # in pixels, when it was drawn


def draw_image(
    plan: ImagePlan, kinds: Sequence[Kind], settings: OpenMojiSettings, attempt: int = 0
) -> tuple[NDArray[np.uint8], list[Drawing]]:
    """Draw a planned image.

    Each image has its own random numbers, so that the result does not depend on the process that
    draws it.

    Args:
        plan: what to draw.
        kinds: K, one for each category.
        settings: those of the data set.
        attempt: another number gives another picture of the same plan.

    Returns:
        The image (S, S, 3) and its drawings, the first drawn first; fewer than planned where there
        is no room.
    """
    again = [attempt] if attempt else []
    rng = np.random.default_rng([settings.seed, plan.image_id, *again])
    size = settings.image_size
    canvas = _background(size, rng)
    light = rng.uniform(0, 2 * np.pi)
    drawings: list[Drawing] = []
    rows = [pair.category for pair in plan.pairs for _ in range(pair.instances)]
    crowded = min(1.0, math.sqrt(_FIT / max(1, len(rows))))
    for row in rng.permutation(rows).tolist():
        drawing, picture = _place(row, kinds[row], size, crowded, drawings, rng)
        if drawing is None:
            continue
        if rng.random() < _SHADOWS:
            _cast_shadow(canvas, picture[..., 3], drawing, light, rng)
        colour, alpha = _change_colour(picture, rng), picture[..., 3:]
        behind = canvas[drawing.window]
        behind += 255 * colour - alpha * behind
        for below in drawings:
            below.coverage[drawing.window] *= 1 - alpha[..., 0]
        drawings.append(drawing)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    canvas += np.float32(rng.uniform(1, 7)) * noise
    return canvas.clip(0, 255).astype(np.uint8), drawings


def pose_drawing(code: int, pose: Pose) -> Image.Image:
    """Return a drawing in a pose, of mode "RGBa", its middle in the middle of the picture."""
    bordered = _upright(code, _font_size(pose.size / ink_ratio(code)))
    scale = pose.size / (max(bordered.size) - 2 * _BORDER)
    across, down = scale * math.sqrt(pose.stretch), scale / math.sqrt(pose.stretch)
    cos, sin = math.cos(math.radians(pose.angle)), math.sin(math.radians(pose.angle))
    # From the drawing to the image: scaled, then turned; y points down.
    forth = np.array([[cos * across, sin * down], [-sin * across, cos * down]])
    if pose.mirrored:
        forth[:, 0] *= -1
    extent = np.abs(forth) @ bordered.size
    new = np.ceil(extent).astype(int)
    back = np.linalg.inv(forth)
    offset = np.array(bordered.size) / 2 - back @ new / 2
    affine = [*back[0], offset[0], *back[1], offset[1]]
    return bordered.transform(
        (int(new[0]), int(new[1])), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )


def _font_size(size: float) -> int:
    """Return the size of the font to draw at, for drawings that are then scaled to ``size``.

    Small ones are drawn larger, because a font's outlines are moved to whole pixels; in few sizes,
    so that they are drawn once.
    """
    if size >= _LARGE:
        return math.ceil(size)
    return round(_LARGE * 2 ** (math.ceil(2 * math.log2(1.6 * size / _LARGE)) / 2))


@lru_cache(maxsize=256)
def _upright(code: int, font_size: int) -> Image.Image:
    """Return a drawing with a clear border, towards which its outline fades."""
    drawing = render(code, font_size)
    width, height = drawing.size
    bordered = Image.new("RGBa", (width + 2 * _BORDER, height + 2 * _BORDER))
    bordered.paste(drawing, (_BORDER, _BORDER))
    return bordered


def _place(
    category: int,
    kind: Kind,
    image_size: int,
    crowded: float,
    below: Sequence[Drawing],
    rng: np.random.Generator,
) -> tuple[Drawing | None, NDArray[np.float32]]:
    """Place a drawing so that enough of those below stays visible.

    Returns:
        The drawing, None if there is no room, and its picture (height, width, 4), colours that are
        multiplied by the transparency, from 0 to 1.
    """
    least = _MIN_SIZE * image_size
    pose = Pose(
        size=max(least, crowded * rng.uniform(*_SIZES) * image_size),
        angle=rng.uniform(-_MAX_ANGLE, _MAX_ANGLE),
        stretch=_MAX_STRETCH ** rng.uniform(-1, 1),
        mirrored=bool(rng.random() < 0.5),
    )
    for _ in range(_SHRINKS):
        posed = pose_drawing(kind.code, pose)
        box = posed.getbbox() or (0, 0, *posed.size)
        picture = np.asarray(posed.crop(box), dtype=np.float32) / np.float32(255)
        alpha = picture[..., 3]
        height, width = alpha.shape
        for _ in range(_PLACES):
            top = int(rng.integers(image_size - height + 1))
            left = int(rng.integers(image_size - width + 1))
            window = (slice(top, top + height), slice(left, left + width))
            if all(_leaves_visible(drawing, window, alpha) for drawing in below):
                coverage = np.zeros((image_size, image_size), dtype=np.float32)
                coverage[window] = alpha
                drawing = Drawing(
                    category=category,
                    pose=pose,
                    middle=(left - box[0] + posed.width / 2, top - box[1] + posed.height / 2),
                    coverage=coverage,
                    window=window,
                    area=int(np.count_nonzero(alpha > 0.5)),
                )
                return drawing, picture
        pose = dataclasses.replace(pose, size=max(least, pose.size * _SHRINK))
    return None, picture


def _leaves_visible(drawing: Drawing, window: _Window, alpha: NDArray[np.float32]) -> bool:
    """Return whether a drawing can still be made out under another one in this window."""
    shared = _box_area(_intersection(drawing.window, window))
    if not shared:
        return True
    if shared > _MAX_OVERLAP * min(_box_area(drawing.window), _box_area(window)):
        return False
    covered = drawing.coverage[window]
    hidden = np.count_nonzero((covered > 0.5) & (covered * (1 - alpha) <= 0.5))
    visible = np.count_nonzero(drawing.coverage > 0.5) - hidden
    return bool(visible >= _MIN_VISIBLE * drawing.area)


def _intersection(a: _Window, b: _Window) -> _Window:
    y, x = (
        slice(max(m.start, n.start), max(m.start, n.start, min(m.stop, n.stop)))
        for m, n in zip(a, b, strict=True)
    )
    return y, x


def _box_area(window: _Window) -> int:
    y, x = window
    return (y.stop - y.start) * (x.stop - x.start)


def hue_rotation(degrees: float) -> NDArray[np.float32]:
    """Return the matrix (3, 3) that turns the hue of an RGB colour and keeps its brightness."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return (_FROM_YIQ @ turn @ _TO_YIQ).astype(np.float32)


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _change_colour(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return other colours (height, width, 3) of a picture, multiplied by its transparency."""
    matrix = hue_rotation(rng.uniform(-_MAX_HUE, _MAX_HUE))
    grey = np.broadcast_to(np.float32(_TO_YIQ[0]), (3, 3))
    matrix = grey + np.float32(rng.uniform(*_SATURATION)) * (matrix - grey)
    changed = picture[..., :3] @ (np.float32(rng.uniform(*_BRIGHTNESS)) * matrix).T
    return changed.clip(0, picture[..., 3:])


def _cast_shadow(
    canvas: NDArray[np.float32],
    alpha: NDArray[np.float32],
    drawing: Drawing,
    light: float,
    rng: np.random.Generator,
) -> None:
    """Darken the canvas where a drawing's shadow falls, away from the light."""
    distance = rng.uniform(*_DISTANCE) * drawing.pose.size
    right, down = round(distance * math.cos(light)), round(distance * math.sin(light))
    blur = max(0.5, _BLUR * drawing.pose.size)
    border = math.ceil(3 * blur)
    solid = Image.fromarray((255 * np.pad(alpha, border)).astype(np.uint8))
    shadow = np.asarray(solid.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32)
    y, x = drawing.window
    top, left = y.start - border + down, x.start - border + right
    rows = slice(max(0, top), min(len(canvas), top + shadow.shape[0]))
    columns = slice(max(0, left), min(len(canvas), left + shadow.shape[1]))
    shadow = shadow[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    canvas[rows, columns] *= 1 - np.float32(rng.uniform(*_DARKNESS) / 255) * shadow[..., None]


def _background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a textured picture (S, S, 3) of values from 0 to 255."""
    first = rng.uniform(30, 255, 3)
    first = first.mean() + _BACKGROUND_SATURATION * (first - first.mean())
    second = (first + rng.normal(0, 40, 3)).clip(0, 255)
    x = np.arange(size, dtype=np.float32) / np.float32(size)
    y = x[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = x * cos + y * sin, y * cos - x * sin
    frequency = np.float32(rng.uniform(3, 14))
    mix: NDArray[np.float32]
    pattern = rng.choice(["smooth", "stripes", "checks", "gradient"])
    if pattern == "stripes":
        mix = np.float32(0.5) + np.float32(0.5) * np.sin(np.float32(2 * np.pi) * frequency * along)
    elif pattern == "checks":
        squares = np.floor(frequency * along) + np.floor(frequency * across)
        mix = (squares.astype(np.int32) & 1).astype(np.float32)
    elif pattern == "gradient":
        mix = (along - along.min()) / np.ptp(along)
    else:
        mix = _smooth_noise(size, int(rng.integers(3, 9)), rng)
    mix = 0.75 * mix + 0.25 * _smooth_noise(size, max(4, size // 8), rng)
    return np.float32(first) + np.float32(second - first) * mix[..., None]


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise (S, S) from 0 to 1 whose grain is a ``cells``-th of the picture."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)
