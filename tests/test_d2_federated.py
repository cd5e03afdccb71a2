"""Detectron2's federated loss, as the baseline, on a data set of the user's own."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from d2_runs import read, saved_config
from helpers_d2 import STATISTICS, tiny_cfg, training_batch
from iif import ClassStatistics, InputError
from iif.d2 import register_custom_datasets
from iif.d2.checkpoint import load_model
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.train import run

FEDERATED = (
    *("MODEL.LONG_TAIL.METHOD", "none"),
    *("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"),
)


@pytest.fixture(scope="module")
def federated_run(config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("federated")
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(folder), *FEDERATED]
    assert run([*arguments, "SOLVER.MAX_ITER", "2"]) == 0
    return folder


def test_it_trains_and_evaluates_with_the_counts_of_the_training_set(federated_run, openmoji_dir):
    statistics = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    state = torch.load(federated_run / "model_final.pth", weights_only=False)["model"]
    weights = state["roi_heads.box_predictor.fed_loss_cls_weights"]
    expected = torch.from_numpy(statistics.image_count.copy()).float() ** 0.5  # stock power
    torch.testing.assert_close(weights, expected)
    summary = read(federated_run / "inference" / "eval_summary.json")
    assert summary["metrics"]["bbox"]["AP"] is not None
    assert summary["method"]["name"] == "none"


@pytest.mark.parametrize("heads", ["IIFROIHeads", "IIFCascadeROIHeads"])
def test_evaluation_needs_the_saved_statistics_alone(
    federated_run, config_file, openmoji_dir, heads, tmp_path
):
    """The training annotations are gone; the counts come from class_statistics.json."""
    folder = tmp_path / "moved"
    shutil.copytree(federated_run, folder)
    cfg = saved_config(folder)
    cfg.DATASETS.CUSTOM[0][1] = "/nowhere/train.json"
    weights = str(folder / "model_final.pth")
    cfg.MODEL.LONG_TAIL.STATISTICS = "/nowhere/class_statistics.json"
    cfg.MODEL.WEIGHTS = weights
    if heads == "IIFCascadeROIHeads":
        cfg.MODEL.ROI_HEADS.NAME = heads
        cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
        with pytest.raises(InputError, match="parameters are missing"):
            load_model(cfg, weights)  # built, with counts; the weights are another model's
        return
    model = load_model(cfg, weights)
    assert model.roi_heads.box_predictor.fed_loss_cls_weights.shape == (12,)

    (folder / "config.yaml").write_text(cfg.dump())
    arguments = ["--eval-only", "--config-file", str(folder / "config.yaml")]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path / "again"), *FEDERATED]) == 0
    first, again = (
        read(path / "inference" / "eval_summary.json")["metrics"]
        for path in (federated_run, tmp_path / "again")
    )
    assert first == again


def test_few_classes_are_all_in_the_loss():
    """Stock heads ask for 50 classes, and sampling 50 of 5 without replacement is an error."""
    cfg = tiny_cfg(*FEDERATED, "DATASETS.TRAIN", ("federated_few",))
    register_custom_datasets(cfg, STATISTICS)
    model = build_model(cfg).train()
    predictor = model.roi_heads.box_predictor
    assert isinstance(predictor, IIFFastRCNNOutputLayers)
    assert predictor.fed_loss_num_classes == 5
    with EventStorage():
        losses = model(training_batch())
    assert torch.isfinite(losses["loss_cls"])
    MetadataCatalog.remove("federated_few")


def test_counts_that_are_there_stay():
    metadata = MetadataCatalog.get("federated_counted")
    own = [{"id": i, "image_count": 7} for i in range(1, 6)]
    metadata.set(class_image_count=own)
    register_custom_datasets(tiny_cfg(*FEDERATED, "DATASETS.TRAIN", (metadata.name,)), STATISTICS)
    assert metadata.class_image_count == own
    MetadataCatalog.remove("federated_counted")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "False"], "is a sigmoid loss: set MODEL"),
        (
            ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
            "FED_LOSS_NUM_CLASSES is 50, but .* has 12 classes with an image: set it to 12",
        ),
        (["MODEL.LONG_TAIL.METHOD", "iif"], "method iif is defined for the softmax cross entropy"),
    ],
)
def test_what_would_stop_training_is_refused_before(
    config_file, tmp_path, capfd, overrides, message
):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path), *FEDERATED]
    assert run([*arguments, *overrides]) == 2
    error = capfd.readouterr().err
    assert re.search(message, error), error


def test_evaluation_without_a_named_training_set_is_refused(federated_run, tmp_path, capfd):
    arguments = ["--eval-only", "--config-file", str(federated_run / "config.yaml")]
    arguments += ["MODEL.WEIGHTS", str(federated_run / "model_final.pth")]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path), "DATASETS.TRAIN", "()"]) == 2
    assert "class counts from the metadata of DATASETS.TRAIN, which is empty" in (
        capfd.readouterr().err
    )


def test_stock_heads_with_few_enough_sampled_classes_train(config_file, tmp_path):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path), *FEDERATED]
    arguments += ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "SOLVER.MAX_ITER", "1"]
    assert run([*arguments, "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", "12"]) == 0
