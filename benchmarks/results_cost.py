"""Time a training step and the inference of one trained run against another's, as ratios.

    python benchmarks/results_cost.py --base RUN --run RUN --out cost.json

Both models run in turn on the same batches, in both orders; on a CPU the process's own time is
taken, which other programs on the machine do not lengthen. A step is forward, backward and the
optimizer's, loading left out. Written are the medians of the ratios with their quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.solver import build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from iif import layout
from iif.d2.augmentation import augmentations_of
from iif.d2.checkpoint import MethodCheckpointer
from iif.d2.config import load_config
from iif.d2.datasets import register_custom_datasets
from iif.d2.loader import evaluation_loader, train_loader
from iif.d2.statistics import statistics_from_config
from iif.d2.train import Trainer
from iif.files import write_json


class Run:
    """A trained run: its model, and its optimizer where it was trained."""

    def __init__(self, folder: Path, weights: Path) -> None:
        """Build the model and load the weights."""
        trained = folder / layout.CONFIG_YAML
        self.trains = trained.is_file()
        path = trained if self.trains else folder / layout.INFERENCE / layout.CONFIG_YAML
        self.cfg = load_config(str(path), [])
        register_custom_datasets(self.cfg, statistics_from_config(self.cfg))
        self.model = Trainer.build_model(self.cfg)
        MethodCheckpointer(self.model).resume_or_load(str(weights), resume=False)
        for augmentation in augmentations_of(self.model):
            augmentation.epoch_length = augmentation.epoch_length or 1
        if self.trains:
            optimizer = build_optimizer(self.cfg, self.model)
            for group in optimizer.param_groups:
                group["lr"] = 0.0  # the model stays as it is
            self.trainer = SimpleTrainer(self.model, [], optimizer)

    def step(self, batch: list[dict[str, Any]]) -> None:
        """Do a step of training."""
        self.model.train()
        self.trainer.optimizer.zero_grad()
        losses = self.model(batch)
        torch.stack(list(losses.values())).sum().backward()
        self.trainer.optimizer.step()

    def infer(self, batch: list[dict[str, Any]]) -> None:
        """Detect in the images."""
        self.model.eval()
        with torch.no_grad():
            self.model(batch)


def timed(work: Callable[[Any], None], batch: Any, device: str) -> float:
    """Return the seconds of one call: on a CPU the process's own."""
    if device == "cpu":
        start = time.process_time()
        work(batch)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(
    base: Callable[[Any], None], own: Callable[[Any], None], batches: list[Any], device: str
) -> dict[str, float]:
    """Return the median ratio of neighbouring calls, with its quartiles."""
    both = (base, own)
    for work in both:
        work(batches[0])
    found = []
    for turn, batch in enumerate(batches):
        seconds = {i: timed(both[i], batch, device) for i in (turn % 2, 1 - turn % 2)}
        found.append(seconds[1] / seconds[0])
    low, middle, high = statistics.quantiles(found, n=4)
    return {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("base", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a run's folder")
        parser.add_argument(f"--{name}-weights", type=Path, help="default: its model_final.pth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=40)
    args = parser.parse_args()
    base = Run(args.base, args.base_weights or args.base / layout.FINAL_CHECKPOINT)
    own = Run(args.run, args.run_weights or args.run / layout.FINAL_CHECKPOINT)
    device = base.cfg.MODEL.DEVICE
    images = list(
        itertools.islice(evaluation_loader(base.cfg, base.cfg.DATASETS.TEST[0]), args.images)
    )
    found: dict[str, Any] = {"inference": ratios(base.infer, own.infer, images, device)}
    if own.trains:
        seed_all_rng(0)
        batches = list(itertools.islice(iter(train_loader(base.cfg)), args.steps))
        with EventStorage():
            found["training step"] = ratios(base.step, own.step, batches, device)
    write_json(args.out, found)


if __name__ == "__main__":
    main()
