"""Coverage pictures to COCO-format polygons, holes included."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray

# Parts and holes smaller than this, in square pixels, are crumbs that overlaps leave.
_MIN_AREA = 3.0
# How far, in pixels, a simplified outline may lie from the exact one.
_TOLERANCE = 0.15


def coverage_to_polygons(coverage: NDArray[np.float32]) -> list[list[float]]:
    """Outline where a picture's coverage is above one half.

    COCO and LVIS join the polygons of an object and know no holes. A hole is therefore bound to
    its outer ring by a bridge of no width, there and back, which every even-odd filling (that of
    pycocotools among them) leaves out; a ring like "O" keeps its hole.

    Args:
        coverage: (height, width), how much of each pixel the object covers, from 0 to 1.

    Returns:
        Polygons ``[x0, y0, x1, y1, ...]`` in COCO's continuous coordinates, in which the first
        pixel's centre is (0.5, 0.5), rounded to 0.01 pixel; crumbs are left out.
    """
    rows, columns = (np.flatnonzero((coverage > 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    # One pixel around what is covered, zeros beyond the picture's edge: all outlines close.
    top, left = rows[0], columns[0]
    cut = np.pad(coverage, 1)[top : rows[-1] + 3, left : columns[-1] + 3]
    contours = contourpy.contour_generator(z=cut, fill_type=contourpy.FillType.OuterOffset)
    height, width = coverage.shape
    polygons = []
    for points, offsets in zip(*contours.filled(0.5, 2.0), strict=True):
        # 1 for the border, half a pixel for the centre.
        points = np.clip(points - 0.5 + (left, top), 0, (width, height))
        outer, *holes = np.split(points, offsets[1:-1])
        if _area(outer) < _MIN_AREA:
            continue
        ring = _simplify(outer)
        for hole in holes:
            if _area(hole) >= _MIN_AREA:
                ring = _bridge(ring, _simplify(hole))
        # The last point repeats the first.
        polygons.append(ring[:-1].round(2).ravel().tolist())
    return polygons


def _area(ring: NDArray[np.float64]) -> float:
    """Return the area within a closed ring (P, 2)."""
    x, y = ring.T
    return abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def _simplify(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop points of a closed ring (P, 2) by the Douglas-Peucker algorithm."""
    farthest = int(np.linalg.norm(ring - ring[0], axis=1).argmax())
    keep = np.zeros(len(ring), dtype=bool)
    keep[[0, farthest, -1]] = True
    pending = [(0, farthest), (farthest, len(ring) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        x, y = ring[last] - ring[first]
        offset = ring[first + 1 : last] - ring[first]
        distance = np.abs(x * offset[:, 1] - y * offset[:, 0]) / np.hypot(x, y)
        middle = first + 1 + int(distance.argmax())
        if distance[middle - first - 1] > _TOLERANCE:
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    return ring[keep]


def _bridge(ring: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Join a closed hole to a closed ring where they are nearest; the result is closed."""
    distance = np.linalg.norm(ring[:, None] - hole[None], axis=2)
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    turned = np.concatenate([hole[j:], hole[1 : j + 1]])
    return np.concatenate([ring[: i + 1], turned, ring[i:]])
