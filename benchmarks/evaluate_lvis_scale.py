"""Time and peak memory of the evaluation at LVIS's scale, beside the official evaluator's.

    python benchmarks/evaluate_lvis_scale.py --data DIR [--only small|large] [--seed 0]

``small``: 2,000 images, 1,203 categories, 600,000 detections with masks; iif against lvis 0.5.3,
boxes and masks, from files to AP. ``large``: as many images as LVIS v1 val (19,809) with 300 boxes
each; the whole ``iif evaluate`` command, without and with ``--outcomes``. Every measurement is a
process of its own. The data are made on the first run and kept in DIR (about 1.5 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HEIGHT, WIDTH = 480, 640
NUM_CATEGORIES = 1203
SIZES = {"small": 2_000, "large": 19_809}
DETECTIONS_PER_IMAGE = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", choices=sorted(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        task, *values = args.worker
        WORKERS[task](args.data, args.seed, *values)
        return
    for size in [args.only] if args.only else sorted(SIZES, reverse=True):
        if not (args.data / size / "results.json").exists():
            print(f"making the {size} data ...", flush=True)
            measured([*worker(args, "generate"), size])
    if args.only != "large":
        report_small(args)
    if args.only != "small":
        report_large(args)


def worker(args: argparse.Namespace, task: str) -> list[str]:
    return [
        *(sys.executable, __file__, "--data", str(args.data), "--seed", str(args.seed)),
        *("--worker", task),
    ]


class Cost(NamedTuple):
    """Seconds, processor seconds (which other work on the machine changes less) and peak GB."""

    seconds: float
    processor: float
    memory: float

    def __str__(self) -> str:  # noqa: D105
        return f"{self.seconds:.1f} s ({self.processor:.1f} s of processor), {self.memory:.2f} GB"


def measured(command: list[str]) -> tuple[Cost, str]:
    """Run a command; return what it cost and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    cost = Cost(
        time.perf_counter() - start,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024 / 1e9,
    )
    return cost, output


def report_small(args: argparse.Namespace) -> None:
    for iou_type, mark in (("bbox", 10), ("segm", 5)):
        measured([*worker(args, "iif"), iou_type])  # fills numba's cache and the file cache
        ours, metrics = evaluated(args, "iif", iou_type)
        official, official_metrics = evaluated(args, "lvis", iou_type)
        difference = max(abs(metrics[k] - v) for k, v in official_metrics.items())
        print(
            f"small {iou_type}: iif {ours}; lvis {official}; "
            f"{official.seconds / ours.seconds:.1f} times as fast (mark: {mark}), "
            f"by processor time {official.processor / ours.processor:.1f}; "
            f"{ours.memory / official.memory:.3f} of the memory (mark: 0.25); "
            f"AP {metrics['AP']:.3f}, largest difference of a metric {difference:.1e}",
            flush=True,
        )


def evaluated(
    args: argparse.Namespace, evaluator: str, iou_type: str
) -> tuple[Cost, dict[str, float]]:
    """Return the cost from files to metrics, without the imports, and the metrics."""
    whole, printed = measured([*worker(args, evaluator), iou_type])
    seconds, processor, metrics = json.loads(printed)
    return Cost(seconds, processor, whole.memory), metrics


def report_large(args: argparse.Namespace) -> None:
    folder = args.data / "large"
    command = [
        *(sys.executable, "-m", "iif.cli", "evaluate", "--iou-type", "bbox"),
        *("--gt", str(folder / "gt.json"), "--results", str(folder / "results.json")),
        *("--output", str(folder / "evaluation")),
    ]
    measured(command)  # fills numba's cache and the file cache
    plain, _ = measured(command)
    with_outcomes, _ = measured([*command, "--outcomes"])
    gigabytes = (folder / "results.json").stat().st_size / 1e9
    print(
        f"large bbox ({gigabytes:.2f} GB of JSON): iif evaluate {plain} (marks: 60 s, 2 GB); "
        f"with --outcomes {with_outcomes} (mark: 10 s more)"
    )


def evaluate_with_iif(data: Path, seed: int, iou_type: Any) -> None:
    from iif.data.annotations import load_annotations
    from iif.data.results import load_results
    from iif.evaluation.matching import match
    from iif.evaluation.metrics import compute_metrics

    start = time.perf_counter(), time.process_time()
    gt = load_annotations(data / "small" / "gt.json", masks=iou_type == "segm")
    detections = load_results(data / "small" / "results.json", gt, iou_type=iou_type)
    metrics, _ = compute_metrics(match(gt, detections, iou_type, classify_errors=False), gt)
    print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1], metrics]))


def evaluate_with_lvis(data: Path, seed: int, iou_type: str) -> None:
    import numpy as np
    from lvis import LVIS, LVISEval, LVISResults

    np.float = float  # type: ignore[attr-defined]  # removed from numpy, used by lvis 0.5.3
    start = time.perf_counter(), time.process_time()
    gt = LVIS(str(data / "small" / "gt.json"))
    results = json.loads((data / "small" / "results.json").read_text())
    for result in results:  # as Detectron2 does, so that masks have the masks' area
        result.pop("bbox" if iou_type == "segm" else "segmentation")
    evaluator = LVISEval(gt, LVISResults(gt, results), iou_type)
    evaluator.run()
    metrics = {k: 100 * v for k, v in evaluator.get_results().items()}
    print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1], metrics]))


def generate(data: Path, seed: int, size: str) -> None:
    """Write ``gt.json`` and ``results.json``; the small set has masks in its results."""
    import msgspec
    import numpy as np

    from iif.progress import progress

    rng = np.random.default_rng(seed)
    masks = size == "small"
    groups = ["f"] * 405 + ["c"] * 461 + ["r"] * 337  # as many as in LVIS v1
    popularity = 1 / np.arange(1, NUM_CATEGORIES + 1)
    popularity /= popularity.sum()
    encoder = msgspec.json.Encoder()
    folder = data / size
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Any] = []
    annotations: list[Any] = []
    with open(folder / "results.json.part", "wb") as f:
        f.write(b"[")
        for image_id in progress(range(1, SIZES[size] + 1), desc=f"making {size}"):
            chosen = rng.choice(NUM_CATEGORIES, 22, replace=False, p=popularity) + 1
            num_present = int(np.clip(rng.poisson(3.4), 1, 7))
            present, negative = chosen[:num_present], chosen[7:]
            num_gt = max(num_present, int(rng.gamma(1.2, 10)))
            gt_categories = np.concatenate([present, rng.choice(present, num_gt - num_present)])
            gt_boxes = random_boxes(rng, num_gt)
            images.append(
                {
                    "id": image_id,
                    "height": HEIGHT,
                    "width": WIDTH,
                    "file_name": f"{image_id:012d}.jpg",
                    "neg_category_ids": negative.tolist(),
                    "not_exhaustive_category_ids": present[rng.random(num_present) < 0.2].tolist(),
                }
            )
            for category, box in zip(gt_categories.tolist(), gt_boxes, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": box.round(2).tolist(),
                        "area": float(0.7 * box[2] * box[3]),
                        "segmentation": [outline(rng, box).round(2).tolist()],
                    }
                )
            rows = detections(rng, image_id, gt_boxes, gt_categories, chosen, popularity, masks)
            text = encoder.encode(rows)[1:-1]
            f.write((b",\n" if image_id > 1 else b"") + text)
        f.write(b"]")
    categories = [
        {"id": k + 1, "name": f"category {k + 1}", "frequency": group, "image_count": 1}
        for k, group in enumerate(groups)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "gt.json").write_bytes(encoder.encode(content))
    os.replace(folder / "results.json.part", folder / "results.json")


def random_boxes(rng: Any, count: int) -> Any:
    """Return (count, 4) boxes XYWH within the image, most of them small as in LVIS."""
    import numpy as np

    side = np.exp(rng.normal(3.9, 0.9, (count, 1))) * np.exp(rng.normal(0, 0.3, (count, 2)))
    extent = np.array([WIDTH, HEIGHT])
    side = np.clip(side, 4, extent - 1)
    return np.concatenate([rng.random((count, 2)) * (extent - side), side], axis=1)


def outline(rng: Any, box: Any) -> Any:
    """Return the polygon (flat x, y, ...) of a wobbly shape that fills a box."""
    import numpy as np

    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radius = 0.5 * (0.85 + 0.15 * np.sin(angle * rng.integers(2, 7) + rng.random() * 6))
    x = box[0] + box[2] * (0.5 + radius * np.cos(angle))
    y = box[1] + box[3] * (0.5 + radius * np.sin(angle))
    return np.stack([x.clip(0, WIDTH), y.clip(0, HEIGHT)], axis=1).ravel()


def detections(
    rng: Any,
    image_id: int,
    gt_boxes: Any,
    gt_categories: Any,
    chosen: Any,
    popularity: Any,
    masks: bool,
) -> list[Any]:
    """Return an image's detections: two thirds near ground truth, the better the higher scored."""
    import numpy as np
    from pycocotools import mask as mask_utils

    count = DETECTIONS_PER_IMAGE
    of = rng.integers(len(gt_boxes), size=count)
    near = rng.random(count) < 0.67
    spread = rng.gamma(1.5, 0.08, (count, 1))
    size = gt_boxes[of][:, [2, 3, 2, 3]]
    boxes = gt_boxes[of] + rng.normal(size=(count, 4)) * spread * size
    boxes[~near] = random_boxes(rng, int((~near).sum()))
    low = np.clip(boxes[:, :2], 0, [WIDTH - 2, HEIGHT - 2])
    high = np.clip(boxes[:, :2] + np.maximum(boxes[:, 2:], 2), low + 1, [WIDTH, HEIGHT])
    boxes = np.concatenate([low, high - low], axis=1).astype(np.float32)
    roll = rng.random(count)
    anything = rng.choice(NUM_CATEGORIES, count, p=popularity) + 1
    category = np.where(roll < 0.75, rng.choice(chosen, count), anything)
    category = np.where(near & (roll < 0.45), gt_categories[of], category)
    quality = np.where(near & (category == gt_categories[of]), 1 - 3 * spread[:, 0], -1)
    score = (1 / (1 + np.exp(3 - 3 * quality + rng.normal(size=count)))).astype(np.float32)
    rows = [
        {"image_id": image_id, "category_id": c, "bbox": b, "score": s}
        for c, b, s in zip(category.tolist(), boxes.tolist(), score.tolist(), strict=True)
    ]
    if masks:
        for row, box in zip(rows, boxes.astype(np.float64), strict=True):
            (rle,) = mask_utils.frPyObjects([outline(rng, box).tolist()], HEIGHT, WIDTH)
            row["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
    return rows


WORKERS = {"generate": generate, "iif": evaluate_with_iif, "lvis": evaluate_with_lvis}


if __name__ == "__main__":
    main()
