"""Outlines of masks: traced, simplified, and as COCO-format polygons, holes included."""

from __future__ import annotations

import contourpy
import cv2
import numpy as np
from numpy.typing import NDArray

# Parts and holes smaller than this, in square pixels, are crumbs that overlaps leave.
_MIN_AREA = 3.0
# How far, in pixels, a polygon may lie from the exact outline.
_TOLERANCE = 0.256


def trace(coverage: NDArray[np.float32]) -> list[list[NDArray[np.float64]]]:
    """Trace the outlines of where a picture's coverage is above one half.

    Args:
        coverage: (height, width), how much of each pixel is covered, from 0 to 1.

    Returns:
        For each connected part its outer ring and then its holes; each a closed ring (P, 2) of x
        and y, whose last point repeats the first, in continuous coordinates: the first pixel's
        centre is (0.5, 0.5).
    """
    rows, columns = (np.flatnonzero((coverage > 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    # One pixel around what is covered, zeros beyond the picture's edge: all outlines close.
    top, left = rows[0], columns[0]
    cut = np.pad(coverage, 1)[top : rows[-1] + 3, left : columns[-1] + 3]
    contours = contourpy.contour_generator(z=cut, fill_type=contourpy.FillType.OuterOffset)
    height, width = coverage.shape
    parts = []
    for points, offsets in zip(*contours.filled(0.5, 2.0), strict=True):
        # 1 for the border, half a pixel for the centre.
        points = np.clip(points - 0.5 + (left, top), 0, (width, height))
        parts.append(np.split(points, offsets[1:-1]))
    return parts


def simplify(line: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return the corners that keep every point of ``line`` within ``tolerance``.

    Args:
        line: (n, 2) in float32 precision; closed when its first point is repeated at its end.
        tolerance: the largest distance of a point of ``line`` from the result.

    Returns:
        (m, 2) a selection of the points in order, the first and last among them.
    """
    points = line.astype(np.float32)
    # After the algorithm of Douglas and Peucker (1973), OpenCV also removes corners that lie within
    # epsilon / sqrt(2) of the line between their neighbours.
    epsilon = tolerance / (1 + 0.5**0.5)
    if (points[0] != points[-1]).any():
        return _approximate(points, epsilon)
    farthest = int(np.linalg.norm(points - points[0], axis=1).argmax())
    if farthest == 0:  # all points are the same
        return line[[0, -1]]
    halves = points[: farthest + 1], points[farthest:]
    there, back = (_approximate(half, epsilon) for half in halves)
    return np.concatenate([there, back[1:]])


def coverage_to_polygons(coverage: NDArray[np.float32]) -> list[list[float]]:
    """Outline where a picture's coverage is above one half.

    COCO and LVIS join the polygons of an object and know no holes. Therefore a hole is connected
    to its outer ring by a bridge of no width, there and back, so that any even-odd filling (that
    of pycocotools among them) leaves the hole out.

    Args:
        coverage: (height, width), how much of each pixel the object covers, from 0 to 1.

    Returns:
        Polygons ``[x0, y0, x1, y1, ...]`` in COCO's continuous coordinates, rounded to 0.01 pixel;
        crumbs are left out.
    """
    polygons = []
    for outer, *holes in trace(coverage):
        if _area(outer) < _MIN_AREA:
            continue
        ring = simplify(outer, _TOLERANCE)
        for hole in holes:
            if _area(hole) >= _MIN_AREA:
                ring = _bridge(ring, simplify(hole, _TOLERANCE))
        # The last point repeats the first.
        polygons.append(ring[:-1].round(2).ravel().tolist())
    return polygons


def _approximate(points: NDArray[np.float32], epsilon: float) -> NDArray[np.float64]:
    corners = cv2.approxPolyDP(points[:, None], epsilon, closed=False)
    return corners[:, 0].astype(np.float64)


def _area(ring: NDArray[np.float64]) -> float:
    """Return the area within a closed ring (P, 2)."""
    x, y = ring.T
    return abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def _bridge(ring: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join a closed hole to a closed ring where they are nearest; the result is closed."""
    distance = np.linalg.norm(ring[:, None] - hole[None], axis=2)
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    from_nearest = np.concatenate([hole[j:], hole[1 : j + 1]])
    return np.concatenate([ring[: i + 1], from_nearest, ring[i:]])
