"""Training torchvision's Faster R-CNN and Mask R-CNN on files in LVIS's or COCO's format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from iif import layout
from iif.data.annotations import load_annotations
from iif.distributed import (
    lock_output,
    pick_device,
    process_group,
    rank,
    share_buffers,
    world_size,
)
from iif.errors import InputError
from iif.files import versions, write_json
from iif.statistics import ClassStatistics
from iif.tv import checkpoint
from iif.tv.augmentation import Adaptation, iterations_per_epoch
from iif.tv.config import TrainConfig
from iif.tv.dataset import DetectionImages, DetectionTargets, Target, training_batches
from iif.tv.inference import check_classes
from iif.tv.log import TrainingLog, log_file, logger
from iif.tv.model import augmentation_of, build_model
from iif.tv.validation import Validation, remove_older


def train(
    train_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config: TrainConfig | None = None,
    *,
    val_json: str | os.PathLike[str] | None = None,
    val_image_root: str | os.PathLike[str] | None = None,
    exhaustive: bool | None = None,
    resume: bool = False,
    device: str | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Train a model under a long-tail method, or the plain baseline, and evaluate it.

    Writes into ``output_dir``: ``config.json``, ``class_statistics.json``, checkpoints and
    ``last_checkpoint``, ``log.txt``, ``metrics.json``, TensorBoard's events, and with ``val_json``
    ``inference/lvis_instances_results.json`` and ``inference/eval_summary.json``. The processes
    that torchrun started share each batch. With ``evaluation_period`` it is evaluated during
    training, too, and ``model_best.pth`` and ``best_checkpoint.json`` are kept.

    On the CPU, the same settings, seed and number of processes give the same model, whether the
    run was interrupted and resumed or not.

    Args:
        train_json: annotations to train on and count the classes in, in LVIS's or COCO's format.
        image_root: the folder that their file names start from.
        output_dir: where to write.
        config: the settings; by default the published ones on LVIS v1.
        val_json: annotations to evaluate on, of the same categories.
        val_image_root: the folder that the file names of ``val_json`` start from; by default
            ``image_root``.
        exhaustive: whether every category was verified in every image, as in COCO; by default the
            content of each file tells.
        resume: go on from the last checkpoint in ``output_dir``, if it has one.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.
        notes: sentences on why the settings are as they are, for config.json and log.txt.

    Returns:
        the summary of the last evaluation, in process 0 and with ``val_json``; None otherwise.

    Raises:
        InputError: invalid input, or another run writes into ``output_dir``. Everything is checked
            before training, except that images and masks are decoded when first used.
        FloatingPointError: a loss is no longer finite.
        ConnectionAbortedError: another of several processes has failed.
    """
    config = config or TrainConfig()
    folder = Path(output_dir)
    where = pick_device(device)
    if config.amp and where.type != "cuda":
        raise InputError(f"amp is for GPUs, the device is {where}; set amp=false")
    refuse_earlier_run(folder, resume)
    with process_group(where):
        if config.images_per_batch % world_size():
            raise InputError(
                f"images_per_batch is {config.images_per_batch}; it must be a multiple of the "
                f"{world_size()} processes"
            )
        statistics = ClassStatistics.from_json(train_json)
        if config.group_limits is not None:
            statistics = statistics.replace(group_limits=config.group_limits)
        masks = config.model.startswith("maskrcnn")
        annotations = load_annotations(
            train_json, exhaustive=exhaustive, masks=masks, statistics=statistics
        )
        adapting = config.fasa.enabled and config.fasa.adapt
        val_images = None
        if val_json is not None:
            val_annotations = load_annotations(
                val_json, exhaustive=exhaustive, statistics=statistics
            )
            check_classes(val_annotations, statistics, os.fspath(train_json))
            val_images = DetectionImages(val_annotations, val_image_root or image_root)
            if adapting and val_annotations.sha256 == annotations.sha256:
                raise InputError(
                    f"{val_annotations.path}: has the annotations of the training set; FASA must "
                    "not adapt to the data that the result is measured on"
                )
        data = DetectionTargets(
            annotations,
            image_root,
            masks=masks,
            cache=config.cache_images,
            held_out=config.held_out,
        )
        adaptation = None
        if adapting:
            adaptation = Adaptation(annotations, image_root, config.held_out, statistics.groups)
        with lock_output(folder):
            refuse_earlier_run(folder, resume)  # one that ended while the input was checked
            previous = None
            if resume and (folder / layout.LAST_CHECKPOINT).exists():
                previous = checkpoint.read(folder, where)
            torch.manual_seed(config.seed)
            if previous is None:
                model = build_model(config, statistics)
            else:
                model = checkpoint.resume(previous, config, statistics, os.fspath(folder))
            model = model.to(where)
            validation = None
            if val_images is not None:
                best = None if previous is None else previous.get("best")
                validation = Validation(val_images, config, statistics, folder, where, best)
            with log_file(folder):
                if rank() == 0:
                    settings = {"config": config.to_dict(), "train": annotations.path}
                    settings |= {"notes": list(notes), "versions": versions()}
                    write_json(folder / layout.CONFIG_JSON, settings)
                    statistics.save(folder / layout.STATISTICS)
                for note in notes:
                    logger.info("%s", note)
                logger.info("Settings: %s", config.to_dict())
                logger.info("Class statistics: %s; device: %s", statistics, where)
                _run(
                    model, data, config, statistics, folder, where, previous, adaptation, validation
                )
                return None if validation is None else validation.summary


def refuse_earlier_run(folder: Path, resume: bool) -> None:
    """Raise InputError where a run that is not to go on lies in an output folder."""
    if not resume and (folder / layout.LAST_CHECKPOINT).exists():
        raise InputError(
            f"{folder}: holds checkpoints of an earlier run; resume it or take another folder"
        )


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """Return the learning rate of an iteration: linear warm-up, then a tenth after each step."""
    factor = 0.1 ** sum(iteration >= step for step in config.steps)
    if iteration < config.warmup_iterations:
        done = iteration / config.warmup_iterations
        factor *= config.warmup_factor * (1 - done) + done
    return config.base_lr * factor


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(
        parameters,
        lr=config.base_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _run(
    model: nn.Module,
    data: DetectionTargets,
    config: TrainConfig,
    statistics: ClassStatistics,
    folder: Path,
    device: torch.device,
    previous: dict[str, Any] | None,
    adaptation: Adaptation | None,
    validation: Validation | None,
) -> None:
    """Train ``model`` in place from where ``previous`` stopped to ``config.iterations``.

    ``validation`` evaluates it when it is due, at the end in any case.
    """
    optimizer = _optimizer(model, config)
    start = 0
    if previous is not None:
        optimizer.load_state_dict(previous["optimizer"])
        start = previous["iteration"]
        logger.info("Resuming %s after %d iterations", checkpoint.find(folder).name, start)
    augmentation = augmentation_of(model)
    if augmentation is not None and not augmentation.epoch_length:
        augmentation.epoch_length = iterations_per_epoch(data, config)
    model.train()

    def save(name: str, done: int) -> None:
        if rank() > 0:
            return
        best = None if validation is None else validation.best
        path = folder / name
        checkpoint.save(path, model, optimizer, config, statistics, done, best=best)
        logger.info("Saved %s after %d iterations", name, done)
        if name != layout.BEST_CHECKPOINT and not config.keep_all_checkpoints:
            remove_older(folder, name)

    def evaluate(done: int) -> None:
        if validation is not None and validation.is_due(done):
            validation.evaluate(model, done, lambda name: save(name, done))

    parallel = model
    if world_size() > 1:
        on_gpu = device.type == "cuda"
        # DDP regroups the gradients after its first iteration unless it looks for unused
        # parameters. The sums of three and more then have other bits, and a resumed run as well.
        parallel = DistributedDataParallel(
            model,
            device_ids=[device.index] if on_gpu else None,
            find_unused_parameters=not on_gpu and world_size() > 2,
        )
    with TrainingLog(folder, start, config.iterations) as log:
        batches = log.watch(training_batches(data, config, start))
        for iteration, (images, targets) in enumerate(batches, start):
            # The random numbers of an iteration depend on these three alone, so that a resumed run
            # draws what the uninterrupted one would have drawn.
            state = np.random.SeedSequence([config.seed, iteration, rank()]).generate_state(1)
            torch.manual_seed(int(state[0]))
            rate = learning_rate(config, iteration)
            losses = _step(parallel, optimizer, config, rate, images, targets, device)
            done = iteration + 1
            if adaptation and augmentation and done % augmentation.epoch_length == 0:
                adaptation.follow(model, device)
            log.add(done, losses, rate)
            if done < config.iterations:
                evaluate(done)
            if done % config.checkpoint_period == 0 and done < config.iterations:
                save(layout.checkpoint(iteration), done)
    if start < config.iterations or checkpoint.find(folder).name != layout.FINAL_CHECKPOINT:
        save(layout.FINAL_CHECKPOINT, config.iterations)
    share_buffers(model)  # and no process returns before the last checkpoint is there
    evaluate(config.iterations)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    rate: float,
    images: list[Tensor],
    targets: list[Target],
    device: torch.device,
) -> dict[str, Tensor]:
    """Do one iteration; return its losses, detached, with their sum as ``total_loss``."""
    images = [image.to(device, non_blocking=True) for image in images]
    targets = [
        {key: value.to(device, non_blocking=True) for key, value in target.items()}
        for target in targets
    ]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp):
        losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
    detached = {name: loss.detach() for name, loss in losses.items()}
    if not torch.isfinite(total):
        values = ", ".join(f"{name} {float(loss):.4g}" for name, loss in detached.items())
        raise FloatingPointError(
            f"the loss is no longer finite ({values}); lower base_lr, lengthen the warm-up or set "
            "clip_gradients"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    total.backward()
    if config.clip_gradients is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradients)
    optimizer.step()
    return {**detached, "total_loss": total.detach()}
