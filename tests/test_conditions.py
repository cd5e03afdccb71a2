"""Whether two runs may be compared: one rule for runs that are evaluated and for one planned."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from helpers_compare import make_gt, make_results, write
from iif.data.annotations import load_annotations
from iif.errors import InputError
from iif.evaluation.conditions import Conditions, refuse_differences
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.summary_file import read_summary

SETTINGS = {"score_threshold": 1e-4, "nms_threshold": 0.5, "detections_per_image": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The annotations, and the summary of a run that was evaluated on them."""
    folder = tmp_path_factory.mktemp("run")
    content = make_gt(1)
    path = write(folder / "gt.json", content)
    results = write(folder / "results.json", make_results(content, 1))
    evaluate_files(path, results, output_dir=folder, test_settings=SETTINGS)
    return load_annotations(path), folder / "eval_summary.json"


def test_a_run_is_evaluated_under_the_conditions_that_were_planned(run):
    gt, path = run
    evaluated = Conditions.of_summary(path)
    assert evaluated == Conditions.planned(gt, SETTINGS)
    assert evaluated == Conditions.of_summary(read_summary(path))
    refuse_differences(("baseline", evaluated), ("this run", Conditions.planned(gt, SETTINGS)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, r"the annotation file is .* in baseline and .* in this run; evalu"),
        ({"num_images": 5}, "the number of images is 12 in baseline and 5 in this run"),
        ({"category_ids": (1, 2)}, "the number of categories is 6 in baseline and 2 in this run"),
        ({"category_ids": tuple(range(6))}, "category ids differ"),
        ({"exhaustive": True}, "exhaustive annotation is False in baseline and True in this run"),
        ({"max_dets": 100}, "max_dets is 300 in baseline and 100 in this run"),
        ({"iou_thresholds": (0.5,)}, r"iou_thresholds is \[0.5, .*\] in baseline and \[0.5\] in"),
        ({"test_settings": SETTINGS | {"nms_threshold": 0.3}}, "nms_threshold is 0.5 in baseline"),
        ({"iou_types": ()}, "they have no IoU type in common"),
    ],
)
def test_each_condition_that_differs_is_refused_by_name(run, changes, words):
    _, path = run
    evaluated = Conditions.of_summary(path)
    other = msgspec.structs.replace(evaluated, **changes)
    with pytest.raises(InputError, match=rf"baseline and this run cannot be compared: {words}"):
        refuse_differences(("baseline", evaluated), ("this run", other))


def test_what_training_would_end_in_is_refused_before(run):
    """A reading as COCO, and masks alone or boxes alone."""
    gt, path = run
    evaluated = ("baseline", Conditions.of_summary(path))
    boxes = msgspec.structs.replace(evaluated[1], iou_types=("bbox",))
    for truth, baseline, iou_types in [
        (replace(gt, exhaustive=True), evaluated, ("bbox", "segm")),
        (gt, ("baseline", boxes), ("segm",)),
    ]:
        planned = Conditions.planned(truth, SETTINGS, iou_types=iou_types)
        with pytest.raises(InputError, match="cannot be compared"):
            refuse_differences(baseline, ("this run", planned))


def test_a_setting_that_is_not_recorded_is_no_reason_to_refuse(run, tmp_path):
    gt, path = run
    summary = json.loads(path.read_text())
    summary["test_settings"] = {"nms_threshold": None}
    evaluated = Conditions.of_summary(write(tmp_path / "eval_summary.json", summary))
    refuse_differences(("baseline", evaluated), ("this run", Conditions.planned(gt, SETTINGS)))
