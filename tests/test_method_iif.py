"""Inverse Image Frequency under the contract of all methods, and what is particular to it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from iif import ClassStatistics, InputError, build_method
from iif.methods import Affine
from method_contract import STATISTICS, K, MethodContract

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def hand_weights(variant="raw", count_by="image"):
    """Return the weights (K,) from the formulas of the paper, in numpy's float64."""
    f = STATISTICS.image_count if count_by == "image" else STATISTICS.instance_count
    n = STATISTICS.num_images if count_by == "image" else STATISTICS.instance_count.sum()
    f = f.astype(np.float64)
    return {
        "raw": lambda: np.log(n / f),
        "smooth": lambda: np.log((n + 1) / (f + 1)) + 1,
        "prob": lambda: np.log((n - f) / f),
        "normit": lambda: -norm.ppf(f / n),
        "gombit": lambda: -np.log(-np.log(1 - f / n)),
        "base2": lambda: np.log2(n / f),
        "base10": lambda: np.log10(n / f),
    }[variant]()


class TestIIF(MethodContract):
    NAME = "iif"
    OPTIONS: ClassVar = [
        *({"variant": v} for v in ("raw", "smooth", "prob", "normit", "gombit", "base2", "base10")),
        {"count_by": "instance", "variant": "base10"},
        {"strength": 0.5},
        {"apply": "test"},
        {"apply": "test", "strength": 0.25, "variant": "smooth"},
    ]
    REFUSED: ClassVar = [
        ({"variant": "row"}, "variant is 'row'; it must be one of raw, smooth, prob, normit"),
        ({"count_by": "box"}, "count_by is 'box'; it must be one of image, instance"),
        ({"apply": "train"}, "apply is 'train'; it must be one of train_and_test, test"),
        ({"strength": -0.5}, "strength is -0.5; it must be a number, 0 or more"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": "much"}, "strength is 'much'"),
        ({"zero_count": "no"}, "zero_count is 'no'; it must be one of error, clamp"),
        ({"nonpositive": "no"}, "nonpositive is 'no'; it must be one of error, clamp"),
    ]

    def hand(self, outputs, labels, options, background, fixed=None):
        weights = hand_weights(options.get("variant", "raw"), options.get("count_by", "image"))
        scale = weights ** options.get("strength", 1.0)
        if background:
            scale = np.append(scale, 1.0)
        if options.get("apply") != "test":
            return scale * outputs, scale * outputs
        base = outputs[:, -1:] if background else outputs.mean(axis=1, keepdims=True)
        return outputs, scale * (outputs - base)

    def folds(self, options):
        return True


@settings(max_examples=60)
@given(
    num_classes=st.integers(1, 40),
    num_regions=st.integers(0, 20),
    dtype=st.sampled_from(FLOATING),
    seed=st.integers(0, 2**31),
)
def test_each_column_is_multiplied_by_its_weight(num_classes, num_regions, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 900, (num_classes,), generator=generator)
    statistics = ClassStatistics(image_count=counts.numpy(), num_images=1000)
    logits = (torch.randn(num_regions, num_classes + 1, generator=generator) * 10).to(dtype)
    before = logits.clone()
    adjusted = build_method("iif", statistics).test_logits(logits)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert adjusted.dtype == wide
    assert adjusted.shape == logits.shape
    assert torch.equal(logits, before)
    assert torch.equal(adjusted[:, -1], logits[:, -1].to(wide))
    expected = torch.log(1000 / counts.double()) * logits[:, :-1].double()
    torch.testing.assert_close(adjusted[:, :-1].double(), expected, rtol=3e-7, atol=1e-30)


def test_background_is_unchanged_bit_for_bit_even_where_it_is_not_a_number():
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.1])
    logits = special[:, None].expand(-1, K + 1).contiguous()
    adjusted = build_method("iif", STATISTICS).test_logits(logits)
    assert torch.equal(adjusted[:, -1].view(torch.int32), logits[:, -1].view(torch.int32))


def test_under_bfloat16_the_weights_of_lvis_stay_distinct():
    """Cast to bfloat16, 790 distinct ones would become 429."""
    counts = np.unique(np.geomspace(1, 20_000, 1203).astype(int))
    method = build_method("iif", ClassStatistics(image_count=counts, num_images=100_170))
    logits = torch.ones(1, len(counts) + 1, dtype=torch.bfloat16)
    assert len(method.test_logits(logits)[0, :-1].unique()) == len(counts)


def test_autocast_keeps_the_logits_in_float32():
    head = torch.nn.Linear(3, K + 1)
    method = build_method("iif", STATISTICS)
    labels = torch.tensor([0, 1, 2, 3, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = method.training_logits(head(torch.randn(5, 3)), labels)
        loss = torch.nn.functional.cross_entropy(logits, labels)
    assert logits.dtype == torch.float32
    loss.backward()
    assert head.weight.grad.isfinite().all()


def test_it_follows_the_model_to_its_device():
    method = build_method("iif", STATISTICS).to("meta")
    assert method.test_logits(torch.empty(7, K + 1, device="meta")).shape == (7, K + 1)


def test_softmax_of_the_adjusted_logits_in_closed_form():
    logits = np.array([[1.0, -2.0, 0.5, 0.25, 0.0, -1.0]])
    exponent = np.exp(np.append(hand_weights(), 1.0) * logits)
    found = build_method("iif", STATISTICS).test_logits(torch.from_numpy(logits)).softmax(-1)
    np.testing.assert_allclose(found, exponent / exponent.sum(), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50), background=st.booleans())
def test_post_hoc_a_shift_of_the_logits_changes_nothing(seed, shift, background):
    generator = torch.Generator().manual_seed(seed)
    columns = K + int(background)
    logits = torch.randn(4, columns, generator=generator, dtype=torch.float64) * 5
    method = build_method("iif", STATISTICS, {"apply": "test"}, background=background)
    found = method.test_logits(logits)
    torch.testing.assert_close(method.test_logits(logits + shift), found)
    if background:
        assert (found[:, -1] == 0).all()


def test_post_hoc_by_hand():
    statistics = ClassStatistics(image_count=[1, 1], num_images=10)
    method = build_method("iif", statistics, {"variant": "base10", "apply": "test"})
    assert method.test_logits(torch.tensor([[1.0, 0.5, -1.0]])).tolist() == [[2.0, 1.5, 0.0]]


def test_strength_0_is_the_softmax_bit_for_bit():
    logits = torch.randn(5, K + 1)
    for apply in ("train_and_test", "test"):
        method = build_method("iif", STATISTICS, {"strength": 0.0, "apply": apply})
        assert torch.equal(method.test_logits(logits), logits)
        with pytest.raises(InputError, match="changes no logit at test"):
            method.fold(torch.ones(K + 1, 2), torch.ones(K + 1))


@pytest.mark.parametrize("columns", [1, 3, 7])
def test_logits_of_another_number_of_classes_are_refused(columns):
    with pytest.raises(ValueError, match=f"{columns} outputs.*6"):
        build_method("iif", STATISTICS).test_logits(torch.randn(2, columns))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (torch.ones(2, 2), "shape"),
        (torch.ones(0), "shape"),
        (torch.ones(4), "shape"),
        (torch.tensor([1.0, 1, 1, 1, float("inf")]), "finite"),
        (torch.tensor([1.0, 1, 1, 1, float("nan")]), "finite"),
        (torch.tensor([1.0, 1, 1, 1, 0.0]), "positive"),
        (torch.tensor([1.0, 1, 1, 1, -1.0]), "positive"),
    ],
)
def test_unusable_scales_are_refused(scale, message):
    options = build_method("none").options
    with pytest.raises(ValueError, match=message):
        Affine(options, STATISTICS, scale, torch.zeros(5), phase="test")


def test_the_caller_keeps_its_vectors():
    scale = torch.ones(5)
    method = Affine(
        build_method("none").options,
        STATISTICS,
        scale,
        torch.zeros(5),
        phase="test",
        background=False,
    )
    scale.fill_(9)
    assert method.scale.tolist() == [1, 1, 1, 1, 1]


def test_print_shows_options_classes_and_ranges():
    text = repr(build_method("iif", STATISTICS, {"variant": "base10"}))
    assert "variant=base10" in text
    assert "num_classes=5" in text
    assert "scale 0.3979 to 2" in text
