from __future__ import annotations

import io
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iif import IIFLogits

WEIGHTS = torch.tensor([0.5, 2.0, 7.355740938246138], dtype=torch.float64)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@settings(max_examples=60)
@given(
    num_classes=st.integers(1, 40),
    num_regions=st.integers(0, 20),
    background=st.sampled_from(("first", "last")),
    dtype=st.sampled_from(FLOATING),
    seed=st.integers(0, 2**31),
)
def test_each_column_is_multiplied_by_its_weight(num_classes, num_regions, background, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_classes, generator=generator, dtype=torch.float64) * 12 + 0.01
    logits = (torch.randn(num_regions, num_classes + 1, generator=generator) * 10).to(dtype)
    before = logits.clone()
    adjusted = IIFLogits(weights, background=background)(logits)

    assert adjusted.dtype == dtype
    assert adjusted.shape == logits.shape
    assert torch.equal(logits, before)
    column, foreground = (0, slice(1, None)) if background == "first" else (-1, slice(-1))
    assert torch.equal(adjusted[:, column], logits[:, column])
    expected = weights * logits[:, foreground].double()
    tolerance = max(2 * torch.finfo(dtype).eps, 2 * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(
        adjusted[:, foreground].double(), expected, rtol=tolerance, atol=1e-30
    )


def test_background_is_unchanged_bit_for_bit_even_where_it_is_not_a_number():
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.1])
    logits = special[:, None].expand(-1, 4).contiguous()
    adjusted = IIFLogits(WEIGHTS)(logits)
    assert torch.equal(adjusted[:, -1].view(torch.int32), logits[:, -1].view(torch.int32))


def test_gradient_of_the_logits_is_the_weight():
    adjust = IIFLogits(WEIGHTS).double()
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    adjust(logits).sum().backward()
    assert torch.equal(logits.grad, adjust.weight.expand(5, 4))
    assert torch.autograd.gradcheck(adjust, logits)
    assert not list(adjust.parameters())


def test_softmax_of_the_adjusted_logits_in_closed_form():
    logits = torch.tensor([[1.0, -2.0, 0.5, 0.25]], dtype=torch.float64)
    exponent = torch.exp(torch.tensor([[0.5, -4.0, 7.355740938246138 * 0.5, 0.25]]).double())
    expected = exponent / exponent.sum()
    torch.testing.assert_close(IIFLogits(WEIGHTS)(logits).softmax(-1), expected, rtol=1e-6, atol=0)


def test_weights_are_saved_and_restored_with_the_model():
    class Model(nn.Module):
        def __init__(self, weights: torch.Tensor) -> None:
            super().__init__()
            self.score = nn.Linear(3, 4)
            self.iif = IIFLogits(weights)

    trained, fresh = Model(WEIGHTS), Model(torch.ones(3))
    saved = io.BytesIO()
    torch.save(trained.state_dict(), saved)
    saved.seek(0)
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    assert fresh.iif.weight.tolist() == [0.5, 2.0, pytest.approx(7.355740938246138), 1.0]
    logits = torch.randn(2, 4)
    assert torch.equal(fresh.iif(logits), trained.iif(logits))
    with pytest.raises(RuntimeError, match="size mismatch"):
        Model(torch.ones(3)).iif.load_state_dict(IIFLogits(torch.ones(9)).state_dict())


def test_the_caller_keeps_its_weights():
    weights = torch.ones(3)
    adjust = IIFLogits(weights)
    weights.fill_(9)
    assert adjust.weight.tolist() == [1, 1, 1, 1]


def test_autocast_keeps_the_dtype_of_the_classifier():
    model = nn.Sequential(nn.Linear(3, 4), IIFLogits(WEIGHTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adjusted = model(torch.randn(5, 3))
        loss = nn.functional.cross_entropy(adjusted, torch.tensor([0, 1, 2, 3, 3]))
    assert adjusted.dtype == torch.bfloat16
    loss.backward()
    assert model[0].weight.grad.isfinite().all()


def test_follows_the_module_to_its_device():
    adjust = IIFLogits(WEIGHTS).to("meta")
    assert adjust(torch.empty(7, 4, device="meta")).shape == (7, 4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("background", ["first", "last"])
def test_scripts_traces_and_compiles_to_the_same_function(background):
    adjust = IIFLogits(WEIGHTS, background=background)
    logits = torch.randn(6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(adjust, torch.randn(2, 4))
    scripted = torch.jit.script(adjust)
    compiled = torch.compile(adjust, backend="eager", fullgraph=True)
    for same in (traced, scripted, compiled):
        assert torch.equal(same(logits), adjust(logits))


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_logits_of_another_number_of_classes_are_refused(columns):
    with pytest.raises(ValueError, match=f"{columns} columns.*4"):
        IIFLogits(WEIGHTS)(torch.randn(2, columns))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 2), "shape"),
        (torch.ones(0), "shape"),
        (torch.tensor([1.0, float("inf")]), "finite"),
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.tensor([1.0, 0.0]), "positive"),
        (torch.tensor([1.0, -1.0]), "positive"),
    ],
)
def test_unusable_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        IIFLogits(weights)


def test_an_unknown_place_of_the_background_is_refused():
    with pytest.raises(ValueError, match='"first" or "last"'):
        IIFLogits(WEIGHTS, background="middle")


def test_print_shows_the_number_of_classes():
    assert repr(IIFLogits(WEIGHTS)) == "IIFLogits(num_classes=3, background='last')"
