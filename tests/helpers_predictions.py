"""A simulated long-tailed classifier: counts, logits and evaluated runs, from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iif.classification import Predictions, write_evaluation
from iif.statistics import ClassStatistics

NASTY = "<script>alert('x')</script> & \"quotes\""


def make_statistics(
    classes: int = 30, largest: int = 500, imbalance: float = 100.0
) -> ClassStatistics:
    """The CIFAR rule: n_k = int(largest * imbalance^(-k / (K - 1)))."""
    counts = [int(largest * imbalance ** (-k / max(classes - 1, 1))) for k in range(classes)]
    names = [f"class {k}" for k in range(classes)]
    names[0] = NASTY
    return ClassStatistics(
        image_count=counts, num_images=sum(counts), names=names, source="made for a test"
    )


def make_logits(
    statistics: ClassStatistics,
    labels: np.ndarray,
    *,
    bias: float = 0.6,
    skill: float = 3.0,
    seed: int = 0,
) -> np.ndarray:
    """Logits that lean to frequent classes by ``bias`` times the log of their counts.

    Runs of one seed see the same images: they share the noise, as two models of one architecture
    largely do.
    """
    rng = np.random.default_rng(seed)
    classes = len(statistics)
    similar = rng.normal(size=(classes, classes))  # some classes look like some others
    z = rng.normal(size=(len(labels), classes)) + similar[labels]
    z[np.arange(len(labels)), labels] += skill
    return z + bias * np.log(statistics.image_count)


def make_predictions(
    statistics: ClassStatistics, *, per_class: int = 20, bias: float = 0.6, seed: int = 0
) -> Predictions:
    labels = np.repeat(np.arange(len(statistics)), per_class)
    images = [f"test/{label}/{i:05d}.png" for i, label in enumerate(labels)]
    logits = make_logits(statistics, labels, bias=bias, seed=seed)
    return Predictions.from_logits(logits, labels, images)


def write_run(
    folder: Path,
    *,
    bias: float = 0.6,
    statistics: ClassStatistics | None = None,
    per_class: int = 20,
    seed: int = 0,
) -> Path:
    """Write ``folder/inference`` of a run; return the folder."""
    statistics = statistics or make_statistics()
    write_evaluation(
        folder / "inference",
        make_predictions(statistics, per_class=per_class, bias=bias, seed=seed),
        statistics,
        dataset_name="simulated",
        method={"name": "logit_adjustment", "options": {"tau": bias}, "acts_in_training": False},
        config={"seed": seed, "train": {"epochs": 3, "rate": 0.1}},
    )
    return folder


def write_pair(folder: Path, **options) -> list[Path]:
    """Write a baseline that leans to frequent classes, and a run that leans less."""
    return [
        write_run(folder / "baseline", bias=0.9, **options),
        write_run(folder / "adjusted", bias=0.2, **options),
    ]
