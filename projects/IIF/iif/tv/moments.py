"""The moments of a plain model's logits over sampled training regions, with torchvision."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from iif.data.annotations import load_annotations
from iif.distributed import pick_device
from iif.errors import InputError
from iif.files import sha256_file
from iif.methods.moments import Moments, RunningMoments
from iif.progress import progress
from iif.tv import checkpoint
from iif.tv.dataset import DetectionTargets, training_batches
from iif.tv.inference import check_classes
from iif.tv.model import drop_masks, method_of


def gather_moments(
    run: str | os.PathLike[str],
    train_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    iterations: int,
    momentum: float | None = None,
    exhaustive: bool | None = None,
    device: str | None = None,
) -> Moments:
    """Run a plain model over training batches without gradient, and write its logits' moments.

    The regions are those that training samples, background among them. Batch normalisation uses
    its running statistics, as at test. Images that were held out of training are left out.

    Args:
        run: a checkpoint or an output folder of `iif.tv.train`.
        train_json: the annotations that it was trained on.
        image_root: the folder that their file names start from.
        output: the JSON file to write.
        iterations: how many batches of the run's images_per_batch images.
        momentum: of the running form; None for exact moments.
        exhaustive: whether every category is annotated in every image; by default the file tells.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Raises:
        InputError: the model was trained under a method, a class's logit never changed, or an
            argument cannot be used.
    """
    if iterations < 1:
        raise InputError(f"{iterations} iterations see no region; take one or more")
    where = pick_device(device)
    path = checkpoint.find(run)
    detector = checkpoint.load(path, where)
    model: Any = detector.model
    refuse_trained_method(model, os.fspath(path))
    annotations = load_annotations(
        train_json, exhaustive=exhaustive, statistics=detector.statistics
    )
    check_classes(annotations, detector.statistics, "the model")
    config = msgspec.structs.replace(detector.config, iterations=iterations)
    data = DetectionTargets(annotations, image_root, masks=False, held_out=config.held_out)
    running = RunningMoments(len(detector.statistics), momentum)
    drop_masks(model)
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    model.roi_heads.box_predictor.cls_score.register_forward_hook(_adder(running))
    torch.manual_seed(config.seed)
    with torch.no_grad():
        for images, targets in progress(
            training_batches(data, config, 0),
            desc="moments",
            unit="it",
            total=iterations,
        ):
            moved = [{key: value.to(where) for key, value in t.items()} for t in targets]
            model([image.to(where) for image in images], moved)
    moments = running.result(
        detector.statistics,
        checkpoint=os.fspath(path),
        checkpoint_sha256=sha256_file(path),
        engine="torchvision",
        iterations=iterations,
    )
    moments.save(output)
    return moments


def refuse_trained_method(model: nn.Module, source: str) -> None:
    """Raise InputError where a model was trained under a method: its logits are not plain."""
    method = method_of(model)
    if method.acts_in_training:
        raise InputError(
            f"{source}: was trained under method {method.name}; give a plain model, trained with "
            "the plain softmax"
        )


def _adder(running: RunningMoments) -> Any:
    """Return a forward hook that adds a classifier's outputs, the background's (first) left out."""

    def add(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        running.update(outputs[:, 1:])

    return add
