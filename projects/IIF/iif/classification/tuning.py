"""Choosing a post-hoc method and its value on held-out training images; the moments of LogN."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from iif import layout
from iif.classification import checkpoint
from iif.classification.classifiers import CosineClassifier
from iif.classification.config import ClassifyConfig
from iif.classification.counts import held_out_rows
from iif.classification.images import DataSet
from iif.classification.inference import classifier_outputs, predictions
from iif.classification.model import fit_method
from iif.classification.sources import load_data
from iif.classification.trainer import training_images
from iif.classification.transforms import iterations_per_epoch, training_loader
from iif.distributed import pick_device
from iif.errors import InputError
from iif.evaluation.classification.evaluate import evaluate_predictions, write_evaluation
from iif.files import atomic_write, sha256_file, versions, write_json
from iif.methods.moments import Moments, RunningMoments
from iif.methods.record import PLAIN as PLAIN_RECORD
from iif.methods.record import RECORD
from iif.progress import progress
from iif.tuning import BEST, NOT_FOLDED, PLAIN, Candidate, candidates

FORMAT = "iif-tuning-classification/1"
# What is compared: the mean over the classes, which the balanced test set measures too.
METRIC = "mean_class"
_HELD_OUT = 0.1


def tune_all(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    fraction: float | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Try every post-hoc method at every value on training images, and choose the best.

    Chosen is by the mean accuracy of the classes: the images are as long-tailed as the training
    set, and by their overall accuracy the plain model would win. Writes ``tuning.json``, the
    evaluation of the plain model and of the best (``plain`` and ``best``), and ``folded.pth``, a
    plain checkpoint with the same predictions, where the best folds.

    Args:
        run: a plain checkpoint or its output folder.
        output: the folder to write to.
        fraction: the part of each class's images to look at; the run's held_out by default or,
            where that is 0, a tenth.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Returns:
        the content of tuning.json.

    Raises:
        InputError: the model was trained under a method, the data are not those that it was
            trained on, or the fraction is out of its range.
    """
    where, path, folder = pick_device(device), checkpoint.find(run), Path(output)
    classifier, data = _plain_run(path, where)
    config, statistics = classifier.config, classifier.statistics
    fraction = (config.held_out or _HELD_OUT) if fraction is None else fraction
    rows = np.flatnonzero(held_out_rows(data.train.labels, fraction))
    if not len(rows):
        raise InputError(f"no image of {data.source} is held out with a fraction of {fraction}")
    images = data.train.part(rows)
    options = msgspec.to_builtins(config.options)
    tried, skipped = candidates(statistics, options, background=False)
    outputs = classifier_outputs(classifier.model, images, config, where)
    assert outputs is not None
    found = []
    for candidate in tried:
        fit_method(candidate.method, classifier.model.classifier)
        found.append(predictions(candidate.method, outputs, images))
    metrics = [evaluate_predictions(each, statistics).metrics for each in found]
    best = int(np.argmax([row[METRIC] or 0.0 for row in metrics]))
    for name, row in {PLAIN: 0, BEST: best}.items():
        write_evaluation(
            folder / name / layout.INFERENCE,
            found[row],
            statistics,
            dataset_name=f"{data.name}, {len(images):,} training images",
            method=tried[row].method.record(),
            config={"engine": "classification", **_config_of(config, tried[row]).to_dict()},
        )
    result = {
        "format": FORMAT,
        "versions": versions(),
        "checkpoint": os.fspath(path),
        "checkpoint_sha256": sha256_file(path),
        "fraction": fraction,
        "num_images": len(images),
        "seen_in_training": fraction > config.held_out,
        "metric": METRIC,
        "trials": [
            {**msgspec.to_builtins(candidate.setting), "metrics": row}
            for candidate, row in zip(tried, metrics, strict=True)
        ],
        "skipped": [{"method": s.method, "reason": s.reason} for s in skipped],
        "best": best,
        "folded": NOT_FOLDED if best == 0 else _fold(folder, path, config, tried[best]),
    }
    write_json(folder / layout.TUNING_JSON, result)
    return result


def tuning_text(result: dict[str, Any]) -> str:
    """Return a line for each trial, and how to test the best."""
    lines = [f"Mean accuracy of the classes on {result['num_images']:,} training images:"]
    for row, trial in enumerate(result["trials"]):
        value = "" if trial["option"] is None else f" {trial['option']} {trial['value']:g}"
        mark = " *" if row == result["best"] else ""
        lines.append(f"  {trial['method'] + value:30} {trial['metrics'][METRIC]:6.2f}{mark}")
    lines += [f"  {skip['method']}: {skip['reason']}" for skip in result["skipped"]]
    if result["seen_in_training"]:
        lines.append(
            "Note: some of these images were trained on (held_out is smaller than "
            f"{result['fraction']:g}), where the model is better than on new ones."
        )
    best = result["trials"][result["best"]]
    settings = " ".join(
        f"{best['method']}.{key}={value}" for key, value in best["options"].items() if value != ""
    )
    lines.append(f"Test it with: method={best['method']} {settings}".rstrip())
    return "\n".join(lines)


def gather_moments(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    iterations: int,
    momentum: float | None = None,
    device: str | None = None,
) -> Moments:
    """Run a plain model over training batches without gradient, and write its logits' moments.

    The batches are those of training, augmented but not mixed; batch normalisation uses its
    running statistics. Images that were held out of training are left out.

    Args:
        run: a plain checkpoint or its output folder.
        output: the JSON file to write.
        iterations: how many batches.
        momentum: of the running form; None for exact moments.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Raises:
        InputError: the model was trained under a method, a class's logit never changed, or an
            argument cannot be used.
    """
    if iterations < 1:
        raise InputError(f"{iterations} iterations see no image; take one or more")
    where, path = pick_device(device), checkpoint.find(run)
    classifier, data = _plain_run(path, where)
    images = training_images(data, classifier.config)
    epochs = -(-iterations // iterations_per_epoch(classifier.config, len(images)))
    config = msgspec.structs.replace(classifier.config, epochs=epochs, reweight_from=None)
    running = RunningMoments(len(classifier.statistics), momentum)
    loader = islice(training_loader(images, config, 0, where), iterations)
    with torch.no_grad():
        for batch, _ in progress(loader, desc="moments", unit="it", total=iterations):
            running.update(classifier.model(batch.to(where)))
    moments = running.result(
        classifier.statistics,
        checkpoint=os.fspath(path),
        checkpoint_sha256=sha256_file(path),
        engine="classification",
        iterations=iterations,
    )
    moments.save(output)
    return moments


def _plain_run(path: Path, device: torch.device) -> tuple[checkpoint.Classifier, DataSet]:
    """Return a model that was trained without a method, and the data that it was trained on."""
    classifier = checkpoint.load(path, device)
    method = classifier.model.method
    if method.acts_in_training:
        raise InputError(
            f"{path}: was trained under method {method.name}; give a plain model, trained with "
            "the plain softmax"
        )
    data = load_data(classifier.config)
    checkpoint.refuse_other_data(checkpoint.read(path), data.statistics(), os.fspath(path))
    return classifier, data


def _config_of(config: ClassifyConfig, candidate: Candidate) -> ClassifyConfig:
    """Return the settings under which a candidate ran."""
    setting = candidate.setting
    values = {**config.to_dict(), "method": setting.method}
    if setting.options:
        values[setting.method] = setting.options
    return ClassifyConfig.from_dict(values)


def _fold(folder: Path, path: Path, config: ClassifyConfig, candidate: Candidate) -> str:
    """Write a plain checkpoint whose classifier gives the method's logits; return where or why."""
    content = checkpoint.read(path)
    state = content["model"]
    try:
        if "classifier.bias" not in state:
            raise InputError(f"a {CosineClassifier.__name__} divides its weights by their norm")
        weight, bias = (state[f"classifier.{part}"] for part in ("weight", "bias"))
        folded = candidate.method.cpu().fold(weight.double(), bias.double())
    except InputError as error:
        return f"not written: {error}"
    for part, old, new in zip(("weight", "bias"), (weight, bias), folded, strict=True):
        state[f"classifier.{part}"] = new.to(old.dtype)
    plain = msgspec.structs.replace(config, method=PLAIN_RECORD["name"])
    content |= {"config": plain.to_dict(), RECORD: PLAIN_RECORD}
    with atomic_write(folder / layout.FOLDED, "wb") as f:
        torch.save(content, f)
    return str(folder / layout.FOLDED)
