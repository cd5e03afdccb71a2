"""What every long-tail method must do; its test module inherits `MethodContract`.

A subclass names the method and the options to try, and computes the logits by hand in float64 with
numpy, from the formula in the paper and not from the code under test. `pytest_generate_tests` in
conftest.py runs each test that takes ``options`` once for each of ``OPTIONS``.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.nn import functional as F

from iif import ClassStatistics, InputError, build_method
from iif.methods import Method
from iif.methods.record import PLAIN, check_evaluated, check_resumed

K = 5
STATISTICS = ClassStatistics(
    image_count=[40, 30, 12, 5, 1],
    num_images=100,
    instance_count=[90, 40, 12, 7, 2],
    names=["a", "b", "c", "d", "e"],
    fractal_dimension=[1.9, 1.7, 1.5, 1.2, 1.0],
)


class Head(nn.Module):
    """What an exporter sees: a classifier and its method."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.cls_score = nn.Linear(8, K + 1 + method.extra_outputs)
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        return self.method.test_logits(self.cls_score(x))


class BothModes(Head):
    """What torchvision scripts: training and test in one function."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        outputs = self.cls_score(x)
        if self.training:
            return self.method.training_logits(outputs, labels)
        return self.method.test_logits(outputs)


class MethodContract:
    """Inherit, set ``NAME``, ``OPTIONS`` and ``FOLDS``, and define `hand`."""

    NAME: ClassVar[str]
    OPTIONS: ClassVar[list[dict[str, Any]]] = [{}]
    # Whether the method serves a classifier without a background (image classification).
    WITHOUT_BACKGROUND: ClassVar[bool] = True
    # Options that are refused, and a part of the message.
    REFUSED: ClassVar[list[tuple[dict[str, Any], str]]] = []

    def hand(
        self,
        outputs: NDArray,
        labels: NDArray,
        options: dict[str, Any],
        background: bool,
        fixed: NDArray | None = None,
    ) -> tuple[NDArray, NDArray]:
        """Return the training and the test logits of (R, outputs) float64.

        ``fixed`` are the outputs at which parts without a gradient are evaluated.
        """
        raise NotImplementedError

    def hand_loss(
        self, outputs: NDArray, labels: NDArray, options: dict[str, Any], fixed: NDArray
    ) -> float:
        """Return the loss; a method without a loss of its own has the mean cross entropy."""
        training, _ = self.hand(outputs, labels, options, True, fixed)
        return float(np.mean(logsumexp(training, axis=1) - training[range(len(labels)), labels]))

    def folds(self, options: dict[str, Any]) -> bool:
        """Return whether there is a linear classifier that does the same at test."""
        raise NotImplementedError

    # Helpers

    def build(self, options: dict[str, Any], background: bool = True) -> Method:
        return build_method(self.NAME, STATISTICS, options, background=background)

    def outputs(
        self, method: Method, regions: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        columns = K + int(method.background) + method.extra_outputs
        outputs = torch.randn(regions, columns, generator=generator, dtype=torch.float64) * 4
        labels = torch.randint(0, K + int(method.background), (regions,), generator=generator)
        return outputs.to(dtype), labels

    # Values and gradients

    @pytest.mark.parametrize("background", [True, False])
    def test_logits_are_those_computed_by_hand(self, options, background):
        if not background and not self.WITHOUT_BACKGROUND:
            with pytest.raises(InputError, match=f"method {self.NAME}.*classification"):
                self.build(options, background)
            return
        method = self.build(options, background)
        outputs, labels = self.outputs(method)
        before = outputs.clone()
        training, test = self.hand(outputs.numpy(), labels.numpy(), options, background)
        found = method.training_logits(outputs, labels), method.test_logits(outputs)
        for logits, expected in zip(found, (training, test), strict=True):
            assert logits.shape == (12, K + int(background))
            np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(outputs, before)

    def test_the_gradient_of_the_loss_is_the_hand_values(self, options):
        method = self.build(options)
        outputs, labels = self.outputs(method)
        outputs.requires_grad_()
        logits = method.training_logits(outputs, labels)
        own = method.loss(outputs, labels)
        loss = F.cross_entropy(logits, labels) if own is None else own
        loss.backward()
        fixed = outputs.detach().numpy().copy()
        expected_loss = self.hand_loss(fixed, labels.numpy(), options, fixed)
        assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
        step, found = 1e-6, outputs.grad
        for row, column in ((0, 0), (3, 2), (7, K - 1), (11, K), (5, outputs.shape[1] - 1)):
            losses = []
            for sign in (1, -1):
                moved = fixed.copy()
                moved[row, column] += sign * step
                losses.append(self.hand_loss(moved, labels.numpy(), options, fixed))
            expected = (losses[0] - losses[1]) / (2 * step)
            assert found[row, column].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)

    def test_no_gradient_reaches_a_buffer(self, options):
        assert not list(self.build(options).parameters())

    # Precision

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_narrow_outputs_give_float32_logits(self, options, dtype):
        method = self.build(options)
        outputs, labels = self.outputs(method, dtype=dtype)
        training, test = self.hand(outputs.double().numpy(), labels.numpy(), options, True)
        found = method.training_logits(outputs, labels), method.test_logits(outputs)
        for logits, expected in zip(found, (training, test), strict=True):
            assert logits.dtype == torch.float32
            np.testing.assert_allclose(logits.numpy(), expected, rtol=2e-6, atol=2e-5)

    @pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
    def test_a_model_that_is_cast_keeps_the_methods_buffers(self, options, cast):
        head = Head(self.build(options))
        before = copy.deepcopy(dict(head.method.named_buffers()))
        getattr(head, cast)()
        assert head.cls_score.weight.dtype != torch.float32
        for name, buffer in head.method.named_buffers():
            assert buffer.dtype == before[name].dtype
            assert torch.equal(buffer, before[name])

    # Folding

    def test_the_folded_classifier_gives_the_test_logits_or_is_refused(self, options):
        method = self.build(options)
        generator = torch.Generator().manual_seed(1)
        columns = K + 1 + method.extra_outputs
        weight = torch.randn(columns, 8, generator=generator, dtype=torch.float64)
        bias = torch.randn(columns, generator=generator, dtype=torch.float64)
        x = torch.randn(20, 8, generator=generator, dtype=torch.float64)
        if not self.folds(options):
            with pytest.raises(InputError, match=rf"{self.NAME}.*cannot be folded"):
                method.fold(weight, bias)
            return
        folded = method.fold(weight, bias)
        expected = method.test_logits(F.linear(x, weight, bias)).softmax(-1)
        torch.testing.assert_close(F.linear(x, *folded).softmax(-1), expected)
        assert folded[0].dtype == torch.float64

    # Checkpoints

    def test_a_state_dict_brings_back_the_method(self, options):
        saved = io.BytesIO()
        head = Head(self.build(options))
        torch.save({"model": head.state_dict(), "record": head.method.record()}, saved)
        saved.seek(0)
        stored = torch.load(saved, weights_only=True)
        assert all(key.startswith(("cls_score.", "method.")) for key in stored["model"])
        fresh = Head(self.build(options)).eval()
        fresh.load_state_dict(stored["model"])
        x = torch.randn(4, 8)
        assert torch.equal(fresh(x), head(x))
        assert json.loads(json.dumps(stored["record"])) == fresh.method.record()
        check_resumed(fresh.method, stored["record"], "x.pth")
        check_evaluated(fresh.method, stored["record"], "x.pth")

    def test_training_starts_from_a_plain_checkpoint(self, options):
        head = Head(self.build(options))
        if head.method.extra_outputs:
            return  # its classifier is drawn anew
        plain = Head(Method()).state_dict()
        before = copy.deepcopy(dict(head.method.named_buffers()))
        head.train().load_state_dict(plain)
        assert torch.equal(head.cls_score.weight, plain["cls_score.weight"])
        for name, buffer in head.method.named_buffers():
            assert torch.equal(buffer, before[name])

    def test_a_plain_checkpoint_is_evaluated_post_hoc_alone(self, options):
        head = Head(self.build(options)).eval()
        plain = Head(Method()).state_dict()
        if not head.method.acts_in_training:
            head.load_state_dict(plain)
            check_evaluated(head.method, None, "x.pth")
            return
        with pytest.raises(InputError, match=rf"x.pth: a plain model.*method {self.NAME}"):
            check_evaluated(head.method, None, "x.pth")
        with pytest.raises(InputError, match=rf"x.pth: was trained with method none.*{self.NAME}"):
            check_resumed(head.method, None, "x.pth")
        if list(head.method.state_dict()):
            with pytest.raises(InputError, match=rf"under method {self.NAME}.*no buffers"):
                head.load_state_dict(plain, strict=False)

    def test_the_methods_checkpoint_is_refused_under_none(self, options):
        head = Head(self.build(options))
        if not head.method.acts_in_training:
            check_evaluated(Method(), head.method.record(), "x.pth")
            return
        for check in (check_resumed, check_evaluated):
            with pytest.raises(InputError, match=rf"x.pth.*trained with method {self.NAME}.*none"):
                check(Method(), head.method.record(), "x.pth")
        if list(head.method.state_dict()):
            with pytest.raises(InputError, match=r"under method none.*buffers of another method"):
                Head(Method()).eval().load_state_dict(head.state_dict(), strict=False)

    def test_other_statistics_are_told_from_these(self, options):
        method = self.build(options)
        other = STATISTICS.replace(image_count=[41, 30, 12, 5, 1])
        changed = build_method(self.NAME, other, options)
        if not method.acts_in_training or method.fingerprint() == changed.fingerprint():
            return
        with pytest.raises(InputError, match=r"x.pth.*class statistics \(hash\)"):
            check_resumed(changed, method.record(), "x.pth")

    def test_a_copy_is_the_same_method(self, options):
        method = self.build(options)
        twin = copy.deepcopy(method)
        assert twin.record() == method.record()
        assert PLAIN["name"] == "none"

    # Export

    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_scripts_traces_and_compiles_to_the_same_function(self, options):
        torch.compiler.reset()
        head = Head(self.build(options)).eval()
        x = torch.randn(6, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(head, torch.randn(2, 8))
        scripted = torch.jit.script(head)
        compiled = torch.compile(head, backend="eager", fullgraph=True)
        for same in (traced, scripted, compiled):
            assert torch.equal(same(x), head(x))

    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_both_modes_script(self, options):
        head = BothModes(self.build(options)).eval()
        x, labels = torch.randn(6, 8), torch.tensor([0, 1, 2, K, 0, K])
        assert torch.equal(torch.jit.script(head)(x, labels), head(x, labels))

    # Settings

    @pytest.mark.parametrize("name", ["no_such_option", "Variant"])
    def test_an_unknown_option_is_refused_by_name(self, name):
        with pytest.raises(InputError, match=rf"method {self.NAME} has no option {name}; it has"):
            build_method(self.NAME, STATISTICS, {name: 1})

    def test_illegal_values_are_refused(self):
        for options, message in self.REFUSED:
            with pytest.raises(InputError, match=message):
                self.build(options)

    # Engines

    def test_both_engines_give_the_same_probabilities(self, options):
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
        pytest.importorskip("torchvision", reason="torchvision is not installed")
        from method_engines import detectron2_probabilities, torchvision_probabilities

        method = self.build(options)
        torch.manual_seed(2)
        x = torch.randn(10, 8)
        weight = torch.randn(K + 1 + method.extra_outputs, 8)
        bias = torch.randn(K + 1 + method.extra_outputs)
        expected = method.probabilities(method.test_logits(F.linear(x, weight, bias)))
        found = detectron2_probabilities(copy.deepcopy(method), weight, bias, x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        if type(method).loss is not Method.loss:
            with pytest.raises(InputError, match=f"method {self.NAME}.*torchvision"):
                torchvision_probabilities(copy.deepcopy(method), weight, bias, x)
            return
        found = torchvision_probabilities(copy.deepcopy(method), weight, bias, x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
