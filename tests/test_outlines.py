"""Outlines of masks: simplified, as SVG paths and as polygons."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from helpers_report import blob
from iif.data.outlines import coverage_to_polygons, simplify
from iif.report.outlines import mask_path


def test_mask_path_keeps_area_and_place() -> None:
    rng = np.random.default_rng(0)
    for box in ((3.0, 5.0, 40.0, 30.0), (0.0, 0.0, 64.0, 48.0), (50.0, 20.0, 14.0, 28.0)):
        mask = mask_util.decode(blob(rng, box, 48, 64)).astype(bool)
        for scale in (1.0, 2.5):
            drawn = _rasterise(mask_path(mask, scale=scale, tolerance=0.4), scale, mask.shape)
            union = (drawn | mask).sum()
            assert (drawn & mask).sum() / union > 0.9


def test_mask_path_has_holes_and_parts() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:20, 10:20] = False
    mask[30:38, 30:38] = True
    # Corners are whole units: of a quarter of a pixel here.
    path = mask_path(mask, scale=4.0)
    assert path.count("M") == 3
    assert (_rasterise(path, 4.0, mask.shape) ^ mask).sum() <= 20
    assert mask_path(np.zeros((5, 5), bool)) == ""


def _rasterise(path: str, scale: float, shape: tuple[int, ...]) -> np.ndarray:
    """Fill SVG path data by the even-odd rule, at pixel centres."""
    from matplotlib.path import Path as Outline

    y, x = np.mgrid[: shape[0], : shape[1]]
    centres = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * scale
    inside = np.zeros(len(centres), bool)
    for part in re.findall(r"M([^MZ]*)Z", path):
        start, steps = (
            np.array([int(v) for v in re.findall(r"-?\d+", numbers)]).reshape(-1, 2)
            for numbers in part.split("l")
        )
        corners = np.concatenate([start, start + np.cumsum(steps, axis=0)])
        inside ^= Outline(corners).contains_points(centres)
    return inside.reshape(shape)


@given(st.integers(0, 10**6), st.floats(0.1, 5))
@settings(max_examples=50)
def test_simplify_stays_within_the_tolerance(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    line = np.cumsum(rng.normal(size=(int(rng.integers(2, 80)), 2)), 0).astype(np.float32)
    if rng.random() < 0.5:
        line[-1] = line[0]
    kept = simplify(line, tolerance)
    assert (kept[0] == line[0]).all()
    assert (kept[-1] == line[-1]).all()
    for point in line:
        distances = []
        for a, b in itertools.pairwise(kept):
            length = (b - a) @ (b - a)
            share = np.clip((point - a) @ (b - a) / length, 0, 1) if length else 0.0
            distances.append(np.linalg.norm(point - a - share * (b - a)))
        assert min(distances) <= tolerance + 1e-9


def raster(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, height, width))) > 0


@settings(max_examples=40)
@given(data=st.data())
def test_polygons_keep_holes_parts_and_edges(data):
    """Random rectangles, added and cut out, on whole pixels: the mask must come back."""
    height, width = data.draw(st.tuples(st.integers(8, 60), st.integers(8, 60)))
    coverage = np.zeros((height, width), dtype=np.float32)
    for value in data.draw(st.lists(st.sampled_from([1.0, 1.0, 0.0]), min_size=1, max_size=6)):
        top, left = data.draw(st.tuples(st.integers(0, height - 4), st.integers(0, width - 4)))
        bottom = data.draw(st.integers(top + 4, height))
        right = data.draw(st.integers(left + 4, width))
        coverage[top:bottom, left:right] = value
    polygons = coverage_to_polygons(coverage)
    mask = coverage > 0.5
    found = raster(polygons, height, width) if polygons else np.zeros_like(mask)
    # Corners are cut by half a pixel, slivers may go; nothing else may differ.
    wrong = found != mask
    assert wrong.sum() <= 0.05 * mask.sum() + 12
    for polygon in polygons:
        assert min(polygon) >= 0
        assert max(polygon[0::2]) <= width
        assert max(polygon[1::2]) <= height


def test_a_ring_keeps_its_hole_in_one_polygon():
    y, x = np.mgrid[:80, :80]
    radius = np.hypot(x - 39.5, y - 39.5)
    ring = np.clip(30.5 - radius, 0, 1) * np.clip(radius - 17.5, 0, 1)
    (polygon,) = coverage_to_polygons(ring.astype(np.float32))
    mask = raster([polygon], 80, 80)
    assert not mask[40, 40]
    assert mask.sum() == pytest.approx(np.pi * (30**2 - 18**2), rel=0.01)
    assert len(polygon) < 300


def test_nothing_covered_gives_no_polygon():
    assert coverage_to_polygons(np.zeros((9, 9), dtype=np.float32)) == []
    crumb = np.zeros((9, 9), dtype=np.float32)
    crumb[4, 4] = 1
    assert coverage_to_polygons(crumb) == []
