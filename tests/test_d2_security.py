"""No file that a user names runs code: configurations, checkpoints, pickled weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import build_model

from helpers_d2 import tiny_cfg
from iif import InputError
from iif.cli import main
from iif.d2.checkpoint import MethodCheckpointer, load_model
from iif.d2.config import load_config


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_configuration_runs_no_code(tmp_path, capsys):
    proof = tmp_path / "proof"
    text = f'OUTPUT_DIR: !!python/object/apply:os.system ["touch {proof}"]\n'
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c.yaml: .*python/object/apply"):
        load_config(str(tmp_path / "c.yaml"), [])
    fold = ["fold", "--config-file", str(tmp_path / "c.yaml"), "--weights", "x.pth"]
    assert main([*fold, "--output", str(tmp_path / "y.pth")]) == 2
    assert not proof.exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth", ".pt", ""])
def test_weights_run_no_code(tmp_path, suffix):
    proof, path = tmp_path / "proof", tmp_path / f"weights{suffix}"
    content = {"model": {"a": np.zeros(2)}, "__author__": "me", "extra": Runs(proof)}
    content["model_state"] = content["model"]
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=rf"weights{suffix}: "):
        load_model(tiny_cfg(), str(path))
    assert not proof.exists()


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_checkpoint_that_was_cut_off_is_one_error(tmp_path, length):
    model = build_model(tiny_cfg())
    MethodCheckpointer(model, save_dir=str(tmp_path)).save("whole")
    cut = tmp_path / "cut.pth"
    cut.write_bytes((tmp_path / "whole.pth").read_bytes()[:length])
    with pytest.raises(InputError, match=r"cut.pth: cannot be read as a checkpoint"):
        load_model(tiny_cfg(), str(cut))


def test_weights_of_pycls_load(tmp_path):
    model = build_model(tiny_cfg())
    name = "backbone.bottom_up.stem.conv1.weight"
    weight = torch.full_like(model.state_dict()[name], 0.5)
    state = {"stem.conv1.weight": weight, "stem.bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"model_state": state, "epoch": 3}, tmp_path / "R-18.pyth")
    MethodCheckpointer(model).load(str(tmp_path / "R-18.pyth"), checkpointables=[])
    assert (model.state_dict()[name] == 0.5).all()
    torch.save({"epoch": 3}, tmp_path / "R-18.pyth")
    with pytest.raises(InputError, match=r"R-18.pyth: not a checkpoint of pycls"):
        MethodCheckpointer(model).load(str(tmp_path / "R-18.pyth"), checkpointables=[])


def test_weights_of_the_model_zoo_load(tmp_path):
    """A pickle of names and arrays, as MSRA's and torchvision's R-50 there."""
    model = build_model(tiny_cfg())
    name = "backbone.bottom_up.stem.conv1.weight"
    weight = np.full(model.state_dict()[name].shape, 0.5, np.float32)
    content = {
        "model": {"stem.conv1.weight": weight},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content, protocol=2))
    MethodCheckpointer(model).load(str(tmp_path / "R-18.pkl"), checkpointables=[])
    assert (model.state_dict()[name] == 0.5).all()
