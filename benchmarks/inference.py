"""Time Fast R-CNN inference at LVIS's size: Detectron2's function and the fast one, side by side.

    python benchmarks/inference.py [--device cuda] [--regions 1000] [--categories 1203]

Makes regions around a few objects with softmax scores of different sharpness, so that about 1.1
million, 130,000 and 15,000 (region, class) pairs score above the threshold; runs both functions in
turn on the same input; checks that the results are bit-equal; prints the median of each, and the
median, smallest and largest of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads.fast_rcnn import (
    fast_rcnn_inference_single_image as detectron2_inference,
)
from torch import Tensor

from iif.d2.inference import fast_rcnn_inference_single_image as fast_inference
from iif.files import versions

IMAGE = (800, 1333)
SCORE_THRESHOLD, NMS_THRESHOLD, DETECTIONS = 1e-4, 0.5, 300
SHARPNESS = (1.0, 3.6, 8.0)  # the logits' scale


def make_regions(
    regions: int, categories: int, sharpness: float, seed: int, *, agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """Return boxes (R, K * 4), or (R, 4), and probabilities (R, K + 1) of regions on 30 objects."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    owner = torch.randint(30, (regions,), generator=generator)
    extent = 20 + 300 * torch.rand(30, 2, generator=generator)[owner]
    centre = (torch.rand(30, 2, generator=generator) * torch.tensor([1333.0, 800.0]))[owner]
    centre = centre + 0.15 * extent * normal(regions, 2)
    extent = extent * (0.2 * normal(regions, 2)).exp()
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)[:, None]
    boxes = boxes + 3 * normal(regions, 1 if agnostic else categories, 4)
    logits = normal(30, categories + 1)[owner] + 0.5 * normal(regions, categories + 1)
    logits[:, -1] += 2  # most regions look like background
    return boxes.flatten(1), (sharpness * logits).softmax(dim=1)


def timed(run: Callable[..., tuple], *inputs: Tensor) -> tuple[float, tuple]:
    """Return the seconds of one call and its result."""
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run(*inputs, IMAGE, SCORE_THRESHOLD, NMS_THRESHOLD, DETECTIONS)
    if inputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def assert_equal(first: tuple, second: tuple) -> None:
    """Raise AssertionError unless both results are bit-equal."""
    for name in ("scores", "pred_classes"):
        assert torch.equal(first[0].get(name), second[0].get(name)), name
    assert torch.equal(first[0].pred_boxes.tensor, second[0].pred_boxes.tensor), "boxes"
    assert torch.equal(first[1], second[1]), "rows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--agnostic", action="store_true", help="class-agnostic boxes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    for name, value in {**versions(), **vars(args)}.items():
        print(f"{name}: {value}")
    print(f"{'candidates':>10} {'Detectron2':>11} {'fast':>9} {'ratio (least to largest)':>26}")
    for sharpness in SHARPNESS:
        boxes, scores = make_regions(
            args.regions, args.categories, sharpness, args.seed, agnostic=args.agnostic
        )
        boxes, scores = boxes.to(args.device), scores.to(args.device)
        candidates = int((scores[:, :-1] > SCORE_THRESHOLD).sum())
        for run in (detectron2_inference, fast_inference):
            timed(run, boxes, scores)  # warm up
        pairs = []
        for _ in range(args.repeats):
            stock_time, stock = timed(detectron2_inference, boxes, scores)
            fast_time, fast = timed(fast_inference, boxes, scores)
            assert_equal(stock, fast)
            pairs.append((stock_time, fast_time))
        ratios = [stock_time / fast_time for stock_time, fast_time in pairs]
        stock_time, fast_time = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"{candidates:>10,} {1e3 * stock_time:>8.1f} ms {1e3 * fast_time:>6.1f} ms "
            f"{statistics.median(ratios):>9.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
