"""`iif tune --all` with torchvision, and a plain checkpoint evaluated under a post-hoc method."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import make_dataset, run, tiny_config
from iif import InputError, build_method
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.split import held_out_images
from iif.methods import METHODS, Method
from iif.tv import evaluate, load
from iif.tv.dataset import DetectionImages
from iif.tv.passes import find_boxes
from iif.tv.tuning import fold, tune_all

FRACTION = 0.5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "tiny", images=16)


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "val", images=6, seed=5)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    run(data, folder, tiny_config(method="none", held_out=FRACTION, iterations=20, base_lr=0.02))
    return folder


@pytest.fixture(scope="module")
def tuned(data, plain, tmp_path_factory):
    """The result, its folder, and the images that the box head saw."""
    folder = tmp_path_factory.mktemp("tuned")
    options = {"bootstrap": 20, "recall": 0.1, "device": "cpu"}
    result = tune_all(
        plain, data, data.parent / "images", folder, assignments=["iif.variant=smooth"], **options
    )
    return result, folder


def test_every_post_hoc_method_is_tried_or_skipped_with_a_reason(tuned, data):
    result, folder = tuned
    post_hoc = {name for name, kind in METHODS.items() if kind.post_hoc is not None}
    skipped = {item["method"]: item["reason"] for item in result["skipped"]}
    tried = {trial["method"] for trial in result["trials"][1:]}
    assert tried | skipped.keys() == post_hoc
    assert "moments" in skipped["logn"]
    assert json.loads((folder / "tuning.json").read_text()) == json.loads(json.dumps(result))
    ids = load_annotations(data).image_ids.tolist()
    assert result["num_images"] == held_out_images(ids, FRACTION).sum()
    assert result["seen_in_training"] is False
    assert all(
        t["options"]["variant"] == "smooth" for t in result["trials"] if t["method"] == "iif"
    )


def test_one_pass_gives_what_the_model_gives_under_each_method(data, plain):
    detector = load(plain)
    images = DetectionImages(load_annotations(data), data.parent / "images")
    methods = [Method(), build_method("norcal", detector.statistics)]
    methods.append(build_method("iif", detector.statistics, {"apply": "test", "variant": "smooth"}))
    found = find_boxes(detector.model, images, methods, torch.device("cpu"))
    for method, boxes in zip(methods, found, strict=True):
        detector.model.roi_heads.box_predictor.method = method
        with torch.no_grad():
            expected = [detector.model([images[row]])[0] for row in range(len(images))]
        detections = boxes.detections()
        assert len(detections) == sum(len(e["scores"]) for e in expected) > 0
        scores = torch.cat([e["scores"] for e in expected]).numpy()
        np.testing.assert_array_equal(detections.score.astype(np.float32), scores)
        labels = torch.cat([e["labels"] for e in expected]).numpy()
        np.testing.assert_array_equal(detections.category, labels - 1)
        corners = detections.bbox.copy()
        corners[:, 2:] += corners[:, :2]
        boxes_expected = torch.cat([e["boxes"] for e in expected]).numpy()
        np.testing.assert_allclose(corners, boxes_expected, atol=1e-4)


def test_its_config_evaluates_the_plain_checkpoint(tuned, plain, validation, tmp_path, capsys):
    result, folder = tuned
    chosen = result["trials"][result["best"]]
    arguments = ["train", "--eval-only", "--config", str(folder / "config.json")]
    arguments += ["--val", str(validation), "--images", str(validation.parent / "images")]
    assert main([*arguments, "--output", str(tmp_path), "--device", "cpu"]) == 0
    assert "APr" in capsys.readouterr().out
    summary = json.loads((tmp_path / "inference" / "eval_summary.json").read_text())
    assert summary["method"]["name"] == chosen["method"]
    assert summary["method"]["options"] == chosen["options"]


def test_it_writes_pages_and_runs_with_masks(tuned):
    result, folder = tuned
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")
    for name in ("tuning.html", "report.html", "class_statistics.json"):
        assert (folder / name).is_file()
    for name in ["plain"] + ["best"] * (result["best"] > 0):
        content = json.loads((folder / name / "inference" / "eval_summary.json").read_text())
        assert {"bbox", "segm"} <= content["metrics"].keys()


def test_a_plain_checkpoint_under_a_post_hoc_method(plain, validation, tmp_path, capsys):
    """Settings change method and options alone; a method that is to be trained is refused."""
    images = str(validation.parent / "images")
    arguments = ["train", "--eval-only", "--run", str(plain), "--val", str(validation)]
    arguments += ["--images", images, "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "method=norcal", "norcal.gamma=0.8"]) == 0
    summary = json.loads((tmp_path / "out" / "inference" / "eval_summary.json").read_text())
    assert (summary["method"]["name"], summary["method"]["options"]["gamma"]) == ("norcal", 0.8)
    capsys.readouterr()
    for settings, message in (
        (["method=iif"], "a plain model, trained without a long-tail method"),
        (["method=seesaw"], "method seesaw, which is to be trained"),
        (["base_lr=1.0"], "was trained with base_lr=0.02, now it is 1.0; only the method"),
        (["max_size=32"], "was trained with max_size=64, now it is 32"),
    ):
        assert main([*arguments, *settings]) == 2
        assert message in capsys.readouterr().err
    assert main([*arguments[:1], *arguments[2:], "--train", "x"]) == 2
    assert "--run is the model that --eval-only evaluates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "options"),
    [("norcal", {"gamma": 0.6}), ("iif", {"apply": "test", "variant": "smooth"})],
)
def test_the_folded_checkpoint_detects_the_same(method, options, plain, validation, tmp_path):
    config = load(plain).config
    values = config.to_dict()
    config = type(config).from_dict(
        {**values, "method": method, method: {**values[method], **options}}
    )
    fold(plain, config, tmp_path / "folded.pth")
    images = validation.parent / "images"
    found = [
        evaluate(model, validation, images, tmp_path / name, config=own, device="cpu")
        for name, model, own in (("a", plain, config), ("b", tmp_path / "folded.pth", None))
    ]
    assert found[1]["method"]["name"] == "none"
    rows = [
        json.loads((tmp_path / name / "inference/lvis_instances_results.json").read_text())
        for name in ("a", "b")
    ]
    assert len(rows[0]) == len(rows[1]) > 0
    np.testing.assert_allclose(
        sorted(r["score"] for r in rows[0]), sorted(r["score"] for r in rows[1]), atol=1e-5
    )


def test_what_folds_not_is_refused(plain, tmp_path):
    config = load(plain).config
    values = config.to_dict()
    node = {**values["logit_adjustment"], "apply": "test"}
    config = type(config).from_dict(
        {**values, "method": "logit_adjustment", "logit_adjustment": node}
    )
    with pytest.raises(InputError, match="cannot be folded: within the foreground"):
        fold(plain, config, tmp_path / "folded.pth")
    assert not (tmp_path / "folded.pth").exists()


def test_other_data_and_trained_methods_are_refused(data, validation, plain, tmp_path):
    arguments = {"device": "cpu", "bootstrap": 0}
    with pytest.raises(InputError, match=r"not the annotations that .* was trained on"):
        tune_all(plain, validation, validation.parent / "images", tmp_path / "o", **arguments)
    images = data.parent / "images"
    evaluated = tmp_path / "evaluated"
    shutil.copytree(plain, evaluated)
    evaluate(evaluated, data, images, evaluated, device="cpu")
    with pytest.raises(InputError, match="was evaluated on: the value must not be chosen"):
        tune_all(evaluated, data, images, tmp_path / "o", **arguments)
    run(data, tmp_path / "iif", tiny_config(iterations=1))
    with pytest.raises(InputError, match="was trained with method iif, the configuration has none"):
        tune_all(tmp_path / "iif", data, images, tmp_path / "o", **arguments)
    with pytest.raises(InputError, match="recall is 0; it must be above 0"):
        tune_all(plain, data, images, tmp_path / "o", recall=0.0, **arguments)
    assert not (tmp_path / "o").exists()


def test_the_command(data, plain, tmp_path, capsys):
    arguments = ["--json", str(data), "--images", str(data.parent / "images"), "--device", "cpu"]
    arguments += ["--output", str(tmp_path), "--bootstrap", "0", "--fraction", "0.6"]
    assert main(["tune", "--all", str(plain), *arguments, "iif.variant=smooth"]) == 0
    printed = capsys.readouterr().out
    assert "some of them seen in training" in printed
    assert "Best by box AP: " in printed
    for name in ("norcal", "fracal", "logit_adjustment", "iif"):
        assert printed.count(f"\n{name} ") >= 6
