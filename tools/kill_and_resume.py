#!/usr/bin/env python3
"""Kill a training at random moments, resume it each time, and compare it with an unbroken run.

    python tools/kill_and_resume.py --engine detectron2 --kills 20 --seed 0

Trains a small Mask R-CNN on a tiny set on the CPU, with all that keeps a state or draws at random:
Seesaw, FASA, repeat-factor sampling, augmentation, aspect-ratio grouping (Detectron2), images
fetched in advance by two processes. SIGKILL comes in training, while a checkpoint is written, and
in evaluation. Exit status 0: checkpoint, detections and metrics are equal; 1: a difference, or a
run that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from iif import layout

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 6
PERIOD = 2  # iterations between checkpoints
LEFTOVERS = ".iif-*"  # names of half-written files


def write_data(folder: Path, seed: int = 0) -> None:
    """Write LVIS-format ``train.json`` and ``val.json``, and images wider or higher than long.

    Class c is in every (c + 1)-th image; rectangles have the colour of their class.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 20), ("val", 8)):
        images, annotations = [], []
        for number in range(1, count + 1):
            width, height = (64, 48) if rng.random() < 0.5 else (48, 64)
            pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
            shown = [c for c in range(CLASSES) if number % (c + 1) == 0]
            for c in shown:
                x, y, w, h = (*rng.integers(0, 24, 2).tolist(), *rng.integers(14, 24, 2).tolist())
                pixels[y : y + h, x : x + w] = (40 * c, 250 - 40 * c, 80 * (c % 3))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": c + 1,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )
            name = f"{split}_{number:03d}.png"
            Image.fromarray(pixels).save(folder / name)
            images.append(
                {
                    "id": number,
                    "file_name": name,
                    "width": width,
                    "height": height,
                    "neg_category_ids": [c + 1 for c in range(CLASSES) if c not in shown],
                    "not_exhaustive_category_ids": [],
                }
            )
        categories = [{"id": c + 1, "name": f"class {c}", "frequency": "f"} for c in range(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_config(data: Path, **overrides: Any) -> Path:
    """Write Detectron2's configuration of a training on `write_data`'s set; return its path.

    Args:
        data: the folder of the set.
        overrides: values by key, with ``__`` for the dots.
    """
    config = {
        "_BASE_": str(ROOT / "configs" / "openmoji_baseline.yaml"),
        "MODEL": {
            "DEVICE": "cpu",
            # A ResNet-50 of an eighth of the channels: its checkpoints have 4 MB.
            "RESNETS": {
                "DEPTH": 50,
                "STEM_OUT_CHANNELS": 8,
                "RES2_OUT_CHANNELS": 32,
                "WIDTH_PER_GROUP": 8,
            },
            "FPN": {"OUT_CHANNELS": 16},
            "LONG_TAIL": {"METHOD": "seesaw"},
            "FASA": {"ENABLED": True, "START_EPOCH": 1, "EPOCH_LENGTH": 5},
            "ROI_HEADS": {"NAME": "IIFROIHeads", "NUM_CLASSES": CLASSES},
            "ROI_BOX_HEAD": {"FC_DIM": 32},
        },
        "INPUT": {"MIN_SIZE_TRAIN": [40, 48, 56], "MIN_SIZE_TEST": 48},
        "DATASETS": {
            "CUSTOM": [
                [f"kill_{split}", str(data / f"{split}.json"), str(data)]
                for split in ("train", "val")
            ],
            "TRAIN": ["kill_train"],
            "TEST": ["kill_val"],
            "HELD_OUT": 0.2,
        },
        "DATALOADER": {
            "NUM_WORKERS": 2,
            "SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
            "REPEAT_THRESHOLD": 0.5,
        },
        "SOLVER": {"IMS_PER_BATCH": 2, "CHECKPOINT_PERIOD": PERIOD, "WARMUP_ITERS": 5},
        "TEST": {"DETECTIONS_PER_IMAGE": 20},
        "SEED": 1,
        "VERSION": 2,
    }
    for key, value in overrides.items():
        node: Any = config
        *parents, last = key.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    path = data / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _detectron2(data: Path, output: Path, iterations: int) -> int:
    from iif.d2.train import run

    arguments = ["--resume", "--config-file", str(data / "config.yaml")]
    return run([*arguments, "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(iterations)])


def _torchvision(data: Path, output: Path, iterations: int) -> int:
    from iif.tv import TrainConfig, train

    settings = {
        "model": "maskrcnn_resnet18_fpn_small",
        "weights_backbone": None,
        "method": "seesaw",
        "fasa": {"enabled": True, "start_epoch": 1, "epoch_length": 5},
        "held_out": 0.2,
        "repeat_threshold": 0.5,
        "min_size": [40, 48, 56],
        "max_size": 80,
        "images_per_batch": 2,
        "iterations": iterations,
        "base_lr": 0.01,
        "steps": [],
        "warmup_iterations": 5,
        "clip_gradients": 5.0,
        "checkpoint_period": PERIOD,
        "workers": 2,
        "detections_per_image": 20,
        "seed": 1,
    }
    config = TrainConfig.from_dict(settings)
    files = {"val_json": data / "val.json", "device": "cpu", "resume": True}
    train(data / "train.json", data, output, config, **files)
    return 0


_ENGINES: dict[str, tuple[Callable[[Path, Path, int], int], str, str]] = {
    # the training, the module to import in advance, and the file written when it begins
    "detectron2": (_detectron2, "iif.d2.train", layout.CONFIG_YAML),
    "torchvision": (_torchvision, "iif.tv", layout.CONFIG_JSON),
}


def _work(engine: str, data: Path, output: Path, iterations: int, log: Path) -> None:
    """Train in a process of its own; what it prints goes to ``log``."""
    with open(log, "ab") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    multiprocessing.set_start_method("fork", force=True)  # the loaders' default
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    sys.exit(_ENGINES[engine][0](data, output, iterations))


class Experiment:
    """A training that is killed and resumed in one folder, and its unbroken twin in another."""

    def __init__(self, engine: str, folder: Path, kills: int, seed: int) -> None:
        """Write the data, and plan the kills."""
        self.engine, self.data = engine, folder / "data"
        self.whole, self.killed, self.log = folder / "whole", folder / "killed", folder / "log.txt"
        self._began = _ENGINES[engine][2]
        self._random = random.Random(seed)
        evaluation, saving = kills // 4, kills // 3
        plan = ["training"] * (kills - evaluation - saving) + ["saving"] * saving
        self._random.shuffle(plan)
        self.plan = plan + ["evaluation"] * evaluation
        self.iterations = 10 + 3 * len(plan)
        write_data(self.data)
        write_config(self.data)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", _ENGINES[engine][1]])
        self._context = context

    def run(self) -> list[str]:
        """Train both; return what differs."""
        self._measure()
        print(
            f"{self.engine}: {self.iterations} iterations; unbroken {self._unbroken:.1f} s, a save "
            f"{1000 * self._saving:.0f} ms",
            flush=True,
        )
        counts: Counter[str] = Counter()
        for number, phase in enumerate(self.plan, 1):
            where = self._kill(phase)
            if where is None:
                return [f"kill {number}: the run failed by itself; see {self.log}"]
            counts[where] += 1
            print(f"kill {number}: {where}; last checkpoint {self._last()}", flush=True)
        if self._finish(self.killed):
            return [f"the last run failed; see {self.log}"]
        print("killed", ", ".join(f"{n} times {where}" for where, n in counts.items()))
        return list(differences(self.whole, self.killed))

    def _measure(self) -> None:
        """Train without a kill; then time what a resumed run does when all is trained."""
        began = time.monotonic()
        process = self._start(self.whole)
        first, saving = None, 0.0
        while process.is_alive():
            if first is None and (self.whole / layout.LAST_CHECKPOINT).is_file():
                first = time.monotonic() - self._time_of_beginning(began)
            seen = time.monotonic()
            while any(self.whole.glob(LEFTOVERS)):
                saving = max(saving, time.monotonic() - seen)
                time.sleep(0.002)
            time.sleep(0.005)
        self._unbroken = time.monotonic() - began
        if process.exitcode or first is None:
            raise SystemExit(f"the unbroken run failed; see {self.log}")
        self._first, self._saving = first, saving
        self._iteration = (self._unbroken - first) / self.iterations
        began = time.monotonic()
        if self._finish(self.whole):
            raise SystemExit(f"the resumed end of the unbroken run failed; see {self.log}")
        self._end = time.monotonic() - began

    def _time_of_beginning(self, began: float) -> float:
        """Return when training began, on the monotonic clock."""
        age = time.time() - (self.whole / self._began).stat().st_mtime
        return max(began, time.monotonic() - age)

    def _start(self, output: Path) -> Any:
        arguments = (self.engine, self.data, output, self.iterations, self.log)
        process = self._context.Process(target=_work, args=arguments)
        process.start()
        return process

    def _finish(self, output: Path) -> int | None:
        process = self._start(output)
        process.join()
        return process.exitcode

    def _kill(self, phase: str) -> str | None:
        """Resume the training, kill it; return in what it was killed, None if it failed."""
        while True:
            before = self._stamp()
            process = self._start(self.killed)
            moment = self._moment(phase, process, before)
            process.join(moment)
            process.kill()
            process.join()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers, which wait for it
            if process.exitcode == -signal.SIGKILL:
                break
            if process.exitcode:
                return None  # otherwise it ended before its kill: another one
        if any(self.killed.glob(LEFTOVERS)):
            return "in saving"
        return "in evaluation" if self._last() == layout.FINAL_CHECKPOINT else "in training"

    def _moment(self, phase: str, process: Any, before: float) -> float:
        """Wait for a phase; return how many seconds of it are left until the kill."""
        if phase == "evaluation":
            while process.is_alive() and self._last() != layout.FINAL_CHECKPOINT:
                time.sleep(0.01)
            return self._random.uniform(0, self._end)
        while process.is_alive() and self._stamp() == before:
            time.sleep(0.01)
        if phase == "training":
            return self._random.uniform(0, self._first + 5 * self._iteration)
        for _ in range(self._random.randint(1, 3)):
            while process.is_alive() and not any(self.killed.glob(LEFTOVERS)):
                time.sleep(0.002)
            seen, moment = time.monotonic(), self._random.uniform(0, self._saving)
            while any(self.killed.glob(LEFTOVERS)) and time.monotonic() - seen < moment:
                time.sleep(0.002)
        return 0

    def _last(self) -> str:
        """Return the name of the last checkpoint."""
        path = self.killed / layout.LAST_CHECKPOINT
        return path.read_text() if path.is_file() else "none"

    def _stamp(self) -> float:
        """Return when the file that is written at the beginning was written last."""
        path = self.killed / self._began
        return path.stat().st_mtime if path.is_file() else 0


def differences(one: Path, other: Path) -> Iterator[str]:
    """Yield in what the outputs of two runs differ, and what is not whole in the second."""
    first, second = (
        _flat(_checkpoint(folder / layout.FINAL_CHECKPOINT)) for folder in (one, other)
    )
    for key in first.keys() | second.keys():
        if not _equal(first.get(key), second.get(key)):
            yield f"{layout.FINAL_CHECKPOINT}: {key}"
    for path in other.glob(layout.CHECKPOINTS):
        _checkpoint(path)
    if any(other.rglob(LEFTOVERS)):
        yield "half-written files are left"
    results, summaries, metrics = [], [], []
    for folder in (one, other):
        results.append(json.loads((folder / layout.INFERENCE / layout.RESULTS).read_text()))
        summary = json.loads((folder / layout.INFERENCE / layout.SUMMARY).read_text())
        summaries.append({key: summary[key] for key in ("metrics", "per_category")})
        path = folder / layout.METRICS
        lines = path.read_text().splitlines() if path.is_file() else []
        metrics.append([json.loads(line)["iteration"] for line in lines])
    if results[0] != results[1]:
        yield layout.RESULTS
    if summaries[0] != summaries[1]:
        yield layout.SUMMARY
    if metrics[0] != metrics[1]:
        yield f"{layout.METRICS}: iterations {metrics[0]} and {metrics[1]}"


def _checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the leaves of nested containers by their paths."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {key: value}
    return {k: v for name, item in items for k, v in _flat(item, f"{key}/{name}").items()}


def _equal(one: Any, other: Any) -> bool:
    """Compare two leaves, tensors bit for bit (NaN equals itself)."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(
            one.contiguous().reshape(-1).view(torch.uint8),
            other.contiguous().reshape(-1).view(torch.uint8),
        )
    return bool(one == other)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=_ENGINES, default="detectron2")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, help="keep the runs here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.output or Path(temporary)
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"--output {folder}: is not empty")
        folder.mkdir(parents=True, exist_ok=True)
        experiment = Experiment(args.engine, folder.resolve(), args.kills, args.seed)
        found = experiment.run()
        for line in found:
            print("different:", line)
        if found:
            print(experiment.log.read_text()[-2000:])
    print("verdict:", "NOT equal to the unbroken run" if found else "equal to the unbroken run")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
