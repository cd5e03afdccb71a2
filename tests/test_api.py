"""Evaluation from Python: files, dicts, lists, arrays, and predictions batch by batch."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from coco_reference import coco_style
from iif import Evaluator, InputError, evaluate
from iif.cli import main
from iif.data.annotations import load_annotations
from random_cases import Case, random_case


@pytest.fixture
def case() -> Case:
    return random_case(29, masks=True)


def expected(tmp_path: Path, case: Case, **options: Any) -> dict[str, Any]:
    for name, content in zip(("gt", "results"), case, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return evaluate(tmp_path / "gt.json", tmp_path / "results.json", **options)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(found[key] == wanted[key] for key in ("metrics", "per_category", "evaluation"))


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {k: np.array([r[k] for r in rows]) for k in ("image_id", "category_id", "score")}
    columns["bbox"] = np.array([r["bbox"] for r in rows])
    return columns | {"segmentation": [r["segmentation"] for r in rows]}


@pytest.mark.parametrize("coco", [False, True])
def test_every_form_of_the_input_gives_the_same(tmp_path: Path, case: Case, coco: bool) -> None:
    gt, rows = (coco_style(case[0]), case[1]) if coco else case
    wanted = expected(tmp_path, (gt, rows))
    columns = columns_of(rows)
    loaded = load_annotations(tmp_path / "gt.json", masks=True)
    assert same(evaluate(gt, tmp_path / "results.json"), wanted)
    for source in (tmp_path / "gt.json", str(tmp_path / "gt.json"), gt, loaded):
        for results in (rows, columns):
            assert same(evaluate(source, results), wanted)
    assert not list(tmp_path.glob("eval_*"))
    table = np.column_stack([columns[k] for k in ("image_id", "bbox", "score", "category_id")])
    boxes = evaluate(gt, table, iou_types=["bbox"])
    assert boxes["metrics"]["bbox"] == wanted["metrics"]["bbox"]
    del columns["bbox"]
    masks = evaluate(gt, columns)
    assert masks["metrics"] == {"segm": wanted["metrics"]["segm"]}


def test_rles_of_pycocotools_are_taken_as_they_are(case: Case) -> None:
    """Their counts are bytes."""
    gt, rows = case
    wanted = evaluate(gt, rows)
    size = {image["id"]: (image["height"], image["width"]) for image in gt["images"]}
    for annotation in gt["annotations"]:
        shape = annotation["segmentation"]
        if isinstance(shape, list):
            shape = mask_utils.merge(mask_utils.frPyObjects(shape, *size[annotation["image_id"]]))
        elif isinstance(shape["counts"], str):
            shape = {**shape, "counts": shape["counts"].encode()}
        annotation["segmentation"] = shape
    for row in rows:
        row["segmentation"] |= {"counts": row["segmentation"]["counts"].encode()}
    assert same(evaluate(gt, rows), wanted)
    assert same(evaluate(gt, columns_of(rows)), wanted)


def test_what_is_evaluated_in_memory_can_be_written_and_compared(
    tmp_path: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, rows = case
    for name, part in (("a", rows), ("b", rows[::2])):
        evaluate(gt, part, output_dir=tmp_path / name, outcomes=True)
        assert len(list((tmp_path / name).iterdir())) == 4
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--bootstrap", "5"]) == 0


def test_no_detection_is_ap_zero(case: Case) -> None:
    for results in ([], np.zeros((0, 7)), {"image_id": [], "category_id": [], "score": []}):
        metrics = evaluate(case[0], results, iou_types=["bbox"])["metrics"]
        assert metrics["bbox"]["AP"] == 0


def test_options_arrive(tmp_path: Path, case: Case) -> None:
    gt, rows = case
    assert "AR@2" in evaluate(gt, rows, max_dets=2)["metrics"]["bbox"]
    assert same(evaluate(gt, rows, max_dets=2), expected(tmp_path, case, max_dets=2))
    assert "AP-fixed" not in evaluate(gt, rows, ap_fixed=False)["metrics"]["bbox"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(image_id=c["image_id"][:-1]), "image_id for"),
        (lambda c: c["score"].__setitem__(2, np.nan), "row 2: score is nan"),
        (lambda c: c["image_id"].__setitem__(1, -5), "row 1: image_id -5 is not in"),
        (lambda c: c["category_id"].__setitem__(1, -5), "row 1: category_id -5 is not in"),
        (lambda c: c.update(category_id=c["category_id"] + 0.5), "category_id is not one number"),
        (lambda c: c.update(bbox=c["bbox"][:, :3]), r"bbox is not \(\d+, 4\)"),
        (lambda c: c.update(bbox=[[1, 2]] + [[1, 2, 3, 4]] * (len(c["score"]) - 1)), "bbox is not"),
        (lambda c: c.pop("score"), "score is missing"),
        (lambda c: [c.pop(k) for k in ("bbox", "segmentation")], "neither bbox nor segm"),
        (lambda c: c["segmentation"].__setitem__(3, [[1, 2]]), "row 3: segmentation is not an RLE"),
        (
            lambda c: c["segmentation"].__setitem__(3, {"size": [1, 1], "counts": "1"}),
            "row 3: segmentation: size",
        ),
        (
            lambda c: c["segmentation"][3].update(counts="zz~"),
            "row 3: segmentation is no RLE: counts has a character outside",
        ),
        (lambda c: c["segmentation"][3].update(counts=[1]), "row 3: segmentation: the runs"),
    ],
)
def test_faults_are_named(case: Case, spoil: Any, message: str) -> None:
    gt, rows = case
    columns = columns_of(rows)
    spoil(columns)
    with pytest.raises(InputError, match=message):
        evaluate(gt, columns)


def test_faults_of_rows_tables_and_annotations_are_named(tmp_path: Path, case: Case) -> None:
    gt, rows = case
    del rows[4]["bbox"]
    with pytest.raises(InputError, match="row 4: bbox is missing"):
        evaluate(gt, rows)
    with pytest.raises(InputError, match="segmentation is missing; it is needed for segm"):
        evaluate(gt, np.zeros((1, 7)), iou_types=["segm"])
    with pytest.raises(InputError, match="iou_types has 'boxes'"):
        evaluate(gt, np.zeros((1, 7)), iou_types=["boxes"])
    with pytest.raises(InputError, match=r"a table must be \(D, 7\)"):
        evaluate(gt, np.zeros((3, 6)))
    expected(tmp_path, random_case(29, masks=True))
    with pytest.raises(InputError, match="read with the path of the annotations"):
        evaluate(load_annotations(tmp_path / "gt.json"), tmp_path / "results.json")
    with pytest.raises(InputError, match="masks=True"):
        evaluate(load_annotations(tmp_path / "gt.json"), random_case(29, masks=True)[1])
    del gt["annotations"][3]["category_id"]
    with pytest.raises(InputError, match=r"annotations: not .*category_id.*annotations\[3\]"):
        evaluate(gt, [])


# ------------------------------------------------------------------------------- batch by batch


def predictions_of(case: Case, *, tensors: bool = False) -> dict[int, dict[str, Any]]:
    """The rows as a torchvision model gives them."""
    gt, rows = case
    predictions = {}
    for image in gt["images"]:
        own = [row for row in rows if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [mask_utils.decode(row["segmentation"]) for row in own]
        prediction = {
            "boxes": boxes,
            "scores": np.array([row["score"] for row in own]),
            "labels": np.array([row["category_id"] for row in own], np.int64),
            "masks": np.array(masks).reshape(-1, image["height"], image["width"]),
        }
        if tensors:
            torch = pytest.importorskip("torch")
            prediction = {key: torch.as_tensor(value) for key, value in prediction.items()}
            prediction["masks"] = prediction["masks"][:, None].float() * 0.9
        predictions[image["id"]] = prediction
    return predictions


@pytest.mark.parametrize("tensors", [False, True])
def test_batches_equal_one_file(tmp_path: Path, case: Case, tensors: bool) -> None:
    # Whole pixels and scores of few levels survive XYXY and float32.
    for row in case[1]:
        row["bbox"] = np.round(row["bbox"]).tolist()
        row["score"] = round(8 * row["score"]) / 8
    order = {image["id"]: i for i, image in enumerate(case[0]["images"])}
    case[1].sort(key=lambda row: order[row["image_id"]])
    wanted = expected(tmp_path, case)
    predictions = predictions_of(case, tensors=tensors)
    evaluator = Evaluator(tmp_path / "gt.json")
    ids = list(predictions)
    evaluator.update({i: predictions[i] for i in ids[:1]})
    evaluator.update([{"image_id": i} | predictions[i] for i in ids[1:]])
    assert same(evaluator.compute(), wanted)
    written = evaluator.compute(output_dir=tmp_path / "out", outcomes=True)
    assert same(json.loads((tmp_path / "out" / "eval_summary.json").read_text()), written)
    evaluator.reset()
    assert evaluator.compute()["metrics"]["bbox"]["AP"] == 0


def test_an_image_without_detections_needs_no_masks(case: Case) -> None:
    gt, _ = case
    predictions = predictions_of(case)
    plain, without = Evaluator(gt), Evaluator(gt)
    empty = next(iter(predictions))
    predictions[empty] = {key: value[:0] for key, value in predictions[empty].items()}
    plain.update(predictions)
    del predictions[empty]["masks"]
    without.update(predictions)
    assert list(without.compute()["metrics"]) == ["bbox", "segm"]
    assert same(plain.compute(), without.compute())
    other = next(i for i, p in predictions.items() if len(p["boxes"]))
    del predictions[other]["masks"]
    without.reset()
    without.update(predictions)
    assert list(without.compute()["metrics"]) == ["bbox"]


def test_processes_merge(tmp_path: Path, case: Case) -> None:
    expected(tmp_path, case)
    predictions = predictions_of(case)
    ids = list(predictions)
    whole = Evaluator(tmp_path / "gt.json")
    whole.update(predictions)
    parts = [Evaluator(tmp_path / "gt.json") for _ in range(2)]
    for rank, part in enumerate(parts):
        part.update({i: predictions[i] for i in ids[rank::2]})
    parts[1].update({ids[0]: predictions[ids[0]]})  # a sampler's padding
    first, second = (pickle.loads(pickle.dumps(part)) for part in parts)
    assert len(pickle.dumps(parts[0])) < 100_000
    second.merge(first)
    assert same(second.compute(), whole.compute())
    first.update({ids[1]: predictions[ids[1]]})  # after a pickle the annotations are read again


def test_labels_are_mapped_to_category_ids(case: Case) -> None:
    gt, _ = case
    ids = sorted(category["id"] for category in gt["categories"])
    plain, mapped = Evaluator(gt), Evaluator(gt, category_ids=ids, iou_types=["bbox"])
    for image_id, prediction in predictions_of(case).items():
        del prediction["masks"]
        plain.update({image_id: prediction})
        prediction["labels"] = np.searchsorted(ids, prediction["labels"])
        mapped.update({image_id: prediction})
    assert same(plain.compute(), mapped.compute())
    unknown = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "labels": [len(ids)]}
    mapped.reset()
    with pytest.raises(InputError, match=f"label {len(ids)} has no category id"):
        mapped.update({image_id: unknown})


def test_predictions_that_do_not_fit_are_refused_and_nothing_is_added(case: Case) -> None:
    evaluator = Evaluator(case[0])
    predictions = predictions_of(case)
    image_id, prediction = next((i, p) for i, p in predictions.items() if len(p["boxes"]))
    evaluator.update({image_id: prediction})
    for spoiled, message in (
        ({image_id: prediction}, "was given before"),
        ([prediction], "has no image_id"),
        ({-7: prediction}, "image -7 is not in"),
    ):
        with pytest.raises(InputError, match=message):
            evaluator.update(spoiled)
    evaluator.reset()
    for change, message in (
        ({"scores": prediction["scores"][1:]}, "give one of each"),
        ({"masks": prediction["masks"][1:]}, "masks for"),
    ):
        with pytest.raises(InputError, match=message):
            evaluator.update({image_id: prediction | change})
    del prediction["labels"]
    with pytest.raises(InputError, match="labels is missing"):
        evaluator.update({image_id: prediction})
    assert evaluator.compute()["results"]["num_detections"] == 0


def test_the_package_stays_lazy() -> None:
    code = (
        "import sys, iif\n"
        "print('numpy' in sys.modules)\n"
        "iif.evaluate, iif.Evaluator\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
