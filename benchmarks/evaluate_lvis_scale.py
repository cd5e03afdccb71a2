"""Time and peak memory of the evaluation at LVIS's scale, beside other evaluators'.

    python benchmarks/evaluate_lvis_scale.py --data DIR [--only small|large] [--repeat 3] [--seed 0]

``small``: 2,000 images, 1,203 categories, 600,000 detections with masks, as boxes and as masks.
``large``: as many images as LVIS v1 val (19,809) with 300 boxes each. ``iif evaluate`` (AP-fixed
and all files) against hotcoco (LVIS mode, metrics alone) and, for ``small``, lvis 0.5.3. Then
``iif compare`` and ``iif report`` of two evaluated runs; the first evaluation of 20 images after
an installation. Every measurement is a process of its own, from its start to its end; those of one
row take turns ``--repeat`` times, and the median of the ratios counts. An evaluator that is not
installed is left out. The data are made on the first run and kept in DIR (about 1.5 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

HEIGHT, WIDTH = 480, 640
NUM_CATEGORIES = 1203
SIZES = {"tiny": 20, "small": 2_000, "large": 19_809}
DETECTIONS_PER_IMAGE = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", choices=["small", "large"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        task, *values = args.worker
        WORKERS[task](args.data, args.seed, *values)
        return
    for size in ["tiny", *([args.only] if args.only else ["small", "large"])]:
        if not (args.data / size / "results.json").exists():
            print(f"making the {size} data ...", flush=True)
            measured([*worker(args, "generate"), size])
    if args.only != "large":
        report_row(args, "small", "bbox", 0.9, 1.0)
        report_row(args, "small", "segm", 1.0, 1.0)
        report_lvis(args)
    if args.only != "small":
        report_row(args, "large", "bbox", 0.6, 0.6)
        report_later_steps(args)
    report_first(args)


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


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[Cost, str]:
    """Run a command; return what it cost and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
    )
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


def evaluate_command(args: argparse.Namespace, size: str, iou_type: str) -> list[str]:
    folder = args.data / size
    return [
        *(sys.executable, "-m", "iif.cli", "evaluate", "--iou-type", iou_type),
        *("--gt", str(folder / "gt.json"), "--results", str(folder / "results.json")),
        *("--output", str(folder / f"evaluation_{iou_type}")),
    ]


def report_row(
    args: argparse.Namespace, size: str, iou_type: str, mark: float, memory_mark: float
) -> None:
    command = evaluate_command(args, size, iou_type)
    measured(command)  # fills numba's cache and the file cache
    if find_spec("hotcoco") is None:
        print(f"{size} {iou_type}: iif {measured(command)[0]}; hotcoco is not installed")
        return
    pairs = []
    for _ in range(args.repeat):
        ours, _ = measured(command)
        theirs, _ = measured([*worker(args, "hotcoco"), size, iou_type])
        pairs.append((ours, theirs))
        print(f"  {size} {iou_type}: iif {ours}; hotcoco {theirs}", flush=True)
    time_, processor, memory = (
        statistics.median(ours[i] / theirs[i] for ours, theirs in pairs) for i in range(3)
    )
    print(
        f"{size} {iou_type}: iif / hotcoco {time_:.2f} of the time (mark: {mark}), "
        f"{processor:.2f} of the processor time, {memory:.2f} of the memory (mark: {memory_mark})",
        flush=True,
    )


def report_lvis(args: argparse.Namespace) -> None:
    if find_spec("lvis") is None:
        print("lvis is not installed")
        return
    for iou_type in ("bbox", "segm"):
        ours, _ = measured(evaluate_command(args, "small", iou_type))
        official, printed = measured([*worker(args, "lvis"), iou_type])
        summary = json.loads(
            (args.data / "small" / f"evaluation_{iou_type}" / "eval_summary.json").read_text()
        )
        found = summary["metrics"][iou_type]
        difference = max(abs(found[k] - v) for k, v in json.loads(printed).items())
        print(
            f"small {iou_type}: iif {ours}; lvis {official}; "
            f"{official.seconds / ours.seconds:.1f} times as fast; "
            f"{ours.memory / official.memory:.3f} of the memory; "
            f"AP {found['AP']:.3f}, largest difference of a metric {difference:.1e}",
            flush=True,
        )


def report_later_steps(args: argparse.Namespace) -> None:
    folder = args.data / "large"
    runs = [folder / "evaluation_bbox", folder / "again"]
    shutil.copytree(*runs, dirs_exist_ok=True)
    iif = [sys.executable, "-m", "iif.cli"]
    both = ["--baseline", str(runs[0]), "--run", str(runs[1])]
    page = ["--gt", str(folder / "gt.json"), "--output", str(folder / "report.html")]
    for name, mark, command in (
        ("iif compare, 1,000 replicates", "12 s", ["compare", *map(str, runs)]),
        ("iif report, no replicates", "-", ["report", *both, *page, "--bootstrap", "0"]),
    ):
        measured([*iif, *command])
        costs = [measured([*iif, *command])[0] for _ in range(args.repeat)]
        print(f"{name}: {sorted(costs)[len(costs) // 2]} (mark: {mark})", flush=True)


def report_first(args: argparse.Namespace) -> None:
    for iou_type in ("bbox", "segm"):
        command = evaluate_command(args, "tiny", iou_type)
        costs = []
        for _ in range(args.repeat):
            with tempfile.TemporaryDirectory() as empty:
                costs.append(measured(command, {"NUMBA_CACHE_DIR": empty})[0])
        first = sorted(costs)[len(costs) // 2]
        print(f"first evaluation, 20 images, {iou_type}: {first} (mark: 5 s)", flush=True)


def evaluate_with_hotcoco(data: Path, seed: int, size: str, iou_type: str) -> None:
    from hotcoco import COCO, COCOeval

    gt = COCO(str(data / size / "gt.json"))
    results = gt.load_res(str(data / size / "results.json"))
    COCOeval(gt, results, iou_type, lvis_style=True).run()


def evaluate_with_lvis(data: Path, seed: int, iou_type: str) -> None:
    import numpy as np
    from lvis import LVIS, LVISEval, LVISResults

    np.float = float  # type: ignore[attr-defined]  # removed from numpy, used by lvis 0.5.3
    gt = LVIS(str(data / "small" / "gt.json"))
    results = json.loads((data / "small" / "results.json").read_text())
    for result in results:  # as Detectron2 does, so that masks have the masks' area
        result.pop("bbox" if iou_type == "segm" else "segmentation")
    evaluator = LVISEval(gt, LVISResults(gt, results), iou_type)
    evaluator.run()
    print(json.dumps({k: 100 * v for k, v in evaluator.get_results().items()}))


def generate(data: Path, seed: int, size: str) -> None:
    """Write ``gt.json`` and ``results.json``; the small set has masks in its results."""
    import msgspec
    import numpy as np

    from iif.progress import progress

    rng = np.random.default_rng(seed)
    masks = size != "large"
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


WORKERS = {
    "generate": generate,
    "hotcoco": evaluate_with_hotcoco,
    "lvis": evaluate_with_lvis,
}


if __name__ == "__main__":
    main()
