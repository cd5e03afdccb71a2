"""Result files of several runs, matched with the same ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from iif.data.annotations import Annotations
from iif.data.results import Detections, IouType, available_iou_types, load_results
from iif.data.sources import ResultFiles
from iif.evaluation.matching import Matches, match


@dataclass(frozen=True)
class Run:
    """A run's detections and their matches: the input of an analysis of false positives.

    Attributes:
        name: the run's name.
        detections: of its result file.
        matches: of these detections, with error types.
    """

    name: str
    detections: Detections
    matches: Matches


def load_runs(
    gt: Annotations,
    results: Mapping[str, ResultFiles],
    *,
    iou_type: IouType | None = None,
) -> list[Run]:
    """Read and match result files, the baseline's first.

    Args:
        gt: the annotations, with masks for "segm".
        results: name of each run -> its result file, or several.
        iou_type: default "segm" where every file has masks, else "bbox".

    Raises:
        InputError: a result file is malformed or lacks what the IoU type needs.
    """
    iou_type = iou_type or common_iou_type(list(results.values()))
    runs = []
    for name, files in results.items():
        detections = load_results(files, gt, iou_type=iou_type)
        runs.append(Run(name, detections, match(gt, detections, iou_type)))
    return runs


def common_iou_type(results: Sequence[ResultFiles]) -> IouType:
    """Return "segm" where the results of every run have masks, else "bbox".

    Raises:
        InputError: a result file is malformed.
    """
    return "segm" if all("segm" in available_iou_types(files) for files in results) else "bbox"
