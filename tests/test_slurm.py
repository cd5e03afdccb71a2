"""The SLURM launcher: the arguments that each node gets, and what a requeued job runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

submitit = pytest.importorskip("submitit", reason="submitit is not installed")

PATH = Path(__file__).parents[1] / "tools" / "slurm.py"
spec = importlib.util.spec_from_file_location("slurm", PATH)
assert spec is not None
assert spec.loader is not None
slurm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slurm)

ARGUMENTS = ["--config-file", "configs/lvis_iif.yaml", "OUTPUT_DIR", "/shared/out"]


@pytest.mark.parametrize("node", [0, 1])
def test_each_node_knows_its_rank_and_the_first_ones_address(node):
    job = SimpleNamespace(hostnames=["gpu7", "gpu9"], num_nodes=2, node=node)
    found = slurm.arguments(ARGUMENTS, 8, job)
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.engine import default_argument_parser

    args = default_argument_parser().parse_args(found)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (8, 2, node)
    assert args.dist_url == "tcp://gpu7:29500"
    assert args.config_file == "configs/lvis_iif.yaml"
    assert args.opts == ["OUTPUT_DIR", "/shared/out"]
    assert not args.resume


def test_a_requeued_job_resumes_with_the_same_arguments():
    again = slurm.Training(ARGUMENTS, 4).checkpoint().function
    assert again.argv == ["--resume", *ARGUMENTS]
    assert again.gpus == 4
    assert again.checkpoint().function.argv == ["--resume", *ARGUMENTS]


def test_the_request_to_slurm(tmp_path, monkeypatch, capsys):
    asked = {}
    checked = submitit.AutoExecutor

    class Executor:
        def __init__(self, folder, **options):
            self.real = checked(folder, cluster="debug", **options)

        def update_parameters(self, **parameters):
            self.real.update_parameters(**parameters)  # refuses what it does not know
            asked.update(parameters)

        def submit(self, training):
            asked["argv"] = training.argv
            return SimpleNamespace(job_id="17")

    monkeypatch.setattr(slurm.submitit, "AutoExecutor", Executor)
    options = ["--nodes", "2", "--hours", "1.5", "--logs", str(tmp_path)]
    options += ["--slurm", "partition=gpu", "account=a=b"]
    monkeypatch.setattr(sys, "argv", ["slurm.py", *options, "--", *ARGUMENTS])
    assert slurm.main() == 0
    assert asked["argv"] == ARGUMENTS
    assert (asked["nodes"], asked["gpus_per_node"], asked["tasks_per_node"]) == (2, 8, 1)
    assert asked["timeout_min"] == 90
    assert asked["slurm_additional_parameters"] == {"partition": "gpu", "account": "a=b"}
    assert capsys.readouterr().out.startswith("job 17: ")
