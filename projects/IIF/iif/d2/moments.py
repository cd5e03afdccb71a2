"""The moments of a plain model's logits over sampled training regions, with Detectron2."""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from iif.d2.checkpoint import load_model
from iif.d2.datasets import check_dataset, register_custom_datasets
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.loader import train_loader
from iif.d2.plain import boxes_only, plain_model_config
from iif.d2.statistics import statistics_from_config
from iif.errors import InputError
from iif.files import sha256_file
from iif.methods.moments import Moments, RunningMoments
from iif.progress import progress


def gather_moments(
    cfg: CfgNode,
    weights: str,
    output: str | os.PathLike[str],
    *,
    iterations: int,
    momentum: float | None = None,
) -> Moments:
    """Run a plain model over training batches without gradient, and write its logits' moments.

    The regions are those that training samples, background among them; of a cascade those of all
    stages together. Batch normalisation uses its running statistics, as at test. Images of
    DATASETS.HELD_OUT are left out.

    Args:
        cfg: the model's configuration.
        weights: its checkpoint.
        output: the JSON file to write.
        iterations: how many batches of SOLVER.IMS_PER_BATCH images.
        momentum: of the running form; None for exact moments.

    Raises:
        InputError: the model was trained under a method, a class's logit never changed, or an
            argument cannot be used.
    """
    if iterations < 1:
        raise InputError(f"{iterations} iterations see no region; take one or more")
    cfg = boxes_only(plain_model_config(cfg, weights))
    register_custom_datasets(cfg)
    for name in cfg.DATASETS.TRAIN:
        check_dataset(name, "DATASETS.TRAIN", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    statistics = statistics_from_config(cfg)
    running = RunningMoments(len(statistics), momentum)
    model = load_model(cfg, weights)
    for predictor in model.modules():
        if isinstance(predictor, IIFFastRCNNOutputLayers):
            predictor.augmentation = None  # its virtual features are no regions
            predictor.cls_score.register_forward_hook(_adder(running))
    seed_all_rng(max(cfg.SEED, 0))
    batches = itertools.islice(train_loader(cfg), iterations)
    sample_as_training(model)
    with torch.no_grad(), EventStorage():
        for batch in progress(batches, desc="moments", unit="it", total=iterations):
            model(batch)
    moments = running.result(
        statistics,
        checkpoint=str(weights),
        checkpoint_sha256=sha256_file(weights),
        engine="detectron2",
        iterations=iterations,
    )
    moments.save(output)
    return moments


def sample_as_training(model: nn.Module) -> None:
    """Put a model into training mode, all but its batch normalisation."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _adder(running: RunningMoments) -> Any:
    """Return a forward hook that adds a classifier's outputs, the background's (last) left out."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        running.update(outputs[:, :-1])

    return add
