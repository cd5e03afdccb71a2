"""Comparisons, false-positive analyses and crops made up for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

import helpers_compare as made
from iif.cli import main
from iif.evaluation.analyses import Findings
from iif.evaluation.at_recall import rows_of_analysis
from iif.evaluation.calibration import Calibration
from iif.evaluation.compare import (
    METRICS,
    CategoryRow,
    Comparison,
    DatasetInfo,
    Interval,
    MetricRow,
    RunInfo,
)
from iif.evaluation.confusion import ConfusionCell
from iif.evaluation.curves import BestThreshold, Curve
from iif.evaluation.false_positives import (
    ERROR_TYPES,
    GROUPS,
    Confusion,
    FalsePositiveAnalysis,
    GroupRow,
    RunFalsePositives,
)
from iif.evaluation.fixed_cuts import FixedCut
from iif.evaluation.missed import MAIN_ERRORS, ErrorImpact, MissedRow
from iif.evaluation.scenes import Scene, SceneObject
from iif.report.crop_subjects import MISSED
from iif.report.crops import Crop, cut_crop
from iif.report.labels import MISS_REASONS

VOID = {"meta", "link", "input", "br", "img", "hr"}
SHA256 = "3f" * 32
NASTY = "<script>alert('x')</script> & \"quotes\""


def category_names(count: int) -> list[str]:
    words = ("aerosol can", "mug", "cup", "bird feeder", "tow truck", "gravestone", "ironing board")
    names = [f"{words[i % len(words)]} {i}" for i in range(count)]
    names[0] = NASTY
    return names


def frequencies(count: int) -> np.ndarray:
    # LVIS v1: 337 rare, 461 common, 405 frequent of 1,203.
    return np.array(["r", "c", "f"])[np.arange(count) % 3]


def make_comparison(
    runs: tuple[str, ...] = ("baseline", "IIF"),
    *,
    iou_types: tuple[str, ...] = ("bbox", "segm"),
    num_categories: int = 60,
    shift: float = 6.0,
    spread: float = 3.0,
    replicates: int = 1000,
) -> Comparison:
    """Later runs are better by ``shift``, with intervals of half-width ``spread``."""
    rng = np.random.default_rng(0)
    metrics = []
    for iou_type in iou_types:
        for i, metric in enumerate(METRICS):
            base = 15.0 + i
            undefined = metric == "APs"
            values = [None if undefined else base + shift * r for r in range(len(runs))]
            spreads = spread * (1 + i / 10)
            metrics.append(
                MetricRow(
                    iou_type,
                    metric,
                    values,
                    [None if undefined else shift * r for r in range(1, len(runs))],
                    [
                        None
                        if undefined or not replicates
                        else Interval(shift * r - spreads, shift * r + spreads)
                        for r in range(1, len(runs))
                    ],
                )
            )
    groups = frequencies(num_categories)
    names = category_names(num_categories)
    categories = []
    for k in range(num_categories):
        low, high = {"r": (1, 10), "c": (11, 100), "f": (101, 20000)}[str(groups[k])]
        ap: dict[str, list[float | None]] = {}
        difference: dict[str, list[float | None]] = {}
        for iou_type in iou_types:
            values = rng.uniform(0, 80, len(runs)).tolist()
            ap[iou_type] = [None] * len(runs) if k % 17 == 3 else values
            difference[iou_type] = [None if k % 17 == 3 else v - values[0] for v in values[1:]]
        categories.append(
            CategoryRow(
                id=k + 1,
                name=names[k],
                group=str(groups[k]),
                image_count=int(np.exp(rng.uniform(np.log(low), np.log(high)))),
                num_gt=0 if k % 17 == 3 else int(rng.integers(1, 500)),
                ap=ap,
                difference=difference,
            )
        )
    settings = {"score_threshold": 1e-4, "nms_threshold": 0.5, "detections_per_image": 300.0}
    return Comparison(
        runs=[
            RunInfo(name, f"output/{name}/eval_summary.json", f"output/{name}/results.json",
                    SHA256, 5_942_700, settings)
            for name in runs
        ],
        dataset=DatasetInfo("lvis_v1_val", "val.json", SHA256, 19809, num_categories, False),
        iou_types=list(iou_types),
        metrics=metrics,
        categories=categories,
        notes=[],
        replicates=replicates,
        seed=0,
    )  # fmt: skip


def make_analysis(
    runs: tuple[str, ...] = ("baseline", "IIF"),
    *,
    iou_type: str = "segm",
    num_categories: int = 60,
    factor: float = 0.7,
) -> FalsePositiveAnalysis:
    """Each later run makes ``factor`` times the false positives of the one before."""
    rng = np.random.default_rng(1)
    groups = frequencies(num_categories)
    num_gt = np.where(np.arange(num_categories) % 17 == 3, 0, rng.integers(1, 500, num_categories))
    matched = (num_gt > 0) & (rng.random(num_categories) < 0.7)
    verified = rng.integers(50, 2000, num_categories)
    base = rng.integers(0, 40, (num_categories, len(ERROR_TYPES)))
    counts = [np.round(base * factor**r).astype(np.int64) for r in range(len(runs))]
    members = {g: (groups == g) | (g == "all") for g in GROUPS}
    recalls = np.arange(1, 20) / 20
    parts = []
    for position, name in enumerate(runs):
        curve = {}
        for i, group in enumerate(GROUPS):
            values = 2.0 * factor**position * np.exp(6 * recalls) * (1 + i)
            values[0] = 0.0
            values[recalls > 0.85] = np.nan
            curve[group] = values
        parts.append(
            RunFalsePositives(
                name=name,
                path=f"output/{name}/results.json",
                sha256=SHA256,
                num_detections=5_942_700,
                outcomes={"CAPPED": 10, "DEGENERATE": 2, "UNVERIFIED": 5_000_000, "TP": 120_000,
                          "IGNORED": 40_000, "FP": 782_688},
                error_types=dict.fromkeys(ERROR_TYPES, 7),
                max_recall=np.where(num_gt > 0, 0.6, np.nan),
                threshold=np.where(matched, 0.3, np.nan),
                true_positives=np.where(matched, (num_gt + 1) // 2, 0),
                false_positives=counts[position],
                curve=curve,
            )
        )  # fmt: skip
    rows = []
    for group, chosen in members.items():
        at = chosen & matched
        totals = [c[at].sum(1) for c in counts]
        rows.append(
            GroupRow(
                group=group,
                categories=int((chosen & (num_gt > 0)).sum()),
                matched=int(at.sum()),
                reached=[int(at.sum())] * len(runs),
                total=[int(t.sum()) for t in totals],
                mean=[float(t.mean()) if at.any() else np.nan for t in totals],
                per_1000=[
                    float((1000 * t / verified[at]).mean()) if at.any() else np.nan for t in totals
                ],
                by_type=[c[at].sum(0).tolist() for c in counts],
            )
        )
    outcome = {"TP": 1000, "FP": 5000, "IGNORED": 300, "UNVERIFIED": 90000}
    return FalsePositiveAnalysis(
        dataset={
            "path": "lvis_v1_val.json",
            "sha256": SHA256,
            "num_images": 19809,
            "num_categories": num_categories,
            "exhaustive": False,
        },
        iou_type=iou_type,
        recall=0.5,
        category_ids=np.arange(1, num_categories + 1),
        category_names=category_names(num_categories),
        category_groups=groups,
        num_gt=num_gt,
        verified_images=verified,
        matched=matched,
        coverage={"all": 0.0123, "r": 0.002, "c": 0.0065, "f": 0.031},
        runs=parts,
        groups=rows,
        curve_recalls=recalls,
        curve_categories={
            g: np.linspace(members[g].sum(), 5, len(recalls)).astype(np.int64) for g in GROUPS
        },
        fixed_cuts=[
            FixedCut(rule, value, [outcome] * len(runs), [dict.fromkeys(GROUPS, 5)] * len(runs))
            for rule, value in (("top_k", 10), ("top_k", 300), ("score", 0.05), ("score", 0.5))
        ],
        confusions=[
            Confusion(k, (k + 1) % num_categories, [40 - k + 3 * r for r in range(len(runs))])
            for k in range(min(30, num_categories))
        ],
    )


def with_recall(
    comparison: Comparison, *analyses: FalsePositiveAnalysis, spread: float | None = 0.05
) -> Comparison:
    """The comparison with rows at equal recall of analyses; intervals are ``spread`` of a count."""
    rows = []
    for analysis in analyses:
        for row in rows_of_analysis(analysis):
            first, *later = row.false_positives
            bounds = [
                Interval(n - first - (spread or 0) * first, n - first + (spread or 0) * first)
                for n in later
            ]
            kept = bounds if spread is not None else []
            rows.append(replace(row, false_positive_intervals=kept))
    return replace(comparison, at_recall=rows)


def make_image(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """An image with about the detail of a photograph: smooth shapes and fine noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3))
    for _ in range(12):
        angle, period = rng.uniform(0, 7), rng.uniform(8, 200)
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) / period + rng.uniform(0, 7))
        image += wave[..., None] * rng.uniform(-30, 30, 3)
    return (image + 128 + rng.normal(0, 9, image.shape)).clip(0, 255).astype(np.uint8)


def blob(rng: np.random.Generator, box: tuple[float, ...], height: int, width: int) -> dict:
    """A wavy mask that fills a box, as RLE."""
    x, y, w, h = (round(v) for v in box)
    rows, columns = np.mgrid[:h, :w]
    dx, dy = 2 * columns / w - 1, 2 * rows / h - 1
    angle = np.arctan2(dy, dx)
    edge = 0.85 + 0.1 * np.sin(5 * angle + rng.uniform(0, 7)) + 0.05 * np.sin(17 * angle)
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y : y + h, x : x + w] = np.hypot(dx, dy) < edge
    return mask_util.encode(mask)


def make_findings(num_categories: int = 60, *, seed: int = 0, objects: int = 40) -> Findings:
    """What the matches of a run could tell, about the categories of `make_analysis`."""
    rng = np.random.default_rng(seed)
    num_gt = make_analysis(num_categories=num_categories).num_gt
    curves: list[Curve | None] = []
    thresholds = []
    for k, n in enumerate(num_gt):
        if n == 0:
            curves.append(None)
            continue
        recall = np.linspace(1 / objects, rng.uniform(0.3, 1), objects)
        precision = np.linspace(1, rng.uniform(0.05, 0.9), objects)
        curves.append(
            Curve(
                threshold=np.sort(rng.uniform(0.001, 1, objects))[::-1],
                precision=precision,
                recall=recall,
                f1=2 * precision * recall / (precision + recall),
                kept=np.arange(1, objects + 1),
            )
        )
        at = int(np.argmax(curves[-1].f1))
        values = (100 * float(v[at]) for v in (precision, recall, curves[-1].f1))
        thresholds.append(BestThreshold(k + 1, float(curves[-1].threshold[at]), *values))
    cells = [ConfusionCell(k + 1, k + 1, int(n)) for k, n in enumerate(num_gt) if n]
    for k in range(num_categories):
        others = rng.choice(num_categories, 4, replace=False) + 1
        cells += [
            ConfusionCell(k + 1, int(o), int(rng.integers(1, 9))) for o in others if o != k + 1
        ]
        cells += [ConfusionCell(None, k + 1, 3), ConfusionCell(k + 1, None, 5)]
    bins = [*np.linspace(3, 97, 14).tolist(), None]
    share = rng.uniform(0.5, 1)
    return Findings(
        found=np.zeros(0, np.uint8),
        missed=[MissedRow(group, 100, 70 + seed, 8, 7, 15 - seed) for group in GROUPS],
        error_impact=[
            ErrorImpact(group, 40.0, dict.fromkeys(MAIN_ERRORS, 2.5), 6.0, 7.0,
                        dict.fromkeys(MAIN_ERRORS, 3))
            for group in GROUPS
        ],
        thresholds=thresholds,
        curves=curves,
        precision=np.where(num_gt[:, None] > 0, np.linspace(100, 0, 101), np.nan),
        confusion=cells,
        calibration=[
            Calibration(group, 1400, 12.5, 15.5, 40.0, 30.0, [100] * 14 + [0], bins,
                        [None if b is None else share * b for b in bins])
            for group in GROUPS
        ],
    )  # fmt: skip


def make_missed_crops(count: int, *, num_categories: int = 60) -> list[Crop]:
    """Crops around objects that the baseline misses, each with one detection that lies nearest."""
    names, groups = category_names(num_categories), frequencies(num_categories)
    crops = []
    for i in range(count):
        why = ("Loc", "Cls", "Miss")[i % 3]
        scene = make_scene(100 + i, names)
        object_ = scene.ground_truth[0]
        crop = cut_crop(
            scene,
            2,
            object_,
            make_image(i, scene.height, scene.width),
            group=str(groups[object_.category]),
            change=("removed", "added", "kept")[i % 3],
            truth=object_.name,
            also=[[object_, found[0]] for found in scene.detections],
        )
        reason = f"{MISS_REASONS['None' if why == 'Miss' else why]} (mug, score 0.31)"
        crops.append(replace(crop, kind=MISSED, why=why, reason=reason))
    return crops


def make_scene(
    seed: int,
    names: list[str],
    *,
    num_runs: int = 2,
    objects: int = 8,
    masks: bool = True,
    height: int = 480,
    width: int = 640,
) -> Scene:
    rng = np.random.default_rng(seed)
    kinds = ("Loc", "Cls", "TP", "Unverifiable", "Dupe", "Bkg", "Both", "Ignored")

    def thing(i: int, kind: str, score: float | None) -> SceneObject:
        category = int(rng.integers(len(names)))
        w, h = rng.uniform(30, 220, 2)
        box = (rng.uniform(0, width - w), rng.uniform(0, height - h), w, h)
        rle = blob(rng, box, height, width) if masks else None
        return SceneObject(box, rle, category, names[category], kind, score, i)

    detections = []
    for _ in range(num_runs):
        offset = int(rng.integers(len(kinds)))
        detections.append(
            [
                thing(i, kinds[(i + offset) % len(kinds)], float(rng.uniform(0.05, 1)))
                for i in range(objects)
            ]
        )
    return Scene(
        image=seed,
        image_id=1000 + seed,
        file_name=f"val2017/{1000 + seed:012d}.jpg",
        height=height,
        width=width,
        false_positives=[3] * num_runs,
        ground_truth=[thing(i, "Ground truth", None) for i in range(objects // 2)],
        detections=detections,
    )


def make_crops(
    count: int, *, num_categories: int = 60, num_runs: int = 2, **scene: int
) -> list[Crop]:
    names, groups = category_names(num_categories), frequencies(num_categories)
    crops = []
    for i in range(count):
        made = make_scene(i, names, num_runs=num_runs, **scene)
        run = i % num_runs
        subject = next(o for o in made.detections[run] if o.kind in ERROR_TYPES)
        change = ("removed", "added")[min(run, 1)] if num_runs > 1 else ""
        crops.append(
            cut_crop(
                made,
                run,
                subject,
                make_image(i, made.height, made.width),
                group=str(groups[subject.category]),
                change=change if i % 5 or num_runs == 1 else "kept",
                truth="" if subject.kind == "Bkg" else made.ground_truth[0].name,
            )
        )
    return crops


def evaluate_runs(folder: Path) -> Path:
    """Write ground truth, images, results and summaries of a baseline and a better run."""
    gt = made.make_gt(images=30, categories=8)
    gt["categories"][0]["name"] = NASTY
    made.write(folder / "gt.json", gt)
    for i, image in enumerate(gt["images"]):
        path = folder / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(i, *made.SIZE)).save(path)
    baseline = made.make_results(gt, 0, quality=0.6, extra=12)
    better = made.make_results(gt, 1, quality=0.8, extra=4)
    # Some false positives of the baseline again, moved by up to 0.4 of their width: IoU 0.43 to 1.
    for i, result in enumerate(baseline[-200:]):
        x, y, w, h = result["bbox"]
        box = [x + 0.1 * (i % 5) * w, y, w, h]
        better.append({**result, "bbox": box, "segmentation": made._rle(box)})
    for name, rows in (("baseline", baseline), ("IIF", better)):
        results = made.write(folder / f"{name}.json", rows)
        arguments = ["--gt", folder / "gt.json", "--results", results, "--output", folder / name]
        assert main(["evaluate", *map(str, arguments), "--iou-type", "bbox", "segm"]) == 0
    return folder


class Page(HTMLParser):
    """Checks that elements nest, and collects texts, attributes and ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self.tags[-1][1], data))
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if a.get("id")]

    def payload(self) -> dict:
        (text,) = [data for attributes, data in self.scripts if attributes.get("id") == "payload"]
        return json.loads(text)
