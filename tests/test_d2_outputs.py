"""What train_net.py must not write over, and where it cannot write."""

from __future__ import annotations

import pytest

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from iif.d2.train import run
from iif.files import sha256_file


def refused(capsys, *arguments):
    assert run([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_training_does_not_write_over_the_checkpoint_that_it_starts_from(
    config_file, baseline, capsys
):
    weights = baseline / "model_final.pth"
    before = sha256_file(weights)
    start = ["--config-file", config_file, "OUTPUT_DIR", baseline, "MODEL.WEIGHTS", weights]
    error = refused(capsys, *start)
    assert "lies in OUTPUT_DIR, whose checkpoints this training would write over" in error
    assert sha256_file(weights) == before


def test_a_run_does_not_write_over_the_baseline_that_it_is_compared_with(
    config_file, baseline, capsys
):
    summary = baseline / "inference" / "eval_summary.json"
    before = sha256_file(summary)
    start = ["--config-file", config_file, "--eval-only", "--baseline", baseline]
    start += ["OUTPUT_DIR", baseline, "MODEL.WEIGHTS", baseline / "model_final.pth"]
    assert "lies in OUTPUT_DIR" in refused(capsys, *start, "MODEL.LONG_TAIL.METHOD", "none")
    assert sha256_file(summary) == before


def test_an_output_folder_that_cannot_be_is_one_line(config_file, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    start = ["--config-file", config_file, "OUTPUT_DIR"]
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(folder) in refused(capsys, *start, folder)
        assert "give" in refused(capsys, *start, folder)
    assert (tmp_path / "file").read_text() == "kept"
