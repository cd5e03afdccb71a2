"""SE-ResNet-32 for images of 32 pixels: He et al.'s CIFAR ResNet with squeeze-and-excitation.

He et al., CVPR 2016, arXiv 1512.03385, section 4.2; Hu et al., CVPR 2018, arXiv 1709.01507.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

_WIDTHS = (16, 32, 64)
_REDUCTION = 16


class _Block(nn.Module):
    """Two 3 x 3 convolutions whose channels are weighed before the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs, max(1, outputs // _REDUCTION))
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.se(self.bn2(self.conv2(out)))
        return self.relu(out + self.shortcut(x))


class SEResNet(nn.Module):
    """Three stages of ``blocks`` residual blocks, 16, 32 and 64 channels; 6 blocks + 2 layers.

    Attributes:
        num_features: the number C of features.
    """

    num_features = _WIDTHS[-1]

    def __init__(self, blocks: int) -> None:
        """Make the layers; convolutions start as He et al.'s, fan-out."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        layers, inputs = [], _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            for block in range(blocks):
                layers.append(_Block(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, C) of images (B, 3, H, W)."""
        features = self.layers(self.relu(self.bn1(self.conv1(images))))
        return features.mean(dim=(2, 3))


def se_resnet32() -> SEResNet:
    """Return SE-ResNet-32."""
    return SEResNet(5)


def se_resnet8() -> SEResNet:
    """Return SE-ResNet-8, for tests and small data sets."""
    return SEResNet(1)
