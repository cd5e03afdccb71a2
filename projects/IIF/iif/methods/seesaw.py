"""Seesaw loss: mitigate the negative gradients of rare classes, compensate misclassification.

Wang et al., CVPR 2021, arXiv 2008.10032, equations 3 to 7 and section 3.3 (objectness).
"""

from typing import Annotated, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from iif.methods.base import Method, Options, sum_over_processes, wide
from iif.statistics import ClassStatistics


class SeesawOptions(Options, frozen=True, kw_only=True):
    """The settings of Seesaw."""

    p: Annotated[float, Meta(ge=0, description="The power of the ratio of regions seen.")] = 0.8
    q: Annotated[float, Meta(ge=0, description="The power of the ratio of scores.")] = 2.0
    eps: Annotated[float, Meta(gt=0, description="The least score that divides.")] = 0.01


class Seesaw(Method):
    """Two cross entropies, over classes and over objectness, written as one.

    The classifier has K + 2 outputs: K classes, object, no object. The logits are the joint log
    probabilities [log softmax(z + ln S) + log p(object), log p(no object)]: their mean cross
    entropy is exactly the sum of the two losses, -log p(class) - log p(object) of a foreground
    region and -log p(no object) of a background one. In a foreground region of label i,
    S_ij = min(1, (N_j / N_i)^p) max(1, (s_j / s_i)^q), without gradient, with N the regions of
    each class so far, those of the batch included, and s = softmax(z).

    Without a background there are K outputs and the class part alone.

    Attributes:
        seen: (K,) int64, the regions of each class; summed over processes, in the checkpoint.
    """

    name = "seesaw"
    options_type = SeesawOptions
    paper = "Wang et al., CVPR 2021, arXiv 2008.10032"
    phases = ("train_and_test",)
    extra_outputs = 1
    learned: ClassVar[tuple[str, ...]] = ("seen",)

    seen: Tensor

    def __init__(
        self, options: SeesawOptions, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Start counting at 0; of the statistics only the number of classes is used."""
        super().__init__(options, statistics, background=background)
        self.num_outputs = len(statistics)
        if not background:
            self.extra_outputs = 0
        self.p, self.q, self.eps = options.p, options.q, options.eps
        self.register_buffer("seen", torch.zeros(self.num_outputs, dtype=torch.int64))

    @property
    def acts_in_training(self) -> bool:
        """Whether a model that is trained under the method differs from a plain one: it does."""
        return True

    @torch.jit.unused  # TorchScript has no processes to sum over
    def training_logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the joint logits with Seesaw's factors; counts regions in training mode."""
        outputs = wide(outputs)
        classes = outputs[:, : self.num_outputs]
        rows = (labels < self.num_outputs).nonzero()[:, 0]
        label = labels[rows]
        if self.training:
            new = torch.bincount(label, minlength=self.num_outputs)
            self.seen += sum_over_processes(new)
        scores = classes[rows].detach().softmax(dim=-1)
        own = scores.gather(1, label[:, None]).clamp(min=self.eps)
        seen = self.seen.clamp(min=1).to(classes.dtype).log()
        factors = self.p * (seen - seen[label, None]).clamp(max=0)
        factors = factors + self.q * (scores / own).log().clamp(min=0)
        factors = factors.scatter(1, label[:, None], 0.0)
        return self._joint(classes.index_add(0, rows, factors), outputs)

    def test_logits(self, outputs: Tensor) -> Tensor:
        """Return the joint log probabilities."""
        outputs = wide(outputs)
        return self._joint(outputs[..., : self.num_outputs], outputs)

    def _joint(self, classes: Tensor, outputs: Tensor) -> Tensor:
        if not self.background:
            return classes
        objectness = outputs[..., self.num_outputs :].log_softmax(dim=-1)
        joint = classes.log_softmax(dim=-1) + objectness[..., :1]
        return torch.cat([joint, objectness[..., 1:]], dim=-1)
