"""The adjustment itself: each class's logit times its weight, the background's as it is."""

# No "from __future__ import annotations": TorchScript reads the type of the buffer at run time.
from typing import Literal

import torch
from torch import nn


class IIFLogits(nn.Module):
    """Multiply class logits by the IIF weights: z'_c = w_c z_c, with w = 1 for the background.

    R regions, K foreground classes. The weights are a buffer, ``weight`` (K + 1,), in the order of
    the logits and with the background's 1 in its place: one multiplication makes the result, and
    it is the only new (R, K + 1) tensor. Being a buffer, they follow the module to its device and
    into its checkpoint, and no gradient reaches them.
    """

    weight: torch.Tensor

    def __init__(
        self,
        weights: torch.Tensor,
        *,
        background: Literal["first", "last"] = "last",
    ) -> None:
        """Store the weights.

        Args:
            weights: (K,) as :func:`iif.weights.iif_weights` returns them, by category id.
            background: the column of the background: "last" as in Detectron2, "first" as in
                torchvision.

        Raises:
            ValueError: the weights are not a (K,) tensor of finite, positive numbers, or
                background is neither "first" nor "last".
        """
        super().__init__()
        if background not in ("first", "last"):
            raise ValueError(f'background is {background!r}; it must be "first" or "last"')
        weights = torch.as_tensor(weights)
        if weights.ndim != 1 or len(weights) == 0:
            raise ValueError(f"weights have shape {tuple(weights.shape)}; expected (K,), K > 0")
        if not (weights.isfinite() & (weights > 0)).all():
            raise ValueError("weights must be finite and positive")
        foreground = weights.detach().to(torch.float32)
        one = foreground.new_ones(1)
        parts = [one, foreground] if background == "first" else [foreground, one]
        self.register_buffer("weight", torch.cat(parts))
        self.background = background

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the adjusted logits (R, K + 1) in the dtype of ``logits``, out of place.

        Raises:
            ValueError: the logits do not have K + 1 columns.
        """
        # A tracer would take the comparison for data and warn. Without it, a single column would
        # be broadcast in silence.
        if not torch.jit.is_tracing() and logits.shape[-1] != self.weight.shape[0]:
            raise ValueError(
                f"logits have {logits.shape[-1]} columns but there are weights for "
                f"{self.weight.shape[0]}, the background included"
            )
        return logits * self.weight.to(logits.dtype)

    def extra_repr(self) -> str:
        """Return the number of classes and the background's place, for ``print(model)``."""
        return f"num_classes={len(self.weight) - 1}, background={self.background!r}"


class PostHocIIFLogits(IIFLogits):
    """IIF for logits that were trained without it: z'_c = w_c (z_c - z_background).

    Softmax does not change when a number is added to all logits of a region, so plain training
    leaves that number free; a multiplication makes it matter. Relative to the background, whose
    adjusted logit is 0, the logits are determined, and log p_c / p_background is what is weighted.

    The weights are no part of the checkpoint, which stays that of a plain model.
    """

    def __init__(
        self,
        weights: torch.Tensor,
        *,
        background: Literal["first", "last"] = "last",
    ) -> None:
        """Store the weights; arguments and errors are those of :class:`IIFLogits`."""
        super().__init__(weights, background=background)
        self.register_buffer("weight", self.weight, persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the adjusted logits (R, K + 1) in the dtype of ``logits``, out of place."""
        background = logits[..., :1] if self.background == "first" else logits[..., -1:]
        return super().forward(logits - background)
