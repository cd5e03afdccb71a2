"""The baseline: the plain softmax, under the contract of all methods."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from iif import InputError, build_method
from iif.methods import BASELINE, DEFAULT, METHODS, Method
from method_contract import STATISTICS, MethodContract


class TestNone(MethodContract):
    NAME = "none"
    REFUSED: ClassVar = [({"strength": 1}, "method none has no option strength; it has none")]

    def hand(self, outputs, labels, options, background, fixed=None):
        return outputs, outputs

    def folds(self, options):
        return False


def test_the_registry_knows_methods_by_their_own_names():
    assert METHODS[BASELINE] is Method
    assert DEFAULT in METHODS
    assert all(name == method.name for name, method in METHODS.items())


def test_an_unknown_method_is_refused_with_the_legal_names():
    with pytest.raises(InputError, match="method is 'seasaw'; it must be one of none, iif"):
        build_method("seasaw", STATISTICS)


def test_the_baseline_needs_no_statistics_and_the_others_do():
    method = build_method(BASELINE)
    logits = torch.randn(3, 9)
    assert method.test_logits(logits) is logits
    with pytest.raises(InputError, match="needs the class statistics"):
        build_method(DEFAULT)
