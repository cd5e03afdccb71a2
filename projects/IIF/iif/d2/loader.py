"""The training data, without the images that are held out of it, and the test data."""

from __future__ import annotations

import math
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler

from iif.d2.stream import CheckedMapper, TrainingLoader
from iif.data.split import held_out_images

Images = list[dict[str, Any]]


def train_loader(cfg: CfgNode) -> TrainingLoader:
    """Return the loader of DATASETS.TRAIN without the images of DATASETS.HELD_OUT."""
    return TrainingLoader(cfg, split_training_images(cfg)[0] if cfg.DATASETS.HELD_OUT else None)


def evaluation_loader(cfg: CfgNode, name: str) -> Any:
    """Return Detectron2's loader of a test set; an image that cannot be used is an InputError."""
    mapper = CheckedMapper(DatasetMapper(cfg, is_train=False))
    return build_detection_test_loader(cfg, name, mapper=mapper)


def split_training_images(cfg: CfgNode, *, log: bool = True) -> tuple[Images, Images]:
    """Return the images of DATASETS.TRAIN to train on, and those of DATASETS.HELD_OUT.

    Args:
        cfg: the configuration.
        log: let Detectron2 log its table of instances.
    """
    images = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        check_consistency=log,
    )
    held_out = held_out_images([image["image_id"] for image in images], cfg.DATASETS.HELD_OUT)
    kept: tuple[Images, Images] = ([], [])
    for image, out in zip(images, held_out, strict=True):
        kept[int(out)].append(image)
    return kept


def iterations_per_epoch(cfg: CfgNode, images: Images) -> int:
    """Return how many iterations an epoch has; repeat-factor sampling lengthens it.

    Args:
        cfg: the configuration.
        images: the images to train on.
    """
    size = float(len(images))
    if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            images, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        size = float(factors.double().sum())
    elif cfg.DATALOADER.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
        size *= cfg.DATALOADER.RANDOM_SUBSET_RATIO
    return max(1, math.ceil(size / cfg.SOLVER.IMS_PER_BATCH))
