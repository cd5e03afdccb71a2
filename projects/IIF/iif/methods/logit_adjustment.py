"""Logit adjustment: shift each class's logit by its log prior, in training or at test.

Menon et al., ICLR 2021, arXiv 2007.07314. Without a background and with tau 1 the training form is
the balanced softmax (arXiv 2007.10740) and the test form is PC softmax (arXiv 2012.00321).
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import Meta
from torch import Tensor

from iif.errors import InputError
from iif.methods.base import Method, Options, wide
from iif.methods.counts import ZeroCount, image_counts
from iif.statistics import ClassStatistics


class LogitAdjustmentOptions(Options, frozen=True, kw_only=True):
    """The settings of logit adjustment."""

    tau: Annotated[
        float, Meta(ge=0, description="The power of the class prior: 0 is the plain softmax.")
    ] = 1.0
    apply: Annotated[
        Literal["train", "test"],
        Meta(
            description='When the logits are adjusted: "train" adds tau ln prior in the loss, '
            '"test" subtracts it from the logits of a plain model (post-hoc).'
        ),
    ] = "train"
    zero_count: ZeroCount = "error"


class LogitAdjustment(Method):
    """z'_c = z_c + b_c, with b_c = tau ln pi_c in training or -tau ln pi_c at test.

    pi_c = n_c / sum n. A detector's priors say nothing of the background, and a shift of all
    classes against it would destroy its probability. So with a background the shift acts within
    the foreground: z'_c = z_c + b_c + lse(z) - lse(z + b), lse the log-sum-exp over the K classes,
    and z'_background = z_background, which leaves p_background as it was.
    """

    name = "logit_adjustment"
    options_type = LogitAdjustmentOptions
    paper = "Menon et al., ICLR 2021, arXiv 2007.07314"
    phases = ("train", "test")
    needs = ("counts",)
    tuned_option = "tau"
    tuned_values = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    post_hoc: ClassVar[Mapping[str, Any]] = {"apply": "test"}

    shift: Tensor

    def __init__(
        self,
        options: LogitAdjustmentOptions,
        statistics: ClassStatistics,
        *,
        background: bool = True,
    ) -> None:
        """Make the shifts; a class that was never seen is refused."""
        super().__init__(options, statistics, background=background)
        counts = image_counts(statistics, options.zero_count)
        sign = 1.0 if options.apply == "train" else -1.0
        shift = sign * options.tau * (counts / counts.sum()).log()
        self.phase = options.apply
        self.register_buffer("shift", shift.float(), persistent=options.apply == "train")

    @property
    def acts_in_training(self) -> bool:
        """Whether training sees adjusted logits."""
        return self.phase == "train"

    def adjusted(self, outputs: Tensor) -> Tensor:
        """Return the adjusted logits of (R, K + 1) outputs."""
        logits = wide(outputs)
        shift = self.shift.to(logits.dtype)
        if not self.background:
            return logits + shift
        classes, background = logits[..., :-1], logits[..., -1:]
        moved = classes + shift
        kept = classes.logsumexp(dim=-1, keepdim=True) - moved.logsumexp(dim=-1, keepdim=True)
        return torch.cat([moved + kept, background], dim=-1)

    def training_logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of training, adjusted in the training form."""
        return self.adjusted(outputs) if self.phase == "train" else wide(outputs)

    def test_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits at test, adjusted in the test form."""
        return self.adjusted(outputs) if self.phase == "test" else wide(outputs)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shifted classifier, without a background.

        Raises:
            InputError: with a background the shift depends on all logits of a region.
        """
        if self.phase == "train":
            return super().fold(weight, bias)
        if self.background:
            raise InputError(
                f"method {self.name} cannot be folded: within the foreground the shift depends on "
                "all logits of a region, which no linear classifier can express"
            )
        return weight, bias + self.shift.to(bias.dtype)
