"""Detectron2's own tools, unmodified, with this project's keys, heads and data sets.

The tools themselves are run where DETECTRON2_REPO names a checkout of Detectron2's repository;
small scripts of the same form stand for them everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import MetadataCatalog

from d2_runs import entries, saved_config
from iif import layout
from iif.d2 import register_custom_datasets

REPO = Path(os.environ.get("DETECTRON2_REPO", "/nonexistent"))
needs_repo = pytest.mark.skipif(
    not (REPO / "tools").is_dir(),
    reason="DETECTRON2_REPO names no checkout of Detectron2's repository",
)
TINY_TRAINING = ("SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu")


def run_tool(script, *arguments, config_file=None):
    """Run a script with the module; return its output."""
    own = ["--config-file", str(config_file)] if config_file else []
    command = [sys.executable, "-W", "ignore", "-m", "iif.d2.tool", *own, str(script)]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_script_has_keys_heads_and_data_sets(tmp_path, config_file):
    (tmp_path / "beside.py").write_text("VALUE = 7")
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from beside import VALUE
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY

def main():
    cfg = get_cfg()
    cfg.merge_from_file(sys.argv[1])
    cfg.freeze()
    print(VALUE, __name__, sys.argv[2:], cfg.MODEL.LONG_TAIL.METHOD, cfg.clone().MODEL.IIF.VARIANT)
    print(ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME).__name__)
    metadata = MetadataCatalog.get("openmoji_val")
    images = DatasetCatalog.get("openmoji_val")
    print(metadata.evaluator_type, len(metadata.thing_classes), len(images))

if __name__ == "__main__":
    main()
"""
    )
    output = run_tool(script, config_file, "--flag")
    assert "7 __main__ ['--flag'] iif raw" in output
    assert "IIFROIHeads" in output
    assert "lvis 12 16" in output


def test_spawned_processes_have_them_too(tmp_path, config_file):
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from detectron2.config import get_cfg
from torch import multiprocessing

def work(rank, path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.freeze()
    print(f"rank {rank}: {cfg.MODEL.LONG_TAIL.METHOD}", flush=True)

if __name__ == "__main__":
    multiprocessing.spawn(work, nprocs=2, args=(sys.argv[1],))
"""
    )
    output = run_tool(script, config_file)
    assert "rank 0: iif" in output
    assert "rank 1: iif" in output


def test_a_script_without_configuration_gets_the_data_sets(tmp_path, config_file):
    script = tmp_path / "script.py"
    script.write_text(
        "from detectron2.data import DatasetCatalog\nprint(len(DatasetCatalog.get('openmoji_val')))"
    )
    assert "16" in run_tool(script, config_file=config_file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SCRIPT"),
        (["nowhere.py"], "no such file nowhere.py"),
        (["--config-file", "nowhere.yaml", __file__], "nowhere.yaml"),
    ],
)
def test_faults_in_the_input_are_one_line(arguments, message):
    command = [sys.executable, "-W", "ignore", "-m", "iif.d2.tool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]


def test_the_evaluator_type_follows_the_files_content(openmoji_dir, tmp_path, iif_run):
    coco = tmp_path / "coco.json"
    coco.write_text('{"images": [], "annotations": [], "categories": []}')
    cfg = saved_config(iif_run)
    cfg.DATASETS.CUSTOM = [
        *entries(openmoji_dir),
        ["plain", str(coco), str(tmp_path)],
        ["absent", str(tmp_path / "absent.json"), str(tmp_path)],
    ]
    register_custom_datasets(cfg)
    assert MetadataCatalog.get("openmoji_val").evaluator_type == "lvis"
    assert MetadataCatalog.get("plain").evaluator_type == "coco"
    assert MetadataCatalog.get("absent").get("evaluator_type") is None


@needs_repo
@pytest.mark.parametrize("tool", ["train_net.py", "plain_train_net.py"])
def test_detectron2s_training_tools(tool, config_file, tmp_path):
    output = run_tool(
        REPO / "tools" / tool, "--config-file", config_file, *TINY_TRAINING, "OUTPUT_DIR", tmp_path
    )
    assert "Evaluation results for" in output
    assert (tmp_path / layout.FINAL_CHECKPOINT).is_file()


@needs_repo
def test_detectron2s_other_tools(iif_run, config_file, openmoji_dir, tmp_path):
    tools, config = REPO / "tools", iif_run / "config.yaml"
    weights = ("MODEL.WEIGHTS", iif_run / layout.FINAL_CHECKPOINT)
    output = run_tool(
        *(tools / "analyze_model.py", "--tasks", "parameter", "structure"),
        *("--config-file", config, *weights),
    )
    assert "IIFFastRCNNOutputLayers" in output
    run_tool(
        *(tools / "visualize_data.py", "--source", "annotation", "--config-file", config),
        *("--output-dir", tmp_path / "data"),
    )
    assert any((tmp_path / "data").iterdir())
    run_tool(
        *(tools / "visualize_json_results.py", "--dataset", "openmoji_val"),
        *("--input", iif_run / layout.INFERENCE / layout.RESULTS, "--output", tmp_path / "results"),
        config_file=config,
    )
    assert any((tmp_path / "results").iterdir())
    image = next(openmoji_dir.rglob("*.png"), None) or next(openmoji_dir.rglob("*.jpg"))
    run_tool(
        *(REPO / "demo" / "demo.py", "--config-file", config, "--input", image),
        *("--output", tmp_path / "demo.png", "--opts", *weights),
    )
    assert (tmp_path / "demo.png").is_file()
    run_tool(
        *(tools / "deploy" / "export_model.py", "--config-file", config, "--sample-image", image),
        *("--export-method", "tracing", "--format", "torchscript", "--output", tmp_path / "export"),
        *weights,
    )
    assert (tmp_path / "export" / "model.ts").is_file()
