"""EQL v2 under the contract of all methods, and the gradients that it accumulates."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import expit

from iif import InputError, build_method
from method_contract import STATISTICS, K, MethodContract


def weights(ratio, gamma=12.0, mu=0.8, alpha=4.0):
    negative = np.append(1 / (1 + np.exp(-gamma * (ratio - mu))), 1.0)
    return 1 + alpha * (1 - negative), negative


def parts(outputs, labels, ratio, **options):
    """Return loss terms, and gradient magnitudes, (R, K + 1) each."""
    positive, negative = weights(ratio, **options)
    target = np.eye(K + 1)[labels]
    weight = np.where(target > 0, positive, negative)
    p = expit(outputs)
    terms = -weight * (target * np.log(p) + (1 - target) * np.log1p(-p))
    return terms, np.abs(p - target) * weight, target


class TestEQLv2(MethodContract):
    NAME = "eqlv2"
    OPTIONS: ClassVar = [{}, {"gamma": 4.0, "mu": 99.8, "alpha": 2.0}]
    WITHOUT_BACKGROUND = False
    REFUSED: ClassVar = [({"gamma": 0.0}, "gamma is 0.0; it must be a number, above 0")]

    def hand(self, outputs, labels, options, background, fixed=None):
        return outputs, outputs

    def hand_loss(self, outputs, labels, options, fixed):
        terms, _, _ = parts(outputs, labels, np.full(K, 100.0), **options)
        return terms.sum() / len(outputs)

    def folds(self, options):
        return False


def test_gradients_accumulate_after_the_loss_and_change_the_next_one():
    method = build_method("eqlv2", STATISTICS)
    rng = np.random.default_rng(0)
    ratio, positive, negative = np.full(K, 100.0), np.zeros(K), np.zeros(K)
    for _ in range(3):
        outputs, labels = rng.normal(size=(30, K + 1)), rng.integers(0, K + 1, 30)
        terms, gradient, target = parts(outputs, labels, ratio)
        loss = method.loss(torch.from_numpy(outputs), torch.from_numpy(labels))
        assert loss.item() == pytest.approx(terms.sum() / 30)
        positive += (gradient * target).sum(axis=0)[:K]
        negative += (gradient * (1 - target)).sum(axis=0)[:K]
        ratio = positive / (negative + 1e-10)
        np.testing.assert_allclose(method.ratio, ratio)
    saved = method.state_dict()
    method.eval().loss(torch.zeros(3, K + 1), torch.tensor([0, 1, 2]))
    assert torch.equal(method.ratio, saved["ratio"])


def test_probabilities_are_products_of_sigmoids():
    outputs = torch.randn(6, K + 1)
    method = build_method("eqlv2", STATISTICS)
    found = method.probabilities(method.test_logits(outputs))
    expected = expit(outputs[:, :K]) * (1 - expit(outputs[:, K:]))
    torch.testing.assert_close(found[:, :K], torch.as_tensor(expected))


def test_a_batch_without_regions_has_no_loss():
    method = build_method("eqlv2", STATISTICS)
    assert method.loss(torch.zeros(0, K + 1), torch.zeros(0, dtype=torch.int64)) == 0


def test_it_is_refused_for_classification():
    with pytest.raises(InputError, match="defined for detection"):
        build_method("eqlv2", STATISTICS, background=False)
