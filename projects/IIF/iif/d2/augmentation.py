"""FASA from a configuration, and what a checkpoint says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.d2.statistics import statistics_from_config
from iif.errors import InputError
from iif.methods import parse_options

KEY = "MODEL.FASA"
# The key of a checkpoint's record of its method under which FASA's settings stand.
RECORD = FeatureAugmentation.name
# Part of the names that its buffers have in a state dict.
PREFIX = "augmentation."


def fasa_options(cfg: CfgNode) -> FasaOptions:
    """Return the checked settings of MODEL.FASA.

    Raises:
        InputError: one has no legal value.
    """
    options = parse_options(
        FeatureAugmentation,
        {key.lower(): value for key, value in cfg.MODEL.FASA.items()},
        key=lambda option: f"{KEY}.{option.upper()}",
    )
    assert isinstance(options, FasaOptions)
    return options


def augmentation_from_config(cfg: CfgNode, width: int) -> FeatureAugmentation | None:
    """Return FASA for a classifier of ``width`` features, None where it is switched off.

    Raises:
        InputError: a setting has no legal value, the classification loss is no softmax cross
            entropy, or the instances of the classes are not known.
    """
    options = fasa_options(cfg)
    if not options.enabled:
        return None
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.USE_SIGMOID_CE or head.USE_FED_LOSS:
        raise InputError(
            f"{KEY} adds a softmax cross entropy of virtual features: set "
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS to False, or "
            f"{KEY}.ENABLED False"
        )
    statistics = statistics_from_config(cfg)
    if statistics.instance_count is None:
        raise InputError(
            f"{KEY} needs the number of instances of each class, and {statistics.source} counts "
            "images alone: set MODEL.LONG_TAIL.STATISTICS to the training annotations"
        )
    return FeatureAugmentation(statistics.instance_count, width, max(cfg.SEED, 0), options)


def augmentations_of(model: nn.Module) -> list[FeatureAugmentation]:
    """Return the augmentations of a model, one for each stage of a cascade; none without FASA."""
    return [module for module in model.modules() if isinstance(module, FeatureAugmentation)]


def augmentation_record(model: nn.Module) -> dict[str, Any]:
    """Return what a checkpoint and a summary say of FASA; empty without it."""
    found = augmentations_of(model)
    return {RECORD: found[0].record()} if found else {}


def refuse_other_augmentation(
    model: nn.Module, found: Mapping[str, Any] | None, source: str
) -> None:
    """Refuse a checkpoint that was trained with other settings of FASA.

    Args:
        model: of the configuration.
        found: the checkpoint's record of its method.
        source: the checkpoint, for the message.

    Raises:
        InputError: a setting differs; names both values.
    """
    before, now = (
        (record or {}).get(RECORD) or {"enabled": False}
        for record in (found, augmentation_record(model))
    )
    for option in dict.fromkeys([*before, *now]):
        if before.get(option) != now.get(option):
            raise InputError(
                f"{source}: was trained with {KEY}.{option.upper()} {before.get(option)}, the "
                f"configuration has {now.get(option)}; use the configuration that it was trained "
                "with"
            )
