"""NorCal: divide each class's exponentiated logit by a power of its count, at test.

Pan et al., NeurIPS 2021, arXiv 2107.02170, equation 4.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta

from iif.methods.affine import Affine
from iif.methods.base import Options
from iif.methods.counts import ZeroCount, image_counts
from iif.statistics import ClassStatistics


class NorCalOptions(Options, frozen=True, kw_only=True):
    """The settings of NorCal."""

    gamma: Annotated[
        float, Meta(ge=0, description="The power of the count: 0 is the plain softmax.")
    ] = 0.6
    zero_count: ZeroCount = "error"


class NorCal(Affine):
    """z'_c = z_c - gamma ln n_c: e^z n^-gamma over its sum, the background's e^z among it."""

    name = "norcal"
    options_type = NorCalOptions
    paper = "Pan et al., NeurIPS 2021, arXiv 2107.02170"
    phases = ("test",)
    needs = ("counts",)
    tuned_option = "gamma"
    tuned_values = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    post_hoc: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, options: NorCalOptions, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Make the shifts; a class that was never seen is refused."""
        shift = -options.gamma * image_counts(statistics, options.zero_count).log()
        scale = torch.ones_like(shift)
        super().__init__(options, statistics, scale, shift, phase="test", background=background)
