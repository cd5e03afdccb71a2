"""Logit adjustment under the contract of all methods, and its form within the foreground."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from iif import build_method
from method_contract import STATISTICS, K, MethodContract


class TestLogitAdjustment(MethodContract):
    NAME = "logit_adjustment"
    OPTIONS: ClassVar = [{}, {"tau": 0.5}, {"apply": "test"}, {"apply": "test", "tau": 1.5}]
    REFUSED: ClassVar = [
        ({"tau": -1.0}, "tau is -1.0; it must be a number, 0 or more"),
        ({"apply": "train_and_test"}, "apply is 'train_and_test'; it must be one of train, test"),
    ]

    def hand(self, outputs, labels, options, background, fixed=None):
        prior = STATISTICS.image_count / STATISTICS.image_count.sum()
        sign = -1 if options.get("apply") == "test" else 1
        shift = sign * options.get("tau", 1.0) * np.log(prior)
        moved = outputs.copy()
        if background:
            z = outputs[:, :-1]
            kept = logsumexp(z, axis=1) - logsumexp(z + shift, axis=1)
            moved[:, :-1] = z + shift + kept[:, None]
        else:
            moved = outputs + shift
        return (outputs, moved) if sign < 0 else (moved, outputs)

    def folds(self, options):
        return False


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), tau=st.floats(0, 3), dtype=st.sampled_from(["float", "half"]))
def test_the_background_keeps_its_probability(seed, tau, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = getattr(torch.randn(6, K + 1, generator=generator) * 6, dtype)()
    method = build_method("logit_adjustment", STATISTICS, {"tau": tau, "apply": "test"})
    before = logits.float().softmax(-1)[:, -1]
    torch.testing.assert_close(method.test_logits(logits).softmax(-1)[:, -1], before)


def test_without_background_tau_1_is_the_balanced_softmax():
    """arXiv 2007.10740, equation 3: n_y e^z_y over the sum of n_j e^z_j."""
    logits = np.random.default_rng(0).normal(size=(6, K))
    weighted = STATISTICS.image_count * np.exp(logits)
    expected = weighted / weighted.sum(axis=1, keepdims=True)
    method = build_method("logit_adjustment", STATISTICS, background=False)
    labels = torch.zeros(6, dtype=torch.int64)
    found = method.training_logits(torch.from_numpy(logits), labels).softmax(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_background_the_test_form_folds():
    method = build_method("logit_adjustment", STATISTICS, {"apply": "test"}, background=False)
    x, weight, bias = torch.randn(4, 3), torch.randn(K, 3), torch.randn(K)
    expected = method.test_logits(torch.nn.functional.linear(x, weight, bias))
    found = torch.nn.functional.linear(x, *method.fold(weight, bias))
    torch.testing.assert_close(found, expected)


def test_the_reason_why_it_cannot_be_folded_is_said():
    from iif import InputError

    method = build_method("logit_adjustment", STATISTICS, {"apply": "test"})
    with pytest.raises(InputError, match="depends on all logits of a region"):
        method.fold(torch.ones(K + 1, 2), torch.ones(K + 1))
