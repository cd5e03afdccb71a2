"""FRACAL under the contract of all methods, and the dimension that it needs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from iif import ClassStatistics, InputError, build_method
from iif.data.fractal import box_counting_dimension
from method_contract import STATISTICS, K, MethodContract


class TestFracal(MethodContract):
    NAME = "fracal"
    OPTIONS: ClassVar = [{}, {"fractal_lambda": 0.5}, {"fractal_lambda": 0.0}]
    REFUSED: ClassVar = [({"fractal_lambda": -2.0}, "fractal_lambda is -2.0.*0 or more")]

    def hand(self, outputs, labels, options, background, fixed=None):
        shift = np.log10(STATISTICS.num_images / STATISTICS.image_count) - np.log10(K)
        power = options.get("fractal_lambda", 2.0)
        shift = shift - power * np.log(STATISTICS.fractal_dimension)
        return outputs, outputs + (np.append(shift, 0.0) if background else shift)

    def folds(self, options):
        return True


def test_the_division_of_the_paper_is_a_shift():
    """softmax(z + log10(N / n) - log10(K)) over D^lambda, renormalised over K + 1."""
    logits = np.random.default_rng(0).normal(size=(7, 6)) * 3
    prior = np.log10(STATISTICS.num_images / STATISTICS.image_count) - np.log10(K)
    moved = np.exp(logits + np.append(prior, 0))
    divided = moved / np.append(STATISTICS.fractal_dimension**2, 1.0)
    expected = divided / divided.sum(axis=1, keepdims=True)
    found = build_method("fracal", STATISTICS).test_logits(torch.from_numpy(logits)).softmax(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_the_dimension_it_is_refused():
    statistics = ClassStatistics(image_count=[5, 2], num_images=9, source="a.json")
    with pytest.raises(InputError, match=r"a.json: method fracal needs the fractal dimension"):
        build_method("fracal", statistics)


def reference(points):
    """Return the slope by numpy's own least squares, cell by cell."""
    grids = [g for g in range(1, 65) if g * g <= len(points)]
    if len(points) < 4:
        return 1.0
    counts = []
    for g in grids:
        cells = {(min(int(x * g), g - 1), min(int(y * g), g - 1)) for x, y in points}
        counts.append(len(cells))
    return max(1.0, np.polyfit(np.log(grids), np.log(counts), 1)[0])


def test_dimensions_are_those_of_a_plain_count():
    rng = np.random.default_rng(3)
    sizes = [0, 1, 3, 4, 5, 9, 40, 400, 5000]
    clouds = [rng.random((n, 2)) for n in sizes]
    clouds[6][:, 1] = 0.3  # a line
    clouds[7] = np.full((400, 2), 0.5)  # a point
    clouds[5][0] = 1.0  # at the edge: in the last cell
    category = np.repeat(np.arange(len(sizes)), sizes)
    found = box_counting_dimension(np.concatenate(clouds), category, len(sizes))
    np.testing.assert_allclose(found, [reference(cloud) for cloud in clouds], rtol=1e-9)
    assert found[:3].tolist() == [1, 1, 1]
    assert found[8] == pytest.approx(1.9, abs=0.1)


def test_it_is_counted_from_the_annotation_file(openmoji_dir):
    import json

    path = openmoji_dir / "openmoji_train.json"
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    found = ClassStatistics.from_json(path)
    for row, category in enumerate(found.ids.tolist()):
        points = [
            ((x + w / 2) / sizes[a["image_id"]][0], (y + h / 2) / sizes[a["image_id"]][1])
            for a in content["annotations"]
            if a["category_id"] == category
            for x, y, w, h in [a["bbox"]]
        ]
        assert found.fractal_dimension[row] == pytest.approx(reference(points), rel=1e-9)
