"""Training from end to end: train, resume, evaluate, compare, on a tiny OpenMoji set."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from d2_runs import ITERATIONS, entries, metric_lines, read, saved_config
from iif import ClassStatistics
from iif.d2 import IIFEvaluator, add_iif_config, register_custom_datasets, statistics_from_config
from iif.d2.train import run
from iif.locking import folder_lock
from iif.methods.iif import iif_weights

ROOT = Path(__file__).parents[1]


def test_a_run_leaves_model_counts_detections_and_summary(iif_run, openmoji_dir):
    counted = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    stored = ClassStatistics.load(iif_run / "class_statistics.json")
    assert stored.to_dict() == counted.to_dict()
    named = saved_config(iif_run).MODEL.LONG_TAIL.STATISTICS
    assert named == str(iif_run / "class_statistics.json")
    assert len((iif_run / "config.yaml").read_text().splitlines()) < 400
    model = torch.load(iif_run / "model_final.pth", weights_only=False)["model"]
    weight = model["roi_heads.box_predictor.method.scale"]
    assert torch.equal(weight[:-1], iif_weights(counted).float())

    summary = read(iif_run / "inference" / "eval_summary.json")
    assert summary["dataset"]["name"] == "openmoji_val"
    assert summary["dataset"]["exhaustive"] is False
    assert summary["test_settings"] == {
        "score_threshold": 0.0001,
        "nms_threshold": 0.5,
        "detections_per_image": 50,
    }
    assert summary["config"]["MODEL"]["IIF"]["VARIANT"] == "raw"
    results = read(iif_run / "inference" / "lvis_instances_results.json")
    assert summary["results"]["num_detections"] == len(results) > 0
    images = {image["id"] for image in read(openmoji_dir / "openmoji_val.json")["images"]}
    assert {r["image_id"] for r in results} <= images
    assert {r["category_id"] for r in results} <= set(counted.ids.tolist())
    logged = {key for line in metric_lines(iif_run) for key in line}
    assert {"loss_cls", "loss_mask", "fast_rcnn/fg_cls_accuracy", "bbox/AP", "segm/APr"} <= logged


def test_the_comparison_with_the_baseline_is_saved_and_printed(baseline, iif_run):
    folder = iif_run / "inference"
    comparison = read(folder / "comparison.json")
    assert [run["name"] for run in comparison["runs"]] == ["baseline", "iif"]
    text = (folder / "comparison.txt").read_text()
    assert text.strip() in (iif_run / "log.txt").read_text()
    summaries = [read(f / "inference" / "eval_summary.json") for f in (baseline, iif_run)]
    for row in comparison["metrics"]:
        expected = [s["metrics"][row["iou_type"]][row["metric"]] for s in summaries]
        assert row["values"] == expected


def test_a_cascade_trains_and_is_evaluated(config_file, tmp_path):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.ROI_HEADS.NAME", "IIFCascadeROIHeads", "SOLVER.MAX_ITER", "2"]
    assert run(arguments) == 0
    logged = {key for line in metric_lines(tmp_path) for key in line}
    assert {"loss_cls_stage0", "loss_cls_stage2"} <= logged
    assert (tmp_path / "inference" / "eval_summary.json").is_file()


def test_resuming_goes_on_where_the_run_ended(config_file, baseline, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(baseline, folder)
    overrides = ["MODEL.LONG_TAIL.METHOD", "none", "OUTPUT_DIR", str(folder)]
    more = ["SOLVER.MAX_ITER", str(ITERATIONS + 4), "TEST.EVAL_PERIOD", "22"]
    assert run(["--resume", "--config-file", str(config_file), *overrides, *more]) == 0
    assert f"Starting training from iteration {ITERATIONS}" in (folder / "log.txt").read_text()
    last = torch.load(folder / "model_final.pth", weights_only=False)
    assert last["iteration"] == ITERATIONS + 3
    assert read(folder / "inference" / "eval_summary.json")["dataset"]["name"] == "openmoji_val"


def test_a_run_killed_in_its_last_save_makes_that_save_again(config_file, baseline, tmp_path):
    """As left by a kill between the periodic checkpoint of the last iteration and the final one."""
    folder = tmp_path / "killed"
    shutil.copytree(baseline, folder)
    whole = (folder / "model_final.pth").read_bytes()
    (folder / "model_final.pth").rename(folder / "model_0000019.pth")
    (folder / "last_checkpoint").write_text("model_0000019.pth")
    (folder / "model_final.pth").write_bytes(whole[:1000])
    overrides = ["MODEL.LONG_TAIL.METHOD", "none", "OUTPUT_DIR", str(folder)]
    assert run(["--resume", "--config-file", str(config_file), *overrides]) == 0
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    again = torch.load(folder / "model_final.pth", weights_only=True)
    expected = torch.load(folder / "model_0000019.pth", weights_only=True)
    assert again["iteration"] == expected["iteration"] == ITERATIONS - 1
    for name, value in expected["model"].items():
        assert torch.equal(torch.as_tensor(again["model"][name]), torch.as_tensor(value)), name


def test_two_runs_in_one_folder_are_refused(config_file, tmp_path, capfd):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    with folder_lock(tmp_path):
        assert run([*arguments, "SOLVER.MAX_ITER", "1"]) == 2
    assert f"error: {tmp_path}: process {os.getpid()} on" in capfd.readouterr().err
    assert not (tmp_path / "model_final.pth").exists()


def test_the_output_folder_needs_no_training_data(iif_run, openmoji_dir, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(iif_run, folder)
    shutil.rmtree(folder / "inference")
    monkeypatch.chdir(tmp_path)
    custom = repr(entries(openmoji_dir, train=False))
    arguments = ["--eval-only", "--resume", "--config-file", str(folder / "config.yaml")]
    assert run([*arguments, "OUTPUT_DIR", str(folder), "DATASETS.CUSTOM", custom]) == 0
    assert (folder / "config.yaml").read_text() == (iif_run / "config.yaml").read_text()
    again, before = (read(f / "inference" / "eval_summary.json") for f in (folder, iif_run))
    assert again["metrics"] == before["metrics"]
    assert again["per_category"] == before["per_category"]


def test_inference_needs_no_annotations_at_all(iif_run, openmoji_dir):
    cfg = saved_config(iif_run)
    cfg.DATASETS.CUSTOM = [
        [name, "/nowhere/a.json", "/nowhere"] for name, *_ in cfg.DATASETS.CUSTOM
    ]
    cfg.MODEL.WEIGHTS = str(iif_run / "model_final.pth")
    register_custom_datasets(cfg, statistics_from_config(cfg))
    predictor = DefaultPredictor(cfg)
    names = [c["name"] for c in read(openmoji_dir / "openmoji_val.json")["categories"]]
    assert predictor.metadata.thing_classes == names
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert predictor(image)["instances"].has("pred_masks")


def test_coco_format_is_evaluated_exhaustively(iif_run, openmoji_dir, tmp_path):
    content = read(openmoji_dir / "openmoji_val.json")
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    custom = [["coco_val", str(tmp_path / "coco.json"), str(openmoji_dir)]]
    overrides = ["DATASETS.CUSTOM", repr(custom), "DATASETS.TEST", "('coco_val',)"]
    overrides += ["OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(iif_run / "model_final.pth")]
    config = str(iif_run / "config.yaml")
    assert run(["--eval-only", "--config-file", config, *overrides]) == 0
    summary = read(tmp_path / "inference" / "eval_summary.json")
    assert summary["dataset"]["exhaustive"] is True
    counted = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    assert [c["frequency"] for c in summary["per_category"]] == counted.groups.tolist()
    assert [c["image_count"] for c in summary["per_category"]] == counted.image_count.tolist()


def test_two_cpu_processes_train_and_evaluate_together(config_file, openmoji_dir, tmp_path):
    command = [sys.executable, str(ROOT / "train_net.py"), "--num-gpus", "2", "--dist-url", "auto"]
    overrides = ["SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--config-file", str(config_file), *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "run" / "inference" / "lvis_instances_results.json")
    images = {image["id"] for image in read(openmoji_dir / "openmoji_val.json")["images"]}
    # Each rank saw half of the images; the detections of both are there, each image's once.
    assert {r["image_id"] for r in results} == images
    assert len({json.dumps(r, sort_keys=True) for r in results}) == len(results)
    assert (tmp_path / "run" / "log.txt.rank1").is_file()


@pytest.mark.parametrize(
    ("flags", "overrides", "message"),
    [
        ("--config-file nothing.yaml", "", "nothing.yaml"),
        ("", "MODEL.IIF.VARIENT raw", "MODEL.IIF.VARIENT"),
        ("", "MODEL.IIF.VARIANT", "odd length"),
        ("", "MODEL.LONG_TAIL.NUM_IMAGES many", "MODEL.LONG_TAIL.NUM_IMAGES"),
        ("", "MODEL.IIF.VARIANT rawest", "must be one of raw, smooth"),
        ("", "MODEL.ROI_HEADS.NUM_CLASSES 7", "set MODEL.ROI_HEADS.NUM_CLASSES"),
        ("", "MODEL.ROI_HEADS.NAME StandardROIHeads", "set MODEL.ROI_HEADS.NAME IIFROIHeads"),
        ("", "MODEL.ROI_HEADS.NAME IIFHeads", "no ROI heads 'IIFHeads'"),
        ("", "MODEL.WEIGHTS nothing.pth", "no such file nothing.pth"),
        ("", "DATASETS.TRAIN ('openmoj_train',)", "did you mean 'openmoji_train'"),
        ("", "DATASETS.TRAIN ()", "DATASETS.TRAIN is empty"),
        ("", "DATASETS.TEST ('lvis_v1_val',)", "DETECTRON2_DATASETS"),
        ("", "DATASETS.CUSTOM [['openmoji_train','x.json','y']]", "no such file x.json"),
        ("", "MODEL.LONG_TAIL.STATISTICS x.json", "x.json: no such file"),
        ("--num-gpus 2", "SOLVER.IMS_PER_BATCH 3", "2 processes cannot share"),
        (
            "--num-gpus 2",
            "SOLVER.IMS_PER_BATCH 2 SOLVER.REFERENCE_WORLD_SIZE 4",
            "4 processes cannot share",
        ),
        ("--eval-only", "", "--eval-only needs a model"),
        ("--eval-only --resume", "", "has no last_checkpoint"),
        ("--baseline nothing", "", "nothing: no such file"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    config_file, tmp_path, monkeypatch, capfd, flags, overrides, message
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-file", str(config_file), *flags.split(), *overrides.split()]
    assert run(arguments) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["", "model_0000009.pth"])
def test_a_last_checkpoint_that_names_none_is_one_error(config_file, tmp_path, capfd, name):
    (tmp_path / "last_checkpoint").write_text(name)
    arguments = ["--resume", "--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    assert run(arguments) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"last_checkpoint: names '{name or 'no file'}', which is not there" in error


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "has no mask; set MODEL.MASK_ON False"),
        ([], "has no mask; set MODEL.MASK_ON False"),
        ({"size": [64, 64], "counts": [0, 4096]}, "set INPUT.MASK_FORMAT bitmask"),
    ],
)
def test_masks_that_cannot_be_used_are_refused_before_training(
    config_file, openmoji_dir, tmp_path, capfd, split, segmentation, message
):
    content = read(openmoji_dir / f"openmoji_{split}.json")
    changed = content["annotations"][3]
    changed["segmentation"] = segmentation
    if segmentation is None:
        del changed["segmentation"]
    (tmp_path / "changed.json").write_text(json.dumps(content))
    custom = entries(openmoji_dir)
    custom[split == "val"][1] = str(tmp_path / "changed.json")
    arguments = ["--config-file", str(config_file), "DATASETS.CUSTOM", str(custom)]
    arguments += ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "1"]
    if split == "val" and segmentation:  # an evaluation takes both kinds
        assert run(arguments) == 0
        return
    assert run(arguments) == 2
    error = capfd.readouterr().err
    assert f"annotation {changed['id']} of" in error
    assert message in error
    assert not (tmp_path / "out").exists()
    assert run([*arguments, "MODEL.MASK_ON", "False"]) == 0


def test_weights_of_the_backbone_alone_are_not_evaluated(config_file, iif_run, tmp_path, capfd):
    whole = torch.load(iif_run / "model_final.pth", weights_only=False)["model"]
    backbone = {key: value for key, value in whole.items() if key.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    arguments = ["--eval-only", "--config-file", str(config_file)]
    arguments += ["MODEL.WEIGHTS", str(tmp_path / "backbone.pth"), "OUTPUT_DIR", str(tmp_path)]
    assert run(arguments) == 2
    assert "backbone.pth: does not fit the configuration" in capfd.readouterr().err
    assert not (tmp_path / "inference" / "eval_summary.json").exists()


def test_an_infinite_setting_is_recorded_as_text(config_file, iif_run, tmp_path):
    arguments = ["--eval-only", "--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(iif_run / "model_final.pth")]
    assert run([*arguments, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", "1e999"]) == 0
    summary = read(tmp_path / "inference" / "eval_summary.json")
    assert summary["config"]["SOLVER"]["CLIP_GRADIENTS"]["NORM_TYPE"] == "inf"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TEST.DETECTIONS_PER_IMAGE", "40", r"detections_per_image is 50.* and 40.* in this run"),
        (
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
            "0.1",
            r"score_threshold is 0.0001 .* and 0.1 in",
        ),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.3", r"nms_threshold is 0.5 .* and 0.3 in this run"),
    ],
)
def test_a_baseline_tested_otherwise_is_refused_before_training(
    config_file, baseline, capfd, tmp_path, key, value, message
):
    arguments = ["--baseline", str(baseline), "--config-file", str(config_file)]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path / "output"), key, value]) == 2
    assert re.search(message, capfd.readouterr().err)
    assert not (tmp_path / "output").exists()


def perfect_instances(image, content, contiguous):
    """Return the ground truth of an image as a model's output."""
    found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
    size = image["height"], image["width"]
    instances = Instances(size)
    boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.ones(len(found))
    instances.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in found])
    masks = [mask_util.decode(mask_util.merge(_rle(a, size))) for a in found]
    instances.pred_masks = torch.tensor(np.array(masks, dtype=bool)).reshape(-1, *size)
    return instances


def _rle(annotation, size):
    return mask_util.frPyObjects(annotation["segmentation"], *size)


def test_the_ground_truth_itself_scores_100(openmoji_dir, tmp_path):
    content = read(openmoji_dir / "openmoji_val.json")
    # Ids with gaps: predictions are mapped back to them.
    for category in content["categories"]:
        category["id"] = 3 * category["id"] + 5
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 * annotation["category_id"] + 5
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [3 * i + 5 for i in image[key]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.DATASETS.CUSTOM = [["gaps_val", str(tmp_path / "val.json"), str(openmoji_dir)]]
    register_custom_datasets(cfg)
    DatasetCatalog.get("gaps_val")
    contiguous = MetadataCatalog.get("gaps_val").thing_dataset_id_to_contiguous_id

    evaluator = IIFEvaluator("gaps_val", tmp_path)
    evaluator.reset()
    for image in content["images"]:
        instances = perfect_instances(image, content, contiguous)
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    metrics = evaluator.evaluate()
    assert list(metrics) == ["bbox", "segm"]
    for values in metrics.values():
        assert values["AP"] == pytest.approx(100)
        assert values["AP75"] == pytest.approx(100)
        assert all(isinstance(v, float) for v in values.values())
        assert all(v == pytest.approx(100) or math.isnan(v) for v in values.values())


def test_without_detections_every_metric_is_zero_or_undefined(openmoji_dir, tmp_path):
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.DATASETS.CUSTOM = entries(openmoji_dir)
    register_custom_datasets(cfg)
    DatasetCatalog.get("openmoji_val")
    evaluator = IIFEvaluator("openmoji_val", tmp_path, iou_types=("bbox",))
    metrics = evaluator.evaluate()
    assert list(metrics) == ["bbox"]
    assert metrics["bbox"]["AP"] == 0
