"""Class frequencies to IIF weights (IIF, arXiv 2209.04861, section III and table I)."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from iif.errors import InputError
from iif.files import atomic_write
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

VARIANTS = tuple(_FORMULAS)
COUNT_BY = ("image", "instance")
ZERO_COUNT = ("error", "clamp")
NONPOSITIVE = ("error", "clamp")


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

    A weight must be finite and positive: an infinite one (a class never seen, save in "smooth")
    would let its class win everywhere, a negative one ("prob" and "normit" of a class in more
    than half of the images, "gombit" in more than 1 - 1/e of them) would turn its logit round,
    and zero (a class in all images) would switch it off.

    Args:
        statistics: the counts.
        variant: one of ``VARIANTS``.
        count_by: one of ``COUNT_BY``; "instance" is the paper's inverse object statistics.
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
        ("zero_count", zero_count, ZERO_COUNT),
        ("nonpositive", nonpositive, NONPOSITIVE),
    ):
        if value not in legal:
            raise InputError(f"{name} is {value!r}; it must be one of {', '.join(legal)}")

    counts, total = _counts(statistics, count_by)
    unseen = np.flatnonzero(counts == 0)
    if zero_count == "clamp" and len(unseen):
        warnings.warn(
            f"{statistics.source}: never seen, counted as seen once (zero_count=clamp): "
            f"{statistics.describe(unseen)}",
            stacklevel=2,
        )
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
    remedies = []
    if (counts[wrong] == 0).any():
        remedies.append('count a class that was never seen as seen once with zero_count "clamp"')
    if (counts[wrong] > 0).any() and not clamped:
        remedies.append('raise it to the smallest positive weight with nonpositive "clamp"')
    value = weights[wrong[0]].item()
    others = f" (and {len(wrong) - 1} more classes)" if len(wrong) > 1 else ""
    raise InputError(
        f"{statistics.source}: the {variant} weight by {count_by} of class "
        f"{statistics.describe(wrong[0])} is {value:.6g}{others}; it must be finite and positive: "
        f"{', or '.join([*remedies, 'take another variant'])}"
    )


def write_weights_csv(
    path: str | os.PathLike[str], statistics: ClassStatistics, weights: Tensor
) -> None:
    """Write id, name, image_count, instance_count (empty when not known) and weight per class."""
    instances = statistics.instance_count
    with atomic_write(path) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["id", "name", "image_count", "instance_count", "weight"])
        for row, weight in enumerate(weights.tolist()):
            writer.writerow(
                [
                    statistics.ids[row],
                    statistics.names[row],
                    statistics.image_count[row],
                    "" if instances is None else instances[row],
                    repr(weight),
                ]
            )


def format_weights(statistics: ClassStatistics, weights: Tensor) -> str:
    """Return a text table of classes, training images and weights by frequency group."""
    lines = [f"{'group':<10}{'classes':>8}{'images':>18}{'weight':>20}"]
    for group, name in (("r", "rare"), ("c", "common"), ("f", "frequent")):
        rows = np.flatnonzero(statistics.groups == group)
        cells = f"{name:<10}{len(rows):>8}"
        if len(rows):
            images, weight = statistics.image_count[rows], weights.numpy()[rows]
            cells += f"{f'{images.min()} - {images.max()}':>18}"
            cells += f"{f'{weight.min():.4f} - {weight.max():.4f}':>20}"
        lines.append(cells)
    return "\n".join(lines)
