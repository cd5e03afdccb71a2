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
from typing import Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn

from iif.errors import InputError
from iif.statistics import ClassStatistics


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method's own settings: one node of a configuration, built by `iif.methods.options`."""


def wide(outputs: Tensor) -> Tensor:
    """Return outputs narrower than float32 as float32, others as they are.

    Logits stay float32: bfloat16 has 8 significant bits, in which the weights of LVIS's 1,203
    classes are no longer distinct, and a log-sum-exp moves the background.
    """
    narrow = outputs.dtype == torch.float16 or outputs.dtype == torch.bfloat16
    return outputs.float() if narrow else outputs


class Method(nn.Module):
    """The plain softmax, the baseline; a subclass overrides what it changes.

    Attributes:
        name: as users choose it.
        options_type: the type of its settings.
        extra_outputs: classifier outputs beyond K + 1.
        tuned_option: the option that "iif tune" chooses on held-out training images; None: none.
        tuned_values: the values that it tries by default.
        post_hoc: the options under which the method acts at test alone, on a model that was
            trained without it; None where there is no such use.
        learned: buffers that training fills; all others follow from options and statistics.
        background: whether the last column is the background's.
    """

    name: ClassVar[str] = "none"
    options_type: ClassVar[type[Options]] = Options
    extra_outputs: ClassVar[int] = 0
    tuned_option: ClassVar[str | None] = None
    tuned_values: ClassVar[tuple[float, ...]] = ()
    post_hoc: ClassVar[Mapping[str, Any] | None] = None
    learned: ClassVar[tuple[str, ...]] = ()

    options: Options
    background: bool

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

    @property
    def acts_in_training(self) -> bool:
        """Whether a model that is trained under the method differs from a plain one."""
        return False

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
            f"method {self.name} cannot be folded: it changes nothing, the checkpoint is one of "
            "Detectron2's already"
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

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load what was learned; derived buffers stay those of the configuration.

        Whether a checkpoint may be used under a configuration is decided by `iif.methods.record`.
        """
        derived = {key for key, _ in self.named_buffers(recurse=False)} - set(self.learned)
        persistent = self.state_dict(keep_vars=True)
        for key in derived & persistent.keys():
            state_dict[prefix + key] = persistent[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
