"""The characters of the glyph data set, one for each category, and the fonts that have them."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageFont

from iif.errors import InputError

# Every character comes in these, so that each category has several styles to vary in.
_BASE_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
)
# More fonts, each for the characters that it has.
_MORE_FONTS = (
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
)

# Unicode blocks in the order in which categories are taken from them, best known first.
_BLOCKS = (
    (0x0041, 0x005A),  # Latin capitals
    (0x0030, 0x0039),  # digits
    (0x0061, 0x007A),  # Latin small letters
    (0x0391, 0x03A9),  # Greek capitals
    (0x03B1, 0x03C9),  # Greek small letters
    (0x0410, 0x044F),  # Cyrillic
    (0x0021, 0x007E),  # the rest of ASCII
    (0x0531, 0x0586),  # Armenian
    (0x05D0, 0x05EA),  # Hebrew
    (0x10A0, 0x10F6),  # Georgian
    (0x20A0, 0x20BD),  # currency
    (0x2190, 0x21FF),  # arrows
    (0x2200, 0x22FF),  # mathematics
    (0x2300, 0x23CF),  # technical
    (0x25A0, 0x25FF),  # geometric shapes
    (0x2600, 0x26BC),  # symbols
    (0x2701, 0x27BE),  # dingbats
    (0x00A1, 0x024F),  # more of Latin
    (0x0250, 0x02AF),  # phonetics
    (0x0400, 0x052F),  # more of Cyrillic
    (0x2100, 0x214F),  # letterlike symbols
    (0x2C00, 0x2D7F),  # Georgian small letters, Tifinagh and others
    (0x1401, 0x1676),  # Canadian syllabics
    (0x0370, 0x03FF),  # more of Greek
    (0x0E81, 0x0EDD),  # Lao
    (0x2A00, 0x2AFF),  # more of mathematics
    (0x1D538, 0x1D56B),  # double-struck letters
)
_GENERAL_CATEGORIES = {"Lu", "Ll", "Lo", "Nd", "Sm", "So", "Sc", "Po"}

# Fonts are measured at this size, in pixels.
_INK_SIZE = 64

# Slimmer characters (I, l, |) make boxes whose overlap says little, and smaller ones, in parts of
# the font's size, are dots and ticks.
_MIN_ASPECT = 0.3
_MIN_SIZE = 0.35

# Characters are compared as blurred pictures of this many pixels, turned against one another by
# these degrees, and count as the same above this cosine similarity. It tells B from R and O from Q,
# but not 8 from B or 5 from S.
_COMPARED_SIZE = 32
_COMPARED_ANGLES = (-30, -15, 0, 15, 30)
_MAX_SIMILARITY = 0.85


@dataclasses.dataclass(frozen=True)
class Character:
    """A character that is a category.

    Attributes:
        text: the character itself.
        name: its Unicode name, shortened: "capital_a", "greek_small_omega", "digit_seven".
        fonts: files among Matplotlib's bundled fonts that have it.
    """

    text: str
    name: str
    fonts: tuple[str, ...]


def font_path(name: str) -> Path:
    """Return the path of one of Matplotlib's bundled fonts."""
    return Path(matplotlib.get_data_path(), "fonts", "ttf", name)


def choose_characters(count: int) -> list[Character]:
    """Return ``count`` characters that can be told apart when turned a little, by code point.

    Raises:
        InputError: there are not so many; the message says how many there are.
    """
    chosen: list[str] = []
    looks = np.empty((0, _COMPARED_SIZE**2), dtype=np.float32)
    candidates = _candidates()
    # In batches, because few large matrix products cost far less than many small ones.
    while len(chosen) < count and (batch := list(itertools.islice(candidates, 64))):
        upright = np.stack([_look(picture, 0) for _, picture in batch])
        turned = np.stack([[_look(p, angle) for _, p in batch] for angle in _COMPARED_ANGLES])
        taken = (turned @ looks.T).max(axis=(0, 2), initial=0) > _MAX_SIMILARITY
        similar = (turned @ upright.T).max(axis=0) > _MAX_SIMILARITY
        kept: list[int] = []
        for row in range(len(batch)):
            if not taken[row] and not similar[row, kept].any():
                kept.append(row)
        chosen += [batch[row][0] for row in kept]
        looks = np.concatenate([looks, upright[kept]])
    chosen = chosen[:count]
    if len(chosen) < count:
        raise InputError(
            f"categories is {count}; the fonts have {len(chosen)} characters that can be told apart"
        )
    return [Character(text, _name(text), _fonts_with(text)) for text in sorted(chosen)]


def _candidates() -> Iterator[tuple[str, Image.Image]]:
    """Yield characters and their pictures in the order of preference."""
    codes = dict.fromkeys(code for first, last in _BLOCKS for code in range(first, last + 1))
    for code in codes:
        text = chr(code)
        if unicodedata.category(text) not in _GENERAL_CATEGORIES:
            continue
        if not all(code in _codes(font) for font in _BASE_FONTS):
            continue
        width, height = _ink_size(text, font_path(_BASE_FONTS[0]))
        small, large = sorted((width, height))
        if small >= _MIN_ASPECT * large and large >= _MIN_SIZE * _INK_SIZE:
            yield text, draw_character(text, font_path(_BASE_FONTS[0]), 2 * _COMPARED_SIZE)


def draw_character(text: str, font: Path, size: float, angle: float = 0) -> Image.Image:
    """Draw a character in white on black, cut out closely.

    Args:
        text: the character.
        font: a font file that has it.
        size: the larger side of the upright character, in pixels.
        angle: degrees by which it is then turned counter-clockwise.

    Returns:
        An image of mode "L"; its values are how much of a pixel the character covers.
    """
    picture = _draw(text, font, _INK_SIZE * size / max(_ink_size(text, font)))
    if angle:
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return picture.crop(picture.getbbox())


@cache
def _ink_size(text: str, font: Path) -> tuple[int, int]:
    """Return width and height of what is inked at ``_INK_SIZE``; zeros for a blank character."""
    left, top, right, bottom = _draw(text, font, _INK_SIZE).getbbox() or (0, 0, 0, 0)
    return right - left, bottom - top


def _draw(text: str, font: Path, font_size: float) -> Image.Image:
    mask = ImageFont.truetype(font, font_size).getmask(text, mode="L")
    return Image.frombytes("L", mask.size, bytes(mask))


def _look(picture: Image.Image, angle: int) -> NDArray[np.float32]:
    """Return the picture turned, scaled to a fixed size and blurred, as a vector of length 1."""
    turned = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getbbox())
    # A margin for the blur.
    turned.thumbnail((_COMPARED_SIZE - 6, _COMPARED_SIZE - 6), Image.Resampling.BOX)
    centred = Image.new("L", (_COMPARED_SIZE, _COMPARED_SIZE))
    centred.paste(
        turned, ((_COMPARED_SIZE - turned.width) // 2, (_COMPARED_SIZE - turned.height) // 2)
    )
    pixels = np.asarray(centred.filter(ImageFilter.GaussianBlur(0.75)), dtype=np.float32).ravel()
    return pixels / np.linalg.norm(pixels)


def _name(text: str) -> str:
    words = unicodedata.name(text).lower().replace("-", " ").split()
    dropped = {"latin", "letter"}
    return "_".join(word for word in words if word not in dropped)


def _fonts_with(text: str) -> tuple[str, ...]:
    more = [font for font in _MORE_FONTS if ord(text) in _codes(font)]
    return (*_BASE_FONTS, *more)


@cache
def _codes(font: str) -> frozenset[int]:
    """Return the code points that a font has."""
    return frozenset(FT2Font(str(font_path(font))).get_charmap())
