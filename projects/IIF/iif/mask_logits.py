"""The last layer of a mask head for the class of each region alone, for both engines."""

from __future__ import annotations

import torch
from torch import Tensor


def one_class_logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution with one output channel, another in each region.

    Args:
        x: (B, C, H, W).
        weight: (B, C, 1, 1).
        bias: (B,).

    Returns:
        (B, 1, H, W).
    """
    regions, channels, height, width = x.shape
    product = torch.bmm(weight.reshape(regions, 1, channels), x.flatten(2))
    return product.view(regions, 1, height, width) + bias.view(regions, 1, 1, 1)
