"""The whole check: annotations, their images, a validation set, and a result file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from iif.check.annotations import Content, check_content
from iif.check.classes import ClassRow, Group, check_classes
from iif.check.findings import Finding, in_order
from iif.check.images import check_images, shared_content
from iif.check.results import ResultContent, annotations_for_results, check_result_file
from iif.data.annotation_file import AnnotationFile, decode, rows_of
from iif.data.faults import Fault, Faults, Report, examples
from iif.errors import InputError
from iif.statistics import ClassStatistics

FORMAT = "iif-check/1"


class FileCheck(msgspec.Struct):
    """What was found in one file; ``usable``: whether training and evaluation take it."""

    path: str
    role: str  # "annotations", "validation" or "results"
    usable: bool
    findings: list[Finding]


class Check(msgspec.Struct):
    """The result of "iif check": what its JSON file holds.

    Attributes:
        format: of this record.
        usable: whether every file is.
        files: the annotation file, the validation set's and the result file, as far as given.
        content: of the annotation file.
        classes: of the annotation file, by id.
        groups: "r", "c" and "f".
        images_read: whether the image files were looked at.
        validation: content of the validation set's file; None without one.
        results: content of the result file; None without one.
    """

    usable: bool
    files: list[FileCheck]
    content: Content
    classes: list[ClassRow]
    groups: dict[str, Group]
    images_read: bool
    validation: Content | None = None
    results: ResultContent | None = None
    format: str = FORMAT


def check(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    val: str | os.PathLike[str] | None = None,
    val_images: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] | None = None,
) -> Check:
    """Check annotations, and on request their images, a validation set and a result file.

    Args:
        path: annotations, LVIS- or COCO-format: the training set's where there is a ``val``.
        images: the folder that their file names start from; every image is read.
        val: annotations of the validation set.
        val_images: the folder of its images; by default ``images``.
        results: a result file for ``val``, without it for ``path``.

    Raises:
        InputError: a file cannot be read at all: it is missing, no JSON (cut off), or has no
            images or categories.
    """
    found = Faults()
    content = decode(path, found)
    summary = check_content(content, found)
    classes, groups, statistics = check_classes(content, found)
    paths = check_images(content, images, found) if images is not None else []
    files = [_file(content.path, "annotations", found)]
    val_summary = None
    if val is not None:
        found = Faults()
        other = decode(val, found)
        val_summary = check_content(other, found)
        folder = val_images if val_images is not None else images
        val_paths = check_images(other, folder, found) if folder is not None else []
        _check_split(content, other, statistics, paths, val_paths, found)
        files.append(_file(other.path, "validation", found))
    result_summary = None
    if results is not None:
        against = files[-1]
        if not against.usable:
            raise InputError(
                f"{results}: cannot be checked while {against.path} has errors; correct them, or "
                "check it alone"
            )
        found = Faults()
        gt = annotations_for_results(against.path, statistics)
        result_summary = check_result_file(results, gt, found)
        files.append(_file(os.fspath(results), "results", found))
    return Check(
        usable=all(file.usable for file in files),
        files=files,
        content=summary,
        classes=classes,
        groups=groups,
        images_read=images is not None,
        validation=val_summary,
        results=result_summary,
    )


def _file(path: str, role: str, faults: Faults) -> FileCheck:
    findings = in_order(faults)
    return FileCheck(path, role, not any(f.level == "error" for f in findings), findings)


def _check_split(
    training: AnnotationFile,
    validation: AnnotationFile,
    statistics: ClassStatistics | None,
    paths: Sequence[Path],
    val_paths: Sequence[Path],
    report: Report,
) -> None:
    """Report what two files share that they must not, and what they must share and do not."""
    if paths and val_paths:
        kind, shared = "shared_content", shared_content(paths, val_paths)
    else:
        names = set(filter(None, training.file_names()))
        kind, shared = "shared_files", [n for n in validation.file_names() if n in names]
    if shared:
        message = f"{shared[0]!r}, for example; take them out of one of the two"
        report(Fault(kind, message, len(shared), examples(shared)))
    ids = np.intersect1d(training.image_ids, validation.image_ids).tolist()
    if ids:
        message = "ids count from the start in each file, or the images are the same"
        report(Fault("shared_ids", message, len(ids), examples(ids)))
    _check_categories(training, validation, statistics, report)


def _check_categories(
    training: AnnotationFile,
    validation: AnnotationFile,
    statistics: ClassStatistics | None,
    report: Report,
) -> None:
    known = {category.id: category.name for category in training.categories}
    trained = set(known if statistics is None else statistics.ids.tolist())
    annotated = np.bincount(validation.ann_category, minlength=len(validation.categories)) > 0
    ours = {category.id: category.name for category in validation.categories}
    has_any = dict(zip(ours, annotated.tolist(), strict=True))
    lax = not validation.federated
    differing = [
        key
        for key, name in ours.items()
        if known.get(key) != name and not (lax and key not in trained and not has_any[key])
    ]
    differing += [key for key in trained if key not in ours]
    if differing:
        key = differing[0]
        message = (
            f"id {key} is {known.get(key, 'missing')!r} in the training set and "
            f"{ours.get(key, 'missing')!r} here; give both files the same categories"
        )
        report(Fault("other_categories", message, len(differing), examples(differing)))
    never = [key for key in ours if has_any[key] and key in known and key not in trained]
    if never:
        message = f"{ours[never[0]]!r} (id {never[0]}); put images of them into the training set"
        report(Fault("never_trained", message, len(never), examples(never)))
    rows = rows_of(validation.category_ids, sorted(trained))
    unseen = [
        key
        for key, row in zip(sorted(trained), rows.tolist(), strict=True)
        if row >= 0 and not annotated[row]
    ]
    if unseen and validation.annotated:
        message = f"{known[unseen[0]]!r} (id {unseen[0]}), for example"
        report(Fault("not_in_validation", message, len(unseen), examples(unseen)))
