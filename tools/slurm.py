#!/usr/bin/env python3
"""Submit a training to SLURM; a job that is preempted or times out is requeued and resumes.

    pip install submitit
    python tools/slurm.py --nodes 2 --gpus 8 --hours 24 --slurm partition=gpu -- \
        --config-file configs/lvis_iif.yaml OUTPUT_DIR /shared/lvis_iif

What follows -- are the arguments of train_net.py; machines, ranks and addresses are filled in.
Start it from the checkout: the job runs in this folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import submitit

PORT = 29_500


class Training:
    """One task on each node: train_net.py with the processes of that node's GPUs."""

    def __init__(self, argv: list[str], gpus: int) -> None:
        """Keep the arguments of train_net.py and the GPUs of a node."""
        self.argv, self.gpus = argv, gpus

    def __call__(self) -> None:
        """Train; a status other than 0 fails the job."""
        from iif.d2.train import run

        status = run(arguments(self.argv, self.gpus, submitit.JobEnvironment()))
        if status:
            raise SystemExit(status)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what the requeued job runs: the same, resumed."""
        argv = self.argv if "--resume" in self.argv else ["--resume", *self.argv]
        return submitit.helpers.DelayedSubmission(Training(argv, self.gpus))


def arguments(argv: list[str], gpus: int, job: Any) -> list[str]:
    """Return the arguments of train_net.py on one of the nodes of a job."""
    address = f"tcp://{job.hostnames[0]}:{PORT}"
    machines = ["--num-machines", str(job.num_nodes), "--machine-rank", str(job.node)]
    return ["--num-gpus", str(gpus), *machines, "--dist-url", address, *argv]


def main() -> int:
    """Run the command line; print the job's number and where its output goes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=8, help="of each node (default %(default)s)")
    parser.add_argument("--cpus", type=int, default=32, help="of each node (default %(default)s)")
    parser.add_argument("--hours", type=float, default=24, help="until it is requeued")
    parser.add_argument("--requeues", type=int, default=10, help="at most (default %(default)s)")
    parser.add_argument("--logs", type=Path, default=Path("output/slurm"), help="of the jobs")
    parser.add_argument("--slurm", nargs="*", default=[], metavar="KEY=VALUE", help="for sbatch")
    parser.add_argument("train_net", nargs="+", help="after --: the arguments of train_net.py")
    args = parser.parse_args()
    more = dict(pair.split("=", 1) for pair in args.slurm)
    executor = submitit.AutoExecutor(args.logs, slurm_max_num_timeout=args.requeues)
    executor.update_parameters(
        name="iif",
        nodes=args.nodes,
        tasks_per_node=1,
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus,
        timeout_min=round(60 * args.hours),
        slurm_signal_delay_s=120,
        slurm_additional_parameters=more,
    )
    job = executor.submit(Training(args.train_net, args.gpus))
    print(f"job {job.job_id}: {args.logs / f'{job.job_id}_0_log.out'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
