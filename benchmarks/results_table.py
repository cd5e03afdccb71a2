"""Train every method on OpenMoji, several seeds each, and write docs/results.md.

    python benchmarks/results_table.py --jobs 2                    # 40 categories, on a CPU
    python benchmarks/results_table.py --size large --num-gpus 8   # 1,203 categories, 512 px, R50
    python benchmarks/results_table.py --table-only                # the page alone

Each finished run leaves a row, a small JSON file in --rows; the page is written from these alone. A
run whose row exists is not done again, an interrupted one goes on from its last checkpoint. Rows of
methods that need no training of their own (post-hoc) or little (decoupled) start from the softmax
run of the same seed. --methods and --seeds choose some of the rows (--list prints all). All share
one data set; a seed is that of a training run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from results_page import readme_table, write_page
from results_record import FORMAT, Row, evaluation, load_rows
from results_rows import (
    DECOUPLED,
    HELD_OUT,
    HELD_OUT_SOFTMAX,
    ROOT,
    SIZES,
    SOFTMAX,
    Method,
    Settings,
    Size,
    by_name,
    methods,
)

from iif import layout
from iif.demo.openmoji import TRAIN_JSON, VAL_JSON, make_openmoji
from iif.errors import InputError
from iif.files import sha256_file, write_json
from iif.methods import METHODS
from iif.progress import progress

RECIPE = "recipe.json"


class Experiment:
    """The runs under one output folder, and the rows that they leave."""

    def __init__(
        self,
        size: Size,
        output: Path,
        rows: Path,
        *,
        opts: Sequence[str] = (),
        num_gpus: int = 0,
        jobs: int = 1,
        cost_seed: int | None = None,
        prune: bool = False,
    ) -> None:
        """Make the data set where it is not there yet.

        Args:
            size: data set and recipe.
            output: for the runs.
            rows: for the finished rows.
            opts: KEY VALUE for all runs, beside those of the size.
            num_gpus: of each run.
            jobs: runs side by side.
            cost_seed: the seed of the runs whose cost is measured; None: of none.
            prune: remove a finished run's model where no other row starts from it.
        """
        self.size = size
        self.output = output.resolve() / size.name
        self.rows = rows
        self.opts: Settings = (*size.opts, *opts)
        self.num_gpus = num_gpus
        self.cost_seed = cost_seed
        self.prune = prune
        self.environment = dict(os.environ)
        if jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            self.environment["OMP_NUM_THREADS"] = str(threads)
        # One per folder: whoever needs a run that another job is at waits for it.
        self.locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self.data = self.output / "openmoji"
        make_openmoji(self.data, size.data)

    def folder(self, method: Method, seed: int) -> Path:
        """Return a run's output folder."""
        return self.output / method.folder / f"seed{seed}"

    def row(self, method: Method, seed: int) -> Path:
        """Return the file of a run's row."""
        return self.rows / method.folder / f"seed{seed}.json"

    def recipe(self, method: Method) -> dict[str, Any]:
        """Return the settings of a row that decide its result, its seed apart."""
        data = self.size.data
        return {
            "config": str(self.size.config.relative_to(ROOT)),
            "opts": _pairs(self.opts),
            "overrides": _pairs(method.overrides),
            "how": method.how,
            "data": {
                key: getattr(data, key)
                for key in ("categories", "train", "val", "image_size", "seed")
            },
        }

    def finish(self, method: Method, seed: int) -> None:
        """Make a row, unless it exists.

        Raises:
            InputError: it was made with other settings.
        """
        path = self.row(method, seed)
        if path.is_file():
            if Row.read(path).content["recipe"] != self.recipe(method):
                raise InputError(f"{path}: made with other settings; name other --rows")
            return
        self.run(method, seed)
        folder = self.folder(method, seed)
        content = {
            "format": FORMAT,
            "method": method.name,
            "seed": seed,
            "recipe": self.recipe(method),
            "tuned": self._tuned(method, seed),
            "cost": self._cost(method, seed),
            **evaluation(folder / layout.INFERENCE),
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "threads": self.environment.get("OMP_NUM_THREADS"),
                "gpus": self.num_gpus,
            },
        }
        content["sha256"]["training annotations"] = sha256_file(self.data / TRAIN_JSON)
        write_json(path, content, indent=None)
        if self.prune and method != SOFTMAX:
            for checkpoint in folder.glob(layout.CHECKPOINTS):
                checkpoint.unlink()

    def run(self, method: Method, seed: int) -> None:
        """Train and evaluate, unless that was done.

        Raises:
            InputError: it was begun with other settings.
        """
        folder, recipe = self.folder(method, seed), self.recipe(method)
        with self.locks[folder]:
            begun = folder / RECIPE
            if not begun.is_file():
                write_json(begun, recipe)
            elif json.loads(begun.read_text()) != recipe:
                raise InputError(f"{begun}: begun with other settings; name another --output")
            if not (folder / layout.INFERENCE / layout.SUMMARY).is_file():
                self._run(method, seed)
                for checkpoint in folder.glob(layout.CHECKPOINTS):
                    if checkpoint.name != layout.FINAL_CHECKPOINT:
                        checkpoint.unlink()

    def _run(self, method: Method, seed: int) -> None:
        if method.how != "train":
            self.run(SOFTMAX, seed)
        start = ("MODEL.WEIGHTS", self._model(SOFTMAX, seed))
        match method.how:
            case "train":
                self._train_net("--resume", method, seed)
            case "decoupled":
                self._train_net("--resume", method, seed, *start, *self._shorter())
            case "post-hoc":
                self._train_net("--eval-only", method, seed, *start, *self._at_test(method, seed))

    def _model(self, method: Method, seed: int) -> Path:
        return self.folder(method, seed) / layout.FINAL_CHECKPOINT

    def _shorter(self) -> Settings:
        """Return the settings of decoupled training: the same schedule, a third as long."""
        from iif.d2.config import load_config

        solver = load_config(str(self.size.config), [str(part) for part in self.opts]).SOLVER
        return (
            *("SOLVER.MAX_ITER", solver.MAX_ITER // DECOUPLED),
            *("SOLVER.STEPS", tuple(step // DECOUPLED for step in solver.STEPS)),
            *("SOLVER.WARMUP_ITERS", solver.WARMUP_ITERS // DECOUPLED),
            *("MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY", True),
        )

    def _at_test(self, method: Method, seed: int) -> Settings:
        """Return the options of a method on a plain model, the tuned one as chosen."""
        if "moments" in METHODS[method.post_hoc].needs:
            return f"MODEL.{method.post_hoc.upper()}.MOMENTS", self._moments(seed)
        tuned = self._tuned(method, seed)
        assert tuned is not None
        chosen = {**(METHODS[method.post_hoc].post_hoc or {}), tuned["option"]: tuned["value"]}
        pairs = [(f"MODEL.{method.post_hoc.upper()}.{k.upper()}", v) for k, v in chosen.items()]
        return tuple(part for pair in pairs for part in pair)

    def _moments(self, seed: int) -> Path:
        """Gather the softmax run's moments over as many images as there are."""
        run = self.folder(SOFTMAX, seed)
        path = run / "moments.json"
        with self.locks[path]:
            if not path.is_file():
                from iif.d2.config import load_config

                config = run / layout.CONFIG_YAML
                batch = load_config(str(config), []).SOLVER.IMS_PER_BATCH
                self._call(
                    *(sys.executable, "-m", "iif.cli", "moments", "--output", path),
                    *("--config-file", config, "--weights", self._model(SOFTMAX, seed)),
                    *("--iterations", self.size.data.train // batch),
                )
        return path

    def _tuned(self, method: Method, seed: int) -> dict[str, Any] | None:
        """Return a post-hoc method's tuned option, its value, and the curve that chose it.

        All values of all methods are measured in one pass of a second softmax run, which was
        trained without the images that they are measured on.
        """
        if METHODS.get(method.post_hoc, METHODS["none"]).tuned_option is None:
            return None
        output = self.folder(HELD_OUT_SOFTMAX, seed) / "tuning"
        with self.locks[output]:
            if not (output / layout.TUNING_JSON).is_file():
                self.run(HELD_OUT_SOFTMAX, seed)
                model = self._model(HELD_OUT_SOFTMAX, seed)
                self._call(
                    *(sys.executable, "-m", "iif.cli", "tune", "--all", model),
                    *("--output", output, "--bootstrap", 0),
                )
        trials = json.loads((output / layout.TUNING_JSON).read_text())["trials"]
        own = [trial for trial in trials if trial["method"] == method.post_hoc]
        (best,) = (trial for trial in own if trial["best"])
        return {
            "option": best["option"],
            "value": best["value"],
            "held out": HELD_OUT,
            "box AP": {f"{trial['value']:g}": trial["metrics"]["AP"] for trial in own},
        }

    def _cost(self, method: Method, seed: int) -> dict[str, Any] | None:
        """Measure a run's cost against that of the softmax run, for one of the seeds."""
        if seed != self.cost_seed:
            return None
        folder = self.folder(method, seed)
        path = folder / "cost.json"
        if not path.is_file():
            self.run(SOFTMAX, seed)
            starts = SOFTMAX if method.how == "post-hoc" else method
            self._call(
                *(sys.executable, ROOT / "benchmarks" / "results_cost.py", "--out", path),
                *("--base", self.folder(SOFTMAX, seed), "--run", folder),
                *("--run-weights", self._model(starts, seed)),
            )
        return json.loads(path.read_text())

    def _train_net(self, mode: str, method: Method, seed: int, *overrides: object) -> None:
        custom = [
            [name, str(self.data / file), str(self.data)]
            for name, file in (("openmoji_train", TRAIN_JSON), ("openmoji_val", VAL_JSON))
        ]
        self._call(
            *(sys.executable, ROOT / "train_net.py", mode, "--num-gpus", self.num_gpus),
            *("--config-file", self.size.config, *self.opts, *method.overrides, *overrides),
            *("DATASETS.CUSTOM", custom, "SEED", seed, "OUTPUT_DIR", self.folder(method, seed)),
        )

    def _call(self, *command: object) -> None:
        with open(self.output / "log.txt", "a") as log:
            subprocess.run(
                [str(part) for part in command],
                check=True,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )


def _pairs(settings: Sequence[object]) -> dict[str, str]:
    return {str(k): str(v) for k, v in zip(settings[::2], settings[1::2], strict=True)}


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "results_table")
    parser.add_argument("--rows", type=Path, help="default: benchmarks/results/openmoji_SIZE")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all but cosine's")
    parser.add_argument("--list", action="store_true", help="print the methods and stop")
    parser.add_argument("--table-only", action="store_true", help="write the page and stop")
    parser.add_argument("--readme", action="store_true", help="print README's table and stop")
    parser.add_argument("--num-gpus", type=int, default=0, help="of each run")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side; they share the processor's cores"
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove models that no other row starts from"
    )
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        metavar=("TRAIN", "VAL"),
        help="of a smaller data set, for a trial: name --output, --rows and --page too",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE for all runs")
    args = parser.parse_args()
    size = SIZES[args.size]
    if args.images:
        data = replace(size.data, train=args.images[0], val=args.images[1])
        size = replace(size, data=data)
    folder = args.rows or size.rows
    if args.list:
        print("\n".join(method.name for method in methods(size)))
        return
    try:
        chosen = by_name(size, args.methods)
    except ValueError as error:
        parser.error(str(error))
    folders = {method.name: method.folder for method in methods(size)}
    if args.readme:
        print(readme_table(load_rows(folder, folders)))
        return
    if args.table_only:
        write_page(args.page, size, load_rows(folder, folders))
        return

    try:
        experiment = Experiment(
            size,
            args.output,
            folder,
            opts=[part for part in args.opts if part != "--"],
            num_gpus=args.num_gpus,
            jobs=args.jobs,
            cost_seed=args.seeds[0],
            prune=args.prune,
        )
    except InputError as error:
        sys.exit(str(error))
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            pool.submit(experiment.finish, method, seed): f"seed {seed}: {method.name}"
            for method in chosen
            for seed in args.seeds
        }
        failed = 0
        bar = progress(as_completed(jobs), desc="rows", total=len(jobs), unit="row")
        for job in bar:
            fault = job.exception()
            failed += fault is not None
            bar.write(f"{jobs[job]}: {'done' if fault is None else fault}")
            if fault is None:
                write_page(args.page, size, load_rows(folder, folders))
    if failed:
        sys.exit(f"{failed} rows failed; see {experiment.output / 'log.txt'}")


if __name__ == "__main__":
    main()
