"""Pictures of characters on textured backgrounds, with the visible part of each character."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from iif.demo.characters import Character, draw_character, font_path
from iif.demo.plan import GlyphSettings, ImagePlan

# Larger side of a character as a share of the image's, and degrees by which it is turned: few
# enough to tell 6 from 9 and u from n.
_SIZES = (0.2, 0.48)
_MAX_ANGLE = 15.0
# The least share of a character that stays visible whatever is drawn over it, and the largest
# share of the smaller of two characters' boxes that may lie in the other box.
_MIN_VISIBLE = 0.55
_MAX_OVERLAP = 0.4
# Random places to try, each with a smaller character than the last, down to the least size.
_PLACES = 100
_SHRINK = 0.97
_MIN_SIZE = 0.14
# Least distance in RGB, of 0-255, between a character and what is behind it.
_MIN_CONTRAST = 120.0

_Window = tuple[slice, slice]


@dataclasses.dataclass
class Glyph:
    """A drawn instance; ``coverage`` (S, S) is what is visible of it, from 0 to 1."""

    category: int
    coverage: NDArray[np.float32]
    window: _Window  # its bounding box when it was drawn
    area: int  # in pixels, when it was drawn


def draw_image(
    plan: ImagePlan,
    characters: Sequence[Character],
    settings: GlyphSettings,
    attempt: int = 0,
) -> tuple[NDArray[np.uint8], list[Glyph]]:
    """Draw a planned image.

    Each image has its own random numbers, so that the result does not depend on the process that
    draws it.

    Args:
        plan: what to draw.
        characters: K, one for each category.
        settings: those of the data set.
        attempt: another number gives another picture of the same plan.

    Returns:
        The image (S, S, 3) and what is visible of its glyphs, the first drawn first.
    """
    again = [attempt] if attempt else []
    rng = np.random.default_rng([settings.seed, plan.image_id, *again])
    size = settings.image_size
    canvas, colours = _background(size, rng)
    glyphs: list[Glyph] = []
    rows = [pair.category for pair in plan.pairs for _ in range(pair.instances)]
    for row in rng.permutation(rows):
        placed = _place(int(row), characters[row], size, glyphs, rng)
        if placed is not None:
            alpha = placed.coverage[placed.window]
            colours.append(_contrasting_colour(colours, rng))
            _paint(canvas[placed.window], alpha, colours[-1], rng)
            for below in glyphs:
                below.coverage[placed.window] *= 1 - alpha
            glyphs.append(placed)
    noise = rng.standard_normal((size, size, 1), dtype=np.float32)
    canvas += np.float32(rng.uniform(1, 7)) * noise
    return canvas.clip(0, 255).astype(np.uint8), glyphs


def _place(
    category: int,
    character: Character,
    image_size: int,
    below: Sequence[Glyph],
    rng: np.random.Generator,
) -> Glyph | None:
    """Place a character so that enough of those below stays visible; None if there is no room."""
    font = font_path(character.fonts[rng.integers(len(character.fonts))])
    angle = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE)
    size = rng.uniform(*_SIZES)
    for _ in range(_PLACES):
        picture = draw_character(character.text, font, size * image_size, angle)
        alpha = np.asarray(picture, dtype=np.float32) / np.float32(255)
        height, width = alpha.shape
        top = int(rng.integers(image_size - height + 1))
        left = int(rng.integers(image_size - width + 1))
        window = (slice(top, top + height), slice(left, left + width))
        if all(_leaves_visible(glyph, window, alpha) for glyph in below):
            coverage = np.zeros((image_size, image_size), dtype=np.float32)
            coverage[window] = alpha
            return Glyph(category, coverage, window, int((alpha > 0.5).sum()))
        size = max(size * _SHRINK, _MIN_SIZE)
    return None


def _leaves_visible(glyph: Glyph, window: _Window, alpha: NDArray[np.float32]) -> bool:
    """Return whether a glyph can still be made out under another one in this window."""
    shared = _box_area(_intersection(glyph.window, window))
    if shared > _MAX_OVERLAP * min(_box_area(glyph.window), _box_area(window)):
        return False
    covered = glyph.coverage[window]
    outside = np.count_nonzero(glyph.coverage > 0.5) - np.count_nonzero(covered > 0.5)
    inside = np.count_nonzero(covered * (1 - alpha) > 0.5)
    return bool(outside + inside >= _MIN_VISIBLE * glyph.area)


def _intersection(a: _Window, b: _Window) -> _Window:
    y, x = (
        slice(max(m.start, n.start), max(m.start, n.start, min(m.stop, n.stop)))
        for m, n in zip(a, b, strict=True)
    )
    return y, x


def _box_area(window: _Window) -> int:
    y, x = window
    return (y.stop - y.start) * (x.stop - x.start)


def _background(
    size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[NDArray[np.float64]]]:
    """Return a textured picture (S, S, 3) of values from 0 to 255, and its two colours."""
    first = rng.uniform(0, 255, 3)
    second = (first + rng.normal(0, 40, 3)).clip(0, 255)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    frequency = rng.uniform(3, 14)
    pattern = rng.choice(["smooth", "stripes", "checks", "gradient"])
    if pattern == "stripes":
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * along)
    elif pattern == "checks":
        mix = ((np.floor(frequency * along) + np.floor(frequency * across)) % 2).astype(np.float32)
    elif pattern == "gradient":
        mix = (along - along.min()) / np.ptp(along)
    else:
        mix = _smooth_noise(size, int(rng.integers(3, 9)), rng)
    mix = 0.75 * mix + 0.25 * _smooth_noise(size, max(4, size // 8), rng)
    change = (second - first).astype(np.float32)
    return first.astype(np.float32) + change * mix.astype(np.float32)[..., None], [first, second]


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise (S, S) from 0 to 1 whose grain is a ``cells``-th of the picture."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _contrasting_colour(
    colours: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a random colour far from these, or the farthest of some when none is far enough."""
    candidates = rng.uniform(0, 255, (64, 3))
    distance = np.linalg.norm(candidates[:, None] - np.stack(colours), axis=2).min(axis=1)
    far = np.flatnonzero(distance >= _MIN_CONTRAST)
    return candidates[far[0] if len(far) else distance.argmax()]


def _paint(
    canvas: NDArray[np.float32],
    alpha: NDArray[np.float32],
    colour: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Paint a glyph into its window of the canvas, a little lighter towards one side."""
    height, width = alpha.shape
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = rng.uniform(0, 25) * (x * np.cos(angle) + y * np.sin(angle))
    canvas += alpha[..., None] * (colour + shade[..., None] - canvas)
