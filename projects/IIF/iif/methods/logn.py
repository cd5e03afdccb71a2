"""LogN: normalise each class's logit by its mean and deviation over training regions, at test.

Zhao et al., IJCV 2024, arXiv 2203.17020, section 3, and their LogitNormHead. They keep the moments
as batch normalisation does, over the sampled training regions, background among them; by default
ours are exact over the regions of one pass.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta

from iif.errors import InputError
from iif.methods.affine import Affine
from iif.methods.base import Options
from iif.methods.moments import load_moments
from iif.statistics import ClassStatistics


class LogNOptions(Options, frozen=True, kw_only=True):
    """The settings of LogN."""

    moments: Annotated[
        str,
        Meta(
            description='The JSON file of the logits\' moments that "iif moments" wrote for this '
            "model; it may hold ~ and $VARIABLES and is relative to the working directory."
        ),
    ] = ""


class LogN(Affine):
    """z'_c = (z_c - mean_c + min_k mean_k) / std_c; the background stays as it is."""

    name = "logn"
    options_type = LogNOptions
    paper = "Zhao et al., IJCV 2024, arXiv 2203.17020"
    phases = ("test",)
    needs = ("moments",)
    post_hoc: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, options: LogNOptions, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Read the moments; of the statistics only the classes are used.

        Raises:
            InputError: no moments file is named, or it cannot be used.
        """
        if not options.moments:
            raise InputError(
                f"method {self.name} needs the moments of the model's logits over training "
                "regions, and its option moments names no file: make it with iif moments"
            )
        moments = load_moments(options.moments, statistics)
        mean = torch.tensor(moments.mean, dtype=torch.float64)
        scale = torch.tensor(moments.variance, dtype=torch.float64).rsqrt()
        shift = -(mean - mean.min()) * scale
        super().__init__(options, statistics, scale, shift, phase="test", background=background)
