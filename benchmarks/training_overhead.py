"""Time a training step of the box predictor with IIF against Detectron2's predictor.

    python benchmarks/training_overhead.py [--images 2 8] [--device cuda] [--fasa]

A step is forward, losses and backward of the predictor on R = 512 regions an image with K = 1,203
classes, in float32 and in autocast (bfloat16 on a CPU, float16 on a GPU). Both predictors have the
same parameters and input and run in turn, in both orders. Printed are the median time of each (on a
CPU the process's own time, which other programs on the machine do not lengthen), the median of the
ratios of neighbouring runs with its quartiles, and the memory that IIF adds: at the peak, and of
what forward keeps for backward, in tensors of the logits' size (R, K + 1). With --fasa IIF's
predictor also draws virtual features, from the first iteration on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.autograd.graph import saved_tensors_hooks

from iif import ClassStatistics, build_method
from iif.augmentation import FasaOptions, FeatureAugmentation
from iif.d2 import IIFFastRCNNOutputLayers
from iif.files import versions

REGIONS_PER_IMAGE = 512
CHANNELS = 1024
IMAGE = (800, 1333)


def make_predictors(
    categories: int, device: str, fasa: bool = False
) -> tuple[FastRCNNOutputLayers, IIFFastRCNNOutputLayers]:
    """Return Detectron2's predictor and IIF's with the same parameters."""
    arguments = {
        "box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        "num_classes": categories,
    }
    counts = torch.logspace(0, 4.5, categories).long().numpy()
    method = build_method("iif", ClassStatistics(image_count=counts, num_images=100_170))
    stock = FastRCNNOutputLayers(ShapeSpec(channels=CHANNELS), **arguments)
    ours = IIFFastRCNNOutputLayers(
        ShapeSpec(channels=CHANNELS),
        method=method,
        augmentation=FeatureAugmentation(
            counts, CHANNELS, options=FasaOptions(start_epoch=1, epoch_length=1)
        )
        if fasa
        else None,
        **arguments,
    )
    ours.start_from(stock)
    return stock.to(device), ours.to(device)


def make_proposals(images: int, categories: int, device: str) -> list[Instances]:
    """Return regions of which a quarter are foreground."""
    proposals = []
    for _ in range(images):
        corner = torch.rand(REGIONS_PER_IMAGE, 2) * 600
        boxes = torch.cat([corner, corner + 10 + torch.rand(REGIONS_PER_IMAGE, 2) * 190], dim=1)
        classes = torch.randint(categories, (REGIONS_PER_IMAGE,))
        classes[REGIONS_PER_IMAGE // 4 :] = categories
        instances = Instances(IMAGE, proposal_boxes=Boxes(boxes), gt_boxes=Boxes(boxes + 3))
        instances.gt_classes = classes
        proposals.append(instances.to(device))
    return proposals


class Step:
    """Forward, losses and backward of one predictor on fixed input."""

    def __init__(
        self, predictor: FastRCNNOutputLayers, features: torch.Tensor, proposals: list[Instances]
    ) -> None:
        """Keep the input; the features need a gradient, as behind a box head."""
        self.predictor = predictor
        self.features = features.clone().requires_grad_()
        self.proposals = proposals

    def run(self, autocast: AbstractContextManager) -> None:
        """Run the step once."""
        self.clear()
        with autocast:
            losses = self.predictor.losses(self.predictor(self.features), self.proposals)
        sum(losses.values()).backward()

    def clear(self) -> None:
        """Let go of the gradients."""
        self.predictor.zero_grad(set_to_none=True)
        self.features.grad = None

    def timed(self, autocast: AbstractContextManager) -> float:
        """Return the seconds of one run: on a CPU the process's own, on a GPU those that pass."""
        if not self.features.is_cuda:
            start = time.process_time()
            self.run(autocast)
            return time.process_time() - start
        torch.cuda.synchronize()
        start = time.perf_counter()
        self.run(autocast)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def saved_bytes(self, autocast: AbstractContextManager) -> int:
        """Return the memory of all that forward and losses keep for backward."""
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            losses = self.predictor.losses(self.predictor(self.features), self.proposals)
        del losses
        return sum(kept.values())

    def peak_bytes(self, autocast: AbstractContextManager) -> int:
        """Return the highest memory in use during a step."""
        self.clear()
        if self.features.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.run(autocast)
            return torch.cuda.max_memory_allocated()
        activity = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity], profile_memory=True) as profiler:
            self.run(autocast)
        in_use = peak = 0
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                in_use += event.nbytes()
                peak = max(peak, in_use)
        return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fasa", action="store_true", help="IIF with FASA beside it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    half = torch.float16 if args.device.startswith("cuda") else torch.bfloat16

    for name, value in {**versions(), **vars(args)}.items():
        print(f"{name}: {value}")
    print(
        f"{'R':>6} {'type':>8} {'Detectron2':>11} {'IIF':>9} {'ratio (quartiles)':>24} "
        f"{'peak':>6} {'kept':>6}"
    )
    for images in args.images:
        stock, ours = make_predictors(args.categories, args.device, args.fasa)
        features = torch.randn(images * REGIONS_PER_IMAGE, CHANNELS, device=args.device)
        proposals = make_proposals(images, args.categories, args.device)
        steps = [Step(predictor, features, proposals) for predictor in (stock, ours)]
        for name, autocast in (
            ("float32", nullcontext()),
            (str(half)[6:], torch.autocast(args.device.split(":")[0], dtype=half)),
        ):
            with EventStorage():
                times = compare(steps, autocast, args.repeats)
                extra = [
                    measure(steps[1], autocast) - measure(steps[0], autocast)
                    for measure in (Step.peak_bytes, Step.saved_bytes)
                ]
            ratios = [second / first for first, second in times]
            low, middle, high = statistics.quantiles(ratios, n=4)
            medians = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
            size = 4 if name == "float32" else 2
            logits = len(features) * (args.categories + 1) * size
            print(
                f"{len(features):>6} {name:>8} {medians[0]:>8.1f} ms {medians[1]:>6.1f} ms "
                f"{middle:>8.3f} ({low:.3f} to {high:.3f}) "
                f"{extra[0] / logits:>6.2f} {extra[1] / logits:>6.2f}",
                flush=True,
            )


def compare(
    steps: list[Step], autocast: AbstractContextManager, repeats: int
) -> list[tuple[float, float]]:
    """Return the seconds of both steps in each repeat, the order changing from one to the next."""
    for step in steps:
        step.run(autocast)
    times = []
    for repeat in range(repeats):
        pair = [0.0, 0.0]
        for index in (0, 1) if repeat % 2 else (1, 0):
            pair[index] = steps[index].timed(autocast)
        times.append((pair[0], pair[1]))
    return times


if __name__ == "__main__":
    main()
