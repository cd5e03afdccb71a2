"""`iif tune --all` with Detectron2: every post-hoc method from one pass of the network."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess

from d2_runs import read, saved_config
from helpers_d2 import tiny_cfg
from iif import ClassStatistics, InputError, build_method
from iif.cli import main
from iif.d2 import register_custom_datasets
from iif.d2.passes import find_boxes
from iif.d2.train import run
from iif.d2.tune_all import tune_all
from iif.data.annotations import load_annotations
from iif.data.split import held_out_images
from iif.methods import METHODS, Method

FRACTION = 0.4


@pytest.fixture(scope="module")
def plain(config_file, tmp_path_factory):
    """A plain model that was trained without a part of its training images."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(folder)]
    arguments += ["MODEL.LONG_TAIL.METHOD", "none", "DATASETS.HELD_OUT", str(FRACTION)]
    assert run([*arguments, "SOLVER.MAX_ITER", "20"]) == 0
    return folder


@pytest.fixture(scope="module")
def tuned(plain, tmp_path_factory):
    """The result, its folder, and how often backbone and box head ran."""
    from detectron2.modeling.roi_heads import FastRCNNConvFCHead

    folder = tmp_path_factory.mktemp("tuned")
    weights = str(plain / "model_final.pth")
    calls = []
    real = FastRCNNConvFCHead.forward

    def counting(self, x):
        calls.append(len(x))
        return real(self, x)

    with mock.patch.object(FastRCNNConvFCHead, "forward", counting):
        result = tune_all(saved_config(plain), weights, folder, bootstrap=20, recall=0.1)
    return result, folder, len(calls)


def test_every_post_hoc_method_is_tried_or_skipped_with_a_reason(tuned):
    result, folder, _ = tuned
    post_hoc = {name for name, kind in METHODS.items() if kind.post_hoc is not None}
    tried = {trial["method"] for trial in result["trials"][1:]}
    skipped = {item["method"]: item["reason"] for item in result["skipped"]}
    assert tried | skipped.keys() == post_hoc
    assert "moments" in skipped["logn"]
    for name in tried:
        values = [t["value"] for t in result["trials"] if t["method"] == name]
        assert values == list(METHODS[name].tuned_values)
    assert read(folder / "tuning.json") == json.loads(json.dumps(result))
    assert result["seen_in_training"] is False


def test_the_box_head_runs_once_an_image(tuned):
    """In the pass of all trials; in that of the masks once for each of the two runs."""
    result, _, calls = tuned
    runs = 2 if result["best"] else 1
    assert calls == result["num_images"] * (1 + runs)


def test_a_trial_measures_what_an_evaluation_of_the_held_out_images_gives(
    tuned, plain, openmoji_dir, tmp_path
):
    """The plain model and one value, through --eval-only on a file of those images alone."""
    result, _, _ = tuned
    content = json.loads((openmoji_dir / "openmoji_train.json").read_text())
    out = held_out_images([image["id"] for image in content["images"]], FRACTION)
    content["images"] = [i for i, o in zip(content["images"], out, strict=True) if o]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    assert result["num_images"] == len(kept)
    path = tmp_path / "held_out.json"
    path.write_text(json.dumps(content))
    custom = [
        ["openmoji_train", str(openmoji_dir / "openmoji_train.json"), str(openmoji_dir)],
        ["tune_all_part", str(path), str(openmoji_dir)],
    ]
    arguments = ["--eval-only", "--config-file", str(plain / "config.yaml")]
    arguments += ["DATASETS.CUSTOM", repr(custom), "DATASETS.TEST", "('tune_all_part',)"]
    arguments += ["MODEL.WEIGHTS", str(plain / "model_final.pth")]
    for row in (0, next(i for i, t in enumerate(result["trials"]) if t["value"] == 0.4)):
        trial = result["trials"][row]
        method = ["MODEL.LONG_TAIL.METHOD", trial["method"]]
        if row:
            method += [f"MODEL.{trial['method'].upper()}.{trial['option'].upper()}", "0.4"]
        assert run([*arguments, *method, "OUTPUT_DIR", str(tmp_path / str(row))]) == 0
        metrics = read(tmp_path / str(row) / "inference" / "eval_summary.json")["metrics"]["bbox"]
        for name, value in trial["metrics"].items():
            assert value == (
                None if metrics[name] is None else pytest.approx(metrics[name], abs=1e-3)
            )


def test_the_change_and_the_intervals_are_those_against_the_plain_model(tuned):
    result, _, _ = tuned
    plain_ap = result["trials"][0]["metrics"]["AP"]
    best = {t["method"]: t for t in result["trials"] if t["best"]}
    assert best.keys() == {t["method"] for t in result["trials"]}
    for trial in result["trials"]:
        assert trial["difference"]["AP"] == pytest.approx(trial["metrics"]["AP"] - plain_ap)
        assert bool(trial["intervals"]) == (trial["best"] and trial is not result["trials"][0])
        assert trial["metrics"]["AP"] <= best[trial["method"]]["metrics"]["AP"]
        if trial["categories"]:
            assert trial["false_positives"] >= 0
    chosen = result["trials"][result["best"]]
    assert chosen["metrics"]["AP"] == max(t["metrics"]["AP"] for t in result["trials"])


def test_it_writes_pages_runs_and_a_configuration_that_evaluates(tuned, plain, tmp_path):
    result, folder, _ = tuned
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "tuning.html").read_text()
    assert "report.html" in page
    assert (folder / "report.html").is_file()
    for name in ["plain"] + ["best"] * (result["best"] > 0):
        metrics = read(folder / name / "inference" / "eval_summary.json")["metrics"]
        assert {"bbox", "segm"} <= metrics.keys()
    written = saved_config(folder)
    chosen = result["trials"][result["best"]]
    assert chosen["method"] == written.MODEL.LONG_TAIL.METHOD
    assert str(plain / "model_final.pth") == written.MODEL.WEIGHTS
    arguments = ["--eval-only", "--config-file", str(folder / "config.yaml")]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path)]) == 0
    record = read(tmp_path / "inference" / "eval_summary.json")["method"]
    assert (record["name"], record["options"]) == (chosen["method"], chosen["options"])


@pytest.mark.parametrize(
    "heads",
    [
        (),
        (
            *("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
            *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ),
        ("MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads"),
        ("MODEL.LONG_TAIL.CLASSIFIER", "cosine"),
    ],
    ids=["plain", "cascade", "specific cascade", "cosine"],
)
def test_one_pass_gives_what_a_run_under_each_method_gives(heads, openmoji_dir):
    """Bit for bit, whatever the heads."""
    train = openmoji_dir / "openmoji_train.json"
    statistics = ClassStatistics.from_json(train)
    cfg = tiny_cfg(
        *("DATASETS.CUSTOM", [["passes_train", str(train), str(openmoji_dir)]]),
        *("DATASETS.TRAIN", ("passes_train",), "MODEL.ROI_HEADS.NUM_CLASSES", len(statistics)),
        *("INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0),
        *("MODEL.LONG_TAIL.METHOD", "none", "MODEL.MASK_ON", False, *heads),
        statistics=None,
    )
    register_custom_datasets(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for module in model.modules():
        if hasattr(module, "cls_score"):
            torch.nn.init.normal_(module.cls_score.weight, std=0.3)
    gt = load_annotations(train)
    images = DatasetCatalog.get("passes_train")[:3]
    methods = [Method()]
    for name in ("norcal", "fracal"):
        methods.append(build_method(name, statistics))
    methods.append(build_method("iif", statistics, {"apply": "test", "variant": "smooth"}))
    found = find_boxes(model, cfg, images, methods, gt)
    from detectron2.data import DatasetMapper

    mapper = DatasetMapper(cfg, is_train=False)
    predictors = [m for m in model.modules() if hasattr(m, "start_from")]
    for method, boxes in zip(methods, found, strict=True):
        for predictor in predictors:
            predictor.method = method
        expected = []
        with torch.no_grad():
            for image in images:
                batch = [mapper(image)]
                (out,) = model.inference(batch, do_postprocess=False)
                expected.append(detector_postprocess(out, image["height"], image["width"]))
        detections = boxes.detections()
        assert len(detections) == sum(map(len, expected)) > 0
        scores = torch.cat([out.scores for out in expected]).numpy()
        np.testing.assert_array_equal(detections.score.astype(np.float32), scores)
        classes = torch.cat([out.pred_classes for out in expected]).numpy()
        np.testing.assert_array_equal(detections.category, classes)
    DatasetCatalog.remove("passes_train")
    MetadataCatalog.remove("passes_train")


def test_what_cannot_be_tuned_is_refused(plain, iif_run, tmp_path):
    weights = str(plain / "model_final.pth")
    cfg = saved_config(plain)
    with pytest.raises(InputError, match=r"'openmoji_val' is not in DATASETS.TRAIN"):
        tune_all(cfg, weights, tmp_path, dataset="openmoji_val")
    with pytest.raises(InputError, match="recall is 2; it must be above 0"):
        tune_all(cfg, weights, tmp_path, recall=2.0)
    with pytest.raises(InputError, match="was trained with method iif, the configuration has none"):
        tune_all(saved_config(iif_run), str(iif_run / "model_final.pth"), tmp_path)
    with pytest.raises(InputError, match=r"is held out with a fraction of 1e-06"):
        tune_all(cfg, weights, tmp_path, fraction=1e-6)
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    with pytest.raises(InputError, match="post-hoc methods change a softmax"):
        tune_all(cfg, weights, tmp_path)
    cfg = saved_config(plain)
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    with pytest.raises(InputError, match=r"of DATASETS.TEST: the value must not be chosen"):
        tune_all(cfg, weights, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_takes_the_checkpoint_alone(plain, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "out"), "--bootstrap", "0"]
    assert main(["tune", "--all", str(plain / "model_final.pth"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "Best by box AP: " in printed
    assert "Skipped: logn: " in printed
    assert "Plain checkpoint: " in printed
    assert main(["tune", "--all", str(tmp_path / "no.pth"), *arguments]) == 2
    assert "lies beside it" in capsys.readouterr().err
    assert main(["tune", "--all", str(plain), "--values", "1", *arguments]) == 2
    assert "leave --values out" in capsys.readouterr().err
