"""The training data, without the images that are held out of it."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts

from iif.data.split import held_out_images


def train_loader(cfg: CfgNode) -> Any:
    """Return Detectron2's loader of DATASETS.TRAIN without the images of DATASETS.HELD_OUT."""
    if not cfg.DATASETS.HELD_OUT:
        return build_detection_train_loader(cfg)
    images = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    held_out = held_out_images([image["image_id"] for image in images], cfg.DATASETS.HELD_OUT)
    kept = [image for image, out in zip(images, held_out, strict=True) if not out]
    return build_detection_train_loader(cfg, dataset=kept)
