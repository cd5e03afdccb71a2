"""Layers that score by angle alone: the cosine classifier and the normalised mask predictor.

They are the ``NormedLinear`` and ``NormedConv2d`` of the authors' code, after "Seesaw Loss" (Wang
et al., CVPR 2021, section 3.3). Both normalise weights and features, so that no class can win by
the norm of its weights, which grows with frequency. Checkpoints hold the same keys as for the
plain layers. There are no postponed annotations here: TorchScript reads types at run time.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from iif.d2.mask_head import PredictedClassMaskHead
from iif.mask_logits import one_class_logits


def _normalized(values: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return ``values`` (N, C, ...) with each vector over dimension 1 at length 1.

    ``epsilon`` is added to a norm before it divides, as in the authors' code.
    """
    return values / (values.norm(p=2, dim=1, keepdim=True) + epsilon)


class CosineClassifier(nn.Linear):
    """temperature * cos(features, weight of the class) + bias: (R, C) to (R, K + 1)."""

    def __init__(self, in_features: int, out_features: int, *, temperature: float) -> None:
        """Start as Detectron2's linear classifier does: weights of N(0, 0.01^2) and no bias."""
        super().__init__(in_features, out_features)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(_normalized(x) * self.temperature, _normalized(self.weight), self.bias)

    def extra_repr(self) -> str:
        """Name the temperature beside the sizes, for ``print(model)``."""
        return f"{super().extra_repr()}, temperature={self.temperature}"


class CosineConv2d(Conv2d):
    """The same for each place of a feature map: (B, C, H, W) to (B, K, H, W), 1 x 1 kernel."""

    def __init__(self, in_channels: int, out_channels: int, *, temperature: float) -> None:
        """Build a 1 x 1 convolution with bias, started as the authors start theirs.

        The length of a normalised weight sets how far a step turns it. Detectron2's start of the
        plain layer, N(0, 0.001^2), is 40 times shorter for 1,203 classes: there one step turns a
        class's vector by tens of degrees, here by a fraction of one.
        """
        super().__init__(in_channels, out_channels, kernel_size=1)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bias)
        self.temperature = temperature

    def scaled(self, x: Tensor) -> Tensor:
        """Return the normalised features times the temperature."""
        return _normalized(x) * self.temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return F.conv2d(self.scaled(x), _normalized(self.weight), self.bias)

    def extra_repr(self) -> str:
        """Name the temperature beside the sizes, for ``print(model)``."""
        return f"{super().extra_repr()}, temperature={self.temperature}"


class LearnedCosineConv2d(CosineConv2d):
    """:class:`CosineConv2d` with the temperature t^2, t a parameter.

    t starts at the square root of ``temperature``; FRACAL's code starts it at 4.5 (20.25).
    """

    def __init__(self, in_channels: int, out_channels: int, *, temperature: float) -> None:
        """Build the layer; arguments as for :class:`CosineConv2d`."""
        super().__init__(in_channels, out_channels, temperature=temperature)
        self.t = nn.Parameter(torch.tensor(temperature**0.5))

    def scaled(self, x: Tensor) -> Tensor:
        """Return the normalised features times the temperature."""
        return _normalized(x) * self.t**2


@ROI_MASK_HEAD_REGISTRY.register()
class CosineMaskHead(PredictedClassMaskHead):
    """Detectron2's mask head with :class:`CosineConv2d` as its last layer."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        temperature: float,
        learned_temperature: bool = False,
        **kwargs: Any,
    ) -> None:
        """Build Detectron2's head and put the layer in the place of its predictor.

        Args:
            input_shape: as for :class:`PredictedClassMaskHead`.
            temperature: what the cosine is multiplied by.
            learned_temperature: whether that is learned, starting from ``temperature``.
            kwargs: the other arguments of :class:`PredictedClassMaskHead`.
        """
        super().__init__(input_shape, **kwargs)
        plain: Any = self._modules["predictor"]
        # What is built after this head starts as in a model with the stock head.
        with torch.random.fork_rng(devices=[]):
            layer = LearnedCosineConv2d if learned_temperature else CosineConv2d
            self.predictor = layer(plain.in_channels, plain.out_channels, temperature=temperature)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments of ``__init__`` that ``cfg`` stands for."""
        return {
            **super().from_config(cfg, input_shape),
            "temperature": cfg.MODEL.LONG_TAIL.MASK_TEMPERATURE,
            "learned_temperature": cfg.MODEL.LONG_TAIL.LEARN_MASK_TEMPERATURE,
        }

    @torch.jit.unused
    def class_logits(self, x: Tensor, classes: Tensor) -> Tensor:
        """Return (B, 1, 2H, 2W) logits of one class of each region."""
        predictor: Any = self.predictor
        weight = _normalized(predictor.weight[classes])
        return one_class_logits(predictor.scaled(x), weight, predictor.bias[classes])
