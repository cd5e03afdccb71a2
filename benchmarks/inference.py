"""Time Fast R-CNN inference at LVIS's size: an engine's own function and the exact prefix NMS.

    python benchmarks/inference.py --engine torchvision [--device cuda] [--regions 1000]

Makes regions around a few objects with softmax scores of different sharpness, so that about 1.1
million, 130,000 and 15,000 (region, class) pairs score above the threshold; runs both functions in
turn on the same input; checks that the results are bit-equal; prints the median time of each, and
the median, smallest and largest of the ratios of neighbouring runs. With torchvision the times
include decoding the boxes and the softmax, as its ``postprocess_detections`` does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from iif.files import versions

IMAGE = (800, 1333)
SCORE_THRESHOLD, NMS_THRESHOLD, DETECTIONS = 1e-4, 0.5, 300
SHARPNESS = (1.0, 3.6, 8.0)  # the logits' scale

Result = tuple[Tensor, ...]
Run = Callable[[], Result]


def make_regions(
    regions: int, categories: int, sharpness: float, seed: int, *, agnostic: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return regions on 30 objects.

    Returns:
        proposals (R, 4), the offsets (R, K, 4), or (R, 1, 4), of each class's box from them, and
        logits (R, K + 1), the background's last.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    owner = torch.randint(30, (regions,), generator=generator)
    extent = 20 + 300 * torch.rand(30, 2, generator=generator)[owner]
    centre = (torch.rand(30, 2, generator=generator) * torch.tensor([1333.0, 800.0]))[owner]
    centre = centre + 0.15 * extent * normal(regions, 2)
    extent = extent * (0.2 * normal(regions, 2)).exp()
    proposals = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    offsets = 3 * normal(regions, 1 if agnostic else categories, 4)
    logits = normal(30, categories + 1)[owner] + 0.5 * normal(regions, categories + 1)
    logits[:, -1] += 2  # most regions look like background
    return proposals, offsets, sharpness * logits


def detectron2_runs(proposals: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Run, Run]:
    """Return Detectron2's inference of an image and the one of iif.d2."""
    from detectron2.modeling.roi_heads import fast_rcnn

    from iif.d2 import inference

    boxes, scores = (proposals[:, None] + offsets).flatten(1), logits.softmax(dim=1)

    def run(function: Callable[..., tuple]) -> Result:
        found, rows = function(boxes, scores, IMAGE, SCORE_THRESHOLD, NMS_THRESHOLD, DETECTIONS)
        return found.pred_boxes.tensor, found.scores, found.pred_classes, rows

    name = "fast_rcnn_inference_single_image"
    return lambda: run(getattr(fast_rcnn, name)), lambda: run(getattr(inference, name))


def torchvision_runs(proposals: Tensor, offsets: Tensor, logits: Tensor) -> tuple[Run, Run]:
    """Return the inference of torchvision's RoIHeads on an image and the one of iif.tv's."""
    from torchvision.models.detection.roi_heads import RoIHeads

    from iif.tv.roi_heads import LongTailRoIHeads

    heads = RoIHeads(  # no layers; thresholds and number of detections as published for LVIS
        *(None, None, None), *(0.5, 0.5, 512, 0.25, None), *(SCORE_THRESHOLD, NMS_THRESHOLD, 300)
    )
    boxes = proposals[:, None] + offsets.expand(-1, logits.shape[1] - 1, -1)
    boxes = torch.cat([proposals[:, None], boxes], dim=1)  # torchvision's background is first
    rows = proposals[:, None].expand_as(boxes)
    deltas = heads.box_coder.encode_single(boxes.reshape(-1, 4), rows.reshape(-1, 4))
    inputs = (logits.roll(1, dims=1), deltas.view(len(proposals), -1), [proposals], [IMAGE])

    def run(heads: RoIHeads) -> Result:
        return tuple(of_images[0] for of_images in heads.postprocess_detections(*inputs))

    ours = LongTailRoIHeads.taking_over(heads)
    return lambda: run(heads), lambda: run(ours)


def timed(run: Run, device: torch.device) -> tuple[float, Result]:
    """Return the seconds of one call and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=("detectron2", "torchvision"), default="detectron2")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--agnostic", action="store_true", help="class-agnostic boxes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = {"detectron2": detectron2_runs, "torchvision": torchvision_runs}[args.engine]

    for name, value in {**versions(), **vars(args)}.items():
        print(f"{name}: {value}")
    print(f"{'candidates':>10} {args.engine:>11} {'prefix':>9} {'ratio (least to largest)':>26}")
    for sharpness in SHARPNESS:
        regions = make_regions(
            args.regions, args.categories, sharpness, args.seed, agnostic=args.agnostic
        )
        theirs, ours = runs(*(values.to(args.device) for values in regions))
        candidates = int((regions[2].softmax(dim=1)[:, :-1] > SCORE_THRESHOLD).sum())
        for run in (theirs, ours):
            timed(run, args.device)  # warm up
        pairs = []
        for _ in range(args.repeats):
            their_time, expected = timed(theirs, args.device)
            our_time, found = timed(ours, args.device)
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
            pairs.append((their_time, our_time))
        ratios = [their_time / our_time for their_time, our_time in pairs]
        their_time, our_time = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"{candidates:>10,} {1e3 * their_time:>8.1f} ms {1e3 * our_time:>6.1f} ms "
            f"{statistics.median(ratios):>9.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
