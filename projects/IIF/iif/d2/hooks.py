"""Hooks of a training: FASA adapts its chances where an epoch ends; the log stays in order."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads
from detectron2.structures import Boxes
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from iif import layout
from iif.augmentation import FeatureAugmentation, HeldOutLoss
from iif.d2.augmentation import KEY, augmentations_of, fasa_options
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.loader import Images, iterations_per_epoch, split_training_images
from iif.d2.process import share_buffers
from iif.d2.statistics import statistics_from_config
from iif.d2.stream import CheckedMapper
from iif.errors import InputError

logger = logging.getLogger(__name__)

_PERIOD = 20  # iterations between Detectron2's lines
SILENCE = 30.0  # seconds


def training_hooks(cfg: CfgNode) -> list[HookBase]:
    """Return this project's hooks, for a place before the checkpointer's; FASA has one."""
    return [LogHook(cfg), *([AugmentationHook(cfg)] if cfg.MODEL.FASA.ENABLED else [])]


class LogHook(HookBase):
    """Keeps each iteration once in metrics.json, and logs slow iterations.

    Detectron2 has a line of losses every 20 iterations, which may take minutes each. This hook logs
    one when there was none for half a minute.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Take the output folder of a configuration."""
        self._metrics = Path(cfg.OUTPUT_DIR, layout.METRICS)
        self._last = time.monotonic()

    def before_train(self) -> None:
        """Drop the metrics of iterations that are to be done again."""
        if comm.is_main_process() and self._metrics.is_file():
            drop_metrics(self._metrics, self.trainer.start_iter)

    def after_step(self) -> None:
        """Log Detectron2's line when it is time."""
        if (self.trainer.iter + 1) % _PERIOD == 0:  # Detectron2 has logged it
            self._last = time.monotonic()
        elif time.monotonic() - self._last >= SILENCE and comm.is_main_process():
            self._last = time.monotonic()
            CommonMetricPrinter(self.trainer.max_iter).write()


def drop_metrics(path: Path, start: int) -> None:
    """Cut a metrics.json before its first line of iteration ``start`` or later, or half a line.

    In place: Detectron2's writer has the file open to append to.
    """
    with open(path, "r+b") as f:
        kept = 0
        for line in f:
            try:
                if not line.endswith(b"\n") or json.loads(line)["iteration"] >= start:
                    break
            except (ValueError, KeyError, TypeError):  # half a line that more were appended to
                break
            kept += len(line)
        f.truncate(kept)


class AugmentationHook(HookBase):
    """Sets the epoch's length, and adapts FASA's chances after each epoch.

    The loss is measured with the ground-truth boxes of the held-out images as regions, in
    evaluation mode, each process on its share of the images. All that a resumed training needs is
    in the buffers of :class:`FeatureAugmentation`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Keep the configuration; data are read when the training starts."""
        self._cfg = cfg
        self._options = fasa_options(cfg)
        self._loader: Any = None

    def before_train(self) -> None:
        """Set the epoch's length in the model, and prepare the held-out images.

        Raises:
            InputError: no image is held out, or the model has no FASA.
        """
        augmentations = augmentations_of(self._model)
        if not augmentations:
            raise InputError(
                f"{KEY}.ENABLED is True, but MODEL.ROI_HEADS.NAME "
                f"{self._cfg.MODEL.ROI_HEADS.NAME!r} has no place for it"
            )
        length = self._options.epoch_length
        if not length or self._options.adapt:
            images, held_out = split_training_images(self._cfg, log=False)
            length = length or iterations_per_epoch(self._cfg, images)
            if self._options.adapt:
                self._loader = held_out_loader(self._cfg, held_out)
        for augmentation in augmentations:
            augmentation.epoch_length = length
        logger.info(
            "FASA: virtual features from iteration %d on; an epoch has %d iterations",
            (self._options.start_epoch - 1) * length,
            length,
        )

    def after_step(self) -> None:
        """Adapt the chances where an epoch ends."""
        if self._loader is None:
            return
        (length,) = {augmentation.epoch_length for augmentation in augmentations_of(self._model)}
        if (self.trainer.iter + 1) % length == 0:
            follow_held_out_loss(self._model, self._loader, self._cfg)

    @property
    def _model(self) -> nn.Module:
        model = self.trainer.model
        return model.module if isinstance(model, DistributedDataParallel) else model


def held_out_loader(cfg: CfgNode, images: Images) -> Any:
    """Return a loader of held-out training images, as at test, with their ground-truth boxes.

    Raises:
        InputError: there is no image.
    """
    if not images:
        raise InputError(
            f"DATASETS.HELD_OUT {cfg.DATASETS.HELD_OUT} holds out no image for {KEY}.ADAPT: hold "
            f"out more, or set {KEY}.ADAPT False"
        )
    arguments = DatasetMapper.from_config(cfg, is_train=False)
    arguments |= {"is_train": True, "use_instance_mask": False, "use_keypoint": False}
    return build_detection_test_loader(
        images,
        mapper=CheckedMapper(DatasetMapper(**arguments)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


@torch.no_grad()
def follow_held_out_loss(model: GeneralizedRCNN, loader: Any, cfg: CfgNode) -> None:
    """Measure the held-out loss of each stage's classifier and adapt its chances."""
    share_buffers(model)
    stages = _stages(model.roi_heads)
    losses = [HeldOutLoss(predictor.num_classes, model.device) for _, predictor in stages]
    with inference_context(model):
        for batch in loader:
            boxes = [image["instances"].gt_boxes.to(model.device) for image in batch]
            labels = torch.cat([image["instances"].gt_classes for image in batch])
            labels = labels.to(model.device)
            if not len(labels):
                continue
            pooled = _pool(model, batch, boxes)
            for (head, predictor), loss in zip(stages, losses, strict=True):
                loss.add(predictor.virtual_logits(head(pooled).flatten(1), labels), labels)
    groups = statistics_from_config(cfg).groups
    for (_, predictor), loss in zip(stages, losses, strict=True):
        assert isinstance(predictor.augmentation, FeatureAugmentation)
        predictor.augmentation.follow(loss.by_class(groups))


def _stages(heads: Any) -> list[tuple[nn.Module, IIFFastRCNNOutputLayers]]:
    """Return box head and predictor of each stage; one stage where the heads are no cascade."""
    if isinstance(heads, Res5ROIHeads):
        return [(nn.Identity(), heads.box_predictor)]
    if isinstance(heads, CascadeROIHeads):
        return list(zip(heads.box_head, heads.box_predictor, strict=True))
    return [(heads.box_head, heads.box_predictor)]


def _pool(model: GeneralizedRCNN, batch: list[dict[str, Any]], boxes: list[Boxes]) -> Tensor:
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    heads = model.roi_heads
    if isinstance(heads, Res5ROIHeads):
        levels = [features[name] for name in heads.in_features]
        return heads._shared_roi_transform(levels, boxes).mean(dim=(2, 3))
    return heads.box_pooler([features[name] for name in heads.box_in_features], boxes)
