"""What both engines share of "iif tune --all": which methods are tried, and what is written.

The engines bring the boxes that one pass of their network finds under each method.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from iif import layout
from iif.data.annotations import Annotations
from iif.data.results import load_results, write_results
from iif.data.split import held_out_images, part_of
from iif.errors import InputError
from iif.evaluation.compare import compare
from iif.evaluation.evaluate import evaluate
from iif.evaluation.tuning import FoundBoxes, Setting, measure, winner
from iif.files import atomic_write, sha256_file, versions, write_json
from iif.methods import BASELINE, METHODS, Method, build_method
from iif.report import pipelines
from iif.report.html import write_report
from iif.report.tuning import plot_trials, trial_name, tuning_page
from iif.statistics import ClassStatistics

FORMAT = "iif-tuning-all/1"
PLAIN, BEST = "plain", "best"  # the folders of the two runs that are evaluated in full

MASK_METRICS = ("AP", "APr", "APc", "APf", "AP-fixed")
NOT_FOLDED = "the plain model is the best, and is a plain checkpoint already"
NO_BOXES = "there is no ground truth in the images: hold out more of them"


@dataclass(frozen=True)
class Candidate:
    """A trial before it is measured: its setting and the method to run."""

    setting: Setting
    method: Method


@dataclass(frozen=True)
class Skipped:
    """A method that cannot run on this model, and why."""

    method: str
    reason: str


@dataclass(frozen=True)
class Source:
    """The model and the images, for what is written.

    Attributes:
        engine: "detectron2" or "torchvision".
        checkpoint: its path.
        dataset: the training set's name.
        fraction: the part of its images that is looked at.
        held_out: the part that was left out of training.
        images: the folder of the images; None to draw no crops.
    """

    engine: str
    checkpoint: str
    dataset: str
    fraction: float
    held_out: float
    images: str | None


def candidates(
    statistics: ClassStatistics,
    options: Mapping[str, Mapping[str, Any]],
    *,
    background: bool = True,
) -> tuple[list[Candidate], list[Skipped]]:
    """Return every post-hoc method at every value of its tuned option, the plain model first.

    Args:
        statistics: of the training set.
        options: by method, its options in the configuration; those that make it post-hoc and the
            tuned one are replaced.
        background: whether the classifier has a background output.

    Returns:
        the candidates, and the methods that cannot run with the reason.
    """
    plain = Setting(method=BASELINE, option=None, value=None, options={})
    found, skipped = [Candidate(plain, Method())], []
    for name, kind in METHODS.items():
        if kind.post_hoc is None:
            continue
        values: Sequence[float | None] = kind.tuned_values if kind.tuned_option else (None,)
        of_method = []
        try:
            for value in values:
                chosen = {**options.get(name, {}), **kind.post_hoc}
                if kind.tuned_option:
                    chosen[kind.tuned_option] = float(value or 0.0)
                method = build_method(name, statistics, chosen, background)
                setting = Setting(
                    method=name,
                    option=kind.tuned_option,
                    value=value,
                    options=msgspec.to_builtins(method.options),
                )
                of_method.append(Candidate(setting, method))
        except InputError as error:
            skipped.append(Skipped(name, str(error)))
        else:
            found += of_method
    return found, skipped


def held_out_part(gt: Annotations, fraction: float) -> Annotations:
    """Return the annotations of the images to look at.

    Raises:
        InputError: there is none, or nothing is annotated in them.
    """
    part = part_of(gt, held_out_images(gt.image_ids.tolist(), fraction))
    if not len(part.image_ids):
        raise InputError(f"no image of {gt.path} is held out with a fraction of {fraction}")
    if not len(part.ann_ids):
        raise InputError(f"{gt.path}: {NO_BOXES}")
    return part


def choose(
    gt: Annotations,
    tried: Sequence[Candidate],
    skipped: Sequence[Skipped],
    boxes: Sequence[FoundBoxes],
    source: Source,
    *,
    recall: float = 0.5,
    bootstrap: int = 1000,
) -> tuple[dict[str, Any], int]:
    """Measure the boxes of every candidate and choose the best by box AP.

    Returns:
        the content of tuning.json, and the row of the winner among the candidates.

    Raises:
        InputError: the images have no ground truth.
    """
    trials = measure(
        gt,
        [candidate.setting for candidate in tried],
        [found.detections for found in boxes],
        recall=recall,
        bootstrap=bootstrap,
    )
    if trials[0].metrics["AP"] is None:
        raise InputError(f"{gt.path}: {NO_BOXES}")
    best = winner(trials)
    result = {
        "format": FORMAT,
        "versions": versions(),
        "engine": source.engine,
        "checkpoint": source.checkpoint,
        "checkpoint_sha256": sha256_file(source.checkpoint),
        "dataset": {"name": source.dataset, "path": gt.path, "sha256": gt.sha256},
        "fraction": source.fraction,
        "num_images": len(gt.image_ids),
        "seen_in_training": source.fraction > source.held_out,
        "recall": recall,
        "bootstrap": bootstrap,
        "trials": msgspec.to_builtins(trials),
        "skipped": [{"method": s.method, "reason": s.reason} for s in skipped],
        "best": best,
    }
    return result, best


def save_run(
    folder: Path,
    gt: Annotations,
    rows: list[dict[str, Any]],
    candidate: Candidate,
    source: Source,
    *,
    test_settings: Mapping[str, float | None],
    config: Mapping[str, Any],
    masks: bool,
) -> None:
    """Write an evaluation of one candidate on the held-out images, with masks where it has them.

    Args:
        folder: of the run.
        gt: the images that were looked at, with masks for ``masks``.
        rows: its detections as entries of a result file.
        candidate: the method that ran.
        source: the model and the images.
        test_settings, config: for the summary.
        masks: whether the rows have masks.
    """
    path = folder / layout.INFERENCE / layout.RESULTS
    write_results(path, rows)
    evaluate(
        gt,
        load_results(path, gt, iou_type="segm" if masks else "bbox"),
        ("bbox", "segm") if masks else ("bbox",),
        output_dir=path.parent,
        dataset_name=f"{source.dataset}, {len(gt.image_ids):,} images",
        test_settings=test_settings,
        method=candidate.method.record(),
        config=config,
    )


def save_tuning(
    folder: str | os.PathLike[str],
    result: dict[str, Any],
    gt: Annotations,
    source: Source,
    *,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Write tuning.json, the curves, and the pages; return the result with the masks' metrics.

    The folder already has the evaluated runs (`save_run`): the plain model, and the winner where
    it is another one.

    Args:
        folder: the output folder.
        result: of `choose`.
        gt: the images that were looked at, with masks where the runs have masks.
        source: the model and the images.
        bootstrap: replicates behind the intervals of the comparison; 0 for none.
    """
    folder = Path(folder)
    result = dict(result)
    names = [PLAIN, BEST] if result["best"] else [PLAIN]
    comparison = compare(
        [folder / name for name in names],
        names=[trial_name(result, row) for row in (0, result["best"])][: len(names)],
        bootstrap=bootstrap,
    )
    paths = {info.name: folder / name for name, info in zip(names, comparison.runs, strict=True)}
    analysed = pipelines.analyse_results(
        gt,
        {name: path / layout.INFERENCE / layout.RESULTS for name, path in paths.items()},
        recall=result["recall"],
    )
    report = pipelines.make_report(comparison, analysed, images=source.images)
    result["masks"] = [
        msgspec.to_builtins(row)
        for row in comparison.metrics
        if row.iou_type == "segm" and row.metric in MASK_METRICS
    ]
    write_json(folder / layout.TUNING_JSON, result)
    with atomic_write(folder / layout.TUNING_PLOT, "wb") as f:
        plot_trials(result).savefig(f, format="png", dpi=150)
    write_report(report, folder / layout.REPORT)
    with atomic_write(folder / layout.TUNING_PAGE) as f:
        f.write(tuning_page(result, (folder / layout.TUNING_PLOT).read_bytes()))
    return result
