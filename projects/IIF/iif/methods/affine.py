"""Methods that scale and shift the logits of each class: z' = scale * z + shift."""

import torch
from torch import Tensor

from iif.methods.base import Method, Options, Phase, wide
from iif.statistics import ClassStatistics


class Affine(Method):
    """z'_c = scale_c * z_c + shift_c, with 1 and 0 for the background.

    A method that is fixed by the class statistics is such a pair of vectors.

    Attributes:
        scale, shift: (K + 1,) float32 buffers, (K,) without background. They are the
            configuration's, and part of a checkpoint when training uses them.
        phase: when the logits are adjusted; otherwise they are the classifier's outputs.
        relative: adjust logits relative to the background's, or to the mean over the classes where
            there is no background. Softmax is unchanged when a number is added to all logits of a
            region, so plain training leaves that number undetermined, and scaling makes it matter.
    """

    scale: Tensor
    shift: Tensor
    phase: str
    relative: bool
    shifted: bool

    def __init__(
        self,
        options: Options,
        statistics: ClassStatistics,
        scale: Tensor,
        shift: Tensor,
        *,
        phase: Phase,
        relative: bool = False,
        background: bool = True,
    ) -> None:
        """Store the vectors.

        Args:
            options, statistics, background: as for `Method`.
            scale, shift: (K,) in the order of the category ids.
            phase: when the logits are adjusted.
            relative: see the class.

        Raises:
            ValueError: there is not one scale and shift per class, or one is unusable.
        """
        super().__init__(options, statistics, background=background)
        if scale.shape != (len(statistics),) or shift.shape != scale.shape:
            raise ValueError(
                f"scale and shift have shapes {tuple(scale.shape)} and {tuple(shift.shape)}; "
                f"expected ({len(statistics)},), one of each per class"
            )
        if not (scale.isfinite() & (scale > 0) & shift.isfinite()).all():
            raise ValueError("scale must be finite and positive, shift finite")
        if background:
            scale = torch.cat([scale, scale.new_ones(1)])
            shift = torch.cat([shift, shift.new_zeros(1)])
        trained = phase != "test"
        self.register_buffer(
            "scale", scale.detach().to(torch.float32, copy=True), persistent=trained
        )
        self.register_buffer(
            "shift", shift.detach().to(torch.float32, copy=True), persistent=trained
        )
        self.phase = phase
        self.relative = relative
        self.shifted = bool((shift != 0).any())

    @property
    def acts_in_training(self) -> bool:
        """Whether training sees adjusted logits."""
        return self.phase != "test"

    def adjusted(self, outputs: Tensor) -> Tensor:
        """Return the adjusted logits, out of place, of (R, K + 1) outputs."""
        logits = wide(outputs)
        # A tracer would take the comparison for data and warn. Without it, a single column would
        # be broadcast in silence.
        if not torch.jit.is_tracing() and logits.shape[-1] != self.scale.shape[0]:
            raise ValueError(
                f"the classifier has {logits.shape[-1]} outputs but the method "
                f"{self.scale.shape[0]} columns"
            )
        if self.relative:
            if self.background:
                logits = logits - logits[..., -1:]
            else:
                logits = logits - logits.mean(dim=-1, keepdim=True)
        scale = self.scale.to(logits.dtype)
        if not self.shifted:  # adding 0 would cost a sign of zero
            return logits * scale
        return torch.addcmul(self.shift.to(logits.dtype), logits, scale)

    def training_logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of training, adjusted unless the phase is "test"."""
        return wide(outputs) if self.phase == "test" else self.adjusted(outputs)

    def test_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits at test, adjusted unless the phase is "train"."""
        return wide(outputs) if self.phase == "train" else self.adjusted(outputs)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and b scaled and shifted by class, in the dtype of ``weight``.

        Raises:
            InputError: at test the logits are the classifier's outputs already.
        """
        if self.phase == "train" or bool((self.scale == 1).all() and (self.shift == 0).all()):
            return super().fold(weight, bias)
        if self.relative:
            base_weight = weight[-1] if self.background else weight.mean(dim=0)
            base_bias = bias[-1] if self.background else bias.mean()
            weight, bias = weight - base_weight, bias - base_bias
        scale, shift = self.scale.to(weight.dtype), self.shift.to(weight.dtype)
        return scale[:, None] * weight, scale * bias + shift

    def extra_repr(self) -> str:
        """Return the options and the ranges over the classes, for ``print(model)`` and logs."""
        columns = slice(None, -1 if self.background else None)
        ranges = [
            f"{name} {values[columns].min():.4g} to {values[columns].max():.4g}"
            for name, values in (("scale", self.scale), ("shift", self.shift))
        ]
        return ", ".join([super().extra_repr(), f"num_classes={self.num_classes}", *ranges])
