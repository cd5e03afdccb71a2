"""FASA with torchvision: the length of an epoch, and its adaptation to held-out training images."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iif.augmentation import HeldOutLoss
from iif.data.annotations import Annotations
from iif.data.split import held_out_images
from iif.distributed import rank, world_size
from iif.errors import InputError
from iif.progress import progress
from iif.tv.config import TrainConfig
from iif.tv.dataset import DetectionTargets


def iterations_per_epoch(data: DetectionTargets, config: TrainConfig) -> int:
    """Return how many iterations an epoch has; repeat-factor sampling lengthens it."""
    size = float(len(data.shown_images))
    if config.repeat_threshold > 0:
        size = float(data.repeat_factors(config.repeat_threshold).double().sum())
    return max(1, math.ceil(size / config.images_per_batch))


class Adaptation:
    """Adapts FASA's chances to the loss on the training images that are held out.

    The loss is measured with their ground-truth boxes as regions, each process on its share.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_root: str | os.PathLike[str],
        fraction: float,
        groups: NDArray[Any],
    ) -> None:
        """Find the held-out images.

        Args:
            annotations: of the training set.
            image_root: the folder that its file names start from.
            fraction: the part of its images that is held out.
            groups: (K,) the frequency group of each class.

        Raises:
            InputError: no image with something to train on is held out.
        """
        self.data = DetectionTargets(annotations, image_root, masks=False)
        shown = self.data.shown_images
        self.rows = shown[held_out_images(annotations.image_ids[shown].tolist(), fraction)]
        self.groups = groups
        if not len(self.rows):
            raise InputError(
                f"held_out={fraction} holds out no annotated image for fasa.adapt; hold out more, "
                "or set fasa.adapt=false"
            )

    @torch.no_grad()
    def follow(self, model: nn.Module, device: torch.device) -> None:
        """Measure the held-out loss of a model on ``device`` and adapt its chances."""
        detector: Any = model
        predictor = detector.roi_heads.box_predictor
        loss = HeldOutLoss(len(self.groups), device)
        training = model.training
        model.eval()
        rows = self.rows[rank() :: world_size()].tolist()
        for row in progress(rows, desc="held-out loss", unit="image", leave=False):
            image, target = self.data[row, False]
            boxes = {"boxes": target["boxes"].to(device)}
            labels = target["labels"].to(device) - 1
            if not len(labels):  # shown for a box that Detectron2 leaves out as well
                continue
            features = _box_features(detector, image.to(device), boxes)
            loss.add(predictor.virtual_logits(features, labels), labels)
        model.train(training)
        predictor.augmentation.follow(loss.by_class(self.groups))


def _box_features(model: Any, image: Tensor, boxes: dict[str, Tensor]) -> Tensor:
    """Return the input of the box classifier (G, C) for boxes of an image."""
    images, scaled = model.transform([image], [boxes])
    features = model.backbone(images.tensors)
    if isinstance(features, Tensor):
        features = OrderedDict([("0", features)])
    heads = model.roi_heads
    pooled = heads.box_roi_pool(features, [scaled[0]["boxes"]], images.image_sizes)
    return heads.box_head(pooled).flatten(start_dim=1)
