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
        Path data in whole output units, each corner relative to the one before, the mask's top left
        corner at (0, 0); empty for an empty mask.
    """
    rings = [ring for part in trace(mask.astype(np.float32)) for ring in part]
    return "".join(
        _ring(np.rint(simplify(ring * scale, tolerance)).astype(np.int64)) for ring in rings
    )


def _ring(corners: NDArray[np.int64]) -> str:
    """Return a closed ring of (n, 2) corners, the first again at the end; "" of under three."""
    steps = np.diff(corners, axis=0)
    steps = steps[steps.any(axis=1)]
    if len(steps) < 3:
        return ""
    x, y = corners[0].tolist()
    numbers = " ".join(map(str, steps[:-1].ravel().tolist()))
    return f"M{x} {y}l{numbers}Z".replace(" -", "-")
