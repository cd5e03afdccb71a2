"""From a configuration to class frequencies, and from these to the weights of its model."""

from __future__ import annotations

import math
import os
from functools import reduce

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

from iif.d2.datasets import annotation_file, register_custom_datasets
from iif.errors import InputError
from iif.statistics import ClassStatistics
from iif.weights import VARIANTS, iif_weights


def statistics_from_config(cfg: CfgNode) -> ClassStatistics:
    """Return the class frequencies that ``cfg`` holds or, where it holds none, counts them.

    They are counted in ``MODEL.IIF.FREQUENCY_FILE`` or else in the data sets of
    ``DATASETS.TRAIN``, whose counts are added up.

    Raises:
        InputError: there is nothing to count, or it cannot be counted.
    """
    stored = cfg.MODEL.IIF.FREQUENCY
    if len(stored.IMAGE_COUNT):
        statistics = ClassStatistics.from_dict(
            {
                "ids": stored.IDS,
                "names": stored.NAMES,
                "image_count": stored.IMAGE_COUNT,
                "instance_count": stored.INSTANCE_COUNT or None,
                "num_images": stored.NUM_IMAGES,
                "source": stored.SOURCE,
            }
        )
    else:
        statistics = _count(cfg)
    if cfg.MODEL.IIF.NUM_IMAGES:
        statistics = ClassStatistics.from_dict(
            {**statistics.to_dict(), "num_images": cfg.MODEL.IIF.NUM_IMAGES}
        )
    return statistics


def store_statistics(cfg: CfgNode, statistics: ClassStatistics) -> None:
    """Write the counts into ``cfg.MODEL.IIF.FREQUENCY``, where they need no data set any more."""
    for key, value in statistics.to_dict().items():
        cfg.MODEL.IIF.FREQUENCY[key.upper()] = [] if value is None else value


def clear_statistics(cfg: CfgNode) -> None:
    """Remove the counts from ``cfg``, so that the next use counts anew."""
    for key, value in cfg.MODEL.IIF.FREQUENCY.items():
        cfg.MODEL.IIF.FREQUENCY[key] = type(value)()


def weights_from_config(cfg: CfgNode) -> Tensor | None:
    """Return the IIF weights (K,) float64 that ``cfg`` asks for, None for the plain baseline.

    Raises:
        InputError: a key of MODEL.IIF has no legal value, the loss is not the softmax cross
            entropy, the counts are missing or belong to another number of classes, or a weight
            is unusable.
    """
    options = cfg.MODEL.IIF
    if options.VARIANT == "none":
        return None
    if options.VARIANT not in VARIANTS:
        raise InputError(
            f"MODEL.IIF.VARIANT is {options.VARIANT!r}; it must be one of none, "
            f"{', '.join(VARIANTS)}"
        )
    if not 0 <= options.STRENGTH < math.inf:
        raise InputError(
            f"MODEL.IIF.STRENGTH is {options.STRENGTH}; it must be 0 (the baseline) or more"
        )
    if options.STRENGTH == 0:
        return None
    refuse_sigmoid(cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE or cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS)
    statistics = statistics_from_config(cfg)
    if len(statistics) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but "
            f"{statistics.source} counts {len(statistics)} classes: set "
            f"MODEL.ROI_HEADS.NUM_CLASSES {len(statistics)}"
        )
    weights = iif_weights(
        statistics,
        options.VARIANT,
        options.COUNT_BY,
        zero_count=options.ZERO_COUNT,
        nonpositive=options.NONPOSITIVE,
    )
    return weights**options.STRENGTH


def refuse_sigmoid(use_sigmoid: bool) -> None:
    """Raise InputError where the classification loss is not the softmax cross entropy."""
    if use_sigmoid:
        raise InputError(
            "IIF is defined for the softmax cross entropy: set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE "
            "and USE_FED_LOSS to False, or MODEL.IIF.VARIANT to none"
        )


def _count(cfg: CfgNode) -> ClassStatistics:
    path = cfg.MODEL.IIF.FREQUENCY_FILE
    if path:
        return ClassStatistics.from_json(os.path.expandvars(os.path.expanduser(path)))
    if not len(cfg.DATASETS.TRAIN):
        raise InputError(
            "DATASETS.TRAIN is empty and MODEL.IIF.FREQUENCY_FILE is not set: IIF needs one of "
            "them to count the classes"
        )
    register_custom_datasets(cfg)
    return reduce(_add, (_count_dataset(name) for name in cfg.DATASETS.TRAIN))


def _count_dataset(name: str) -> ClassStatistics:
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    if metadata and metadata.get("class_image_count") and not os.path.isfile(metadata.json_file):
        # Counts by image alone, but they need no file.
        return ClassStatistics.from_metadata(metadata)
    path = annotation_file(name, "DATASETS.TRAIN")
    if path is None:
        raise InputError(
            f"data set {name!r} names no annotation file to count (json_file of its metadata): "
            "set MODEL.IIF.FREQUENCY_FILE"
        )
    return ClassStatistics.from_json(path)


def _add(first: ClassStatistics, second: ClassStatistics) -> ClassStatistics:
    """Return the frequencies of two data sets together."""
    if not np.array_equal(first.ids, second.ids) or first.names != second.names:
        raise InputError(
            f"{first.source} and {second.source}: the categories differ; data sets that are "
            "trained on together must have the same ids and names"
        )
    instances = None
    if first.instance_count is not None and second.instance_count is not None:
        instances = first.instance_count + second.instance_count
    return ClassStatistics(
        image_count=first.image_count + second.image_count,
        num_images=first.num_images + second.num_images,
        instance_count=instances,
        names=first.names,
        ids=first.ids,
        source=f"{first.source} + {second.source}",
    )
