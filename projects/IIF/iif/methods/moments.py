"""Mean and variance of each class's logit over training regions: gathered, written and read."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from iif.errors import InputError
from iif.files import read_json, versions, write_json
from iif.statistics import ClassStatistics

FORMAT = "iif-moments/1"


class Moments(msgspec.Struct, kw_only=True):
    """The content of a moments file.

    Attributes:
        format: FORMAT.
        versions: of the software.
        checkpoint, checkpoint_sha256: the plain model.
        engine: "detectron2" or "torchvision".
        iterations, regions: how many training batches, and how many regions in them.
        momentum: of the running form; None for the exact moments.
        ids, names: K categories, ascending by id.
        mean, variance: (K,) of each class's logit; the variance is the unbiased one.
    """

    format: str = FORMAT
    versions: dict[str, str] = msgspec.field(default_factory=versions)
    checkpoint: str
    checkpoint_sha256: str
    engine: str
    iterations: int
    regions: int
    momentum: float | None = None
    ids: list[int]
    names: list[str]
    mean: list[float]
    variance: list[float]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        write_json(path, msgspec.to_builtins(self))


def load_moments(path: str | os.PathLike[str], statistics: ClassStatistics) -> Moments:
    """Read a moments file and check that it fits the classes.

    Raises:
        InputError: the file is missing or malformed, belongs to other classes, or a class has a
            moment that is not finite or a variance that is not positive; names the class.
    """
    where = os.path.expandvars(os.path.expanduser(path))
    moments = read_json(where, Moments, what="moments that iif moments wrote")
    if moments.format != FORMAT:
        raise InputError(f"{path}: format is {moments.format!r}, expected {FORMAT!r}")
    if moments.ids != statistics.ids.tolist() or moments.names != list(statistics.names):
        raise InputError(
            f"{path}: the moments of {len(moments.ids)} other classes than the {len(statistics)} "
            f"of {statistics.source}; gather them with a model of these classes"
        )
    if len(moments.mean) != len(statistics) or len(moments.variance) != len(statistics):
        raise InputError(f"{path}: mean and variance must have one entry for each of the classes")
    mean, variance = np.array(moments.mean), np.array(moments.variance)
    unusable = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(variance) & (variance > 0)))
    if len(unusable):
        row = unusable[0]
        others = f" (and {len(unusable) - 1} more classes)" if len(unusable) > 1 else ""
        raise InputError(
            f"{path}: the logit of class {statistics.describe(row)} has mean {mean[row]:g} and "
            f"variance {variance[row]:g}{others}; the variance must be above 0: gather the moments "
            "of a trained model, over more iterations"
        )
    return moments


class RunningMoments:
    """Mean and variance of columns over rows that come in batches, in float64.

    Exact moments are updated by the pairwise formula of Chan et al. (1979), which is stable
    whatever the mean. With a momentum they are batch normalisation's running ones: they start at
    0 and 1, and each batch moves them by the momentum towards its mean and unbiased variance.
    """

    def __init__(self, columns: int, momentum: float | None = None) -> None:
        """Start without rows.

        Raises:
            InputError: the momentum is not above 0 and at most 1.
        """
        if momentum is not None and not 0 < momentum <= 1:
            raise InputError(f"momentum is {momentum:g}; it must be above 0 and at most 1")
        self.momentum = momentum
        self.rows = 0
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self._squares = torch.zeros(columns, dtype=torch.float64)
        self._running = torch.ones(columns, dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        """(columns,) the unbiased variance; NaN of fewer than two rows."""
        if self.momentum is not None:
            return self._running
        if self.rows < 2:
            return torch.full_like(self.mean, torch.nan)
        return self._squares / (self.rows - 1)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Add (R, columns) values."""
        rows = len(values)
        if rows == 0:
            return
        values = values.double().cpu()
        mean = values.mean(dim=0)
        squares = (values - mean).square().sum(dim=0)
        self.rows += rows
        if self.momentum is None:
            change = mean - self.mean
            self.mean += change * (rows / self.rows)
            self._squares += squares + change.square() * (rows * (self.rows - rows) / self.rows)
        elif rows > 1:  # one row has no variance
            self.mean += self.momentum * (mean - self.mean)
            self._running += self.momentum * (squares / (rows - 1) - self._running)

    def result(self, statistics: ClassStatistics, **provenance: Any) -> Moments:
        """Return the moments of the classes.

        Args:
            statistics: of the model's training set.
            provenance: checkpoint, checkpoint_sha256, engine and iterations.

        Raises:
            InputError: there were fewer than two regions, or a class's logit never changed; names
                the class.
        """
        if self.rows < 2:
            raise InputError(
                f"the pass saw {self.rows} training regions; a variance needs two or more"
            )
        constant = np.flatnonzero(self.variance.numpy() == 0)
        if len(constant):
            raise InputError(
                f"the logit of class {statistics.describe(constant[0])} is the same in all "
                f"{self.rows} regions: a variance of 0 cannot normalise it; give a trained model"
            )
        return Moments(
            regions=self.rows,
            momentum=self.momentum,
            ids=statistics.ids.tolist(),
            names=list(statistics.names),
            mean=self.mean.tolist(),
            variance=self.variance.tolist(),
            **provenance,
        )
