"""EQL v2: weigh the positive and negative gradients of each class's sigmoid by their balance.

Tan et al., CVPR 2021, arXiv 2012.08548, equations 4 to 7.
"""

from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from iif.errors import InputError
from iif.methods.base import Method, Options, sum_over_processes, wide
from iif.statistics import ClassStatistics

# The ratio of a class before anything was seen: its negatives count in full.
_START = 100.0


class EQLv2Options(Options, frozen=True, kw_only=True):
    """The settings of EQL v2."""

    gamma: Annotated[float, Meta(gt=0, description="How steep the weight falls.")] = 12.0
    mu: Annotated[float, Meta(description="The ratio at which a negative weighs a half.")] = 0.8
    alpha: Annotated[float, Meta(ge=0, description="How much positives are raised.")] = 4.0


class EQLv2(Method):
    """K + 1 sigmoids, the last that of the background; a loss and probabilities of its own.

    With r_c the accumulated positive over negative gradient of class c, its negatives weigh
    f(r) = 1 / (1 + exp(-gamma (r - mu))) and its positives 1 + alpha (1 - f); the background
    weighs 1. The loss is the weighted sum over all outputs, divided by the regions. At test
    p_c = sigmoid(z_c) (1 - sigmoid(z_background)).

    Attributes:
        positive, negative: (K,) float64 accumulated gradients, summed over processes.
        ratio: (K,) float64. All three are in the checkpoint.
    """

    name = "eqlv2"
    options_type = EQLv2Options
    paper = "Tan et al., CVPR 2021, arXiv 2012.08548"
    phases = ("train_and_test",)
    learned: ClassVar[tuple[str, ...]] = ("positive", "negative", "ratio")

    positive: Tensor
    negative: Tensor
    ratio: Tensor

    def __init__(
        self, options: EQLv2Options, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Start without gradients; of the statistics only the number of classes is used.

        Raises:
            InputError: there is no background.
        """
        super().__init__(options, statistics, background=background)
        if not background:
            raise InputError(
                f"method {self.name} is defined for detection, with the background as a class of "
                "its own; take another method for classification"
            )
        self.gamma, self.mu, self.alpha = options.gamma, options.mu, options.alpha
        for name, start in (("positive", 0.0), ("negative", 0.0), ("ratio", _START)):
            start_values = torch.full((len(statistics),), start, dtype=torch.float64)
            self.register_buffer(name, start_values)

    @property
    def acts_in_training(self) -> bool:
        """Whether a model that is trained under the method differs from a plain one: it does."""
        return True

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Raise InputError: the softmax of no linear classifier gives these probabilities."""
        raise InputError(
            f"method {self.name} cannot be folded: its probabilities are products of sigmoids, "
            "and Detectron2's predictor takes the softmax"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return sigmoid(z_c) (1 - sigmoid(z_background)), and the background's sigmoid last."""
        scores = logits.sigmoid()
        background = scores[..., -1:]
        return torch.cat([scores[..., :-1] * (1 - background), background], dim=-1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Return the weighted loss; accumulates gradients in training mode."""
        outputs = wide(outputs)
        targets = one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        one = self.ratio.new_ones(1)
        negatives = torch.cat([torch.sigmoid(self.gamma * (self.ratio - self.mu)), one])
        positives = 1 + self.alpha * (1 - negatives)
        weight = torch.where(targets > 0, positives, negatives).to(outputs.dtype)
        loss = binary_cross_entropy_with_logits(outputs, targets, weight, reduction="sum")
        if self.training:
            self._accumulate(outputs.detach(), targets, weight)
        return loss / max(len(outputs), 1)

    def _accumulate(self, outputs: Tensor, targets: Tensor, weight: Tensor) -> None:
        gradient = ((outputs.sigmoid() - targets).abs() * weight).double()
        sums = torch.stack([(gradient * targets).sum(0), (gradient * (1 - targets)).sum(0)])
        positive, negative = sum_over_processes(sums[:, :-1])
        self.positive += positive
        self.negative += negative
        self.ratio.copy_(self.positive / (self.negative + 1e-10))
