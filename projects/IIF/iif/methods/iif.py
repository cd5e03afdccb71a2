"""Inverse Image Frequency: each class's logit times a weight that falls with its frequency.

Alexandridis et al., IEEE TIP 2023, arXiv 2209.04861, section III and table I.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from iif.errors import InputError
from iif.methods.affine import Affine
from iif.methods.base import Options
from iif.methods.counts import CountsRefused, OnFault, Written, ZeroCount, warn_of_unseen
from iif.statistics import ClassStatistics

# Each variant as a function of the classes' counts f (K,) and of the total N.
_FORMULAS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "raw": lambda f, n: torch.log(n / f),
    "smooth": lambda f, n: torch.log((n + 1) / (f + 1)) + 1,
    "prob": lambda f, n: torch.log((n - f) / f),
    "normit": lambda f, n: -torch.special.ndtri(f / n),
    # log1p because f / N of a rare class is small: 1 - f / N would drop its last digits.
    "gombit": lambda f, n: -torch.log(-torch.log1p(-f / n)),
    "base2": lambda f, n: torch.log(n / f) / math.log(2),
    "base10": lambda f, n: torch.log(n / f) / math.log(10),
}

Variant = Literal["raw", "smooth", "prob", "normit", "gombit", "base2", "base10"]
CountBy = Literal["image", "instance"]
VARIANTS: tuple[str, ...] = get_args(Variant)
COUNT_BY: tuple[str, ...] = get_args(CountBy)
_ON_FAULT: tuple[str, ...] = get_args(OnFault)


class IIFOptions(Options, frozen=True, kw_only=True):
    """The settings of IIF."""

    variant: Annotated[
        Variant,
        Meta(
            description="How a class's weight follows from its count f of N: raw, ln(N / f); "
            "smooth, ln((N + 1) / (f + 1)) + 1; prob, ln((N - f) / f); normit, -Phi^-1(f / N); "
            "gombit, -ln(-ln(1 - f / N)); base2, log2(N / f); or base10, log10(N / f)."
        ),
    ] = "raw"
    count_by: Annotated[
        CountBy,
        Meta(
            description='What is counted: "image" (training images that show the class, of all '
            'training images) or "instance" (instances of the class, of all instances; the '
            "paper's object form, IOF)."
        ),
    ] = "image"
    strength: Annotated[
        float,
        Meta(ge=0, description="The weights w are used as w ** strength: 1 is IIF, 0 the softmax."),
    ] = 1.0
    apply: Annotated[
        Literal["train_and_test", "test"],
        Meta(
            description='When the logits are adjusted: "train_and_test", or "test" to train a '
            "plain model and adjust its logits, relative to the background's, at inference alone "
            "(post-hoc)."
        ),
    ] = "train_and_test"
    zero_count: ZeroCount = "error"
    nonpositive: Annotated[
        OnFault,
        Meta(
            description="What to do about a weight that is zero or negative, which flips the sign "
            'of its logit ("prob" and "normit" of a class in more than half of the images): '
            '"error", or "clamp" to raise it to the smallest positive weight of another class.'
        ),
    ] = "error"


class IIF(Affine):
    """z'_c = w_c ** strength * z_c; post-hoc, z is relative to the background's logit."""

    name = "iif"
    options_type = IIFOptions
    paper = "Alexandridis et al., IEEE TIP 2023, arXiv 2209.04861"
    phases = ("train_and_test", "test")
    needs = ("counts",)
    tuned_option = "strength"
    tuned_values = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    post_hoc: ClassVar[Mapping[str, str]] = {"apply": "test"}

    def __init__(
        self, options: IIFOptions, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Make the weights; errors are those of `iif_weights`."""
        weights = iif_weights(
            statistics,
            options.variant,
            options.count_by,
            zero_count=options.zero_count,
            nonpositive=options.nonpositive,
        )
        scale = weights**options.strength
        super().__init__(
            options,
            statistics,
            scale,
            torch.zeros_like(scale),
            phase=options.apply,
            # At strength 0 the logits stay as they are: the softmax bit for bit.
            relative=options.apply == "test" and options.strength > 0,
            background=background,
        )


def iif_weights(
    statistics: ClassStatistics,
    variant: str = "raw",
    count_by: str = "image",
    *,
    zero_count: str = "error",
    nonpositive: str = "error",
) -> Tensor:
    """Return the weight of each class's logit, ordered by category id.

    With f the number of images that show the class and N the number of images (or, by instance,
    f the class's instances and N all instances):

    ======  ==========================  =======  =====================
    raw     ln(N / f)                   base2    log2(N / f)
    smooth  ln((N + 1) / (f + 1)) + 1   base10   log10(N / f)
    prob    ln((N - f) / f)             normit   -Phi^-1(f / N), Phi the standard normal CDF
    gombit  -ln(-ln(1 - f / N))
    ======  ==========================  =======  =====================

    A weight must be finite and positive. An infinite weight (a class never seen, save in "smooth")
    makes its class win every region, a negative one ("prob" and "normit" of a class in more than
    half of the images, "gombit" in more than 1 - 1/e of them) flips the sign of its logit, and
    zero (a class in all images) removes the logit.

    Args:
        statistics: the counts.
        variant: one of `VARIANTS`.
        count_by: one of `COUNT_BY`; "instance" is the paper's inverse object statistics.
        zero_count: "error" leaves a count of 0 as it is, so that its infinite weight is refused;
            "clamp" counts a class that was never seen as seen once, and warns.
        nonpositive: "error" refuses a weight that is zero, negative or minus infinity; "clamp"
            gives the class the smallest positive weight that another class has, and warns. The
            order of the classes is kept.

    Returns:
        (K,) float64 weights on the CPU.

    Raises:
        InputError: an argument is not one of its values, the instances were not counted, or a
            weight is not finite and positive; the message names the class and its count.
    """
    for name, value, legal in (
        ("variant", variant, VARIANTS),
        ("count_by", count_by, COUNT_BY),
        ("zero_count", zero_count, _ON_FAULT),
        ("nonpositive", nonpositive, _ON_FAULT),
    ):
        if value not in legal:
            raise InputError(f"{name} is {value!r}; it must be one of {', '.join(legal)}")

    counts, total = _counts(statistics, count_by)
    unseen = np.flatnonzero(counts == 0)
    if zero_count == "clamp" and len(unseen):
        warn_of_unseen(statistics, unseen)
        counts = np.maximum(counts, 1)
    weights = _FORMULAS[variant](torch.from_numpy(counts.astype(np.float64)), total)

    low = weights <= 0
    usable = weights.isfinite() & ~low
    if nonpositive == "clamp" and low.any() and usable.any():
        floor = weights[usable].min()
        warnings.warn(
            f"{statistics.source}: the {variant} weight by {count_by} is not positive, raised to "
            f"{floor.item():.4g} (nonpositive=clamp): {statistics.describe(np.flatnonzero(low))}",
            stacklevel=2,
        )
        weights = torch.where(low, floor, weights)
    _refuse_unusable(weights, counts, statistics, variant, count_by, clamped=nonpositive == "clamp")
    return weights


def _counts(statistics: ClassStatistics, count_by: str) -> tuple[np.ndarray, int]:
    """Return the counts (K,) and their total N."""
    if count_by == "image":
        return statistics.image_count, statistics.num_images
    if statistics.instance_count is None:
        raise InputError(
            f"{statistics.source}: count_by is 'instance' but the instances were not counted; "
            "take the counts from the training annotation file, or use count_by 'image'"
        )
    return statistics.instance_count, int(statistics.instance_count.sum())


def _refuse_unusable(
    weights: Tensor,
    counts: np.ndarray,
    statistics: ClassStatistics,
    variant: str,
    count_by: str,
    *,
    clamped: bool,
) -> None:
    wrong = np.flatnonzero(~(weights.isfinite() & (weights > 0)))
    if not len(wrong):
        return
    value = weights[wrong[0]].item()
    others = f" (and {len(wrong) - 1} more classes)" if len(wrong) > 1 else ""

    def text(written: Written) -> str:
        remedies = []
        if (counts[wrong] == 0).any():
            clamp = written("zero_count", "clamp")
            remedies.append(f"count a class that was never seen as seen once with {clamp}")
        if (counts[wrong] > 0).any() and not clamped:
            clamp = written("nonpositive", "clamp")
            remedies.append(f"raise it to the smallest positive weight with {clamp}")
        return (
            f"{statistics.source}: the {variant} weight by {count_by} of class "
            f"{statistics.describe(wrong[0])} is {value:.6g}{others}; it must be finite and "
            f"positive: {', or '.join([*remedies, 'take another variant'])}"
        )

    raise CountsRefused(text)
