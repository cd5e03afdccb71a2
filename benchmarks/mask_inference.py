"""Time a mask head's last layer at inference: masks of all classes, and of the predicted one alone.

    python benchmarks/mask_inference.py [--engine torchvision] [--device cuda] [--detections 20 300]

The features that the last layer gets are (D, 256, 28, 28) for D detections, the classes 1,203. Both
ways run in turn on the same input; their masks are checked to agree to 1e-6. Printed are, for the
last layer and for the whole mask head, the median time of each, the median, smallest and largest of
the ratios of neighbouring runs, and the peak of the memory that each allocates beside its input (of
a CPU as torch's profiler counts it).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from iif.files import versions
from iif.mask_logits import one_class_logits

CHANNELS, SIZE = 256, 14

Run = Callable[[], Tensor]


class Parts(SimpleNamespace):
    """The layers of a mask head, and the ways to compute its masks of given classes."""

    head: Any  # (D, C, 14, 14) to the last layer's input
    last: Any  # the 1 x 1 convolution
    stock: Callable[[Tensor, Tensor], Tensor]  # an engine's own, for the whole head
    selected: Callable[[Tensor, Tensor], Tensor]


def detectron2_parts(classes: int) -> Parts:
    """Return those of Detectron2's mask head."""
    from detectron2.layers import ShapeSpec
    from detectron2.structures import Instances

    from iif.d2.mask_head import PredictedClassMaskHead

    dims = [CHANNELS] * 5
    head = PredictedClassMaskHead(ShapeSpec(channels=CHANNELS), num_classes=classes, conv_dims=dims)

    def run(x: Tensor, rows: Tensor, only: bool) -> Tensor:
        head.predicted_only = only
        instances = Instances((800, 1333))
        instances.pred_classes = rows
        return head(x, [instances])[0].pred_masks

    return Parts(
        head=head,
        layers=nn.Sequential(*list(head)[:-1]),
        last=head.predictor,
        stock=lambda x, rows: run(x, rows, False),
        selected=lambda x, rows: run(x, rows, True),
    )


def torchvision_parts(classes: int) -> Parts:
    """Return those of torchvision's mask head; its class 0 is the background."""
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.roi_heads import maskrcnn_inference

    head = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, dilation=1)
    predictor = MaskRCNNPredictor(CHANNELS, CHANNELS, classes + 1)
    layers = nn.Sequential(head, predictor.conv5_mask, predictor.relu)
    last = predictor.mask_fcn_logits

    def selected(x: Tensor, rows: Tensor) -> Tensor:
        x = layers(x)
        return one_class_logits(x, last.weight[rows], last.bias[rows]).sigmoid()

    return Parts(
        head=nn.ModuleList([head, predictor]),
        layers=layers,
        last=last,
        stock=lambda x, rows: maskrcnn_inference(predictor(head(x)), [rows])[0],
        selected=selected,
    )


ENGINES = {"detectron2": detectron2_parts, "torchvision": torchvision_parts}


def last_layer(parts: Parts, x: Tensor, rows: Tensor) -> tuple[Run, Run]:
    """Return both ways to run the last layer alone, sigmoid included."""
    last = parts.last
    index = torch.arange(len(rows), device=rows.device)
    return (
        lambda: last(x)[index, rows][:, None].sigmoid(),
        lambda: one_class_logits(x, last.weight[rows], last.bias[rows]).sigmoid(),
    )


def peak_memory(run: Run, device: str) -> float:
    """Return the peak of what a call allocates, in MB."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 1e6


def measure(what: str, runs: tuple[Run, Run], repeats: int, device: str) -> None:
    """Run both in turn and print the row."""
    torch.testing.assert_close(runs[0](), runs[1](), rtol=0, atol=1e-6)
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(1e3 * (time.perf_counter() - start))
    ratios = [all_classes / one for all_classes, one in zip(*times, strict=True)]
    memory = [peak_memory(run, device) for run in runs]
    print(
        f"{what:<26} {statistics.median(times[0]):9.2f} {statistics.median(times[1]):9.2f} "
        f"{statistics.median(ratios):7.1f} ({min(ratios):.1f} to {max(ratios):.1f}) "
        f"{memory[0]:9.1f} {memory[1]:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="detectron2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--detections", type=int, nargs="+", default=[20, 100, 300])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    parts = ENGINES[args.engine](args.categories)
    parts.head.to(args.device).eval()
    nn.init.normal_(parts.last.weight, std=0.01)
    for name, value in {**versions(), **vars(args)}.items():
        print(f"{name}: {value}")
    print(f"threads: {torch.get_num_threads()}")
    columns = f"{'all, ms':>9} {'one, ms':>9} {'ratio (range)':>20} {'all, MB':>9} {'one, MB':>8}"
    print(f"{'':<26} {columns}")
    with torch.no_grad():
        for count in args.detections:
            x = torch.randn(count, CHANNELS, SIZE, SIZE, device=args.device)
            rows = torch.randint(1, args.categories, (count,), device=args.device)
            features = parts.layers(x)
            name = f"{count} detections"
            layer = last_layer(parts, features, rows)
            measure(f"{name}: last layer", layer, args.repeats, args.device)
            whole = (partial(parts.stock, x, rows), partial(parts.selected, x, rows))
            measure(f"{name}: mask head", whole, args.repeats, args.device)


if __name__ == "__main__":
    main()
