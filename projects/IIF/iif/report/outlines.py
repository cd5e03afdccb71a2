"""Masks as SVG paths: traced, simplified, rounded, small enough to embed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iif.data.outlines import simplify, trace


def mask_path(mask: NDArray[np.bool_], *, scale: float = 1.0, tolerance: float = 1.28) -> str:
    """Return the outline of a mask as SVG path data, to be filled with the even-odd rule.

    Args:
        mask: (h, w) bool.
        scale: output units per pixel of the mask.
        tolerance: how far, in output units, the outline may lie from the traced one. Parts that
            shrink to fewer than three corners are left out.

    Returns:
        Path data in output units with one decimal, the mask's top left corner at (0, 0); empty for
        an empty mask.
    """
    rings = [ring for part in trace(mask.astype(np.float32)) for ring in part]
    corners = [np.round(simplify(ring * scale, tolerance), 1) for ring in rings]
    return "".join(
        "M" + "L".join(f"{x:g} {y:g}" for x, y in ring[:-1]) + "Z"
        for ring in corners
        if len(ring) > 3
    )
