"""Evaluation during training, and the best checkpoint so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from iif import layout
from iif.distributed import rank, share_buffers
from iif.files import write_json
from iif.report.labels import IOU_NAMES
from iif.statistics import ClassStatistics
from iif.tv import checkpoint
from iif.tv.config import TrainConfig
from iif.tv.dataset import DetectionImages
from iif.tv.inference import evaluate_model
from iif.tv.log import add_metrics, logger


class Validation:
    """Evaluates a run on its validation set, and keeps the checkpoint with the best AP.

    Best is by mask AP, of a model without masks by box AP; of equal ones the first stays.

    Attributes:
        best: of process 0, ``iteration``, ``metric`` ("segm/AP") and ``score`` (percent) of the
            best checkpoint; None before the first evaluation.
        summary: of process 0, what the last evaluation found.
    """

    def __init__(
        self,
        images: DetectionImages,
        config: TrainConfig,
        statistics: ClassStatistics,
        folder: Path,
        device: torch.device,
        best: dict[str, Any] | None = None,
    ) -> None:
        """Take what an evaluation needs.

        Args:
            images: of the validation set.
            config, statistics, folder, device: of the run.
            best: of the checkpoint that a run goes on from.
        """
        self._images, self._config, self._statistics = images, config, statistics
        self._folder, self._device = folder, device
        self.best = best
        self.summary: dict[str, Any] | None = None

    def is_due(self, done: int) -> bool:
        """Return whether to evaluate after so many iterations; after the last one always."""
        period = self._config.evaluation_period
        return done == self._config.iterations or bool(period and done % period == 0)

    def evaluate(self, model: nn.Module, done: int, save: Callable[[str], None]) -> None:
        """Evaluate the model, in every process; keep it where it is the best so far.

        Args:
            model: left in the mode that it is in.
            done: how many iterations it was trained.
            save: writes a checkpoint of this name in process 0.
        """
        training = model.training
        share_buffers(model)
        detector = checkpoint.Detector(model.eval(), self._config, self._statistics, done)
        folder = self._folder / layout.INFERENCE
        self.summary = evaluate_model(detector, self._images, folder, self._device)
        model.train(training)
        if self.summary is not None:
            self._compare(self.summary["metrics"], done, save)

    def _compare(
        self, metrics: dict[str, dict[str, float | None]], done: int, save: Callable[[str], None]
    ) -> None:
        scores = {f"{kind}/AP": values["AP"] for kind, values in metrics.items()}
        add_metrics(self._folder, done, scores)
        metric = list(scores)[-1]  # masks come after boxes
        score = scores[metric]
        better = self.best is None or _number(score) > _number(self.best["score"])
        if better:
            self.best = {"iteration": done, "metric": metric, "score": score}
            if self._config.evaluation_period:
                save(layout.BEST_CHECKPOINT)
                best = {"checkpoint": layout.BEST_CHECKPOINT, **self.best}
                write_json(self._folder / layout.BEST, best)
        shown = "-" if score is None else f"{score:.1f}"
        words = f"Iteration {done:,}: {IOU_NAMES[metric.partition('/')[0]]} AP {shown}"
        line = f"{words}, the best so far" if better else words
        logger.info(line)
        if self._config.evaluation_period:
            tqdm.write(line)


def _number(score: float | None) -> float:
    return -math.inf if score is None else score


def remove_older(folder: Path, last: str) -> None:
    """Remove the checkpoints of a folder but the last and the best one; in process 0."""
    if rank() > 0:
        return
    for path in folder.glob(layout.CHECKPOINTS):
        if path.name not in (last, layout.BEST_CHECKPOINT):
            path.unlink(missing_ok=True)
