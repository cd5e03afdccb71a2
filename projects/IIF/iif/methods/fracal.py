"""FRACAL: calibrate by frequency and by how much of the image plane a class covers, at test.

Alexandridis et al., CVPR 2025, arXiv 2410.11774, section 3. Its division of the probabilities by
D^lambda, renormalised, is the softmax of z - lambda ln D.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta

from iif.errors import InputError
from iif.methods.affine import Affine
from iif.methods.base import Options
from iif.methods.counts import ZeroCount, image_counts
from iif.statistics import ClassStatistics


class FracalOptions(Options, frozen=True, kw_only=True):
    """The settings of FRACAL."""

    fractal_lambda: Annotated[
        float,
        Meta(ge=0, description="The power of the fractal dimension of where a class's boxes lie."),
    ] = 2.0
    zero_count: ZeroCount = "error"


class Fracal(Affine):
    """z'_c = z_c + log10(N / n_c) - log10(K) - lambda ln D_c."""

    name = "fracal"
    options_type = FracalOptions
    paper = "Alexandridis et al., CVPR 2025, arXiv 2410.11774"
    phases = ("test",)
    needs = ("counts", "boxes")
    tuned_option = "fractal_lambda"
    tuned_values = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    post_hoc: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, options: FracalOptions, statistics: ClassStatistics, *, background: bool = True
    ) -> None:
        """Make the shifts.

        Raises:
            InputError: a class was never seen, or where its boxes lie is not known.
        """
        if statistics.fractal_dimension is None:
            remedy = "count one annotation file with boxes and image sizes"
            if not background:
                remedy = "take another method for image classification, which has no boxes"
            raise InputError(
                f"{statistics.source}: method {self.name} needs the fractal dimension of where "
                f"each class's boxes lie; {remedy}"
            )
        counts = image_counts(statistics, options.zero_count)
        dimension = torch.from_numpy(statistics.fractal_dimension.copy())
        shift = torch.log10(statistics.num_images / counts) - math.log10(len(counts))
        shift -= options.fractal_lambda * dimension.log()
        scale = torch.ones_like(shift)
        super().__init__(options, statistics, scale, shift, phase="test", background=background)
