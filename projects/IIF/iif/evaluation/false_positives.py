"""False positives that the annotation can prove, compared where two runs find equally much.

Under LVIS's federated annotation a category is verified in some images only; a detection elsewhere
is unverifiable, never a false positive. Scores of two runs live on different scales, so the primary
comparison is made per category at matched recall; docs/evaluation.md has the definitions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType, available_iou_types, load_results
from iif.errors import InputError
from iif.evaluation.matching import ErrorType, Matches, Outcome, has_area, match
from iif.evaluation.tables import csv_text, markdown_table, number, text_table
from iif.files import atomic_write, versions

FORMAT = "iif-false-positives/1"
GROUPS = ("all", "r", "c", "f")
ERROR_TYPES = ("Loc", "Cls", "Dupe", "Bkg", "Both")
CURVE_RECALLS = np.arange(1, 20) / 20
TOP_K = (1, 3, 5, 10, 20, 50, 100, 300)
_GROUP_NAMES = {"all": "all", "r": "rare", "c": "common", "f": "frequent"}
_OUTCOME_NAMES = {
    "CAPPED": "beyond the cap per image",
    "DEGENERATE": "without area",
    "UNVERIFIED": "unverifiable",
    "IGNORED": "ignored",
    "TP": "true positive",
    "FP": "false positive",
}
SCORES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Run:
    """One run's detections and how they matched: what an analysis starts from.

    Attributes:
        name: as printed.
        detections: of its result file.
        matches: of these detections, with error types.
    """

    name: str
    detections: Detections
    matches: Matches


@dataclass(frozen=True)
class RunFalsePositives:
    """One run's part of the analysis; K categories in the order of ids.

    Attributes:
        name: as printed.
        path, sha256, num_detections: the result file.
        outcomes: outcome name ("CAPPED", ..., "FP") -> detections in the whole file.
        error_types: error type -> false positives in the whole file.
        max_recall: (K,) highest recall that the run reaches; NaN without ground truth.
        threshold: (K,) score at which it reaches the matched recall; NaN where it does not.
        true_positives: (K,) with a score at or above the threshold.
        false_positives: (K, 5) with a score at or above the threshold, by ERROR_TYPES.
        curve: group -> (recalls,) false positives per 1,000 verified images, mean over the
            categories that every run brings to that recall; NaN where there is none.
    """

    name: str
    path: str
    sha256: str
    num_detections: int
    outcomes: dict[str, int]
    error_types: dict[str, int]
    max_recall: NDArray[np.float64]
    threshold: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    curve: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Secondary:
    """A secondary view: detections of each run kept by a rule that ignores score scales or recall.

    Attributes:
        rule: "top_k" (the ``value`` best-scoring of each image) or "score" (score >= ``value``).
        value: k, or the score.
        counts: (runs,) each "TP", "FP", "IGNORED", "UNVERIFIED" -> detections.
        by_group: (runs,) each group -> false positives.
    """

    rule: str
    value: float
    counts: list[dict[str, int]]
    by_group: list[dict[str, int]]


@dataclass(frozen=True)
class Confusion:
    """Cls errors at matched recall: objects of ``gt_category`` detected as ``predicted``.

    Attributes:
        gt_category, predicted: category rows.
        counts: (runs,) number of such errors.
    """

    gt_category: int
    predicted: int
    counts: list[int]


@dataclass(frozen=True)
class GroupRow:
    """False positives at matched recall over one frequency group; lists are (runs,).

    Attributes:
        group: "all", "r", "c" or "f".
        categories: those with ground truth.
        matched: those of them that every run brings to the recall; all sums are over these.
        reached: categories that each run reaches.
        total: sum of false positives.
        mean: mean per category; NaN when matched is 0.
        per_1000: per 1,000 verified images of the category, mean over categories.
        by_type: (runs, 5) sums by ERROR_TYPES.
    """

    group: str
    categories: int
    matched: int
    reached: list[int]
    total: list[int]
    mean: list[float]
    per_1000: list[float]
    by_type: list[list[int]]


@dataclass(frozen=True)
class FalsePositiveAnalysis:
    """False positives of one run, or of several with the baseline first.

    Attributes:
        dataset: path, sha256, num_images, num_categories, exhaustive.
        iou_type: "bbox" or "segm"; matching is at IoU 0.5.
        recall: the matched recall.
        category_ids, category_names, category_groups, num_gt, verified_images: (K,).
        matched: (K,) bool, categories that every run brings to the recall.
        coverage: group -> share of image-category cells that are verified, 0 to 1.
        runs: (runs,).
        groups: one row each of GROUPS.
        curve_recalls: (recalls,); curve_categories: group -> (recalls,) categories behind a point.
        secondary: views at equal K per image and at equal score.
        confusions: most frequent first.
    """

    dataset: dict[str, str | int | bool]
    iou_type: str
    recall: float
    category_ids: NDArray[np.int64]
    category_names: list[str]
    category_groups: NDArray[np.str_]
    num_gt: NDArray[np.int64]
    verified_images: NDArray[np.int64]
    matched: NDArray[np.bool_]
    coverage: dict[str, float]
    runs: list[RunFalsePositives]
    groups: list[GroupRow]
    curve_recalls: NDArray[np.float64]
    curve_categories: dict[str, NDArray[np.int64]]
    secondary: list[Secondary]
    confusions: list[Confusion]

    @property
    def names(self) -> list[str]:
        """Names of the runs, the baseline's first."""
        return [run.name for run in self.runs]

    def to_text(self) -> str:
        """Return the tables as aligned plain text."""
        return self._render(text_table, "{}", "\n")

    def to_markdown(self) -> str:
        """Return the tables as Markdown."""
        return self._render(markdown_table, "## {}", "\n\n")

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, categories by id; undefined is None."""
        runs = []
        for run in self.runs:
            runs.append(
                {
                    "name": run.name,
                    "path": run.path,
                    "sha256": run.sha256,
                    "num_detections": run.num_detections,
                    "outcomes": run.outcomes,
                    "error_types": run.error_types,
                    "curve": run.curve,
                }
            )
        ids = self.category_ids
        per_category = []
        for k, name in enumerate(self.category_names):
            per_category.append(
                {
                    "id": ids[k],
                    "name": name,
                    "frequency": str(self.category_groups[k]),
                    "num_gt": self.num_gt[k],
                    "verified_images": self.verified_images[k],
                    "matched": self.matched[k],
                    "runs": [
                        {
                            "max_recall": run.max_recall[k],
                            "threshold": run.threshold[k],
                            "true_positives": run.true_positives[k],
                            "false_positives": run.false_positives[k].sum(),
                            "by_type": _by_type(run.false_positives[k]),
                        }
                        for run in self.runs
                    ],
                }
            )
        groups = [
            {
                **{key: getattr(row, key) for key in ("group", "categories", "matched", "reached")},
                "false_positives": row.total,
                "mean": row.mean,
                "per_1000_verified_images": row.per_1000,
                "by_type": [_by_type(counts) for counts in row.by_type],
            }
            for row in self.groups
        ]
        confusions = [
            {"gt_category": ids[c.gt_category], "predicted": ids[c.predicted], "counts": c.counts}
            for c in self.confusions
        ]
        return _plain(
            {
                "format": FORMAT,
                "versions": versions(),
                "dataset": self.dataset,
                "iou_type": self.iou_type,
                "iou_threshold": 0.5,
                "recall": self.recall,
                "coverage": self.coverage,
                "runs": runs,
                "groups": groups,
                "curve": {"recall": self.curve_recalls, "categories": self.curve_categories},
                "secondary": [vars(view) for view in self.secondary],
                "confusions": confusions,
                "per_category": per_category,
            }
        )

    def to_csv(self) -> str:
        """Return the table by category as CSV."""
        header = ["id", "name", "frequency", "num_gt", "verified_images", "matched"]
        columns = ["max_recall", "threshold", "TP", "FP", *(f"FP {t}" for t in ERROR_TYPES)]
        header += [f"{name}: {column}" for name in self.names for column in columns]
        rows = []
        for k, name in enumerate(self.category_names):
            cells: list[Any] = [self.category_ids[k], name, self.category_groups[k], self.num_gt[k]]
            cells += [self.verified_images[k], int(self.matched[k])]
            for run in self.runs:
                reached = not math.isnan(run.threshold[k])
                counts = [run.true_positives[k], run.false_positives[k].sum()]
                counts += [*run.false_positives[k]]
                cells += [_defined(run.max_recall[k]), _defined(run.threshold[k])]
                cells += counts if reached else [None] * len(counts)
            rows.append(cells)
        return csv_text(header, rows)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write false_positives.{txt,md,json,csv}; return their paths."""
        contents = {
            "false_positives.txt": self.to_text(),
            "false_positives.md": self.to_markdown(),
            "false_positives.json": msgspec.json.format(
                msgspec.json.encode(self.to_json())
            ).decode(),
            "false_positives.csv": self.to_csv(),
        }
        paths = [Path(folder, name) for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            with atomic_write(path) as f:
                f.write(content.rstrip("\n") + "\n")
        return paths

    def _render(self, table: Callable[..., str], heading: str, gap: str) -> str:
        """Return all parts, each a heading, a gap and a table made by ``table``."""
        kind = {"bbox": "box", "segm": "mask"}[self.iou_type]
        at = f"at recall {self.recall:g} ({kind} IoU 0.5)"
        parts = [
            heading.format(f"False positives {at}"),
            self._matched_note(),
            table(*self._total_table(lambda row: row.total, 0)),
            heading.format("Per 1,000 verified images of the category, mean over categories")
            + gap
            + table(*self._total_table(lambda row: row.per_1000, 1)),
            heading.format(f"By error type {at}") + gap + table(*self._type_table()),
            f"Coverage: {100 * self.coverage['all']:.2f}% of all image-category cells are verified"
            f" (rare {_percent(self.coverage['r'])}, common {_percent(self.coverage['c'])}, "
            f"frequent {_percent(self.coverage['f'])}). Detections elsewhere are unverifiable and "
            "are no false positives.",
            heading.format("All detections by outcome") + gap + table(*self._outcome_table()),
        ]
        if self.confusions:
            title = f"Most frequent confusions {at}"
            parts.append(heading.format(title) + gap + table(*self._confusion_table(), left=2))
        title = "Secondary views, not comparable between runs"
        parts.append(
            heading.format(title)
            + gap
            + "One score or one K per image means another recall in each run.\n\n"
            + table(*self._secondary_table())
        )
        return "\n\n".join(parts)

    def _matched_note(self) -> str:
        row = self.groups[0]
        note = f"Over {row.matched:,} of {row.categories:,} categories with ground truth, those in "
        note += f"which {all_runs(self.names)} this recall"
        if len(self.runs) > 1:
            reached = zip(self.names, row.reached, strict=True)
            note += f" ({', '.join(f'{name} in {count:,}' for name, count in reached)})"
        return note + ("." if row.matched else "; choose a lower --recall.")

    def _total_table(
        self, values: Callable[[GroupRow], Sequence[float]], decimals: int
    ) -> tuple[list[str], list[list[str]]]:
        header = ["group", "categories", *self.names]
        header += [f"{name} - {self.names[0]}" for name in self.names[1:]]
        rows = []
        for row in self.groups:
            found = [value if row.matched else None for value in values(row)]
            rows.append(
                [
                    _GROUP_NAMES[row.group],
                    f"{row.matched:,} of {row.categories:,}",
                    *(number(value, decimals) for value in found),
                    *(
                        number(
                            None if value is None or found[0] is None else value - found[0],
                            decimals,
                            signed=True,
                        )
                        for value in found[1:]
                    ),
                ]
            )
        return header, rows

    def _type_table(self) -> tuple[list[str], list[list[str]]]:
        header = ["type"]
        for row in self.groups:
            header += [f"{_GROUP_NAMES[row.group]}: {name}" for name in self.names]
        rows = []
        for column, error_type in enumerate(ERROR_TYPES):
            counts = [run[column] for row in self.groups for run in row.by_type]
            rows.append([error_type, *(number(count, 0) for count in counts)])
        return header, rows

    def _outcome_table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [label, *(number(run.outcomes[outcome], 0) for run in self.runs)]
            for outcome, label in _OUTCOME_NAMES.items()
        ]
        rows += [
            [f"  {error_type}", *(number(run.error_types[error_type], 0) for run in self.runs)]
            for error_type in ERROR_TYPES
        ]
        rows.append(["in the file", *(number(run.num_detections, 0) for run in self.runs)])
        return ["outcome", *self.names], rows

    def _confusion_table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [
                self.category_names[confusion.gt_category],
                self.category_names[confusion.predicted],
                *(number(count, 0) for count in confusion.counts),
            ]
            for confusion in self.confusions[:10]
        ]
        return ["object", "detected as", *self.names], rows

    def _secondary_table(self) -> tuple[list[str], list[list[str]]]:
        shown = {"FP": "false", "TP": "true", "UNVERIFIED": "unverifiable"}
        header = ["view", *(f"{name}: {label}" for name in self.names for label in shown.values())]
        rows = []
        for view in self.secondary:
            label = f"best {view.value:g} of each image" if view.rule == "top_k" else None
            cells = [number(counts[key], 0) for counts in view.counts for key in shown]
            rows.append([label or f"score >= {view.value:g}", *cells])
        return header, rows


def analyse(gt: Annotations, runs: Sequence[Run], *, recall: float = 0.5) -> FalsePositiveAnalysis:
    """Count the false positives of runs on the same ground truth, the baseline first.

    Args:
        gt: the annotations.
        runs: matched with one IoU type.
        recall: the matched recall, above 0 and up to 1. The default asks for half of a category's
            instances: low enough that most categories reach it in both runs, the rare ones (a
            few instances) too, and high enough to leave the handful of easiest ones behind.

    Raises:
        InputError: the recall is out of range.
    """
    check_recall(recall)
    groups, num_gt = gt.groups, runs[0].matches.num_gt[0]
    members = {group: (groups == group) | (group == "all") for group in GROUPS}
    verified = verified_images(gt)
    kept = [_kept(run.matches, [recall])[0] for run in runs]
    matched = np.all([k >= 0 for k in kept], axis=0)
    curve, curve_categories = _curves(runs, members, verified)
    parts = []
    for run, keep, points in zip(runs, kept, curve, strict=True):
        parts.append(_run_part(run, keep, points))
    return FalsePositiveAnalysis(
        dataset={
            "path": gt.path,
            "sha256": gt.sha256,
            "num_images": len(gt.image_ids),
            "num_categories": len(gt.category_ids),
            "exhaustive": gt.exhaustive,
        },
        iou_type=runs[0].matches.iou_type,
        recall=recall,
        category_ids=gt.category_ids,
        category_names=gt.category_names,
        category_groups=groups,
        num_gt=num_gt,
        verified_images=verified,
        matched=matched,
        coverage={
            group: float(verified[chosen].sum() / max(1, len(gt.image_ids) * chosen.sum()))
            for group, chosen in members.items()
        },
        runs=parts,
        groups=[
            _group_row(group, chosen & (num_gt > 0), matched, parts, verified)
            for group, chosen in members.items()
        ],
        curve_recalls=CURVE_RECALLS,
        curve_categories=curve_categories,
        secondary=_secondary(runs, members),
        confusions=_confusions(gt, runs, kept, matched),
    )


def load_runs(
    gt: Annotations,
    results: dict[str, str | os.PathLike[str]],
    *,
    iou_type: IouType | None = None,
) -> list[Run]:
    """Read and match result files, the baseline's first.

    Args:
        gt: the annotations, with masks for "segm".
        results: name of each run -> its result file.
        iou_type: default "segm" where every file has masks, else "bbox".

    Raises:
        InputError: a result file is malformed or lacks what the IoU type needs.
    """
    iou_type = iou_type or common_iou_type(list(results.values()))
    runs = []
    for name, path in results.items():
        detections = load_results(path, gt, iou_type=iou_type)
        runs.append(Run(name, detections, match(gt, detections, iou_type)))
    return runs


def common_iou_type(results: Sequence[str | os.PathLike[str]]) -> IouType:
    """Return "segm" where every result file has masks, else "bbox".

    Raises:
        InputError: a result file is malformed.
    """
    return "segm" if all("segm" in available_iou_types(path) for path in results) else "bbox"


def check_recall(recall: float) -> None:
    """Raise InputError unless 0 < recall <= 1."""
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall:g}; it must be above 0 and at most 1")


def verified_images(gt: Annotations) -> NDArray[np.int64]:
    """Return (K,) the number of images in which each category is verified.

    Verified means annotated there or listed in the image's ``neg_category_ids``; everything is
    where annotation is exhaustive.
    """
    num_images, num_categories = len(gt.image_ids), len(gt.category_ids)
    if gt.exhaustive:
        return np.full(num_categories, num_images, np.int64)
    # Ground truth without an area verifies nothing, in matching as here.
    real = has_area(gt.area)
    image = np.concatenate([gt.ann_image[real], gt.neg[:, 0]]).astype(np.int64)
    category = np.concatenate([gt.ann_category[real], gt.neg[:, 1]])
    cells = np.unique(image * num_categories + category)
    return np.bincount(cells % num_categories, minlength=num_categories)


def _kept(matches: Matches, recalls: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (recalls, K) how many best-scoring detections bring a category to a recall.

    Detections that tie with the last needed are kept too. -1 where the recall is not reached.
    """
    offsets, num_gt = matches.category_offsets, matches.num_gt[0]
    true = matches.flags[0, 0] == 1
    kept = np.full((len(recalls), len(num_gt)), -1, np.int64)
    # The small number keeps 0.1 * 10, a little over 1 in floating point, from asking for 2.
    needed = np.ceil(np.multiply.outer(recalls, num_gt) - 1e-9).astype(np.int64).clip(1)
    for k in np.flatnonzero(num_gt):
        part = slice(offsets[k], offsets[k + 1])
        falling = -matches.score[part]
        last = np.searchsorted(np.cumsum(true[part]), needed[:, k])
        reached = last < len(falling)
        kept[reached, k] = np.searchsorted(falling, falling[last[reached]], side="right")
    return kept


def _run_part(
    run: Run, kept: NDArray[np.int64], curve: dict[str, NDArray[np.float64]]
) -> RunFalsePositives:
    matches, detections = run.matches, run.detections
    flags, offsets, num_gt = matches.flags[0, 0], matches.category_offsets, matches.num_gt[0]
    num_categories = len(num_gt)
    category, at_point = _at_point(matches, kept)
    last = offsets[:-1] + kept - 1
    threshold = np.full(num_categories, np.nan)
    threshold[kept >= 0] = matches.score[last[kept >= 0]]
    false = at_point & (flags == 0)
    cells = category[false] * len(ERROR_TYPES) + _error_type(matches)[false]
    by_type = np.bincount(cells, minlength=num_categories * len(ERROR_TYPES))
    found = np.bincount(category[flags == 1], minlength=num_categories)
    outcomes = np.bincount(matches.outcome, minlength=len(Outcome))
    errors = np.bincount(matches.error_type, minlength=len(ErrorType))
    return RunFalsePositives(
        name=run.name,
        path=detections.path,
        sha256=detections.sha256,
        num_detections=len(detections.score),
        outcomes={outcome.name: int(outcomes[outcome]) for outcome in Outcome},
        error_types={t.label: int(errors[t]) for t in ErrorType if t != ErrorType.NONE},
        max_recall=np.where(num_gt > 0, found / np.maximum(num_gt, 1), np.nan),
        threshold=threshold,
        true_positives=np.bincount(category[at_point & (flags == 1)], minlength=num_categories),
        false_positives=by_type.reshape(num_categories, len(ERROR_TYPES)),
        curve=curve,
    )


def _at_point(
    matches: Matches, kept: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for the detections that count (V,) their category and whether they are kept."""
    sizes = np.diff(matches.category_offsets)
    category = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(category)) - matches.category_offsets[category]
    return category, rank < kept[category]


def _error_type(matches: Matches) -> NDArray[np.int64]:
    """Return (V,) column of ERROR_TYPES of the detections that count; -1 without an error."""
    return matches.error_type[matches.rows].astype(np.int64) - ErrorType.LOC


def _group_row(
    group: str,
    chosen: NDArray[np.bool_],
    matched: NDArray[np.bool_],
    runs: Sequence[RunFalsePositives],
    verified: NDArray[np.int64],
) -> GroupRow:
    counted = chosen & matched
    counts = [run.false_positives[counted] for run in runs]
    totals = [c.sum(axis=1) for c in counts]
    return GroupRow(
        group=group,
        categories=int(chosen.sum()),
        matched=int(counted.sum()),
        reached=[int((chosen & ~np.isnan(run.threshold)).sum()) for run in runs],
        total=[int(total.sum()) for total in totals],
        mean=[_mean(total) for total in totals],
        per_1000=[_mean(1000 * total / verified[counted]) for total in totals],
        by_type=[c.sum(axis=0).tolist() for c in counts],
    )


def _curves(
    runs: Sequence[Run], members: dict[str, NDArray[np.bool_]], verified: NDArray[np.int64]
) -> tuple[list[dict[str, NDArray[np.float64]]], dict[str, NDArray[np.int64]]]:
    """Return each run's curve by group, and by group the number of categories at each recall."""
    kept = [_kept(run.matches, CURVE_RECALLS) for run in runs]
    reached = np.all([k >= 0 for k in kept], axis=0)
    curves = []
    for run, keep in zip(runs, kept, strict=True):
        false = np.concatenate([[0], np.cumsum(run.matches.flags[0, 0] == 0)])
        start = run.matches.category_offsets[:-1]
        count = false[start + keep.clip(0)] - false[start]
        rate = 1000 * count / np.maximum(verified, 1)
        curves.append(
            {
                group: np.array(
                    [_mean(row[r & chosen]) for row, r in zip(rate, reached, strict=True)]
                )
                for group, chosen in members.items()
            }
        )
    return curves, {group: reached[:, chosen].sum(axis=1) for group, chosen in members.items()}


def _secondary(runs: Sequence[Run], members: dict[str, NDArray[np.bool_]]) -> list[Secondary]:
    ranks = [_rank_in_image(run.detections) for run in runs]
    views = []
    for rule, values in (("top_k", TOP_K), ("score", SCORES)):
        for value in values:
            counts, by_group = [], []
            for run, rank in zip(runs, ranks, strict=True):
                keep = rank < value if rule == "top_k" else run.detections.score >= value
                outcome = np.bincount(run.matches.outcome[keep], minlength=len(Outcome))
                false = run.detections.category[keep & (run.matches.outcome == Outcome.FP)]
                counts.append(
                    {
                        o.name: int(outcome[o])
                        for o in (Outcome.TP, Outcome.FP, Outcome.IGNORED, Outcome.UNVERIFIED)
                    }
                )
                by_group.append(
                    {group: int(chosen[false].sum()) for group, chosen in members.items()}
                )
            views.append(Secondary(rule, value, counts, by_group))
    return views


def _rank_in_image(detections: Detections) -> NDArray[np.int64]:
    """Return (D,) how many detections of the same image score higher; file order breaks ties."""
    order = np.lexsort((-detections.score, detections.image))
    image = detections.image[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(image, image)
    return rank


def _confusions(
    gt: Annotations,
    runs: Sequence[Run],
    kept: Sequence[NDArray[np.int64]],
    matched: NDArray[np.bool_],
) -> list[Confusion]:
    num_categories = len(matched)
    counts = np.zeros((len(runs), num_categories * num_categories), np.int64)
    for i, (run, keep) in enumerate(zip(runs, kept, strict=True)):
        matches = run.matches
        predicted, at_point = _at_point(matches, keep)
        confused = at_point & matched[predicted]
        confused &= _error_type(matches) == ERROR_TYPES.index("Cls")
        true = gt.ann_category[matches.gt_row[matches.rows[confused]]].astype(np.int64)
        np.add.at(counts[i], true * num_categories + predicted[confused], 1)
    total = counts.sum(axis=0)
    pairs = np.flatnonzero(total)
    pairs = pairs[np.argsort(-total[pairs], kind="stable")]
    return [
        Confusion(int(pair // num_categories), int(pair % num_categories), counts[:, pair].tolist())
        for pair in pairs
    ]


def all_runs(names: Sequence[str]) -> str:
    """Return "both runs reach" or what else fits the number of runs."""
    return {1: f"{names[0]} reaches", 2: "both runs reach"}.get(len(names), "all runs reach")


def _by_type(counts: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(ERROR_TYPES, (int(count) for count in counts), strict=True))


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _plain(value: Any) -> Any:
    """Return nested values with numpy's turned into Python's and NaN into None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
