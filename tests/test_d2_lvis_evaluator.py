"""`iif.d2.LVISEvaluator` in the place of Detectron2's own."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import LVISEvaluator as Theirs
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

from iif.cli import main
from iif.d2 import LVISEvaluator
from lvis_reference import removed_alias
from random_cases import Case, random_case

PLAIN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Register a case's annotations; return the data set's name and the case."""
    case = random_case(29, masks=True)
    (tmp_path / "gt.json").write_text(json.dumps(case[0]))
    ids = sorted(category["id"] for category in case[0]["categories"])
    MetadataCatalog.get("lvis_case").set(
        json_file=str(tmp_path / "gt.json"),
        thing_classes=[str(i) for i in ids],
        thing_dataset_id_to_contiguous_id={category: i for i, category in enumerate(ids)},
    )
    yield "lvis_case", case
    MetadataCatalog.remove("lvis_case")


def outputs_of(case: Case, *, masks: bool = True) -> list[tuple[dict, dict]]:
    """Each image as a batch of one, with its detections as Detectron2's models give them."""
    gt, rows = case
    ids = sorted(category["id"] for category in gt["categories"])
    batches = []
    for image in gt["images"]:
        own = [row for row in rows if row["image_id"] == image["id"]]
        size = (image["height"], image["width"])
        boxes = torch.tensor([row["bbox"] for row in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(size)
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([row["score"] for row in own])
        instances.pred_classes = torch.tensor(
            [ids.index(row["category_id"]) for row in own], dtype=torch.int64
        )
        if masks:
            pixels = [mask_utils.decode(row["segmentation"]) for row in own]
            instances.pred_masks = torch.as_tensor(np.array(pixels).reshape(-1, *size)).bool()
        batches.append(({"image_id": image["id"]}, {"instances": instances}))
    return batches


def run(evaluator: Any, batches: list[tuple[dict, dict]]) -> dict[str, Any]:
    evaluator.reset()
    for image, output in batches:
        evaluator.process([image], [output])
    return evaluator.evaluate()


def test_the_signature_is_detectron2s() -> None:
    def parameters(kind: type) -> list[tuple]:
        found = inspect.signature(kind).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    assert parameters(LVISEvaluator) == parameters(Theirs)
    assert issubclass(LVISEvaluator, Theirs)


@pytest.mark.parametrize("options", [{}, {"max_dets_per_image": 3}, {"tasks": ("bbox",)}])
@pytest.mark.parametrize("masks", [False, True])
def test_the_numbers_are_detectron2s(dataset: Any, options: dict, masks: bool) -> None:
    name, case = dataset
    batches = outputs_of(case, masks=masks)
    found = run(LVISEvaluator(name, distributed=False, **options), batches)
    with removed_alias():
        expected = run(Theirs(name, distributed=False, **options), batches)
    assert list(found) == list(expected)
    for task, metrics in expected.items():
        assert list(found[task])[: len(PLAIN)] == list(PLAIN) == list(metrics)
        for metric, value in metrics.items():
            if value == -100:  # undefined
                assert math.isnan(found[task][metric])
            else:
                assert found[task][metric] == pytest.approx(value, abs=1e-9)


def test_no_lvis_is_needed_and_the_files_are_written(
    dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lvis", None)
    name, case = dataset
    out = tmp_path / "out"
    found = run(LVISEvaluator(name, output_dir=str(out), distributed=False), outputs_of(case))
    summary = json.loads((out / "eval_summary.json").read_text())
    assert found["segm"]["AP"] == summary["metrics"]["segm"]["AP"]
    rows = json.loads((out / "lvis_instances_results.json").read_text())
    assert {row["category_id"] for row in rows} <= {c["id"] for c in case[0]["categories"]}
    files = ["--gt", str(tmp_path / "gt.json"), "--output", str(tmp_path / "again")]
    results = str(out / "lvis_instances_results.json")
    assert main(["evaluate", *files, "--results", results]) == 0
    again = json.loads((tmp_path / "again" / "eval_summary.json").read_text())
    assert again["metrics"] == summary["metrics"]


def test_proposals_are_evaluated_as_detectron2_does(dataset: Any) -> None:
    name, case = dataset
    batches = []
    for image, output in outputs_of(case, masks=False):
        proposals = Instances(output["instances"].image_size)
        proposals.proposal_boxes = Boxes(output["instances"].pred_boxes.tensor.float())
        proposals.objectness_logits = output["instances"].scores
        batches.append((image, {"proposals": proposals}))
    found = run(LVISEvaluator(name, distributed=False), batches)
    assert found == run(Theirs(name, distributed=False), batches)
    assert found["box_proposals"]["AR@100"] > 0


def test_without_a_detection_ap_is_zero_and_without_an_image_there_is_nothing(dataset: Any) -> None:
    name, case = dataset
    batches = outputs_of((case[0], []), masks=False)
    assert run(LVISEvaluator(name, distributed=False), batches)["bbox"]["AP"] == 0
    assert run(LVISEvaluator(name, distributed=False), []) == {}


def test_a_test_set_without_annotations_is_not_evaluated(tmp_path: Path) -> None:
    gt, rows = random_case(29)
    del gt["annotations"]
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    ids = sorted(category["id"] for category in gt["categories"])
    MetadataCatalog.get("no_annotations").set(json_file=str(tmp_path / "gt.json"))
    evaluator = LVISEvaluator("no_annotations", distributed=False, output_dir=str(tmp_path / "o"))
    MetadataCatalog.remove("no_annotations")
    assert run(evaluator, outputs_of((gt, rows), masks=False)) == {}
    # Detectron2 keeps no mapping for LVIS: its ids are one above the classes.
    written = json.loads((tmp_path / "o" / "lvis_instances_results.json").read_text())
    assert {row["category_id"] for row in written} <= set(range(1, len(ids) + 1))
