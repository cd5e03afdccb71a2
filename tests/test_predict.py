"""iif predict: what a trained run detects in images, of either engine."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from iif.cli import main
from iif.errors import InputError
from iif.predict import image_files, load_predictor


@pytest.fixture(scope="module")
def torchvision_run(tmp_path_factory):
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from helpers_tv import make_dataset, run

    folder = tmp_path_factory.mktemp("predict")
    data = make_dataset(folder / "data")
    run(data, folder / "run", val_json=data)
    return folder / "run", data, data.parent / "images"


def predict(run, images, output, *more):
    assert main(["predict", str(run), str(images), "--output", str(output), *more]) == 0
    return json.loads((output / "predictions.json").read_text())


def assert_detections_are_the_evaluations(run, gt, root, output):
    """The result file of the same run's evaluation has the same detections."""
    expected = json.loads((run / "inference" / "lvis_instances_results.json").read_text())
    found = predict(run, root, output, "--min-score", "0", "--no-pictures")
    names = {c["id"]: c["name"] for c in json.loads(gt.read_text())["categories"]}
    assert {c["id"]: c["name"] for c in found["categories"]} == names
    by_name = {image["file_name"]: image for image in found["images"]}
    total = 0
    for image in json.loads(gt.read_text())["images"]:
        own = by_name[str(root / image["file_name"])]
        assert (own["height"], own["width"]) == (image["height"], image["width"])
        rows = [row for row in expected if row["image_id"] == image["id"]]
        assert len(own["detections"]) == len(rows)
        total += len(rows)
        for one, other in zip(own["detections"], rows, strict=True):
            assert one["category"] == names[other["category_id"]]
            assert one["category_id"] == other["category_id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
            assert one["segmentation"]["size"] == other["segmentation"]["size"]
    assert total > 0
    summary = json.loads((run / "inference" / "eval_summary.json").read_text())
    assert found["method"] == summary["method"]


def test_torchvisions_detections_are_those_of_the_evaluation(torchvision_run, tmp_path):
    assert_detections_are_the_evaluations(*torchvision_run, tmp_path)


def test_detectron2s_detections_are_those_of_the_evaluation(
    config_file, openmoji_dir, iif_run, tmp_path
):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    gt = openmoji_dir / "openmoji_val.json"
    assert_detections_are_the_evaluations(iif_run, gt, openmoji_dir, tmp_path)


def test_pictures_show_the_detections_above_the_score(torchvision_run, tmp_path):
    run, _, images = torchvision_run
    file = sorted(images.iterdir())[0]
    everything = predict(run, file, tmp_path / "all", "--min-score", "0")["images"][0]
    best = everything["detections"][0]["score"]
    found = predict(run, file, tmp_path / "best", "--min-score", str(best))["images"][0]
    assert [d["score"] for d in found["detections"]] == [best]
    assert everything["picture"] == found["picture"] == f"pictures/0001_{file.stem}.png"
    drawn = [np.asarray(Image.open(tmp_path / f / found["picture"])) for f in ("all", "best")]
    assert drawn[0].shape == drawn[1].shape == (640, 640, 3)
    plain = np.asarray(Image.open(file).convert("RGB").resize((640, 640), Image.BICUBIC))
    changed = [(np.abs(d.astype(int) - plain).max(axis=2) > 40).sum() for d in drawn]
    assert changed[0] > changed[1] > 0


def test_an_image_is_turned_as_its_exif_says(torchvision_run, tmp_path):
    run, _, images = torchvision_run
    pixels = Image.open(sorted(images.iterdir())[0]).crop((0, 0, 64, 48))
    exif = Image.Exif()
    exif[274] = 6
    pixels.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    pixels.save(tmp_path / "upright.png")
    both = predict(run, tmp_path, tmp_path / "out", "--min-score", "0", "--no-pictures")["images"]
    assert (both[0]["height"], both[0]["width"]) == (48, 64)
    assert both[0]["detections"] == both[1]["detections"] != []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{empty}", "--output", "{out}"], r"no image \(\.bmp, .*in .*empty"),
        (["{run}", "{empty}/x.png", "--output", "{out}"], r"x\.png: no such image or folder"),
        (["{empty}", "{images}", "--output", "{out}"], "neither config.yaml .* nor config.json"),
        (["{run}", "{images}", "--output", "{out}", "--min-score", "2"], r"is 2; .* \[0, 1\]"),
        (["{run}", "{run}/config.json", "--output", "{out}"], "cannot be read as an image"),
    ],
)
def test_a_fault_is_one_line(torchvision_run, tmp_path, capsys, arguments, message):
    run, _, images = torchvision_run
    (tmp_path / "empty").mkdir()
    places = {"run": run, "images": images, "empty": tmp_path / "empty", "out": tmp_path / "out"}
    assert main(["predict", *(a.format(**places) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_a_checkpoint_is_named_where_it_is_missing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_predictor(tmp_path)
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    (tmp_path / "config.yaml").write_text("VERSION: 2\n")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_predictor(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(InputError, match=r"last_checkpoint: names 'model_final.pth'"):
        load_predictor(tmp_path)


def test_folders_are_searched_in_order(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = image_files([tmp_path / "b", tmp_path / "a.webp"])
    assert [f.name for f in found] == ["1.png", "2.JPG", "a.webp"]
