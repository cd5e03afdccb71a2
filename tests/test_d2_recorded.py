"""What runs is what is recorded: a checkpoint's method, its options and its statistics."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from d2_runs import read, saved_config
from iif import ClassStatistics, InputError, build_method
from iif.d2 import statistics_from_config
from iif.d2.checkpoint import load_model
from iif.d2.train import run
from iif.d2.tuning import tune
from iif.data import annotation_file
from iif.methods.record import RECORD

PLAIN = ("MODEL.LONG_TAIL.METHOD", "none")
POST_HOC = ("MODEL.IIF.APPLY", "test")


def checkpoint(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)


def test_the_checkpoint_and_the_summary_carry_the_method_as_it_ran(iif_run, baseline, openmoji_dir):
    statistics = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    expected = build_method("iif", statistics).record()
    summary = read(iif_run / "inference" / "eval_summary.json")
    assert checkpoint(iif_run)[RECORD] == expected == summary["method"]
    assert (expected["name"], expected["options"]["variant"]) == ("iif", "raw")
    plain = read(baseline / "inference" / "eval_summary.json")["method"]
    assert checkpoint(baseline)[RECORD] == plain
    assert (plain["name"], plain["options"]) == ("none", {})


def test_training_from_weights_takes_the_configurations_method_and_says_so(
    config_file, iif_run, openmoji_dir, tmp_path
):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(iif_run / "model_final.pth"), "SOLVER.MAX_ITER", "2"]
    assert run([*arguments, "MODEL.IIF.VARIANT", "base10"]) == 0
    statistics = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    expected = build_method("iif", statistics, {"variant": "base10"})
    trained = checkpoint(tmp_path)
    assert torch.equal(trained["model"]["roi_heads.box_predictor.method.scale"], expected.scale)
    summary = read(tmp_path / "inference" / "eval_summary.json")
    assert trained[RECORD] == summary["method"] == expected.record()
    (line,) = (x for x in (tmp_path / "log.txt").read_text().splitlines() if "not loaded" in x)
    assert "model_final.pth was trained under method iif: its buffers are not loaded" in line
    assert "variant=base10" in line


def test_a_method_with_more_outputs_starts_from_plain_weights_and_says_so(
    config_file, baseline, tmp_path
):
    arguments = ["--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(baseline / "model_final.pth"), "SOLVER.MAX_ITER", "2"]
    assert run([*arguments, "MODEL.LONG_TAIL.METHOD", "seesaw"]) == 0
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert sum("method seesaw needs; it is drawn anew" in line for line in lines) == 1
    trained = checkpoint(tmp_path)
    assert trained["model"]["roi_heads.box_predictor.method.seen"].sum() > 0
    assert trained[RECORD]["name"] == "seesaw"
    assert run(["--eval-only", "--resume", *arguments[:4], "MODEL.LONG_TAIL.METHOD", "seesaw"]) == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.IIF.VARIANT", "base10"], "iif.variant raw, the configuration has base10"),
        (["MODEL.IIF.STRENGTH", "0.5"], "iif.strength 1.0, the configuration has 0.5"),
        (["MODEL.IIF.COUNT_BY", "instance"], "iif.count_by image, the configuration has instance"),
        (["MODEL.LONG_TAIL.NUM_IMAGES", "90"], "class statistics (hash)"),
        (["MODEL.LONG_TAIL.METHOD", "none"], "method iif, the configuration has none"),
    ],
)
def test_resuming_under_another_method_is_refused(
    config_file, iif_run, tmp_path, capfd, overrides, message
):
    folder = tmp_path / "copy"
    shutil.copytree(iif_run, folder)
    before = (folder / "model_final.pth").read_bytes()
    arguments = ["--resume", "--config-file", str(config_file), "OUTPUT_DIR", str(folder)]
    assert run([*arguments, "SOLVER.MAX_ITER", "30", *overrides]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {folder / 'model_final.pth'}: was trained with ")
    assert message in error
    assert (folder / "model_final.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.IIF.VARIANT", "base10"], "iif.variant raw, the configuration has base10"),
        (["MODEL.IIF.STRENGTH", "0.0"], "iif.strength 1.0, the configuration has 0"),
        (["MODEL.IIF.STRENGTH", "0.01"], "iif.strength 1.0, the configuration has 0.01"),
        (["MODEL.IIF.APPLY", "test"], "iif.apply train_and_test, the configuration has test"),
        (["MODEL.LONG_TAIL.NUM_IMAGES", "90"], "class statistics (hash)"),
        (["MODEL.LONG_TAIL.METHOD", "none"], "method iif, the configuration has none"),
        (
            ["MODEL.LONG_TAIL.METHOD", "none", "MODEL.ROI_HEADS.NAME", "StandardROIHeads"],
            "method iif, the configuration has none",
        ),
    ],
)
def test_evaluating_under_another_method_is_refused(
    config_file, iif_run, tmp_path, capfd, overrides, message
):
    arguments = ["--eval-only", "--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(iif_run / "model_final.pth"), *overrides]
    assert run(arguments) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "inference" / "eval_summary.json").exists()


def test_a_plain_checkpoint_is_evaluated_post_hoc_or_not_at_all(
    config_file, baseline, tmp_path, capfd
):
    arguments = ["--eval-only", "--config-file", str(config_file), "OUTPUT_DIR", str(tmp_path)]
    arguments += ["MODEL.WEIGHTS", str(baseline / "model_final.pth")]
    assert run(arguments) == 2
    error = capfd.readouterr().err
    assert "a plain model" in error
    assert "method iif, which is to be trained" in error
    assert run([*arguments, *POST_HOC, "MODEL.IIF.STRENGTH", "0.5"]) == 0
    method = read(tmp_path / "inference" / "eval_summary.json")["method"]
    assert (method["options"]["apply"], method["options"]["strength"]) == ("test", 0.5)
    assert method["acts_in_training"] is False


def test_fold_and_tune_refuse_another_method_too(iif_run, openmoji_dir, tmp_path):
    cfg = saved_config(iif_run)
    cfg.MODEL.IIF.VARIANT = "base2"
    weights = str(iif_run / "model_final.pth")
    with pytest.raises(InputError, match=r"iif.variant raw, the configuration has base2"):
        load_model(cfg, weights)
    with pytest.raises(InputError, match=r"iif.apply train_and_test, the configuration has test"):
        tune(saved_config(iif_run), weights, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_was_moved_works(iif_run, openmoji_dir, tmp_path):
    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(iif_run, first)
    cfg = saved_config(first)
    cfg.MODEL.LONG_TAIL.STATISTICS = str(first / "class_statistics.json")  # as saved there
    first.rename(moved)
    cfg.DATASETS.TRAIN = ()
    expected = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    cfg.MODEL.WEIGHTS = str(moved / "model_final.pth")  # beside it
    assert statistics_from_config(cfg).to_dict() == expected.to_dict()
    cfg.MODEL.WEIGHTS = ""
    cfg.OUTPUT_DIR = str(moved)
    assert statistics_from_config(cfg).to_dict() == expected.to_dict()
    cfg.OUTPUT_DIR = str(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"DATASETS.TRAIN is empty"):
        statistics_from_config(cfg)


def test_training_takes_what_the_configuration_names_and_counts_anew_otherwise(
    config_file, iif_run, openmoji_dir, tmp_path
):
    other = ClassStatistics.load(iif_run / "class_statistics.json").replace(num_images=77)
    other.save(tmp_path / "class_statistics.json")  # left by an earlier run: not to be believed
    arguments = ["--config-file", str(config_file), "SOLVER.MAX_ITER", "1", *PLAIN]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path)]) == 0
    found = ClassStatistics.load(tmp_path / "class_statistics.json")
    counted = ClassStatistics.from_json(openmoji_dir / "openmoji_train.json")
    assert found.num_images == counted.num_images
    other.save(tmp_path / "named.json")
    named = ["MODEL.LONG_TAIL.STATISTICS", str(tmp_path / "named.json")]
    assert run([*arguments, *named, "OUTPUT_DIR", str(tmp_path / "second")]) == 0
    found = ClassStatistics.load(tmp_path / "second" / "class_statistics.json")
    assert found.num_images == 77


def test_each_annotation_file_is_decoded_once(config_file, baseline, tmp_path, monkeypatch):
    """Checks, counts, Detectron2's own loading, training, evaluation and comparison share it."""
    decoded: Counter[str] = Counter()
    real = annotation_file.decode

    def counting(path, *args, **kwargs):
        decoded[str(path).rsplit("/", 1)[-1]] += 1
        return real(path, *args, **kwargs)

    monkeypatch.setattr(annotation_file, "decode", counting)
    annotation_file.forget_annotation_files()
    arguments = ["--config-file", str(config_file), "--baseline", str(baseline)]
    assert run([*arguments, "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"]) == 0
    assert decoded == {"openmoji_train.json": 1, "openmoji_val.json": 1}
    assert (tmp_path / "inference" / "comparison.txt").is_file()
