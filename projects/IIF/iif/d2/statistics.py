"""From a configuration to the class statistics of its training set."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from iif import layout
from iif.d2.datasets import annotation_file, register_custom_datasets
from iif.data.annotation_file import read_annotation_file
from iif.data.counts import shared_images
from iif.errors import InputError
from iif.statistics import ClassStatistics


def statistics_from_config(cfg: CfgNode, *, training: bool = False) -> ClassStatistics:
    """Return the class statistics that a configuration speaks of.

    They are those of the file ``MODEL.LONG_TAIL.STATISTICS``, then (not for training) of the
    class_statistics.json beside ``MODEL.WEIGHTS``, then of that in ``OUTPUT_DIR``; otherwise the
    data sets of ``DATASETS.TRAIN`` are counted and added up. So evaluation and inference need no
    training data, also where an output folder was moved.

    Args:
        cfg: the configuration.
        training: whether a training is being set up: only what the configuration names is used.

    Raises:
        InputError: there is nothing to count, or it cannot be counted.
    """
    named = os.path.expandvars(os.path.expanduser(cfg.MODEL.LONG_TAIL.STATISTICS))
    if named and (training or os.path.isfile(named)):
        statistics = read_statistics(named)
    else:
        beside = [] if training else _saved(cfg)
        statistics = ClassStatistics.load(beside[0]) if beside else _count(cfg)
    if cfg.MODEL.LONG_TAIL.NUM_IMAGES:
        statistics = statistics.replace(num_images=cfg.MODEL.LONG_TAIL.NUM_IMAGES)
    if cfg.MODEL.LONG_TAIL.GROUP_LIMITS:
        statistics = statistics.replace(group_limits=list(cfg.MODEL.LONG_TAIL.GROUP_LIMITS))
    return statistics


def statistics_of_run(cfg: CfgNode) -> ClassStatistics | None:
    """Return the statistics that were saved for a run; None for a baseline evaluated without."""
    path = cfg.MODEL.LONG_TAIL.STATISTICS
    return ClassStatistics.load(path) if path else None


def save_statistics(cfg: CfgNode, statistics: ClassStatistics | None, *, evaluate: bool) -> None:
    """Write class_statistics.json beside the config.yaml of a run, and name it in ``cfg``.

    Args:
        cfg: the run's configuration.
        statistics: what was counted; None for a baseline that is evaluated without its data.
        evaluate: whether the run is an evaluation, whose files lie in a folder of their own.
    """
    cfg.MODEL.LONG_TAIL.STATISTICS = ""
    if statistics is not None:
        folder = Path(cfg.OUTPUT_DIR, layout.INFERENCE) if evaluate else Path(cfg.OUTPUT_DIR)
        statistics.save(folder / layout.STATISTICS)
        cfg.MODEL.LONG_TAIL.STATISTICS = str(folder / layout.STATISTICS)


def read_statistics(path: str) -> ClassStatistics:
    """Return the statistics of a class_statistics.json, or count an annotation file."""
    if ClassStatistics.is_saved(path):
        return ClassStatistics.load(path)
    return ClassStatistics.from_json(path)


def _saved(cfg: CfgNode) -> list[Path]:
    folders = [cfg.OUTPUT_DIR]
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        folders.insert(0, os.path.dirname(cfg.MODEL.WEIGHTS))
    paths = [Path(folder, layout.STATISTICS) for folder in folders]
    return [path for path in paths if path.is_file()]


def _count(cfg: CfgNode) -> ClassStatistics:
    if not len(cfg.DATASETS.TRAIN):
        raise InputError(
            "DATASETS.TRAIN is empty and MODEL.LONG_TAIL.STATISTICS is not set: one of them is "
            "needed to count the classes"
        )
    register_custom_datasets(cfg)
    statistics = reduce(_add, (_count_dataset(cfg, name) for name in cfg.DATASETS.TRAIN))
    if len(cfg.DATASETS.TRAIN) > 1:
        _warn_of_shared_images(cfg.DATASETS.TRAIN)
    return statistics


def _warn_of_shared_images(names: Sequence[str]) -> None:
    """Warn where an image is in several data sets that are counted together."""
    paths = [MetadataCatalog.get(name).get("json_file") or "" for name in names]
    files = [read_annotation_file(path) if os.path.isfile(path) else None for path in paths]
    for (one, first), (two, second) in combinations(zip(names, files, strict=True), 2):
        shared = shared_images(first, second) if first and second else 0
        if shared or one == two:
            number = f"{shared:,} of their images" if shared else "their images"
            warnings.warn(
                f"DATASETS.TRAIN: {one!r} and {two!r}: {number} are the same (id and file name) "
                "and count twice, in N and in their classes; name each image in one data set, or "
                "set MODEL.LONG_TAIL.STATISTICS to the annotations to count",
                stacklevel=2,
            )


def _count_dataset(cfg: CfgNode, name: str) -> ClassStatistics:
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    counted = metadata and metadata.get("class_image_count") and not metadata.get("custom", False)
    if metadata and counted and not os.path.isfile(metadata.get("json_file") or ""):
        # Counts by image alone, but they need no file.
        return ClassStatistics.from_metadata(metadata, cfg.MODEL.LONG_TAIL.NUM_IMAGES or None)
    path = annotation_file(name, "DATASETS.TRAIN")
    if path is None:
        raise InputError(
            f"data set {name!r} names no annotation file to count (json_file of its metadata): "
            "set MODEL.LONG_TAIL.STATISTICS"
        )
    return ClassStatistics.from_json(path)


def _add(first: ClassStatistics, second: ClassStatistics) -> ClassStatistics:
    """Return the statistics of two data sets together."""
    named = _names(first)
    if named != _names(second):
        raise InputError(
            f"{first.source} and {second.source}: the categories differ; data sets that are "
            "trained on together must have the same ids and names"
        )
    images, instances = Counter[int](), Counter[int]()
    for one in (first, second):
        images.update(dict(zip(one.ids.tolist(), one.image_count.tolist(), strict=True)))
        if one.instance_count is not None:
            instances.update(dict(zip(one.ids.tolist(), one.instance_count.tolist(), strict=True)))
    counted = first.instance_count is not None and second.instance_count is not None
    ids = sorted(images)
    return ClassStatistics(
        image_count=[images[key] for key in ids],
        num_images=first.num_images + second.num_images,
        instance_count=[instances[key] for key in ids] if counted else None,
        names=[named[key] for key in ids],
        ids=ids,
        federated=first.federated and second.federated,
        source=f"{first.source} + {second.source}",
        left_out={key: name for key, name in named.items() if key not in images},
    )


def _names(statistics: ClassStatistics) -> dict[int, str]:
    own = dict(zip(statistics.ids.tolist(), statistics.names, strict=True))
    return own | statistics.left_out
