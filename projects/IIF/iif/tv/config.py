"""The settings of a training run with torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.errors import InputError
from iif.files import read_json
from iif.methods import (
    BASELINE,
    DEFAULT,
    METHODS,
    Method,
    Options,
    build_method,
    method_type,
    option_types,
    parse_options,
)
from iif.statistics import ClassStatistics

# Keys of numbers, what is allowed, and the test of it.
_RANGES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        "images_per_batch iterations base_lr max_size checkpoint_period detections_per_image",
        "above 0",
        lambda value: value > 0,
    ),
    (
        "warmup_iterations warmup_factor momentum weight_decay workers repeat_threshold seed",
        "0 or more",
        lambda value: value >= 0,
    ),
    ("score_threshold nms_threshold", "from 0 to 1", lambda value: 0 <= value <= 1),
    ("held_out", "0 or more and below 1", lambda value: 0 <= value < 1),
)


class _ConfigFile(msgspec.Struct):
    config: dict[str, Any]
    checkpoint: str | None = None


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the published setting on LVIS v1, 12 epochs of 16 images a batch."""

    # A detection model of torchvision.models by name (its box head must be Fast R-CNN's), or
    # "maskrcnn_resnet18_fpn_small", the demo's.
    model: str = "maskrcnn_resnet50_fpn_v2"
    # Published weights of the whole model by torchvision's name ("COCO_V1"), their classes being
    # replaced by the training set's; and of the backbone alone ("IMAGENET1K_V1"). Null: none.
    weights: str | None = None
    weights_backbone: str | None = "IMAGENET1K_V1"
    # Stages of the backbone that are trained, counted from the end (0 to 5); null: torchvision's
    # choice, 3 with pretrained weights and all without.
    trainable_backbone_layers: int | None = None

    # The long-tail method by iif.methods.METHODS (its BASELINE is the plain softmax), and the
    # options of each method under the method's name; its options type says what each means. In a
    # file of settings these are nodes of their own, in KEY=VALUE form METHOD.OPTION=VALUE. So is
    # "fasa", virtual features beside any method (iif.augmentation.FasaOptions).
    method: str = DEFAULT
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    # Lengths of the shorter side: training draws one per image, test uses the last. Maximum length
    # of the longer side.
    min_size: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    max_size: int = 1333
    # Mirror half of the training images.
    flip: bool = True
    # The part of the training images, chosen by their ids, that is left out of training for
    # "iif tune" and for fasa.adapt. They still count for the class statistics.
    held_out: float = 0.0
    # Repeat images of categories that are in fewer than this share of the images; 0: no repeats.
    repeat_threshold: float = 0.0

    # Images of one iteration over all processes.
    images_per_batch: int = 16
    iterations: int = 74_556
    base_lr: float = 0.02
    # Iterations at which the learning rate is divided by 10.
    steps: tuple[int, ...] = (49_704, 68_343)
    # The learning rate rises linearly from warmup_factor * base_lr in this many iterations.
    warmup_iterations: int = 500
    warmup_factor: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 1e-4
    # Greatest norm of the gradient; null: not clipped.
    clip_gradients: float | None = None
    # bfloat16 autocast (GPU only).
    amp: bool = False
    seed: int = 0

    checkpoint_period: int = 5000
    # Processes that load images for each training process; 0: the training process itself.
    workers: int = 4
    # Keep decoded images in memory (small data sets; with workers 0).
    cache_images: bool = False

    # Test time: minimum score, IoU threshold of class-wise NMS, maximum detections per image.
    score_threshold: float = 1e-4
    nms_threshold: float = 0.5
    detections_per_image: int = 300
    # Compute the mask of each detection's own class alone at test, equal to torchvision's to
    # rounding; false computes those of all classes, as torchvision does.
    predicted_masks_only: bool = True

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
        if self.fasa.enabled and self.fasa.adapt and not self.held_out:
            raise InputError(
                "fasa.adapt is true, but held_out=0 holds out no training image to adapt to; set "
                "held_out, 0.01 for instance, or fasa.adapt=false"
            )
        for keys, allowed, legal_value in _RANGES:
            for key in keys.split():
                if not legal_value(getattr(self, key)):
                    raise InputError(f"{key} is {getattr(self, key)}; it must be {allowed}")
        layers = self.trainable_backbone_layers
        if layers is not None and not 0 <= layers <= 5:
            raise InputError(
                f"trainable_backbone_layers is {layers}; it must be from 0 to 5, or null"
            )
        if not self.min_size or min(self.min_size) < 1:
            raise InputError(f"min_size is {self.min_size}; give one or more lengths in pixels")
        if self.clip_gradients is not None and not self.clip_gradients > 0:
            raise InputError(
                f"clip_gradients is {self.clip_gradients}; it must be above 0, or null"
            )
        if self.cache_images and self.workers:
            raise InputError(
                f"cache_images keeps images in the training process, but workers is "
                f"{self.workers}; set workers=0 or cache_images=false"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, ready for JSON."""
        values = msgspec.json.decode(msgspec.json.encode(self))
        return values | values.pop("options")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from plain values, the inverse of :meth:`to_dict`; those missing are the defaults.

        Raises:
            InputError: an unknown key, or a value of the wrong type or out of its range.
        """
        legal = cls().to_dict()
        for key, value in values.items():
            if key not in legal:
                raise _moved(key, value) or InputError(
                    f"{key!r} is no training setting; the settings are {', '.join(legal)}"
                )
        nodes = _nodes()
        settings = {key: value for key, value in values.items() if key not in nodes}
        options = {key: value for key, value in values.items() if key in nodes}
        try:
            return msgspec.convert({**settings, "options": options}, cls)
        except msgspec.ValidationError as error:
            raise InputError(f"training settings: {error}") from None

    def override(self, assignments: Iterable[str]) -> TrainConfig:
        """Return the settings with ``KEY=VALUE`` assignments applied; values are JSON or words.

        Raises:
            InputError: as :meth:`from_dict`, or an assignment without "=".
        """
        values, nodes = self.to_dict(), _nodes()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            node, dot, option = key.partition(".")
            if not equals or (node if dot and node in nodes else key) not in values:
                raise _moved(key, text) or InputError(
                    f"{assignment!r} sets no training setting; write KEY=VALUE with KEY one of "
                    f"{', '.join(_written(values))}"
                )
            try:
                value = msgspec.json.decode(text)
            except msgspec.DecodeError:
                value = text
            if option:
                values[node] = {**values[node], option: value}
            else:
                values[key] = value
        return self.from_dict(values)

    def build_method(self, statistics: ClassStatistics) -> Method:
        """Return the method for the classes of the training set.

        Raises:
            InputError: the statistics cannot be used.
        """
        return build_method(
            self.method,
            statistics,
            self.options.get(self.method),
            written=lambda option, value: f"{self.method}.{option}={value}",
        )

    @property
    def fasa(self) -> FasaOptions:
        """The settings of FASA."""
        return self.options[FeatureAugmentation.name]

    def build_augmentation(
        self, statistics: ClassStatistics, width: int
    ) -> FeatureAugmentation | None:
        """Return FASA for a classifier of ``width`` features, None where it is switched off."""
        if not self.fasa.enabled:
            return None
        if statistics.instance_count is None:
            raise InputError(
                f"FASA needs the number of instances of each class, and {statistics.source} "
                "counts images alone; count the training annotations"
            )
        return FeatureAugmentation(statistics.instance_count, width, self.seed, self.fasa)


def _nodes() -> dict[str, type[Any]]:
    """Return the methods that have options, and FASA: nodes of their own in a file of settings."""
    methods = {name: kind for name, kind in METHODS.items() if option_types(kind)}
    return {**methods, FeatureAugmentation.name: FeatureAugmentation}


def _parse_node(kind: type[Any], node: Any) -> Options:
    if isinstance(node, kind.options_type):
        return node
    if not isinstance(node, Mapping):
        raise InputError(f"{kind.name} is {node!r}; it must hold options of the method by name")
    return parse_options(kind, node, key=lambda option: f"{kind.name}.{option}")


def _written(keys: Iterable[str]) -> Iterator[str]:
    """Yield the keys of settings as they are written in KEY=VALUE form."""
    nodes = _nodes()
    for key in keys:
        if key in nodes:
            yield from (f"{key}.{option}" for option in option_types(nodes[key]))
        else:
            yield key


def _moved(key: str, value: Any) -> InputError | None:
    """Return where a setting went that was one while there was a single method."""
    if key not in option_types(METHODS[DEFAULT]):
        return None
    now = f"method={BASELINE}" if value == BASELINE else f"{DEFAULT}.{key}={value}"
    return InputError(f"{key} is now {DEFAULT}.{key}; write {now}")


def read_config(path: str | os.PathLike[str]) -> tuple[TrainConfig, str | None]:
    """Return the settings of a ``config.json``, and the checkpoint that it names, if any.

    Raises:
        InputError: the file is missing or malformed, or as `TrainConfig.from_dict`.
    """
    content = read_json(path, _ConfigFile, what="settings (config.json)")
    return TrainConfig.from_dict(content.config), content.checkpoint


# The demo's setting, for two processor cores; docs/torchvision.md gives what it measures.
OPENMOJI = TrainConfig(
    model="maskrcnn_resnet18_fpn_small",
    weights_backbone=None,
    min_size=(96,),
    max_size=96,
    images_per_batch=8,
    iterations=600,
    base_lr=0.04,
    steps=(480,),
    warmup_iterations=100,
    clip_gradients=5.0,
    checkpoint_period=100,
    workers=0,
    cache_images=True,
    detections_per_image=100,
)
