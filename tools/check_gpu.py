#!/usr/bin/env python3
"""Check training, evaluation and benchmarks on the GPUs of this machine: a verdict for each step.

    python tools/check_gpu.py [--output DIR] [--device cuda|cpu] [--list]

Draws a tiny OpenMoji set. With each engine that is installed: trains a few iterations, with AMP
too, resumes, evaluates, and trains in two processes where there are two GPUs. Then runs the
benchmarks that take a device at their smallest size. About ten minutes. Exit status 1: a step
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from iif import layout
from iif.demo.openmoji import TRAIN_JSON, VAL_JSON
from iif.files import versions
from iif.report.tables import text_table

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {"torchvision": ("torchvision", "tensorboard"), "detectron2": ("detectron2",)}
CATEGORIES, TRAIN, VAL = 12, 48, 24
SHORT, LONG = 10, 20  # iterations before and after a resumption
LIMIT = 300  # seconds of a step
SUMMARY = Path(layout.INFERENCE, layout.SUMMARY)
IIF = (sys.executable, "-m", "iif.cli")

OK, SKIPPED, FAILED = "ok", "skipped", "FAILED"
NO_AMP = "AMP is for GPUs"
ONE_GPU = "there is one GPU"


@dataclass(frozen=True)
class Step:
    """A command, and what it must leave.

    Attributes:
        name: engine and what is done.
        command: the words of the command.
        file: what the command must write; None for nothing.
        skip: why the step cannot be done; empty when it can.
    """

    name: str
    command: tuple[str, ...]
    file: Path | None = None
    skip: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of a step: OK, SKIPPED or FAILED, its seconds, and the reason."""

    step: str
    verdict: str
    seconds: float = 0.0
    reason: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder (default: /tmp)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--list", action="store_true", help="print the steps and stop")
    args = parser.parse_args(argv)
    gpus = torch.cuda.device_count()
    engines = [name for name, needs in ENGINES.items() if all(map(find_spec, needs))]
    if args.list:
        for step in steps(Path("DIR"), args.device, engines, gpus):
            print(f"{step.name}{f' (skipped: {step.skip})' if step.skip else ''}")
        return 0
    if args.device == "cuda" and not gpus:
        parser.error("torch finds no GPU here; --device cpu runs the same steps on the processor")
    if args.output is not None and args.output.exists() and any(args.output.iterdir()):
        parser.error(f"{args.output} holds something; give a new folder")
    folder = (args.output or Path(tempfile.mkdtemp(prefix="check_gpu-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    devices = [torch.cuda.get_device_name(i) for i in range(gpus)] or ["no GPU"]
    print(f"{', '.join(devices)}; {versions()}\nOutput of the steps: {folder}")
    todo = list(steps(folder, args.device, engines, gpus))
    verdicts = []
    for number, step in enumerate(todo, start=1):
        print(f"[{number}/{len(todo)}] {step.name}", flush=True)
        verdicts.append(run(step, folder / f"{number:02d}.txt"))
    print(f"\n{table(verdicts)}")
    return int(any(verdict.verdict == FAILED for verdict in verdicts))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each verdict."""
    rows = [[v.step, v.verdict, f"{v.seconds:.0f} s", v.reason] for v in verdicts]
    return text_table(["step", "verdict", "time", ""], rows, left=4)


def run(step: Step, log: Path) -> Verdict:
    """Do a step; what it prints goes to ``log``."""
    if step.skip:
        return Verdict(step.name, SKIPPED, reason=step.skip)
    fault = ""
    start = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as f,
        subprocess.Popen(
            step.command, stdout=f, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        ) as process,
    ):
        try:
            if process.wait(LIMIT):
                fault = f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            fault = f"took more than {LIMIT} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):  # none is left, as it should be
                os.killpg(process.pid, signal.SIGKILL)
    seconds = time.monotonic() - start
    if not fault and step.file is not None and not step.file.is_file():
        fault = f"{step.file} is missing"
    if not fault:
        return Verdict(step.name, OK, seconds)
    printed = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f": {printed[-1][:100]}" if printed else ""
    return Verdict(step.name, FAILED, seconds, f"{fault}, see {log.name}{last}")


def steps(folder: Path, device: str, engines: Sequence[str], gpus: int) -> Iterator[Step]:
    """Yield the steps in their order.

    Args:
        folder: where they write.
        device: "cuda" or "cpu".
        engines: those of `ENGINES` that are installed.
        gpus: how many there are.
    """
    data = folder / "data"
    size = {"categories": CATEGORIES, "train": TRAIN, "val": VAL}
    options = [word for key, value in size.items() for word in (f"--{key}", str(value))]
    yield Step("data set", (*IIF, "openmoji", str(data), *options), data / VAL_JSON)
    no_amp = NO_AMP if device == "cpu" else ""
    single = ONE_GPU if device == "cuda" and gpus < 2 else ""
    for engine, of_engine in (("torchvision", _torchvision), ("detectron2", _detectron2)):
        missing = "" if engine in engines else "not installed"
        for step in of_engine(data, folder / engine, device):
            own = {"AMP": no_amp, "two processes": single}.get(step.name, "")
            yield Step(f"{engine}: {step.name}", step.command, step.file, missing or own)
    for name, needs, extra in _BENCHMARKS:
        command = (sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--device", device)
        missing = "" if needs in engines else f"{needs} is not installed"
        smallest = _SMALLEST.get(name, _SMALLEST_DETECTION)
        yield Step(" ".join((name, *extra)), (*command, *extra, *smallest), skip=missing)


# Benchmark, the engine that it needs, and its arguments.
_BENCHMARKS = (
    ("inference", "torchvision", ("--engine", "torchvision", "--regions", "50")),
    ("inference", "detectron2", ("--engine", "detectron2", "--regions", "50")),
    ("mask_inference", "torchvision", ("--engine", "torchvision", "--detections", "5")),
    ("mask_inference", "detectron2", ("--engine", "detectron2", "--detections", "5")),
    ("training_overhead", "detectron2", ("--images", "1")),
    ("training_overhead", "detectron2", ("--images", "1", "--fasa")),
    ("method_overhead", "detectron2", ("--images", "1")),
    ("classification_throughput", "torchvision", ()),
)
_SMALLEST_DETECTION = ("--categories", str(CATEGORIES), "--repeats", "2")
_SMALLEST = {"classification_throughput": ("--images", "128", "--rounds", "2")}


def _torchvision(data: Path, folder: Path, device: str) -> Iterator[Step]:
    def train(name: str, *words: str, launcher: tuple[str, ...] = IIF) -> Step:
        run = folder / name.replace(" ", "_")
        command = (*launcher, "train", "preset=openmoji", "--device", device)
        command += ("--train", str(data / TRAIN_JSON), "--val", str(data / VAL_JSON))
        command += ("--images", str(data), "--output", str(run))
        return Step(name, (*command, *words), run / SUMMARY)

    short, long = f"iterations={SHORT}", f"iterations={LONG}"
    first = train("train", short)
    yield first
    yield Step("resume", (*first.command[:-1], "--resume", long), first.file)
    yield train("evaluate", "--eval-only", "--run", str(folder / "train"))
    yield train("AMP", short, "amp=true")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    yield train("two processes", short, launcher=(*torchrun, "--nproc_per_node=2", "-m", "iif.cli"))


def _detectron2(data: Path, folder: Path, device: str) -> Iterator[Step]:
    datasets = [
        ["openmoji_train", str(data / TRAIN_JSON), str(data)],
        ["openmoji_val", str(data / VAL_JSON), str(data)],
    ]

    def train(name: str, *words: str, out: str = "", flags: tuple[str, ...] = ()) -> Step:
        run = folder / (out or name.replace(" ", "_"))
        command = (sys.executable, str(ROOT / "train_net.py"), *flags)
        command += ("--config-file", str(ROOT / "configs" / "openmoji_iif.yaml"))
        command += ("DATASETS.CUSTOM", str(datasets), "MODEL.DEVICE", device)
        command += ("MODEL.ROI_HEADS.NUM_CLASSES", str(CATEGORIES), "OUTPUT_DIR", str(run))
        return Step(name, (*command, *words), run / SUMMARY)

    short, long = (("SOLVER.MAX_ITER", str(n)) for n in (SHORT, LONG))
    yield train("train", *short)
    yield train("resume", *long, out="train", flags=("--resume",))
    weights = str(folder / "train" / layout.FINAL_CHECKPOINT)
    yield train("evaluate", "MODEL.WEIGHTS", weights, flags=("--eval-only",))
    yield train("AMP", *short, "SOLVER.AMP.ENABLED", "True")
    yield train("two processes", *short, flags=("--num-gpus", "2"))


if __name__ == "__main__":
    sys.exit(main())
