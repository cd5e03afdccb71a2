"""NorCal under the contract of all methods."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from iif import ClassStatistics, InputError, build_method
from method_contract import STATISTICS, MethodContract


class TestNorCal(MethodContract):
    NAME = "norcal"
    OPTIONS: ClassVar = [{}, {"gamma": 1.0}, {"gamma": 0.25}]
    REFUSED: ClassVar = [
        ({"gamma": -1.0}, "gamma is -1.0; it must be a number, 0 or more"),
        ({"zero_count": "no"}, "zero_count is 'no'; it must be one of error, clamp"),
    ]

    def hand(self, outputs, labels, options, background, fixed=None):
        shift = -options.get("gamma", 0.6) * np.log(STATISTICS.image_count)
        return outputs, outputs + (np.append(shift, 0.0) if background else shift)

    def folds(self, options):
        return True


def test_the_probabilities_are_those_of_the_papers_equation():
    """e^z / n^gamma over their sum and the background's e^z (equation 4)."""
    logits = np.random.default_rng(0).normal(size=(7, 6)) * 3
    part = np.exp(logits[:, :-1]) / STATISTICS.image_count**0.6
    whole = np.column_stack([part, np.exp(logits[:, -1])])
    expected = whole / whole.sum(axis=1, keepdims=True)
    found = build_method("norcal", STATISTICS).test_logits(torch.from_numpy(logits)).softmax(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_confident_background_stays_the_background():
    counts = np.geomspace(1, 20_000, 1203).astype(int)
    method = build_method("norcal", ClassStatistics(image_count=counts, num_images=100_170))
    logits = torch.zeros(1, 1204, dtype=torch.float64)
    logits[0, -1] = np.log(0.99 / 0.01 * 1203)  # p_background 0.99, the rest spread evenly
    assert method.test_logits(logits).softmax(-1)[0, -1].item() > 0.99


def test_a_class_that_was_never_seen_is_refused_or_counted_once():
    statistics = ClassStatistics(image_count=[5, 0], num_images=9, names=["cat", "ghost"])
    with pytest.raises(InputError, match=r"'ghost' \(id 2: 0 images\) was never seen.*clamp"):
        build_method("norcal", statistics)
    with pytest.warns(UserWarning, match=r"counted as seen once.*ghost"):
        method = build_method("norcal", statistics, {"zero_count": "clamp"})
    assert method.shift[1] == 0
