"""FASA: virtual features for rare classes, beside any long-tail method with a softmax.

Zang et al., Exploring Feature Space Augmentation, ICCV 2021, arXiv 2102.12867, section 3.

Shapes: R regions, C features (the input of the box classifier), K foreground classes, label K is
the background.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from msgspec import Meta
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from iif.errors import InputError
from iif.methods.base import Method, Options, sum_over_processes

# What a class's chance is multiplied by when its held-out loss fell, and when it rose.
_FELL, _ROSE = 1.1, 0.9

# A class with fewer held-out regions is given the loss of its frequency group.
ENOUGH_REGIONS = 10


class FasaOptions(Options, frozen=True, kw_only=True):
    """The settings of FASA; the defaults are the authors'."""

    enabled: Annotated[bool, Meta(description="Whether to train with virtual features.")] = False
    weight: Annotated[
        float, Meta(ge=0, description="The weight of the virtual features' cross entropy.")
    ] = 0.1
    momentum: Annotated[
        float, Meta(gt=0, le=1, description="The share of an iteration's mean and variance.")
    ] = 0.1
    clip: Annotated[
        bool, Meta(description="Clip virtual features at 0: real ones come from a ReLU.")
    ] = True
    adapt: Annotated[
        bool, Meta(description="Adapt the chances to the loss on held-out training images.")
    ] = True
    start_epoch: Annotated[
        int, Meta(ge=1, description="The first epoch with virtual features, counted from 1.")
    ] = 2
    epoch_length: Annotated[
        int, Meta(ge=0, description="Iterations of an epoch; 0: as the training set gives them.")
    ] = 0


class FeatureAugmentation(nn.Module):
    """Mean and variance of each class's features, and virtual features drawn from them.

    From `FasaOptions.start_epoch` on, each class that was seen gets with its chance one virtual
    feature an iteration, mean + sqrt(variance) * normal noise. Only the classifier learns from
    it. The buffers are equal in all processes, the noise is not. They are in the checkpoint, so a
    resumed training draws what the uninterrupted one would have drawn.

    Attributes:
        mean, variance: (K, C) float32, moving averages of each iteration's.
        seen: (K,) bool, whether a region of the class has been seen.
        chance: (K,) float32, of a virtual feature in an iteration.
        held_out_loss: (K,) float32, as last measured; NaN before, and where it has none.
        iteration: int64, how many iterations were done. With the seed it is the position of the
            random numbers.
        epoch_length: iterations of an epoch. Where the options leave it open the trainer sets it.
        stage: of a cascade, for noise of its own.
    """

    name: ClassVar[str] = "fasa"
    options_type: ClassVar[type[FasaOptions]] = FasaOptions

    mean: Tensor
    variance: Tensor
    seen: Tensor
    chance: Tensor
    held_out_loss: Tensor
    iteration: Tensor

    def __init__(
        self,
        instance_count: ArrayLike,
        width: int,
        seed: int = 0,
        options: FasaOptions | None = None,
    ) -> None:
        """Start with chances (1 / m_c) / sum_k (1 / m_k); a class without instances gets none.

        Args:
            instance_count: (K,) instances m of each class in the training set.
            width: the number C of features.
            seed: 0 or more.
            options: the settings; ``enabled`` is for the engines.
        """
        super().__init__()
        counts = torch.from_numpy(np.array(instance_count, dtype=np.float64))
        inverse = torch.where(counts > 0, 1 / counts, 0.0)
        num_classes = len(counts)
        self.options = FasaOptions() if options is None else options
        self.seed = seed
        self.stage = 0
        self.epoch_length = self.options.epoch_length
        for name, start in {
            "mean": torch.zeros(num_classes, width),
            "variance": torch.zeros(num_classes, width),
            "seen": torch.zeros(num_classes, dtype=torch.bool),
            "chance": (inverse / inverse.sum().clamp(min=1e-300)).float(),
            "held_out_loss": torch.full((num_classes,), torch.nan),
            "iteration": torch.zeros((), dtype=torch.int64),
        }.items():
            self.register_buffer(name, start)

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Take an iteration's foreground regions, those of all processes, into the averages.

        Every process must call this, also one without foreground. The variance is the unbiased
        one; that of a single region is 0.

        Args:
            features: (R, C).
            labels: (R,) classes; regions of K are background and left out.
        """
        foreground = labels < len(self.chance)
        labels, features = _of_all_processes(labels[foreground], features[foreground])
        classes, row, regions = labels.unique(return_inverse=True, return_counts=True)
        # Sums as a product of matrices, in double precision: the same bits in every process, which
        # index_add on a GPU does not give.
        members = torch.zeros(
            len(classes), len(labels), dtype=torch.float64, device=features.device
        )
        members[row, torch.arange(len(labels), device=row.device)] = 1
        features, regions = features.double(), regions.double()[:, None]
        mean = members @ features / regions
        deviation = features.sub_(mean[row]).square_()  # the features are a copy
        variance = members @ deviation / (regions - 1).clamp(min=1)
        new = torch.where(self.seen[classes], self.options.momentum, 1.0).double()[:, None]
        for average, value in ((self.mean, mean), (self.variance, variance)):
            average[classes] = (new * value + (1 - new) * average[classes]).to(average.dtype)
        self.seen[classes] = True

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, Tensor]:
        """Return this iteration's virtual features (V, C) and their classes (V,)."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        key = np.random.SeedSequence([self.seed, self.stage, int(self.iteration), rank])
        generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
        chosen = torch.rand(len(self.chance), generator=generator).to(self.chance) < self.chance
        classes = (chosen & self.seen).nonzero()[:, 0]
        noise = torch.randn(len(classes), self.mean.shape[1], generator=generator)
        features = self.mean[classes] + self.variance[classes].sqrt() * noise.to(self.mean)
        return features.clamp(min=0) if self.options.clip else features, classes

    def loss(
        self, features: Tensor, labels: Tensor, classify: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Observe an iteration's regions; return the weighted cross entropy of virtual features.

        Does nothing in evaluation mode.

        Args:
            features: (R, C) of the sampled regions.
            labels: (R,) their classes, K for background.
            classify: from features (V, C) and labels (V,) to training logits (V, K + 1), with a
                method that updates no statistics (`still_logits`).

        Returns:
            the loss, a number; 0 without gradient where no feature was drawn.

        Raises:
            InputError: nothing has set the length of an epoch.
        """
        if not self.training:
            return torch.zeros((), device=features.device)
        if not self.epoch_length:
            raise InputError(
                "FASA does not know when the second epoch begins: set its epoch_length to the "
                "iterations of an epoch"
            )
        self.observe(features.detach(), labels)
        started = int(self.iteration) >= (self.options.start_epoch - 1) * self.epoch_length
        virtual, classes = self.draw() if started else (features[:0], labels[:0])
        self.iteration += 1
        if not len(classes):
            return torch.zeros((), device=features.device)
        return self.options.weight * cross_entropy(classify(virtual, classes), classes)

    def adapt(self, change: Tensor) -> None:
        """Multiply chances by 1.1 where the held-out loss fell, by 0.9 where it rose; at most 1.

        Args:
            change: (K,) the loss less that of the epoch before; NaN leaves a chance as it is.
        """
        self.chance[change < 0] *= _FELL
        self.chance[change > 0] *= _ROSE
        self.chance.clamp_(max=1)

    def follow(self, held_out_loss: Tensor) -> None:
        """Adapt the chances to an epoch's held-out loss (K,); the first one is only stored."""
        self.adapt(held_out_loss.to(self.held_out_loss) - self.held_out_loss)
        self.held_out_loss.copy_(held_out_loss)

    def record(self) -> dict[str, Any]:
        """Return the settings, as plain values."""
        return msgspec.to_builtins(self.options)


class HeldOutLoss:
    """The mean cross entropy of each class over held-out regions."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        """Start without regions."""
        self.total = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.regions = torch.zeros_like(self.total)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add regions: logits (R, K + 1) and foreground classes (R,)."""
        losses = -logits.double().log_softmax(dim=-1).gather(1, labels[:, None])[:, 0]
        self.total.index_add_(0, labels, losses)
        self.regions.index_add_(0, labels, torch.ones_like(losses))

    def by_class(self, groups: NDArray[np.str_]) -> Tensor:
        """Return the loss of each class (K,) over the regions of all processes.

        A class with fewer than `ENOUGH_REGIONS` regions is given the loss of its group; NaN where
        the group has none.

        Args:
            groups: (K,) `ClassStatistics.groups`.
        """
        total, regions = sum_over_processes(torch.stack([self.total, self.regions]))
        losses = total / regions
        for group in np.unique(groups):
            members = torch.from_numpy(groups == group).to(total.device)
            of_group = total[members].sum() / regions[members].sum()
            losses = torch.where(members & (regions < ENOUGH_REGIONS), of_group, losses)
        return losses


def still_logits(method: Method, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return a method's training logits (R, K + 1), its own statistics left as they are."""
    training = method.training
    method.eval()
    try:
        return method.training_logits(outputs, labels)
    finally:
        method.train(training)


def refuse_own_loss(method: Method) -> None:
    """Raise InputError where a method's loss is not the cross entropy of its training logits."""
    if type(method).loss is not Method.loss:
        raise InputError(
            f"FASA adds a softmax cross entropy of virtual features, but method {method.name} has "
            "a loss of its own; switch FASA off or take another method"
        )


def _of_all_processes(labels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regions of every process, by rank; each must call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return labels, features
    count = torch.tensor([len(labels)], device=labels.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    regions = [int(n) for n in counts]

    def gathered(rows: Tensor) -> Tensor:
        padding = [0, 0] * (rows.dim() - 1) + [0, max(regions) - len(rows)]
        padded = pad(rows, padding).contiguous()
        parts = [torch.zeros_like(padded) for _ in regions]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, regions, strict=True)])

    return gathered(labels), gathered(features)
