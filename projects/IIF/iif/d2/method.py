"""From a configuration to its long-tail method, and from a model to the method that it has."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from iif.d2.augmentation import augmentation_record
from iif.d2.statistics import statistics_from_config
from iif.errors import InputError
from iif.methods import BASELINE, METHODS, Method, Options, build_method, method_type, parse_options
from iif.methods.record import PLAIN

METHOD_KEY = "MODEL.LONG_TAIL.METHOD"


def options_node(name: str) -> str:
    """Return the key of a method's options."""
    return f"MODEL.{name.upper()}"


def options_from_config(cfg: CfgNode) -> Options:
    """Return the checked options of the configuration's method.

    Raises:
        InputError: there is no such method, or an option has no legal value.
    """
    kind = method_type(cfg.MODEL.LONG_TAIL.METHOD, key=METHOD_KEY)
    node = options_node(kind.name)
    values = cfg.MODEL.get(kind.name.upper(), {})
    for option, value in values.items():
        if isinstance(value, str) and value in METHODS:
            raise InputError(
                f"{node}.{option} is {value!r}, which is a method: set {METHOD_KEY} {value}"
            )
    return parse_options(
        kind,
        {key.lower(): value for key, value in values.items()},
        key=lambda option: f"{node}.{option.upper()}",
    )


def method_from_config(cfg: CfgNode) -> Method:
    """Build the configuration's method.

    Raises:
        InputError: the method or an option has no legal value, the statistics are missing, belong
            to another number of classes or give no usable method, or the loss is not the softmax
            cross entropy.
    """
    options = options_from_config(cfg)
    name = cfg.MODEL.LONG_TAIL.METHOD
    head = cfg.MODEL.ROI_BOX_HEAD
    if name == BASELINE:
        if head.USE_FED_LOSS:
            _check_federated_loss(cfg)
        return build_method(name)
    refuse_sigmoid(name, head.USE_SIGMOID_CE or head.USE_FED_LOSS)
    statistics = statistics_from_config(cfg)
    if len(statistics) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but "
            f"{statistics.source} counts {len(statistics)} classes: set "
            f"MODEL.ROI_HEADS.NUM_CLASSES {len(statistics)}"
        )
    return build_method(
        name,
        statistics,
        options,
        written=lambda option, value: f"{options_node(name)}.{option.upper()} {value}",
    )


def refuse_sigmoid(name: str, use_sigmoid: bool) -> None:
    """Raise InputError where the classification loss is not the softmax cross entropy."""
    if use_sigmoid:
        raise InputError(
            f"method {name} is defined for the softmax cross entropy: set "
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS to False, or "
            f"{METHOD_KEY} {BASELINE}"
        )


def _check_federated_loss(cfg: CfgNode) -> None:
    """Refuse what Detectron2's federated loss would stop at with an assertion."""
    if not cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE:
        raise InputError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is a sigmoid loss: set "
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True"
        )
    if not len(cfg.DATASETS.TRAIN):
        raise InputError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS takes the class counts from the metadata of "
            "DATASETS.TRAIN, which is empty: name the training set (its files are not needed for "
            "evaluation)"
        )


def methods_of(model: nn.Module) -> list[Method]:
    """Return the methods of a model's box predictors; none for a model of Detectron2's own."""
    return [module for module in model.modules() if isinstance(module, Method)]


def record_of(model: nn.Module) -> dict[str, Any]:
    """Return what a checkpoint and a summary say of a model's method, and of FASA beside it."""
    methods = methods_of(model)
    return {**(methods[0].record() if methods else PLAIN), **augmentation_record(model)}
