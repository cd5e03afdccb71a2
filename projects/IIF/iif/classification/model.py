"""A backbone by name, a classifier, and the long-tail method that reads its outputs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from iif.classification.classifiers import CosineClassifier, LearnedCosineClassifier
from iif.classification.se_resnet import se_resnet8, se_resnet32
from iif.errors import InputError
from iif.methods import Affine, Method

if TYPE_CHECKING:
    from iif.classification.config import ClassifyConfig

CLASSIFIERS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "cosine": CosineClassifier,
    "learned_cosine": LearnedCosineClassifier,
}
_OWN: dict[str, Callable[[], nn.Module]] = {"se_resnet32": se_resnet32, "se_resnet8": se_resnet8}
# Families of torchvision whose last layer is called fc.
_FAMILIES = ("resnet", "resnext", "wide_resnet", "regnet")
_LAST_LAYERS = ("fc.", "classifier.", "head.", "last_linear.")


class ClassificationModel(nn.Module):
    """Images to classifier outputs; the method turns these into logits.

    Attributes:
        backbone: images (B, 3, H, W) to features (B, C).
        classifier: features to outputs (B, K).
        method: the long-tail method, without a background.
        frozen: whether the backbone is left as it is: no gradient, and batch normalisation by
            its running statistics.
    """

    backbone: nn.Module
    classifier: nn.Module
    method: Method

    def __init__(
        self, backbone: nn.Module, classifier: nn.Module, method: Method, *, frozen: bool = False
    ) -> None:
        """Join the parts."""
        super().__init__()
        self.backbone, self.classifier, self.method = backbone, classifier, method
        self.frozen = frozen
        fit_method(method, classifier)
        if frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> ClassificationModel:
        """Set the mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's outputs (B, K), float32."""
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.classifier(features.float())


def fit_method(method: Method, classifier: nn.Module) -> None:
    """Let a method take the outputs of a cosine classifier as they are.

    A number can be added to all outputs of a linear classifier without a change of the softmax, so
    a post-hoc method takes them relative to their mean. Those of a cosine classifier are bounded.
    """
    if isinstance(classifier, CosineClassifier) and isinstance(method, Affine):
        method.relative = False


def build_model(config: ClassifyConfig, method: Method, num_classes: int) -> ClassificationModel:
    """Return an untrained model, its backbone from ``config.weights`` where that is given.

    Raises:
        InputError: there is no such model, or the weights do not fit it.
    """
    method.check_classes(num_classes)
    backbone, width = build_backbone(config.model)
    if config.weights is not None:
        load_backbone(backbone, config.weights)
    classifier = CLASSIFIERS[config.classifier](width, num_classes)
    return ClassificationModel(backbone, classifier, method, frozen=config.freeze_backbone)


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """Return a network without its last layer, and the number of its features.

    Args:
        name: "se_resnet32", a ResNet, ResNeXt or RegNet of torchvision, or a model of timm.

    Raises:
        InputError: there is no such model; says which there are.
    """
    from torchvision import models

    if name in _OWN:
        backbone: Any = _OWN[name]()
        return backbone, backbone.num_features
    known = [model for model in models.list_models(models) if model.startswith(_FAMILIES)]
    if name in known:
        backbone = models.get_model(name, weights=None)
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        return backbone, width
    if find_spec("timm") is None:
        raise InputError(
            f"model is {name!r}; without timm (pip install timm) it must be one of "
            f"{', '.join([*_OWN, *known])}"
        )
    import timm

    if not timm.is_model(name):
        raise InputError(
            f"model is {name!r}; it must be one of {', '.join([*_OWN, *known])}, or a model of "
            "timm (timm.list_models)"
        )
    backbone = timm.create_model(name, pretrained=False, num_classes=0)
    return backbone, backbone.num_features


def load_backbone(backbone: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a backbone's weights from a file of torchvision's, timm's or this package's.

    Raises:
        InputError: the file cannot be read, or lacks a part of the backbone.
    """
    state = _read_weights(Path(os.path.expandvars(os.path.expanduser(path))))
    own = backbone.state_dict()
    # A file of a whole model of this package has the backbone under its name.
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    missing = [key for key in own if key not in state]
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    strange = [key for key in state if key not in own and not key.startswith(_LAST_LAYERS)]
    for keys, fault in ((missing, "lacks"), (other, "has other shapes of"), (strange, "also has")):
        if keys:
            raise InputError(
                f"{path}: not the weights of this backbone: {fault} {len(keys)} of its tensors, "
                f"{keys[0]} for one; give weights of the same model"
            )
    backbone.load_state_dict({key: state[key] for key in own})


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; weights takes a file, nothing is downloaded")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise InputError(f"{path}: needs safetensors, which is not installed") from None
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError):
        raise InputError(f"{path}: no file of weights, or cut off") from None
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no weights by name")
    return state
