"""What every method costs: a training step and the inference of the box predictor, as ratios.

    python benchmarks/method_overhead.py [--images 2] [--device cuda] [--repeats 15]

As benchmarks/training_overhead.py: R = 512 regions an image, K = 1,203 classes, float32; the stock
predictor of Detectron2 and the predictor under a method have the same parameters and input and run
in turn, in both orders. A training step is forward, losses and backward; inference is forward and
the probabilities (NMS is the same for all, benchmarks/inference.py times it). Printed are the
medians of the ratios of neighbouring runs, with their quartiles, as a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from training_overhead import CHANNELS, REGIONS_PER_IMAGE, Step, compare, make_proposals

from iif import ClassStatistics, build_method
from iif.d2 import IIFFastRCNNOutputLayers
from iif.files import versions
from iif.methods import METHODS, Method
from iif.methods.moments import RunningMoments
from iif.report.tables import markdown_table


def class_statistics(categories: int) -> ClassStatistics:
    """Return made-up statistics with a long tail, boxes included."""
    counts = torch.logspace(0, 4.5, categories).long().numpy()
    dimension = torch.linspace(1, 2, categories, dtype=torch.float64).numpy()
    return ClassStatistics(image_count=counts, num_images=100_170, fractal_dimension=dimension)


def make_method(kind: type[Method], known: ClassStatistics, folder: Path) -> Method:
    """Return a method with its default options, and moments of noise where it needs them."""
    options: dict[str, str] = {}
    if "moments" in kind.needs:
        moments = RunningMoments(len(known))
        moments.update(torch.randn(4 * REGIONS_PER_IMAGE, len(known)))
        path = folder / "moments.json"
        provenance = {"checkpoint": "", "checkpoint_sha256": "", "engine": "", "iterations": 1}
        moments.result(known, **provenance).save(path)
        options = {"moments": str(path)}
    return build_method(kind.name, known, options)


def make_pair(method: Method, categories: int, device: str) -> list[FastRCNNOutputLayers]:
    """Return Detectron2's predictor and that of a method with the same parameters."""
    arguments = {
        "box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        "num_classes": categories,
    }
    stock = FastRCNNOutputLayers(ShapeSpec(channels=CHANNELS), **arguments)
    ours = IIFFastRCNNOutputLayers(ShapeSpec(channels=CHANNELS), method=method, **arguments)
    ours.start_from(stock)
    return [stock.to(device), ours.to(device)]


def inference_ratios(
    predictors: list[FastRCNNOutputLayers],
    features: Tensor,
    proposals: list[Instances],
    repeats: int,
) -> list[float]:
    """Return the ratios of forward and probabilities, ours to Detectron2's."""
    clock = time.perf_counter if features.is_cuda else time.process_time

    def timed(predictor: FastRCNNOutputLayers) -> float:
        wait: Callable[[], None] = torch.cuda.synchronize if features.is_cuda else lambda: None
        wait()
        start = clock()
        predictor.predict_probs(predictor(features), proposals)
        wait()
        return clock() - start

    ratios = []
    with torch.no_grad():
        for predictor in predictors:
            timed(predictor.eval())
        for repeat in range(repeats):
            first, second = (0, 1) if repeat % 2 else (1, 0)
            seconds = {index: timed(predictors[index]) for index in (first, second)}
            ratios.append(seconds[1] / seconds[0])
    return ratios


def shown(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    for name, value in {**versions(), **vars(args)}.items():
        print(f"{name}: {value}")

    known = class_statistics(args.categories)
    features = torch.randn(args.images * REGIONS_PER_IMAGE, CHANNELS, device=args.device)
    proposals = make_proposals(args.images, args.categories, args.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder, EventStorage():
        for name, kind in METHODS.items():
            method = make_method(kind, known, Path(folder))
            pair = make_pair(method, args.categories, args.device)
            steps = [Step(predictor, features, proposals) for predictor in pair]
            times = compare(steps, nullcontext(), args.repeats)
            training = [second / first for first, second in times]
            inference = inference_ratios(pair, features, proposals, args.repeats)
            rows.append([name, shown(training), shown(inference)])
            print(*rows[-1], sep="  ", flush=True)
    print(markdown_table(["method", "training step", "inference"], rows))


if __name__ == "__main__":
    main()
