"""``eval_summary.json``: its content, and the only functions that write and read it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from iif import layout
from iif.data.groups import GroupLimits
from iif.data.results import Detections
from iif.data.sources import ReadFile
from iif.errors import InputError
from iif.evaluation.analyses import Analyses
from iif.files import read_json, write_json

SUMMARY_FORMAT = "iif-eval-summary/1"
TEST_SETTINGS = ("score_threshold", "nms_threshold", "detections_per_image")

# Percent, by name ("AP", "APr", "AR@300", ...); None where undefined.
Metrics = dict[str, float | None]


class _Head(msgspec.Struct):
    format: str


class Dataset(msgspec.Struct, kw_only=True):
    """The annotation file of an evaluation."""

    name: str | None = None
    path: str | None = None
    sha256: str
    num_images: int
    num_annotations: int | None = None
    num_categories: int
    exhaustive: bool = False


class Results(msgspec.Struct):
    """The result file that was evaluated.

    Of several (``files``) ``path`` is None and ``sha256`` is `iif.data.sources.combined_sha256`.
    Without a path, detections came from a pipe or from memory.
    """

    path: str | None = None
    sha256: str | None = None
    num_detections: int | None = None
    files: list[ReadFile] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, detections: Detections) -> Results:
        """Return the record of what detections were read from."""
        files = list(detections.files)
        path = files[0].path if len(files) == 1 else None if files else detections.path or None
        found = cls(path, detections.sha256 or None, len(detections))
        if len(files) > 1:
            found.files = files
        return found


class Evaluation(msgspec.Struct):
    """The evaluator's own settings.

    Attributes:
        max_dets: the cap on detections; None for no cap.
        iou_thresholds: from 0.5 to 0.95.
        group_limits: between rare, common and frequent categories, where they were counted; None
            where the annotation file names the groups, or there are none.
    """

    max_dets: int | None
    iou_thresholds: list[float]
    group_limits: GroupLimits | None = None


class Category(msgspec.Struct, kw_only=True):
    """One category: its counts, and its metrics by IoU type where that was evaluated."""

    id: int
    name: str
    group: str = msgspec.field(name="frequency")  # the key that LVIS uses
    image_count: int | None = None
    num_gt: int
    bbox: Metrics | msgspec.UnsetType = msgspec.UNSET
    segm: Metrics | msgspec.UnsetType = msgspec.UNSET

    def ap(self, iou_type: str) -> float | None:
        """Return AP in percent; None where it is undefined or was not evaluated."""
        metrics = getattr(self, iou_type)
        return None if metrics is msgspec.UNSET else metrics.get("AP")


class Summary(msgspec.Struct, kw_only=True):
    """The content of ``eval_summary.json``.

    Attributes:
        format: SUMMARY_FORMAT.
        versions: of the software.
        dataset, results: what was evaluated.
        test_settings: the model's settings in TEST_SETTINGS; None where not known.
        evaluation: the evaluator's settings.
        method: the long-tail method as it ran: name, options, acts_in_training, sha256 of its
            buffers; None where not known.
        config: the model's configuration; None where not known.
        metrics: by IoU type.
        per_category: in ascending order of ids.
        analyses: by IoU type, where they were asked for.
    """

    format: str
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    dataset: Dataset
    results: Results = msgspec.field(default_factory=Results)
    test_settings: dict[str, float | None] = msgspec.field(default_factory=dict)
    evaluation: Evaluation
    method: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    metrics: dict[str, Metrics]
    per_category: list[Category]
    analyses: dict[str, Analyses] = msgspec.field(default_factory=dict)


def write_summary(path: str | os.PathLike[str], summary: Summary) -> dict[str, Any]:
    """Write a summary, whole or not at all; return the file's content as plain values."""
    content = msgspec.to_builtins(summary)
    write_json(path, content)
    return content


def read_summary(path: str | os.PathLike[str]) -> Summary:
    """Read a summary.

    Raises:
        InputError: the file is missing, malformed, or of another format.
    """
    check_format(path, SUMMARY_FORMAT)
    return read_json(path, Summary, what="a summary written by iif evaluate")


def read_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a summary, of detection or classification.

    Raises:
        InputError: the file is missing, malformed, or has no format.
    """
    return read_json(path, _Head, what="the summary of an evaluation").format


def check_format(path: str | os.PathLike[str], expected: str) -> None:
    """Refuse a summary of another format.

    Raises:
        InputError: names both formats.
    """
    if (found := read_format(path)) != expected:
        raise InputError(
            f"{path}: format is {found!r}, expected {expected!r}; "
            "evaluate the run again with this version"
        )


def find_summary(path: str | os.PathLike[str]) -> Path:
    """Return the summary that ``path`` is, or that lies in it or in its ``inference`` folder.

    Raises:
        InputError: ``path`` is a folder without a summary.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    candidates = [path / layout.SUMMARY, path / layout.INFERENCE / layout.SUMMARY]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{path}: neither {layout.SUMMARY} nor {layout.INFERENCE}/{layout.SUMMARY} lies in this "
        "folder; evaluate the run first"
    )


def find_runs(
    paths: Sequence[str | os.PathLike[str]], names: Sequence[str] | None = None
) -> list[tuple[str, Path]]:
    """Return the name and the summary's path of each run.

    Args:
        paths: of each run its eval_summary.json, or a folder that has one in it or in its
            ``inference`` folder (Detectron2's layout).
        names: of the runs; default: the names of their folders.

    Raises:
        InputError: there is no run, a folder has no summary, or names are not different or not
            given for all runs.
    """
    if not paths:
        raise InputError("a comparison needs a run: give an evaluation summary or its folder")
    if names is not None and len(names) != len(paths):
        raise InputError(f"{len(names)} names for {len(paths)} runs; give one for each")
    if names is not None and len(set(names)) != len(names):
        raise InputError(f"the names {', '.join(names)} are not different; give each run its own")
    files = [find_summary(path) for path in paths]
    return list(zip(names or _default_names(files), files, strict=True))


def _default_names(files: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as make them different."""
    folders = [file.absolute().parent for file in files]
    folders = [f.parent if f.name == layout.INFERENCE else f for f in folders]
    for depth in range(1, max(len(f.parts) for f in folders)):
        names = ["/".join(f.parts[-depth:]) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(folders, start=1)]
