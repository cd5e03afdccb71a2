"""The conditions of an evaluation, and whether two runs may be compared.

`refuse_differences` is the only function that decides this. A comparison calls it when two runs
are evaluated, and a trainer calls it before it trains, with the conditions that are planned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec

from iif.data.annotations import Annotations
from iif.data.results import IOU_TYPES, IouType
from iif.errors import InputError
from iif.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS
from iif.evaluation.summary_file import Summary, read_summary


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What two runs must have in common to be compared.

    Attributes:
        annotations: path or name of the annotation file, for messages.
        sha256: of the annotation file.
        num_images: images in it.
        category_ids: (K,) ascending.
        exhaustive: whether every category was verified in every image.
        max_dets: the cap on an image's detections.
        iou_thresholds: of the evaluation.
        iou_types: those that are evaluated; two runs need one in common.
        test_settings: score_threshold, nms_threshold, detections_per_image; None where not known.
            With test-time augmentation also augmented_images, the versions of each image.
    """

    annotations: str
    sha256: str
    num_images: int
    category_ids: tuple[int, ...]
    exhaustive: bool
    max_dets: int | None
    iou_thresholds: tuple[float, ...]
    iou_types: tuple[str, ...]
    test_settings: Mapping[str, float | None]

    @classmethod
    def of_summary(cls, source: Summary | str | os.PathLike[str]) -> Conditions:
        """Return the conditions of an evaluated run.

        Args:
            source: the run's summary, or the path of its eval_summary.json.

        Raises:
            InputError: the file is missing or malformed.
        """
        summary = source if isinstance(source, Summary) else read_summary(source)
        dataset, evaluation = summary.dataset, summary.evaluation
        return cls(
            annotations=str(dataset.path or dataset.name),
            sha256=dataset.sha256,
            num_images=dataset.num_images,
            category_ids=tuple(category.id for category in summary.per_category),
            exhaustive=dataset.exhaustive,
            max_dets=evaluation.max_dets,
            iou_thresholds=tuple(evaluation.iou_thresholds),
            iou_types=tuple(t for t in IOU_TYPES if summary.metrics.get(t)),
            test_settings=summary.test_settings,
        )

    @classmethod
    def planned(
        cls,
        gt: Annotations,
        test_settings: Mapping[str, float | None],
        *,
        iou_types: Sequence[IouType] = IOU_TYPES,
    ) -> Conditions:
        """Return the conditions of a run that `iif.evaluation.evaluate` is to evaluate.

        Args:
            gt: the annotations that it will be evaluated on.
            test_settings: of the model.
            iou_types: those that will be evaluated.
        """
        return cls(
            annotations=gt.path,
            sha256=gt.sha256,
            num_images=len(gt.image_ids),
            category_ids=tuple(gt.category_ids.tolist()),
            exhaustive=gt.exhaustive,
            max_dets=MAX_DETECTIONS,
            iou_thresholds=tuple(IOU_THRESHOLDS.round(2).tolist()),
            iou_types=tuple(iou_types),
            test_settings=test_settings,
        )


def refuse_differences(one: tuple[str, Conditions], other: tuple[str, Conditions]) -> None:
    """Raise InputError when two runs may not be compared.

    A test setting that one of them does not know cannot be checked and is no reason to refuse.

    Args:
        one, other: each run's name, for the message, and its conditions.

    Raises:
        InputError: names the first condition that differs, both runs and their values, and the
            remedy.
    """
    (name_a, a), (name_b, b) = one, other
    refused = f"{name_a} and {name_b} cannot be compared"

    def check(what: str, value_a: object, value_b: object, remedy: str) -> None:
        if value_a != value_b:
            raise InputError(
                f"{refused}: {what} is {value_a} in {name_a} and {value_b} in {name_b}; {remedy}"
            )

    remedy = "evaluate both on the same annotation file"
    if a.sha256 != b.sha256:
        file_a, file_b = (f"{c.annotations} (sha256 {c.sha256[:12]})" for c in (a, b))
        check("the annotation file", file_a, file_b, remedy)
    check("the number of images", a.num_images, b.num_images, remedy)
    check("the number of categories", len(a.category_ids), len(b.category_ids), remedy)
    if a.category_ids != b.category_ids:
        raise InputError(f"{refused}: category ids differ; {remedy}")
    remedy = "evaluate both in the same way"
    check("exhaustive annotation", a.exhaustive, b.exhaustive, remedy)
    check("max_dets", a.max_dets, b.max_dets, remedy)
    check("iou_thresholds", list(a.iou_thresholds), list(b.iou_thresholds), remedy)
    remedy = "run inference of both with the same test settings"
    for key in sorted(a.test_settings.keys() & b.test_settings.keys()):
        value_a, value_b = a.test_settings[key], b.test_settings[key]
        if value_a is not None and value_b is not None:
            check(key, value_a, value_b, remedy)
    augmented_a, augmented_b = (int(c.test_settings.get("augmented_images") or 1) for c in (a, b))
    what = "the number of test-time augmented versions of an image"
    check(what, augmented_a, augmented_b, remedy)
    if not set(a.iou_types) & set(b.iou_types):
        raise InputError(
            f"{refused}: they have no IoU type in common; evaluate both as boxes, or as masks"
        )


def common_iou_types(pairs: Sequence[tuple[str, Summary]]) -> tuple[list[str], list[str]]:
    """Return the IoU types that all have, and a note for each that some lack."""
    common: list[str] = []
    notes = []
    for iou_type in IOU_TYPES:
        without = [name for name, summary in pairs if not summary.metrics.get(iou_type)]
        if not without:
            common.append(iou_type)
        elif len(without) < len(pairs):
            kind = "mask" if iou_type == "segm" else "box"
            notes.append(f"{kind} AP is left out: {', '.join(without)} has none.")
    if not common:
        raise InputError(
            "the runs have no IoU type in common; evaluate all as boxes, or all as masks"
        )
    return common, notes


def setting_notes(pairs: Sequence[tuple[str, Summary]]) -> list[str]:
    """Return a note for each test setting that could not be checked."""
    notes = []
    keys = sorted({key for _, summary in pairs for key in summary.test_settings})
    for key in keys or ["test_settings"]:
        unknown = [name for name, summary in pairs if summary.test_settings.get(key) is None]
        if unknown:
            notes.append(
                f"{key} is not recorded for {', '.join(unknown)}: "
                "whether it was the same could not be checked."
            )
    return notes


def same_results_notes(pairs: Sequence[tuple[str, Summary]]) -> list[str]:
    """Return a note for each two runs that are one."""
    return [
        f"{a} and {b} were evaluated from the same result file."
        for (a, first), (b, second) in combinations(pairs, 2)
        if first.results.sha256 and first.results.sha256 == second.results.sha256
    ]
