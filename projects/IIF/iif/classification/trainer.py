"""Training a classifier on long-tailed images, in one stage or two."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from iif import layout
from iif.classification import checkpoint
from iif.classification.config import ClassifyConfig
from iif.classification.counts import held_out_rows
from iif.classification.images import DataSet, ImageSet
from iif.classification.inference import evaluate_model
from iif.classification.loss import class_balanced_weights, classification_loss
from iif.classification.model import ClassificationModel, build_model
from iif.classification.sources import load_data
from iif.classification.transforms import iterations_per_epoch, mixer, training_loader
from iif.distributed import (
    pick_device,
    process_group,
    rank,
    share_buffers,
    world_size,
)
from iif.errors import InputError
from iif.evaluation.classification.summary import ClassificationSummary
from iif.files import sha256_file, versions, write_json
from iif.locking import folder_lock
from iif.progress import progress
from iif.statistics import ClassStatistics

_LOG_PERIOD = 20


def train(
    config: ClassifyConfig,
    output_dir: str | os.PathLike[str],
    *,
    start: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | None = None,
    data: DataSet | None = None,
) -> ClassificationSummary | None:
    """Train a classifier under a long-tail method, or the plain baseline, and test it.

    Writes into ``output_dir``: ``classification.json``, ``class_statistics.json``, checkpoints
    and ``last_checkpoint``, TensorBoard's events, ``inference/predictions.npz`` and
    ``inference/eval_summary.json``. The last epoch is tested; nothing is chosen on the test set.
    The processes that torchrun started share each batch.

    On the CPU, the same settings, seed and number of processes give the same model, whether the
    run was interrupted and resumed or not.

    Args:
        config: the settings.
        output_dir: where to write.
        start: a run whose backbone and classifier the training starts from (the second stage).
        resume: go on from the last checkpoint in ``output_dir``, if it has one.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.
        data: the data set, by default that of the settings.

    Returns:
        the evaluation summary, in process 0; None in others.

    Raises:
        InputError: invalid input. Everything is checked before training, except that images are
            decoded when first used.
        FloatingPointError: the loss is no longer finite.
    """
    folder, where = Path(output_dir), pick_device(device)
    if config.amp and where.type != "cuda":
        raise InputError(f"amp is for GPUs, the device is {where}; set amp=false")
    with process_group(where), contextlib.ExitStack() as held:
        if rank() == 0:
            held.enter_context(folder_lock(folder))
        started = (folder / layout.LAST_CHECKPOINT).exists()
        if started and not resume:
            raise InputError(
                f"{folder}: holds checkpoints of an earlier run; resume it or take another folder"
            )
        if config.images_per_batch % world_size():
            raise InputError(
                f"images_per_batch is {config.images_per_batch}; it must be a multiple of the "
                f"{world_size()} processes"
            )
        data = data or load_data(config)
        statistics = data.statistics()
        images = training_images(data, config)
        torch.manual_seed(config.seed)
        previous, origin = None, None
        if started:
            previous = checkpoint.read(folder, where)
            model = checkpoint.resume(previous, config, statistics, os.fspath(folder))
            origin = previous["start"]
        elif start is not None:
            path = checkpoint.find(start)
            model = checkpoint.start_from(checkpoint.read(path), config, statistics, str(path))
            origin = {"checkpoint": str(path), "sha256": sha256_file(path)}
        elif config.freeze_backbone and config.weights is None:
            raise InputError(
                "freeze_backbone is true, but the backbone is untrained; start from a run (the "
                "second stage) or from weights"
            )
        else:
            model = build_model(config, config.build_method(statistics), len(statistics))
        model = model.to(where)
        if config.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if rank() == 0:
            record = {"config": config.to_dict(), "start": origin, "versions": versions()}
            write_json(folder / layout.CLASSIFICATION_JSON, record)
            statistics.save(folder / layout.STATISTICS)
        TrainingRun(model, images, config, statistics, folder, where, previous, origin).train()
        return evaluate_model(model, data, config, statistics, folder / layout.INFERENCE, where)


def training_images(data: DataSet, config: ClassifyConfig) -> ImageSet:
    """Return the training images that are not held out.

    Raises:
        InputError: they are fewer than a batch.
    """
    images = data.train
    if config.held_out:
        images = images.part(np.flatnonzero(~held_out_rows(images.labels, config.held_out)))
    if len(images) < config.images_per_batch:
        raise InputError(
            f"{data.source}: has {len(images)} images to train on, fewer than images_per_batch="
            f"{config.images_per_batch}; take smaller batches"
        )
    return images.in_memory() if config.cache_images else images


def learning_rate(config: ClassifyConfig, iteration: int, per_epoch: int) -> float:
    """Return the learning rate of an iteration.

    Args:
        config: schedule and warm-up.
        iteration: counted from 0.
        per_epoch: iterations of an epoch.
    """
    if config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * iteration / (config.epochs * per_epoch)))
    else:
        epoch = iteration // per_epoch
        factor = config.step_factor ** sum(epoch >= step for step in config.steps)
    warmup = config.warmup_epochs * per_epoch
    if iteration < warmup:
        done = iteration / warmup
        factor *= config.warmup_factor * (1 - done) + done
    return config.base_lr * factor


class TrainingRun:
    """One training run: what the loop reads and changes."""

    def __init__(
        self,
        model: ClassificationModel,
        images: ImageSet,
        config: ClassifyConfig,
        statistics: ClassStatistics,
        folder: Path,
        device: torch.device,
        previous: dict[str, Any] | None = None,
        origin: dict[str, Any] | None = None,
    ) -> None:
        """Prepare the optimizer.

        Args:
            model: on the device, trained in place.
            images: those to train on.
            config, statistics: of the run.
            folder: where events and checkpoints go.
            device: the model's.
            previous: the checkpoint to go on from.
            origin: what a second stage began with, for the checkpoints.
        """
        self.model, self.config, self.statistics = model, config, statistics
        self.images, self.folder, self.device, self.origin = images, folder, device, origin
        self.per_epoch = iterations_per_epoch(config, len(images))
        self.mix = mixer(config, len(statistics))
        self.weights = class_balanced_weights(statistics.image_count).to(device)
        self.optimizer = torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=config.base_lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.start = 0
        if previous is not None:
            self.optimizer.load_state_dict(previous["optimizer"])
            self.start = previous["epoch"]

    def train(self) -> None:
        """Train the model in place up to the last epoch; save checkpoints on the way."""
        config, parallel = self.config, self._parallel()
        if self.start >= config.epochs:
            return
        self.model.train()
        writer = self._event_writer() if rank() == 0 else None
        loader: DataLoader[Any] = training_loader(self.images, config, self.start, self.device)
        first = self.start * self.per_epoch
        bar = progress(
            loader,
            desc="training",
            unit="it",
            initial=first,
            total=config.epochs * self.per_epoch,
            mininterval=1.0,
        )
        for iteration, (images, labels) in enumerate(bar, first):
            # The random numbers of an iteration depend on these three alone, so that a resumed
            # run draws what the uninterrupted one would have drawn.
            state = np.random.SeedSequence([config.seed, iteration, rank()]).generate_state(1)
            torch.manual_seed(int(state[0]))
            rate = learning_rate(config, iteration, self.per_epoch)
            loss = self._step(parallel, images, labels, rate, iteration // self.per_epoch)
            done = iteration + 1
            ends_epoch = done % self.per_epoch == 0
            if done % _LOG_PERIOD == 0 or ends_epoch:
                self._log(writer, bar, float(loss), rate, done)
            if ends_epoch:
                self._save(done // self.per_epoch)
        if writer is not None:
            writer.close()
        share_buffers(self.model)

    def _parallel(self) -> nn.Module:
        if self.config.compile:
            self.model.compile()
        if world_size() == 1:
            return self.model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices)

    def _step(
        self, model: nn.Module, images: Tensor, labels: Tensor, rate: float, epoch: int
    ) -> Tensor:
        """Do one iteration; return its loss, detached."""
        config = self.config
        memory = torch.channels_last if config.channels_last else torch.contiguous_format
        images = images.to(self.device, non_blocking=True, memory_format=memory)
        labels = labels.to(self.device, non_blocking=True)
        soft = None
        if self.mix is not None:
            images, soft = self.mix(images, labels)
        deferred = config.reweight_from is not None and epoch >= config.reweight_from
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.amp):
            outputs = model(images)
        weight = self.weights if deferred else None
        loss = classification_loss(self.model.method, outputs, labels, soft, weight)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _log(self, writer: Any, bar: Any, loss: float, rate: float, done: int) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is no longer finite ({loss} at iteration {done}); lower base_lr or "
                "lengthen the warm-up"
            )
        if writer is not None:
            writer.add_scalar("loss", loss, done)
            writer.add_scalar("lr", rate, done)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def _save(self, epoch: int) -> None:
        """Save a checkpoint after the epochs that call for one."""
        last = epoch == self.config.epochs
        if rank() == 0 and (last or epoch % self.config.checkpoint_period == 0):
            name = layout.FINAL_CHECKPOINT if last else layout.checkpoint(epoch - 1)
            checkpoint.save(
                self.folder / name,
                self.model,
                self.optimizer,
                self.config,
                self.statistics,
                epoch,
                self.origin,
            )

    def _event_writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("tensorboard is not installed: pip install tensorboard") from None
        return SummaryWriter(str(self.folder), purge_step=self.start * self.per_epoch + 1)
