"""Weights to start from: published ones, which may have to be downloaded, or a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from iif.errors import InputError

# torchvision's choice where weights are given: the last stages of the backbone are trained.
_TRAINED_LAYERS = 3
_COST = (
    "start at random with weights=null weights_backbone=null: about three times as many iterations "
    "are needed, and with few training images AP stays clearly lower"
)


def is_file(weights: str | None) -> bool:
    """Return whether ``weights`` names a file, and not published weights."""
    return weights is not None and (os.path.isfile(weights) or Path(weights).suffix != "")


def build_published(
    name: str, weights: str | None, weights_backbone: str | None, options: Mapping[str, Any]
) -> nn.Module:
    """Return torchvision's model with published weights, from its cache or downloaded.

    Raises:
        InputError: there are no such weights, or they cannot be downloaded; says which file to put
            where.
    """
    backbone = None if weights else weights_backbone
    try:
        return get_model(name, weights=weights, weights_backbone=backbone, **options)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{name} has no published weights as asked for (weights={weights!r}, "
            f"weights_backbone={weights_backbone!r}): {error}"
        ) from None
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own for a download with another hash.
        if isinstance(error, RuntimeError) and "hash" not in str(error):
            raise
        folder = Path(torch.hub.get_dir(), "checkpoints")
        url = _url(name, weights, backbone)
        raise InputError(
            f"the published weights of {name} cannot be downloaded ({error}): put the file "
            f"{url.rpartition('/')[2]} into {folder} (from {url}), "
            f"{'or give its path as weights=FILE, ' if weights else ''}or {_COST}"
        ) from None


def _url(name: str, weights: str | None, backbone: str | None) -> str:
    if weights is not None:
        return str(get_model_weights(name)[weights].url)
    architecture = "mobilenet_v3_large" if "mobilenet" in name else "resnet50"
    return str(get_model_weights(architecture)[backbone].url)


def build_from_file(name: str, path: str, options: Mapping[str, Any]) -> nn.Module:
    """Return torchvision's model with the weights of a file, frozen as with published ones.

    Args:
        name: the model.
        path: a state dict of the model for any number of classes, or a checkpoint of
            `iif.tv.train` of the same model.
        options: torchvision's, ``trainable_backbone_layers`` among them.

    Raises:
        InputError: the file is missing, or not of this model.
    """
    state = read_state(path)
    options = dict(options)
    trained = options.pop("trainable_backbone_layers", _TRAINED_LAYERS)
    key = "roi_heads.box_predictor.cls_score.weight"
    if key not in state:
        raise _other_model(path, name, f"it has no {key}")
    model = get_model(
        name, weights=None, weights_backbone=None, num_classes=len(state[key]), **options
    )
    load_matching(model, state, path, name)
    _freeze(model, name, trained)
    return model


def read_state(path: str) -> dict[str, Tensor]:
    """Return the parameters and buffers of a file, without those of a long-tail method.

    Raises:
        InputError: the file is missing, or holds none.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"weights: {path}: no such file") from None
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError):
        raise InputError(
            f"weights: {path}: not a file of weights that torch can read, or cut off"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"weights: {path}: holds no state dict of a model")
    own = ("roi_heads.box_predictor.method.", "roi_heads.box_predictor.augmentation.")
    return {key: value for key, value in content.items() if not key.startswith(own)}


def load_matching(model: nn.Module, state: Mapping[str, Tensor], path: str, name: str) -> None:
    """Load a state into a model of the same architecture.

    The heads for boxes and masks of other classes, and a mask head that one of the two lacks, are
    left out.

    Raises:
        InputError: another layer differs.
    """
    own = model.state_dict()
    heads = ("roi_heads.box_predictor.", "roi_heads.mask_")
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    counted = ("num_batches_tracked",)  # torchvision's frozen layers do not have it
    faults = [
        key
        for key in (own.keys() | state.keys()) - fits.keys()
        if not key.startswith(heads) and not key.endswith(counted)
    ]
    if faults:
        raise _other_model(path, name, f"{min(faults)} ({len(faults)} such) is not the same")
    model.load_state_dict(fits, strict=False)


def _other_model(path: str, name: str, fault: str) -> InputError:
    return InputError(f"weights: {path}: not of {name}: {fault}; set model to the one it is of")


def _freeze(model: Any, name: str, trained: int) -> None:
    """Freeze what torchvision freezes of a model that it builds with published weights."""
    body = model.backbone.body
    if not name.endswith("_v2"):
        eps = 0.0 if "resnet50" in name else 1e-5  # torchvision's, of its published models
        for key, module in list(body.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(module.num_features, eps=eps)
                frozen.load_state_dict(
                    {k: v for k, v in module.state_dict().items() if k in frozen.state_dict()}
                )
                parent, _, child = key.rpartition(".")
                setattr(body.get_submodule(parent), child, frozen)
    if "mobilenet" in name:
        blocks = list(body.named_children())
        strided = [i for i, (_, block) in enumerate(blocks) if getattr(block, "_is_cn", False)]
        stages = [0, *strided, len(blocks) - 1]
        start = len(blocks) if trained == 0 else stages[len(stages) - trained]
        layers = [f"{key}." for key, _ in blocks[start:]]
    else:
        layers = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trained]
        layers += ["bn1"] if trained == 5 else []
    for key, parameter in body.named_parameters():
        parameter.requires_grad_(key.startswith(tuple(layers)))
