"""Coverage of the intervals of false positives at matched recall, by simulation.

Two models of known quality detect the objects of made-up images. The expected difference of their
false positives at recall 0.5 is the mean over all samples; the script prints in which share of the
samples an interval holds it: that of `iif.evaluation.at_recall`, and that of the false positives
above the scores of the whole sample, whose operating points are not found anew.

Usage: python benchmarks/recall_coverage.py [--samples 150] [--replicates 150]
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from iif.evaluation.at_recall import recall_rows
from iif.evaluation.bootstrap import percentile_interval
from iif.evaluation.matching import TRUE_POSITIVE, Matches
from iif.evaluation.operating_points import num_kept

IMAGES = 200
OBJECTS = np.array([2, 4, 8, 20, 40, 60] * 4)  # of each category
GROUPS = np.array(list("rrccff") * 4)
# The share of its objects that each of two models finds.
PAIRS = ((0.8, 0.9), (0.55, 0.8))
FALSE_POSITIVES = 0.15  # of a category, in an image, at any score


def draw(gt_image: list[NDArray[np.int64]], found: float, rng: np.random.Generator) -> Matches:
    """Return matches of a model at IoU 0.5 that finds a share of the objects."""
    image, score, true = [], [], []
    for objects in gt_image:
        hits = objects[rng.random(len(objects)) < found]
        wrong = rng.integers(0, IMAGES, rng.poisson(FALSE_POSITIVES * IMAGES))
        scores = np.concatenate([rng.beta(4, 2, len(hits)), rng.beta(1.5, 4, len(wrong))])
        order = np.argsort(-scores)
        image.append(np.concatenate([hits, wrong])[order])
        score.append(scores[order])
        true.append((np.arange(len(scores)) < len(hits))[order])
    count, empty = sum(map(len, score)), np.zeros(0, np.int32)
    return Matches(
        iou_type="bbox",
        outcome=empty.astype(np.uint8),
        error_type=empty.astype(np.uint8),
        gt_row=empty,
        rows=np.arange(count),
        category_offsets=np.concatenate([[0], np.cumsum([len(s) for s in score])]),
        image=np.concatenate(image).astype(np.int32),
        score=np.concatenate(score),
        flags=np.concatenate(true).astype(np.uint8)[None, None] * np.uint8(TRUE_POSITIVE),
        gt_image=np.concatenate(gt_image).astype(np.int32),
        gt_category=np.repeat(np.arange(len(OBJECTS)), OBJECTS).astype(np.int32),
        gt_in_area=np.ones((1, OBJECTS.sum()), bool),
        num_gt=OBJECTS[None].astype(np.int64),
    )


def at_fixed_scores(
    runs: list[Matches], rng: np.random.Generator, replicates: int
) -> tuple[float, float] | None:
    """Return the interval with the operating points of the whole sample."""
    kept = [num_kept(run, [0.5])[0] for run in runs]
    shared = np.all([k >= 0 for k in kept], axis=0)
    by_image = []
    for run, keep in zip(runs, kept, strict=True):
        category = np.repeat(np.arange(len(OBJECTS)), np.diff(run.category_offsets))
        rank = np.arange(len(category)) - run.category_offsets[category]
        false = (rank < keep[category]) & shared[category] & (run.flags[0, 0] != TRUE_POSITIVE)
        by_image.append(np.bincount(run.image[false], minlength=IMAGES))
    weights = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=replicates)
    return percentile_interval((weights @ (by_image[1] - by_image[0])).astype(np.float64))


def main() -> None:
    """Print the coverage of each interval for each pair of models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--replicates", type=int, default=150)
    args = parser.parse_args()
    for pair in PAIRS:
        differences, moved, fixed = [], [], []
        for seed in range(args.samples):
            rng = np.random.default_rng(seed)
            gt_image = [rng.integers(0, IMAGES, count) for count in OBJECTS]
            runs = [draw(gt_image, found, rng) for found in pair]
            row = recall_rows(runs, GROUPS, IMAGES, replicates=args.replicates, seed=seed)[0]
            differences.append(row.false_positives[1] - row.false_positives[0])
            interval = row.false_positive_intervals[0]
            moved.append((interval.low, interval.high))
            fixed.append(at_fixed_scores(runs, rng, args.replicates))
        expected = float(np.mean(differences))
        print(f"models that find {pair[0]:.0%} and {pair[1]:.0%}: difference {expected:.1f}")
        for name, intervals in (("iif", moved), ("fixed scores", fixed)):
            held = np.mean([low <= expected <= high for low, high in intervals])
            print(f"  {name:<14}{held:.0%}")


if __name__ == "__main__":
    main()
