"""Every configuration trains 3 iterations and evaluates, on a small set of LVIS's exact schema.

``make test-slow`` runs it: images of at most 128 px, 2 a batch, no weights from the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import SimpleTrainer
from detectron2.evaluation import inference_on_dataset
from lvis_set import write_set

from iif import layout
from iif.d2 import register_custom_datasets
from iif.d2.config import load_config
from iif.d2.train import run

ROOT = Path(__file__).parents[2]
FILES = sorted(
    p
    for p in (ROOT / "configs").glob("*.yaml")
    # Those with a key data are of iif classify (test_classification_config.py).
    if not p.name.startswith("Base") and "\ndata: " not in p.read_text()
)
# They start from the trained baseline; those of a method at test alone are not trained.
FROM_BASELINE = "output/lvis_baseline/model_final.pth"
SMALL = (
    *("MODEL.DEVICE", "cpu", "SEED", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MAX_SIZE_TRAIN", "128"),
    *("INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "128"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()"),
    # Detectron2 shortens the warm-up to 3 iterations: at the whole rate all becomes background.
    *("SOLVER.BASE_LR", "0.0001"),
    *("DATALOADER.NUM_WORKERS", "0"),
    # Frozen batch normalisation, without the statistics of published weights, lets values grow.
    *("MODEL.RESNETS.NORM", "GN"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "64", "TEST.DETECTIONS_PER_IMAGE", "20"),
)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return the DATASETS keys of a set with as many classes, written once."""
    made = {}

    def keys(num_classes: int) -> list[str]:
        if num_classes not in made:
            files = write_set(tmp_path_factory.mktemp(f"set{num_classes}"), num_classes)
            entries = [[f"small_{split}", *map(str, paths)] for split, paths in files.items()]
            made[num_classes] = ["DATASETS.CUSTOM", str(entries)]
        sets = ["DATASETS.TRAIN", "('small_train',)", "DATASETS.TEST", "('small_val',)"]
        return [*made[num_classes], *sets]

    return keys


def train(path, data, folder, *overrides, evaluate=False):
    cfg = load_config(str(path), [])
    arguments = ["--config-file", str(path), *(["--eval-only"] if evaluate else [])]
    keys = [*SMALL, *data(cfg.MODEL.ROI_HEADS.NUM_CLASSES), "OUTPUT_DIR", str(folder), *overrides]
    assert run([*arguments, *keys]) == 0
    return cfg


@pytest.fixture(scope="session")
def baseline_weights(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    train(ROOT / "configs/lvis_baseline.yaml", data, folder, "MODEL.WEIGHTS", "")
    return str(folder / layout.FINAL_CHECKPOINT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_trains_and_evaluates(path, data, tmp_path, request):
    weights, evaluate = "", False
    cfg = load_config(str(path), [])
    if cfg.MODEL.WEIGHTS == FROM_BASELINE:
        weights = request.getfixturevalue("baseline_weights")
        evaluate = not cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY
    held_out = ["DATASETS.HELD_OUT", "0.3"] if cfg.DATASETS.HELD_OUT else []  # of 40 images
    train(path, data, tmp_path, "MODEL.WEIGHTS", weights, *held_out, evaluate=evaluate)
    summary = json.loads((tmp_path / layout.INFERENCE / layout.SUMMARY).read_text())
    assert len(summary["per_category"]) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert set(summary["metrics"]) == {"bbox", "segm"}
    assert summary["metrics"]["segm"]["AP"] >= 0
    assert summary["results"]["num_detections"] > 0
    assert summary["method"]["name"] == cfg.MODEL.LONG_TAIL.METHOD
    if not evaluate:
        state = torch.load(tmp_path / layout.FINAL_CHECKPOINT, weights_only=True)["model"]
        for name, value in state.items():
            unmeasured = name.endswith("held_out_loss")  # FASA's, NaN before its second epoch
            assert unmeasured or value.isfinite().all(), name
    shutil.rmtree(tmp_path)  # a checkpoint has some 400 MB


def test_the_lazy_configuration_trains_and_evaluates(data, tmp_path):
    """As Detectron2's tools/lazyconfig_train_net.py does."""
    keys = data(1203)
    register_custom_datasets(load_config("", keys))
    lazy = LazyConfig.load(str(ROOT / "configs/lvis_iif.py"))
    lazy.train.output_dir = str(tmp_path)
    lazy.model.backbone.bottom_up.stem.norm = "GN"
    lazy.model.backbone.bottom_up.stages.norm = "GN"
    lazy.model.proposal_generator.post_nms_topk = (100, 50)
    lazy.model.roi_heads.batch_size_per_image = 64
    lazy.model.roi_heads.box_predictor.test_topk_per_image = 20
    lazy.model.roi_heads.box_predictor.method.statistics.metadata.name = "lvis_v1_train"
    lazy.dataloader.train.dataset.names = "small_train"
    lazy.dataloader.train.total_batch_size = 2
    lazy.dataloader.train.num_workers = 0
    lazy.dataloader.test.dataset.names = "small_val"
    lazy.dataloader.test.num_workers = 0
    for loader, sizes in ((lazy.dataloader.train, (96,)), (lazy.dataloader.test, 96)):
        loader.mapper.augmentations[0].short_edge_length = sizes
        loader.mapper.augmentations[0].max_size = 128
    model = instantiate(lazy.model).train()
    lazy.optimizer.params.model = model
    loader = instantiate(lazy.dataloader.train)
    trainer = SimpleTrainer(model, loader, instantiate(lazy.optimizer))
    trainer.train(0, 3)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    loader = instantiate(lazy.dataloader.test)
    evaluator = instantiate(lazy.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    assert set(results) == {"bbox", "segm"}
    summary = json.loads((tmp_path / layout.INFERENCE / layout.SUMMARY).read_text())
    assert summary["test_settings"]["detections_per_image"] == 20
    assert summary["config"]["dataloader"]["test"]["dataset"]["names"] == "small_val"
    # A second evaluation, with the first as its baseline.
    lazy.dataloader.evaluator.baseline = str(tmp_path / layout.INFERENCE)
    lazy.dataloader.evaluator.output_dir = str(tmp_path / "second")
    inference_on_dataset(model, loader, instantiate(lazy.dataloader.evaluator))
    assert (tmp_path / "second" / f"{layout.COMPARISON}.json").is_file()
    shutil.rmtree(tmp_path)


def test_detectron2s_own_names_and_layout(data, tmp_path):
    """LVIS's files under DETECTRON2_DATASETS, read by Detectron2's own loader."""
    entries = data(1203)[1]
    folder = Path(json.loads(entries.replace("'", '"'))[0][2]).parent
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py")]
    arguments = ["--config-file", str(ROOT / "configs/lvis_iif.yaml"), *SMALL]
    done = subprocess.run(
        [*command, *arguments, "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(tmp_path)],
        env=os.environ | {"DETECTRON2_DATASETS": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / layout.INFERENCE / layout.SUMMARY).read_text())
    assert summary["dataset"]["name"] == "lvis_v1_val"
    shutil.rmtree(tmp_path)
