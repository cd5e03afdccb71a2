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
    step = max(1, -(-len(bbox) // _MAX_SAMPLE))
    outside = boxes_beyond(bbox[::step], image_sizes[image[::step]])
    beyond = float(outside.mean()) if len(outside) else 0.0
    if are_corners(beyond):
        warnings.warn(
            f"{path}: {beyond:.0%} of the boxes reach beyond the right or lower edge of their "
            "image; they are read as [x, y, width, height]: if they are two corners, convert them",
            stacklevel=3,
        )


def boxes_beyond(bbox: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return (B,) whether boxes XYWH reach beyond the right or lower edge of their image.

    By more than a pixel, which rounding explains. ``sizes``: (B, 2) height and width.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.any(bbox[:, :2] + bbox[:, 2:] > sizes[:, ::-1] + 1, axis=1)


def are_corners(beyond: float) -> bool:
    """Return whether so large a share of boxes beyond their image says that they are corners."""
    return beyond > 0.5


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
