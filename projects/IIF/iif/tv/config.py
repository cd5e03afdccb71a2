"""The settings of a training run with torchvision."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.errors import InputError
from iif.files import read_json
from iif.methods import DEFAULT, Method, build_method
from iif.settings import METHOD, Above0, Count, NotNegative, Positive, Settings, Share
from iif.statistics import ClassStatistics


class _ConfigFile(msgspec.Struct):
    config: dict[str, Any]
    checkpoint: str | None = None


class TrainConfig(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are the published setting on LVIS v1, 12 epochs of 16 images a batch."""

    preset: Annotated[
        Literal["own", "lvis", "openmoji"],
        Meta(
            description='What "iif train" takes the other settings from: own, chosen from the '
            "training data; lvis, the published setting on LVIS v1; or openmoji, the demo's. In "
            "Python it changes nothing."
        ),
    ] = "lvis"
    method: Annotated[str, Meta(description=METHOD)] = DEFAULT
    group_limits: Annotated[
        tuple[Count, Count] | None,
        Meta(
            description="The most training images of a rare and of a common class; null: LVIS's, "
            "10 and 100, or terciles where these leave a group empty and the training data is not "
            "in LVIS's format."
        ),
    ] = None

    model: Annotated[
        str,
        Meta(
            description="A detection model of torchvision.models by name (its box head must be "
            "Fast R-CNN's), or \"maskrcnn_resnet18_fpn_small\", the demo's, or the same with "
            "fasterrcnn, for boxes alone."
        ),
    ] = "maskrcnn_resnet50_fpn_v2"
    weights: Annotated[
        str | None,
        Meta(
            description="Weights of the whole model to start from: published ones by torchvision's "
            'name ("COCO_V1"), or a file (.pth): torchvision\'s, or a checkpoint of "iif train". '
            "Their classes are replaced by the training set's; null: none."
        ),
    ] = None
    weights_backbone: Annotated[
        str | None,
        Meta(description='Published weights of the backbone alone ("IMAGENET1K_V1"); null: none.'),
    ] = "IMAGENET1K_V1"
    trainable_backbone_layers: Annotated[
        Annotated[int, Meta(ge=0, le=5)] | None,
        Meta(
            description="Stages of the backbone that are trained, counted from the end (0 to 5); "
            "null: torchvision's choice, 3 with pretrained weights and all without."
        ),
    ] = None

    min_size: Annotated[
        tuple[Annotated[int, Meta(ge=1)], ...],
        Meta(
            min_length=1,
            description="Lengths of the shorter side in pixels: training draws one for each "
            "image, test uses the last.",
        ),
    ] = (640, 672, 704, 736, 768, 800)
    max_size: Annotated[
        Positive, Meta(description="The greatest length of the longer side in pixels.")
    ] = 1333
    flip: Annotated[bool, Meta(description="Mirror half of the training images.")] = True
    held_out: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="The part of the training images, chosen by their ids, that is left out of "
            'training for "iif tune" and for fasa.adapt. They still count for the class '
            "statistics.",
        ),
    ] = 0.0
    repeat_threshold: Annotated[
        NotNegative,
        Meta(
            description="Repeat images of categories that are in fewer than this share of the "
            "images; 0: no repeats."
        ),
    ] = 0.0

    images_per_batch: Annotated[
        Positive, Meta(description="Images of one iteration over all processes.")
    ] = 16
    epochs: Annotated[
        Above0 | None,
        Meta(
            description='Passes over the training images, from which "iif train" computes '
            "iterations, steps and warm-up; in Python iterations alone counts."
        ),
    ] = None
    iterations: Annotated[Positive, Meta(description="Iterations of the training.")] = 74_556
    base_lr: Annotated[Above0, Meta(description="The learning rate.")] = 0.02
    steps: Annotated[
        tuple[int, ...],
        Meta(description="Iterations at which the learning rate is divided by 10."),
    ] = (49_704, 68_343)
    warmup_iterations: Annotated[
        Count,
        Meta(
            description="The learning rate rises linearly from warmup_factor * base_lr in this "
            "many iterations."
        ),
    ] = 500
    warmup_factor: Annotated[NotNegative, Meta(description="See warmup_iterations.")] = 0.001
    momentum: Annotated[NotNegative, Meta(description="Of stochastic gradient descent.")] = 0.9
    weight_decay: Annotated[NotNegative, Meta(description="Of every parameter.")] = 1e-4
    clip_gradients: Annotated[
        Above0 | None, Meta(description="The greatest norm of the gradient; null: not clipped.")
    ] = None
    amp: Annotated[bool, Meta(description="bfloat16 autocast (GPU only).")] = False
    seed: Annotated[Count, Meta(description="Of everything random in the training.")] = 0

    checkpoint_period: Annotated[Positive, Meta(description="Iterations between checkpoints.")] = (
        5000
    )
    keep_all_checkpoints: Annotated[
        bool, Meta(description="false: keep the last checkpoint, and the best where it is known.")
    ] = True
    evaluation_period: Annotated[
        Count,
        Meta(
            description="Iterations between evaluations during training; the best checkpoint by "
            "mask AP (without masks box AP) is kept as model_best.pth; 0: at the end alone."
        ),
    ] = 0
    workers: Annotated[
        Count,
        Meta(
            description="Processes that load images for each training process; 0: the training "
            "process itself."
        ),
    ] = 4
    cache_images: Annotated[
        bool, Meta(description="Keep decoded images in memory (small data sets; with workers 0).")
    ] = False

    score_threshold: Annotated[Share, Meta(description="At test: the least score.")] = 1e-4
    nms_threshold: Annotated[Share, Meta(description="At test: the IoU of class-wise NMS.")] = 0.5
    detections_per_image: Annotated[
        Positive, Meta(description="At test: the greatest number of detections of an image.")
    ] = 300
    predicted_masks_only: Annotated[
        bool,
        Meta(
            description="At test: compute the mask of each detection's own class alone, equal to "
            "torchvision's to rounding; false computes those of all classes, as torchvision does."
        ),
    ] = True

    def __post_init__(self) -> None:
        """Check the values, and fill in the options that are not given.

        Raises:
            InputError: a value is out of its range; names the key and what is right.
        """
        super().__post_init__()
        if self.fasa.enabled and self.fasa.adapt and not self.held_out:
            raise InputError(
                "fasa.adapt is true, but held_out=0 holds out no training image to adapt to; set "
                "held_out, 0.01 for instance, or fasa.adapt=false"
            )
        if self.cache_images and self.workers:
            raise InputError(
                f"cache_images keeps images in the training process, but workers is "
                f"{self.workers}; set workers=0 or cache_images=false"
            )

    @classmethod
    def nodes(cls) -> dict[str, type[Any]]:
        """Return what has options under a name of its own: the methods, and FASA beside any."""
        return {**super().nodes(), FeatureAugmentation.name: FeatureAugmentation}

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


def read_config(path: str | os.PathLike[str]) -> tuple[TrainConfig, str | None]:
    """Return the settings of a ``config.json``, and the checkpoint that it names, if any.

    Raises:
        InputError: the file is missing or malformed, or as `TrainConfig.from_dict`.
    """
    content = read_json(path, _ConfigFile, what="settings (config.json)")
    return TrainConfig.from_dict(content.config), content.checkpoint


# The demo's setting, for two processor cores; docs/torchvision.md gives what it measures.
OPENMOJI = TrainConfig(
    preset="openmoji",
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
