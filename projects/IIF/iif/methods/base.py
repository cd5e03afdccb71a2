"""What a long-tail method is: how a classifier's outputs become logits, in training and at test.

Shapes: R regions of interest, K foreground classes, background last. A classifier has
``K + 1 + extra_outputs`` outputs; logits are always (R, K + 1), and their softmax are the
probabilities. Without a background (image classification) read K for K + 1. An engine whose
background comes first rolls the columns.

A method is a module, so that what it keeps in buffers follows the model to its device and into its
checkpoint. There are no postponed annotations here: TorchScript reads types at run time.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn

from iif.errors import InputError
from iif.statistics import ClassStatistics

Phase = Literal["train_and_test", "train", "test"]
Need = Literal["counts", "boxes", "moments"]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method's own settings: one node of a configuration, built by `iif.methods.options`."""


def wide(outputs: Tensor) -> Tensor:
    """Return outputs narrower than float32 as float32, others as they are.

    Logits stay float32: bfloat16 has 8 significant bits, in which the weights of LVIS's 1,203
    classes are no longer distinct, and a log-sum-exp moves the background.
    """
    narrow = outputs.dtype == torch.float16 or outputs.dtype == torch.bfloat16
    return outputs.float() if narrow else outputs


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of every process's values; each must call this, or the others wait."""
    if dist.is_available() and dist.is_initialized():
        values = values.contiguous()
        dist.all_reduce(values)
    return values


class Method(nn.Module):
    """The plain softmax: the baseline.

    A subclass overrides what it changes.

    Attributes:
        name: as users choose it.
        options_type: the type of its settings.
        paper: where it was published; empty for the baseline.
        phases: when it can act on the logits ("train_and_test", "train" or "test"), the default
            first; empty for the baseline.
        needs: what it is made from beside the number of classes: "counts" (of training images or
            instances), "boxes" (where they lie) or "moments" (of a plain model's logits).
        extra_outputs: classifier outputs beyond K + 1.
        tuned_option: the option that "iif tune" chooses on held-out training images; None: none.
        tuned_values: the values that it tries by default.
        post_hoc: the options under which the method acts at test alone, on a model that was
            trained without it; None where there is no such use.
        learned: buffers that training fills; all others follow from options and statistics.
        background: whether the last column is the background's.
        num_classes: K; None for the baseline, which fits any.
    """

    name: ClassVar[str] = "none"
    options_type: ClassVar[type[Options]] = Options
    paper: ClassVar[str] = ""
    phases: ClassVar[tuple[Phase, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ()
    extra_outputs: int = 0
    tuned_option: ClassVar[str | None] = None
    tuned_values: ClassVar[tuple[float, ...]] = ()
    post_hoc: ClassVar[Mapping[str, Any] | None] = None
    learned: ClassVar[tuple[str, ...]] = ()

    options: Options
    background: bool
    num_classes: int | None

    def __init__(
        self,
        options: Options | None = None,
        statistics: ClassStatistics | None = None,
        *,
        background: bool = True,
    ) -> None:
        """Keep the options; the baseline needs no statistics."""
        super().__init__()
        self.options = self.options_type() if options is None else options
        self.background = background
        self.num_classes = None if statistics is None else len(statistics)

    @property
    def acts_in_training(self) -> bool:
        """Whether a model that is trained under the method differs from a plain one."""
        return False

    def check_classes(self, num_classes: int) -> None:
        """Raise InputError where the method was built for another number K of classes."""
        if self.num_classes is not None and self.num_classes != num_classes:
            raise InputError(
                f"method {self.name} was built for {self.num_classes} classes, but the classifier "
                f"has {num_classes}; build it from the statistics of the same classes"
            )

    def training_logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the logits that the cross entropy of training sees.

        In training mode a method may update statistics of its own here.

        Args:
            outputs: (R, K + 1 + extra_outputs), what the classifier returns.
            labels: (R,) classes, K for background.

        Returns:
            (R, K + 1), float32 or wider.
        """
        return self.test_logits(outputs)

    def test_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits at test, (R, K + 1), float32 or wider; nothing is changed or kept."""
        return wide(outputs)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the linear classifier whose plain outputs are this method's test logits.

        Args:
            weight, bias: (K + 1 + extra_outputs, C) and (K + 1 + extra_outputs,).

        Raises:
            InputError: there is no such linear classifier; says why.
        """
        raise InputError(
            f"method {self.name} cannot be folded: it changes no logit at test, so the classifier "
            "is a plain one already"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (R, K + 1) of test logits; only a sigmoid head overrides it."""
        return logits.softmax(dim=-1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Return the classification loss; None for the mean cross entropy of `training_logits`."""
        return None

    @torch.no_grad()
    def fingerprint(self) -> str:
        """Return the SHA-256 of the buffers that follow from options and statistics."""
        digest = hashlib.sha256()
        for name, buffer in sorted(self.named_buffers()):
            if name not in self.learned:
                values = buffer.detach().cpu().contiguous()
                digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
                digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint and a summary say of the method, as plain values."""
        return {
            "name": self.name,
            "options": msgspec.to_builtins(self.options),
            "acts_in_training": self.acts_in_training,
            "sha256": self.fingerprint(),
        }

    def extra_repr(self) -> str:
        """Return the options, for ``print(model)``."""
        options = msgspec.to_builtins(self.options)
        return ", ".join([self.name, *(f"{key}={value}" for key, value in options.items())])

    def _apply(self, fn: Any, recurse: bool = True) -> "Method":
        """Move buffers with the model, and keep their precision: ``half()`` is for parameters."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load what was learned; derived buffers stay those of the configuration.

        In evaluation mode they must be those that the model was trained with: `iif.methods.record`
        says so by name where it can, and this refuses what reaches the module another way.
        """
        own = self.state_dict(prefix=prefix, keep_vars=True)
        derived = {key: b for key, b in own.items() if key[len(prefix) :] not in self.learned}
        if not self.training:
            self._refuse_other_buffers(state_dict, prefix, own, derived)
        state_dict.update({**own, **state_dict, **derived})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_other_buffers(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        own: Mapping[str, Tensor],
        derived: Mapping[str, Tensor],
    ) -> None:
        if any(key.startswith(prefix) and key not in own for key in state_dict):
            fault = "buffers of another method"
        elif own.keys() - state_dict.keys():
            fault = "no buffers of it, as a plain model's"
        elif not all(
            torch.equal(state_dict[key].cpu(), buffer.cpu().to(state_dict[key].dtype))
            for key, buffer in derived.items()
        ):
            fault = "other values of its buffers"
        else:
            return
        raise InputError(
            f"the model is evaluated under method {self.name}, but the weights to load hold "
            f"{fault}; use the configuration that they were trained with (to start training from "
            "them, load them in training mode)"
        )
