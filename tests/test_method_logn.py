"""LogN under the contract of all methods, and the moments that it is made from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from iif import InputError, build_method
from iif.methods.moments import Moments, RunningMoments, load_moments
from method_contract import STATISTICS, MethodContract

MEAN = [1.5, -2.0, 0.25, -3.5, -7.0]
VARIANCE = [4.0, 0.5, 1.0, 2.25, 0.01]
_FOLDER = tempfile.TemporaryDirectory(prefix="moments")


def moments(**changes) -> Moments:
    values = {
        **{"checkpoint": "plain.pth", "checkpoint_sha256": "0" * 64, "engine": "detectron2"},
        **{"iterations": 3, "regions": 96, "mean": MEAN, "variance": VARIANCE},
        **{"ids": STATISTICS.ids.tolist(), "names": list(STATISTICS.names)},
    }
    return Moments(**(values | changes))


def saved(name: str, **changes) -> str:
    path = Path(_FOLDER.name, name)
    moments(**changes).save(path)
    return str(path)


FILE = saved("moments.json")


class TestLogN(MethodContract):
    NAME = "logn"
    OPTIONS: ClassVar = [{"moments": FILE}]
    REFUSED: ClassVar = [
        ({}, "method logn needs the moments .* make it with iif moments"),
        ({"moments": 3}, "moments is 3; it must be text"),
        ({"moments": "/nowhere/moments.json"}, "/nowhere/moments.json: no such file"),
    ]

    def hand(self, outputs, labels, options, background, fixed=None):
        mean, deviation = np.array(MEAN), np.sqrt(VARIANCE)
        test = outputs.copy()
        test[:, :5] = (outputs[:, :5] - (mean - mean.min())) / deviation
        return outputs, test

    def folds(self, options):
        return True


def test_the_path_may_hold_variables(monkeypatch):
    monkeypatch.setenv("MOMENTS_FOLDER", _FOLDER.name)
    method = build_method("logn", STATISTICS, {"moments": "$MOMENTS_FOLDER/moments.json"})
    assert method.fingerprint() == build_method("logn", STATISTICS, {"moments": FILE}).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"variance": [4.0, 0.5, 0.0, 2.25, 0.01]},
            r"class 'c' \(id 3: 12 images, 12 instances\) has mean 0.25 and variance 0;",
        ),
        ({"ids": [1, 2, 3, 4, 6]}, "the moments of 5 other classes than the 5 of arrays"),
        ({"names": list("abcdx")}, "other classes"),
        ({"mean": MEAN[:4]}, "one entry for each of the classes"),
        ({"format": "iif-moments/0"}, "format is 'iif-moments/0', expected 'iif-moments/1'"),
    ],
)
def test_moments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        load_moments(saved("wrong.json", **changes), STATISTICS)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(Path(FILE).read_text()[:100])
    with pytest.raises(InputError, match=r"cut.json: not valid JSON"):
        load_moments(path, STATISTICS)


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(lambda s: sum(s) >= 2),
    offset=st.sampled_from([0.0, -5.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_exact_moments_are_those_of_all_rows_whatever_the_batches(sizes, offset, seed):
    values = np.random.default_rng(seed).normal(size=(sum(sizes), 3)) + offset
    running = RunningMoments(3)
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        running.update(torch.from_numpy(part))
    assert running.rows == len(values)
    np.testing.assert_allclose(running.mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
    expected = values.var(axis=0, ddof=1)
    np.testing.assert_allclose(running.variance, expected, rtol=1e-7, atol=1e-9)


def test_the_momentum_form_is_batch_normalisations():
    norm = nn.BatchNorm1d(4, momentum=0.1, affine=False).double().train()
    running = RunningMoments(4, momentum=0.1)
    generator = torch.Generator().manual_seed(0)
    for rows in (5, 2, 9):
        batch = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 3 + 2
        norm(batch)
        running.update(batch)
    torch.testing.assert_close(running.mean, norm.running_mean)
    torch.testing.assert_close(running.variance, norm.running_var)
    assert running.rows == 16


@pytest.mark.parametrize("momentum", [0.0, 1.5, float("nan")])
def test_a_wrong_momentum_is_refused(momentum):
    with pytest.raises(InputError, match="it must be above 0 and at most 1"):
        RunningMoments(4, momentum)


def test_a_constant_logit_and_a_single_region_are_refused():
    source = {"checkpoint": "x", "checkpoint_sha256": "", "engine": "detectron2", "iterations": 1}
    running = RunningMoments(5)
    running.update(torch.zeros(1, 5))
    with pytest.raises(InputError, match="saw 1 training regions"):
        running.result(STATISTICS, **source)
    values = torch.randn(9, 5)
    values[:, 3] = 0
    running.update(values)
    with pytest.raises(InputError, match=r"class 'd' .*is the same in all 10 regions"):
        running.result(STATISTICS, **source)


def test_the_file_says_what_made_it():
    content = json.loads(Path(FILE).read_text())
    assert content["format"] == "iif-moments/1"
    assert content["checkpoint_sha256"] == "0" * 64
    assert (content["iterations"], content["regions"], content["momentum"]) == (3, 96, None)
    assert "torch" in content["versions"]
