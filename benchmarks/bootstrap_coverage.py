"""How often the bootstrap's 95% intervals hold the truth, in a population where it is known.

    python benchmarks/bootstrap_coverage.py [--samples 100] [--replicates 200] [--seed 0]

A large set of images with made-up detections of two runs is the population. Samples of it are
evaluated as a validation set would be, and each sample's intervals are held against the
population's AP (of the better run) and difference in AP. docs/evaluation.md has what came out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.bootstrap import percentile_interval, weighted_average_precision
from iif.evaluation.matching import Matches
from iif.progress import progress

# Weights of the population's images -> AP by category.
Evaluator = Callable[[NDArray[np.int64]], NDArray[np.float64]]

POPULATION = 6_000
# Categories, sampled images, share of images in which a category is annotated.
SETTINGS = ((3, 60, 0.4), (30, 60, 0.4), (30, 60, 0.05))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("categories  images  annotated  difference held  single AP held")
    for categories, images, share in SETTINGS:
        rng = np.random.default_rng(args.seed)
        runs = two_runs(rng, categories, share)
        truth = mean_ap(runs, np.arange(POPULATION))
        held = np.mean(
            [
                sample_holds(rng, runs, truth, images, args.replicates)
                for _ in progress(range(args.samples), leave=False)
            ],
            axis=0,
        )
        print(f"{categories:10}  {images:6}  {share:9.0%}  {held[0]:15.1%}  {held[1]:14.1%}")


def mean_ap(runs: list[Evaluator], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each run's AP on the chosen images, which may repeat."""
    weights = np.bincount(chosen, minlength=POPULATION)
    return np.array([np.nanmean(run(weights)) for run in runs])


def sample_holds(
    rng: np.random.Generator,
    runs: list[Evaluator],
    truth: NDArray[np.float64],
    images: int,
    replicates: int,
) -> tuple[bool, bool]:
    """Draw one sample; return whether its intervals hold the difference and the second's AP."""

    sample = rng.choice(POPULATION, images, replace=False)
    drawn = np.array([mean_ap(runs, rng.choice(sample, images)) for _ in range(replicates)])
    held = []
    for values, true in ((drawn[:, 1] - drawn[:, 0], truth[1] - truth[0]), (drawn[:, 1], truth[1])):
        low, high = percentile_interval(values) or (np.nan, np.nan)
        held.append(bool(low <= true <= high))
    return held[0], held[1]


def two_runs(rng: np.random.Generator, categories: int, share: float) -> list[Evaluator]:
    """Return what evaluates a run that finds 55% of the objects, and one that finds 75%."""
    image, category = np.nonzero(rng.random((POPULATION, categories)) < share)
    objects = rng.integers(1, 4, len(image))
    image, category = np.repeat(image, objects), np.repeat(category, objects)
    hardness = rng.random(len(image))
    return [
        weighted_average_precision(make_matches(rng, image, category, hardness, found, categories))
        for found in (0.55, 0.75)
    ]


def make_matches(
    rng: np.random.Generator,
    image: NDArray[np.int64],
    category: NDArray[np.int64],
    hardness: NDArray[np.float64],
    found: float,
    categories: int,
) -> Matches:
    """Make a run that detects easy objects, loosely or tightly, and as many false positives."""
    hit = np.flatnonzero(hardness + rng.normal(0, 0.2, len(image)) < found)
    false = rng.integers(0, len(image), len(image))  # in verified cells, as often as objects
    rows = np.concatenate([hit, false])
    iou = np.concatenate([rng.uniform(0.45, 1.0, len(hit)), np.zeros(len(false))])
    score = np.concatenate([rng.beta(4, 2, len(hit)), rng.beta(2, 4, len(false))])
    order = np.lexsort((-score, category[rows]))
    rows, iou, score = rows[order], iou[order], score[order]
    thresholds = np.linspace(0.5, 0.95, 10)
    everything = np.ones((1, len(image)), bool)
    return Matches(
        iou_type="bbox",
        outcome=np.zeros(0, np.uint8),
        error_type=np.zeros(0, np.uint8),
        gt_row=np.zeros(0, np.int32),
        rows=rows,
        category_offsets=np.searchsorted(category[rows], np.arange(categories + 1)),
        image=image[rows].astype(np.int32),
        score=score,
        flags=(iou >= thresholds[:, None]).astype(np.uint8)[None],
        gt_image=image.astype(np.int32),
        gt_category=category.astype(np.int32),
        gt_in_area=everything,
        num_gt=np.bincount(category, minlength=categories)[None],
    )


if __name__ == "__main__":
    main()
