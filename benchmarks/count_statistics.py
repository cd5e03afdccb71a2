"""Time and peak memory of counting classes in an annotation file of the size of LVIS v1's train.

    python benchmarks/count_statistics.py --data DIR [--images 100170] [--annotations 1270141]

The file is made on the first run and kept in DIR (1.1 GB at full size, with polygons). Every
measurement is a process of its own: counting without a cache, counting and then reading the
annotations with their masks (which share one decoding), counting with a cache to be written, with
the cache, and eight processes that start at once without one, as eight training ranks do. The
peak includes the pages of the mapped file, which the system can take back at any time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

from iif.data.annotations import load_annotations
from iif.files import atomic_write
from iif.statistics import ClassStatistics

NUM_CATEGORIES = 1203
RANKS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=100_170)
    parser.add_argument("--annotations", type=int, default=1_270_141)
    args = parser.parse_args()
    path = args.data / f"train_{args.images}_{args.annotations}.json"
    if not path.exists():
        print(f"making {path} ...", flush=True)
        write_annotations(path, args.images, args.annotations)
    cache = Path(f"{path}.statistics.json")
    print(f"{path.stat().st_size / 1e9:.2f} GB, {args.annotations:,} annotations")
    print("| | seconds | peak memory of a process, GB |\n| --- | --- | --- |")
    cache.unlink(missing_ok=True)
    report("no cache", path, use_cache=False)
    report("no cache; then the annotations with masks", path, use_cache=False, masks=True)
    report("first time: count, write the cache", path)
    report("later: hash, read the cache", path)
    cache.unlink()
    report(f"{RANKS} processes at once, no cache yet", path, processes=RANKS)


def report(
    what: str, path: Path, *, use_cache: bool = True, masks: bool = False, processes: int = 1
) -> None:
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        measured = pool.starmap(count, [(path, use_cache, masks)] * processes, chunksize=1)
    seconds, peak, totals = zip(*measured, strict=True)
    assert len(set(totals)) == 1
    print(f"| {what} | {max(seconds):.1f} | {max(peak):.2f} |", flush=True)


def count(path: Path, use_cache: bool, masks: bool) -> tuple[float, float, tuple[int, int | None]]:
    start = time.perf_counter()
    counted = ClassStatistics.from_json(path, cache=use_cache)
    if masks:
        load_annotations(path, masks=True, statistics=counted)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return seconds, peak, (counted.num_images, counted.num_instances)


def write_annotations(path: Path, num_images: int, num_annotations: int) -> None:
    """Write random annotations with LVIS's keys and about as much text for each as LVIS has."""
    rng = np.random.default_rng(0)
    shapes = [
        json.dumps([rng.uniform(0, 640, 2 * points).round(2).tolist()])
        for points in rng.integers(10, 80, 1000)
    ]
    share = (np.arange(NUM_CATEGORIES) + 300.0) ** -4
    categories = 1 + rng.choice(NUM_CATEGORIES, num_annotations, p=share / share.sum())
    images = 1 + rng.integers(num_images, size=num_annotations)
    with atomic_write(path) as f:
        f.write('{"info": {}, "licenses": [], "annotations": [')
        for row, (image, category) in enumerate(zip(images, categories, strict=True)):
            f.write(
                f"{', ' if row else ''}"
                f'{{"id": {row + 1}, "area": 1234.5, "segmentation": {shapes[row % 1000]}, '
                f'"image_id": {image}, "bbox": [10.5, 20.25, 100.75, 50.5], '
                f'"category_id": {category}}}'
            )
        f.write('], "images": ')
        entries = [
            {
                "id": i,
                "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
                "height": 480,
                "width": 640,
                "neg_category_ids": [1, 2, 3],
                "not_exhaustive_category_ids": [],
            }
            for i in range(1, num_images + 1)
        ]
        json.dump(entries, f)
        f.write(', "categories": ')
        json.dump([{"id": c, "name": f"class_{c}"} for c in range(1, NUM_CATEGORIES + 1)], f)
        f.write("}\n")


if __name__ == "__main__":
    main()
