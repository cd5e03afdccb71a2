"""Training throughput of iif classify against a plain torchvision loop, in one run.

    python benchmarks/classification_throughput.py [--device cuda] [--model resnet50] ...

The plain loop is the least that trains the same thing: torchvision's transforms, a DataLoader with
as many workers, the model, cross entropy, SGD; no method, no log, no check. Both train on the same
images in memory, in turn, several times; the ratio is that of the medians. Times are this
process's processor time on the CPU, where other processes do not count, and wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from iif import build_method
from iif.classification import ClassifyConfig
from iif.classification.images import DataSet, ImageSet
from iif.classification.model import build_model
from iif.classification.trainer import TrainingRun
from iif.classification.transforms import mixer, training_transform
from iif.distributed import pick_device

MARK = 0.97


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device")
    parser.add_argument("--model", default="se_resnet32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", default="iif")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    device = pick_device(args.device)
    config = ClassifyConfig(
        model=args.model,
        image_size=args.image_size,
        images_per_batch=args.batch,
        method=args.method,
        policy="autoaugment_cifar10",
        mixup=0.2,
        epochs=1,
        steps=(),
        base_lr=0.01,
        workers=args.workers,
    ).override(args.settings)
    data = random_data(args.images, args.image_size)
    clock = time.process_time if device.type == "cpu" and not args.workers else time.perf_counter
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(args.rounds + 1):
        for name, run in (("ours", ours), ("plain", plain)):
            seconds = run(config, data, device, clock)
            if turn:  # the first warms up
                times[name].append(seconds)
                print(f"{name:6} {len(data.train) / seconds:8.1f} images/s", flush=True)
    ours_median, plain_median = (statistics.median(times[name]) for name in ("ours", "plain"))
    ratio = plain_median / ours_median
    print(f"ratio {ratio:.3f} (mark: {MARK})")


def random_data(count: int, size: int) -> DataSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.minimum(generator.geometric(0.1, count) - 1, 99).astype(np.int64)
    labels[:100] = np.arange(100)
    images = ImageSet([str(i) for i in range(count)], labels, pixels)
    return DataSet("random", "random", [str(k) for k in range(100)], images, images)


def ours(
    config: ClassifyConfig, data: DataSet, device: torch.device, clock: Callable[[], float]
) -> float:
    statistics_ = data.statistics()
    model = build_model(config, config.build_method(statistics_), len(statistics_)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(model, data.train, config, statistics_, Path(folder), device)
        start = clock()
        run.train()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start


class Pairs(torch.utils.data.Dataset):
    """Images and labels, as torchvision.datasets give them."""

    def __init__(self, images: ImageSet, transform: Callable) -> None:
        """Keep both."""
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Return an image and its class."""
        return self.transform(self.images.read(row)), int(self.images.labels[row])


def plain(
    config: ClassifyConfig, data: DataSet, device: torch.device, clock: Callable[[], float]
) -> float:
    model: nn.Module = build_model(config, build_method("none"), 100).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), config.base_lr, config.momentum, weight_decay=config.weight_decay
    )
    mix, loss_of = mixer(config, 100), nn.CrossEntropyLoss()
    loader = DataLoader(
        Pairs(data.train, training_transform(config)),
        batch_size=config.images_per_batch,
        shuffle=True,
        drop_last=True,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    start = clock()
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        images, labels = mix(images, labels)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp):
            outputs = model(images)
        loss = loss_of(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
