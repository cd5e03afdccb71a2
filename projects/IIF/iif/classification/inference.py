"""What a model predicts of images, evaluated and written."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iif import layout
from iif.classification import checkpoint
from iif.classification.config import ClassifyConfig
from iif.classification.images import DataSet, ImageSet
from iif.classification.model import ClassificationModel
from iif.classification.sources import load_data
from iif.classification.transforms import evaluation_loader
from iif.distributed import gather, pick_device, process_group, rank, world_size
from iif.errors import InputError
from iif.evaluation.classification.evaluate import write_evaluation
from iif.evaluation.classification.predictions import Predictions
from iif.evaluation.classification.summary import ClassificationSummary
from iif.methods import Method
from iif.progress import progress
from iif.statistics import ClassStatistics


@torch.no_grad()
def classifier_outputs(
    model: ClassificationModel, images: ImageSet, config: ClassifyConfig, device: torch.device
) -> Tensor | None:
    """Return the classifier's outputs (I, K), float32 on the CPU, in process 0; None in others.

    Args:
        model: on the device; its method has no part in the outputs.
        images: the I images, which the processes share.
        config: transforms, batch size, workers and precision.
        device: the model's.
    """
    model.eval()
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    loader = evaluation_loader(images, config, device)
    found = []
    for batch in progress(loader, desc="predicting", unit="batch"):
        batch = batch.to(device, non_blocking=True, memory_format=memory)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp):
            found.append(model(batch).float().cpu())
    own = torch.cat(found).numpy() if found else np.zeros((0, 0), np.float32)
    shares = gather(own)
    if shares is None:
        return None
    outputs = torch.empty(len(images), max(share.shape[1] for share in shares))
    for process, share in enumerate(shares):
        outputs[process :: world_size()] = torch.from_numpy(share)
    return outputs


def predictions(method: Method, outputs: Tensor, images: ImageSet) -> Predictions:
    """Return the predictions under a method of the classifier's outputs (I, K).

    Raises:
        InputError: an output is not finite.
    """
    logits = copy.deepcopy(method).cpu().eval().test_logits(outputs)
    return Predictions.from_logits(logits.numpy(), images.labels, list(images.names))


def evaluate_model(
    model: ClassificationModel,
    data: DataSet,
    config: ClassifyConfig,
    statistics: ClassStatistics,
    folder: Path,
    device: torch.device,
) -> ClassificationSummary | None:
    """Test a model; write its predictions and the summary in process 0, where it is returned.

    Args:
        model: on the device.
        data: its test images.
        config: for transforms, and as the summary records it.
        statistics: of the training set.
        folder: of the evaluation.
        device: the model's.
    """
    outputs = classifier_outputs(model, data.test, config, device)
    if outputs is None:
        return None
    return write_evaluation(
        folder,
        predictions(model.method, outputs, data.test),
        statistics,
        dataset_name=data.name,
        method=model.method.record(),
        config={"engine": "classification", **config.to_dict()},
    )


def evaluate(
    run: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    config: ClassifyConfig | None = None,
    *,
    device: str | None = None,
) -> ClassificationSummary | None:
    """Test a trained model; a plain one takes a method that acts at test alone (post-hoc).

    Writes ``inference/predictions.npz`` and ``inference/eval_summary.json`` into ``output_dir``.

    Args:
        run: a checkpoint or an output folder of `train`.
        output_dir: where to write.
        config: settings to test under, by default those of training.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Returns:
        the summary, in process 0; None in others.

    Raises:
        InputError: as `checkpoint.load`, or the data cannot be used.
    """
    where = pick_device(device)
    classifier = checkpoint.load(run, where, config)
    data = load_data(classifier.config)
    if list(data.classes) != classifier.statistics.names:
        raise InputError(
            f"{data.source}: has other classes than {run} was trained on; give the same data"
        )
    folder = Path(output_dir)
    with process_group(where):
        if rank() == 0:
            classifier.statistics.save(folder / layout.STATISTICS)
        return evaluate_model(
            classifier.model,
            data,
            classifier.config,
            classifier.statistics,
            folder / layout.INFERENCE,
            where,
        )


def metrics_text(summary: ClassificationSummary) -> str:
    """Return the metrics in a line."""
    metrics: dict[str, Any] = summary.metrics
    return ", ".join(
        f"{name} {value:.2f}" if value is not None else f"{name} -"
        for name, value in metrics.items()
    )
