"""Cosine classifiers, whose logits no class can win by the norm of its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class CosineClassifier(nn.Module):
    """z_c = s (|x| / (1 + |x|)) cos(x, W_c), without bias.

    Gidaris and Komodakis, CVPR 2018, arXiv 1804.09458, as the IIF paper uses it. The factor is
    x / (1 + |x|) times W_c / |W_c|, which is 0 at x = 0.

    Attributes:
        weight: (K, C), uniform in +-1 / sqrt(C) at the start.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 16.0) -> None:
        """Make the weights.

        Args:
            in_features: the number C of features.
            out_features: the number K of classes.
            scale: s.
        """
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.in_features, self.out_features = in_features, out_features
        self.fixed_scale = scale
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))

    @property
    def scale(self) -> Tensor | float:
        """The factor s of the logits."""
        return self.fixed_scale

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B, K) of features (B, C)."""
        norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        return self.scale * linear(features / (1 + norm), normalize(self.weight, dim=-1))

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(model)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class LearnedCosineClassifier(CosineClassifier):
    """The cosine classifier with a learned scale s = p^2; p starts at 5.

    Attributes:
        root: p, a scalar.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        """Make the weights; arguments are those of `CosineClassifier`."""
        super().__init__(in_features, out_features)
        self.root = nn.Parameter(torch.tensor(5.0))

    @property
    def scale(self) -> Tensor:
        """The factor s of the logits."""
        return self.root.square()
