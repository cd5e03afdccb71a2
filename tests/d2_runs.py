"""A tiny Detectron2 training on OpenMoji, plain and with IIF; conftest.py has the fixtures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import yaml
from detectron2.config import get_cfg

from helpers_d2 import TINY
from iif.d2 import add_iif_config
from iif.d2.train import run

ITERATIONS = 20


def entries(folder, train=True):
    """Return DATASETS.CUSTOM for the data set in ``folder``, with or without the training set."""
    lost = Path("/nowhere")
    return [
        ["openmoji_train", str((folder if train else lost) / "openmoji_train.json"), str(folder)],
        ["openmoji_val", str(folder / "openmoji_val.json"), str(folder)],
    ]


def write_config(openmoji_dir, folder):
    """Write the configuration of the tiny model; return its path."""
    content = json.loads((openmoji_dir / "openmoji_train.json").read_text())
    tiny = json.loads(json.dumps(TINY))
    tiny["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] = len(content["categories"])
    # Test that the GPU that is not there is replaced by the CPU.
    del tiny["MODEL"]["DEVICE"]
    tiny |= {
        "DATASETS": {
            "CUSTOM": entries(openmoji_dir),
            "TRAIN": ["openmoji_train"],
            "TEST": ["openmoji_val"],
        },
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64, "RANDOM_FLIP": "none"},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": ITERATIONS, "WARMUP_ITERS": 5, "BASE_LR": 0.01},
        "TEST": {"DETECTIONS_PER_IMAGE": 50},
        "SEED": 1,
        "VERSION": 2,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def train_baseline(config_file, folder):
    """Train and evaluate the baseline; return its output folder."""
    overrides = ["MODEL.LONG_TAIL.METHOD", "none", "OUTPUT_DIR", str(folder)]
    assert run(["--config-file", str(config_file), *overrides]) == 0
    return folder


def train_iif(config_file, baseline, folder):
    """Train and evaluate the same with IIF, and compare it with the baseline."""
    arguments = ["--config-file", str(config_file), "--baseline", str(baseline)]
    assert run([*arguments, "OUTPUT_DIR", str(folder)]) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def metric_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def saved_config(folder):
    cfg = get_cfg()
    add_iif_config(cfg)
    cfg.merge_from_file(str(folder / "config.yaml"))
    return cfg
