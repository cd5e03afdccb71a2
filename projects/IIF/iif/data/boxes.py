"""Boxes and areas that can be read, but are hardly what their file's author meant: warnings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Boxes looked at: enough to tell a habit from an exception.
_MAX_SAMPLE = 100_000


def warn_of_corners(
    path: str, bbox: NDArray[np.float64], image: NDArray[Any], image_sizes: NDArray[np.int64]
) -> None:
    """Warn where most boxes reach beyond their image, as corners taken for XYWH do.

    Args:
        path: the file of the boxes.
        bbox: (B, 4) x, y, width and height in pixels.
        image: (B,) rows of ``image_sizes``.
        image_sizes: (I, 2) height and width.
    """
    if not len(bbox):
        return
    step = -(-len(bbox) // _MAX_SAMPLE)
    bounds = image_sizes[image[::step]][:, ::-1]
    corner, size = bbox[::step, :2], bbox[::step, 2:]
    # By more than a pixel, which rounding explains.
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = float((corner + size > bounds + 1).any(axis=1).mean())
    if beyond > 0.5:
        warnings.warn(
            f"{path}: {beyond:.0%} of the boxes reach beyond the right or lower edge of their "
            "image; they are read as [x, y, width, height]: if they are two corners, convert them",
            stacklevel=3,
        )


def warn_of_areas(path: str, area: NDArray[np.float64]) -> None:
    """Warn where most ground truth has no area: by LVIS's rules it does not count."""
    without = int((~(area > 0)).sum())
    if 2 * without > len(area):
        warnings.warn(
            f"{path}: {without:,} of {len(area):,} annotations have no area above 0: by LVIS's "
            "rules they count neither when they are found nor when they are missed; write the "
            "areas in square pixels",
            stacklevel=3,
        )
