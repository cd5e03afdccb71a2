"""Masks as SVG paths: traced at half a pixel, simplified, rounded, small enough to embed."""

from __future__ import annotations

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray


def mask_path(mask: NDArray[np.bool_], *, scale: float = 1.0, tolerance: float = 0.75) -> str:
    """Return the outline of a mask as SVG path data, to be filled with the even-odd rule.

    Args:
        mask: (h, w) bool.
        scale: output units per pixel of the mask.
        tolerance: how far, in output units, the outline may leave the traced one (Douglas and
            Peucker 1973). Parts that shrink to fewer than three corners are left out.

    Returns:
        Path data in output units with one decimal, the mask's top left corner at (0, 0); empty for
        an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return ""
    top, left = rows[0], columns[0]
    # Only the mask's own rectangle is traced. One pixel of background closes outlines that touch
    # its border; a pixel's centre is at half a pixel.
    part = np.zeros((rows[-1] - top + 3, columns[-1] - left + 3))
    part[1:-1, 1:-1] = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    origin = np.array([left - 0.5, top - 0.5])
    parts = []
    for line in contour_generator(z=part).lines(0.5):
        points = np.asarray(line, np.float64)
        corners = np.round(simplify((points + origin) * scale, tolerance), 1)
        if len(corners) > 3:
            parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners[:-1]) + "Z")
    return "".join(parts)


def simplify(line: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return the corners that keep every point of ``line`` within ``tolerance``.

    Args:
        line: (n, 2); closed when its first point is repeated at its end.

    Returns:
        (m, 2) a selection of the points in order, the first and last among them.
    """
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distance = _distance_to_segment(line[first + 1 : last], line[first], line[last])
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return line[keep]


def _distance_to_segment(
    points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    along = b - a
    length = along @ along
    # A closed line starts with a segment of no length: distance to its point.
    share = np.clip((points - a) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.linalg.norm(points - a - share[:, None] * along, axis=1)
