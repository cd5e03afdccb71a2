"""Train every way to use IIF on OpenMoji, several seeds each, and write docs/results.md.

    python benchmarks/results_table.py --jobs 2                    # 40 categories, on a CPU
    python benchmarks/results_table.py --size large --num-gpus 8   # 1,203 categories, 512 px, R50

A run that was finished in --output is not done again, an interrupted one goes on from its last
checkpoint, and the table is written after each run from those that are finished. --methods chooses
some of them (--list prints all). All share one data set; a seed is that of a training run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iif.data.annotations import load_annotations
from iif.demo.openmoji import TRAIN_JSON, VAL_JSON, make_openmoji
from iif.demo.plan import OpenMojiSettings
from iif.evaluation.false_positives import analyse
from iif.evaluation.runs import load_runs
from iif.files import atomic_write, sha256_file, versions, write_json
from iif.methods.iif import VARIANTS
from iif.progress import progress
from iif.report.labels import GROUP_LABELS
from iif.report.palette import GROUP_COLORS, RUN_COLORS
from iif.report.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "small": (
        ROOT / "configs" / "openmoji_baseline.yaml",
        OpenMojiSettings(categories=40, train=1000, val=300, image_size=96),
    ),
    "large": (
        ROOT / "configs" / "openmoji_large_baseline.yaml",
        OpenMojiSettings(categories=1203, train=20_000, val=5000, image_size=512),
    ),
}
METRICS = ("AP", "APr", "APc", "APf")
IMAGE = "results.png"
# The authors' mask AP on LVIS v1, R50-FPN (arXiv 2209.04861).
PUBLISHED = (
    ("softmax, 12 epochs", "15.2", "0.0", "10.6", "26.9"),
    ("softmax, repeat-factor sampling, 12 epochs", "22.2", "11.5", "21.2", "28.0"),
    (
        "IIF base10 by instance, cosine, repeat-factor sampling, FASA, 24 epochs",
        *("26.3", "18.6", "25.2", "30.8"),
    ),
)
RECALL = 0.5
HELD_OUT = 0.2
# LVIS repeats the images of categories with fewer than 100 of about 100,000 images.
REPEAT_THRESHOLD_IMAGES = 100


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as printed.
        overrides: of the baseline's configuration.
        how: "train", or from the softmax run of the same seed: "decoupled" or "post-hoc".
    """

    name: str
    overrides: tuple[object, ...] = ()
    how: str = "train"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name.replace(" + ", "_").replace(", ", "_").replace(" ", "_")


def iif(variant: str = "raw", count_by: str = "image") -> tuple[object, ...]:
    return (
        *("MODEL.LONG_TAIL.METHOD", "iif"),
        *("MODEL.IIF.VARIANT", variant, "MODEL.IIF.COUNT_BY", count_by),
    )


def methods(repeat_threshold: float) -> list[Method]:
    """Return all rows, the softmax baseline first."""
    sampler = (
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.REPEAT_THRESHOLD", repeat_threshold),
    )
    cosine = ("MODEL.LONG_TAIL.CLASSIFIER", "cosine", "MODEL.LONG_TAIL.COSINE_TEMPERATURE")
    by = {"image": "", "instance": ", by instance"}
    return [
        Method("softmax"),
        *(
            Method(f"IIF {variant}{suffix}", iif(variant, count_by))
            for variant in VARIANTS
            for count_by, suffix in by.items()
        ),
        Method("post-hoc IIF raw", iif(), "post-hoc"),
        Method("decoupled IIF raw", iif(), "decoupled"),
        Method("cosine", (*cosine, 20.0)),
        Method("cosine + IIF raw", (*cosine, 8.0, *iif())),
        Method("softmax, repeat-factor sampling", sampler),
        Method("IIF raw, repeat-factor sampling", (*iif(), *sampler)),
        Method("cosine + IIF raw, repeat-factor sampling", (*cosine, 8.0, *iif(), *sampler)),
    ]


DEFAULT_METHODS = (
    "softmax",
    *(f"IIF {v}{by}" for v in ("raw", "smooth", "base10") for by in ("", ", by instance")),
    "post-hoc IIF raw",
    "decoupled IIF raw",
    "cosine + IIF raw",
    "softmax, repeat-factor sampling",
    "IIF raw, repeat-factor sampling",
)


class Experiment:
    """The runs under one output folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Make the data set where it is not there yet."""
        self.config, self.settings = SIZES[args.size]
        self.output = args.output.resolve() / args.size
        self.data = self.output / "openmoji"
        self.num_gpus = args.num_gpus
        self.extra = args.opts
        self.environment = dict(os.environ)
        if args.jobs > 1:
            threads = max(1, (os.cpu_count() or 1) // args.jobs)
            self.environment["OMP_NUM_THREADS"] = str(threads)
        # One per folder: whoever needs a run that another job is at waits for it.
        self.locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        make_openmoji(self.data, self.settings)

    def folder(self, method: Method, seed: int) -> Path:
        """Return a run's output folder."""
        return self.output / method.folder / f"seed{seed}"

    def summary(self, method: Method, seed: int) -> dict[str, Any] | None:
        """Return the evaluation of a finished run."""
        path = self.folder(method, seed) / "inference" / "eval_summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def run(self, method: Method, seed: int) -> None:
        """Train and evaluate, unless that was done."""
        with self.locks[self.folder(method, seed)]:
            if self.summary(method, seed) is None:
                self._run(method, seed)

    def _run(self, method: Method, seed: int) -> None:
        softmax = Method("softmax")
        if method.how != "train":
            self.run(softmax, seed)
        start = ("MODEL.WEIGHTS", self.folder(softmax, seed) / "model_final.pth")
        match method.how:
            case "train":
                self._train_net("--resume", method, seed)
            case "decoupled":
                solver = self._solver()
                steps = tuple(step // 3 for step in solver.STEPS)
                shorter = ("SOLVER.MAX_ITER", solver.MAX_ITER // 3, "SOLVER.STEPS", steps)
                only = ("MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY", True)
                self._train_net("--resume", method, seed, *start, *shorter, *only)
            case "post-hoc":
                strength = self._strength(method, seed)
                apply = ("MODEL.IIF.APPLY", "test", "MODEL.IIF.STRENGTH", strength)
                self._train_net("--eval-only", method, seed, *start, *apply)

    def _strength(self, method: Method, seed: int) -> float:
        """Choose the strength with a second baseline, trained without the held-out images."""
        held_out = Method("softmax without held-out images", ("DATASETS.HELD_OUT", HELD_OUT))
        self.run(held_out, seed)
        model = self.folder(held_out, seed)
        output = self.folder(method, seed) / "tuning"
        self._call(
            *(sys.executable, "-m", "iif.cli", "tune", "--output", output),
            *("--config-file", model / "config.yaml", "--weights", model / "model_final.pth"),
            *method.overrides,
        )
        return json.loads((output / "tuning.json").read_text())["value"]

    def _train_net(self, mode: str, method: Method, seed: int, *overrides: object) -> None:
        custom = [
            [name, str(self.data / file), str(self.data)]
            for name, file in (("openmoji_train", TRAIN_JSON), ("openmoji_val", VAL_JSON))
        ]
        self._call(
            *(sys.executable, ROOT / "train_net.py", mode, "--num-gpus", self.num_gpus),
            *("--config-file", self.config, *self.extra, *method.overrides, *overrides),
            *("DATASETS.CUSTOM", custom, "SEED", seed, "OUTPUT_DIR", self.folder(method, seed)),
        )

    def _call(self, *command: object) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        with open(self.output / "log.txt", "a") as log:
            subprocess.run(
                [str(part) for part in command],
                check=True,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def _solver(self) -> Any:
        from iif.d2.config import load_config

        return load_config(str(self.config), [str(part) for part in self.extra]).SOLVER

    def false_positives(self, method: Method, seed: int) -> float | None:
        """Return the false positives as a share of the softmax's, at matched recall.

        Boxes at IoU 0.5, over the categories that both bring to the recall; None where softmax
        has none. Kept beside the run, under the hash of the results.
        """
        names = {"softmax": Method("softmax"), "method": method}
        results = {
            name: self.folder(m, seed) / "inference" / "lvis_instances_results.json"
            for name, m in names.items()
        }
        key = [sha256_file(path) for path in results.values()]
        kept = self.folder(method, seed) / "false_positives.json"
        if not kept.is_file() or json.loads(kept.read_text())["key"] != key:
            gt = load_annotations(self.data / VAL_JSON)
            runs = load_runs(gt, dict(results), iou_type="bbox")
            group = analyse(gt, runs, recall=RECALL).groups[0]
            write_json(kept, {"key": key, "total": group.total, "categories": group.matched})
        before, after = json.loads(kept.read_text())["total"]
        return after / before if before else None


# Column -> its values by seed; None where a value is undefined.
Figures = dict[str, list[float | None]]


def measured(
    experiment: Experiment, chosen: Iterable[Method], seeds: Sequence[int]
) -> dict[str, Figures]:
    """Return the figures of the methods with a finished run, by name."""
    found: dict[str, Figures] = {}
    for method in chosen:
        summaries = {seed: experiment.summary(method, seed) for seed in seeds}
        finished = {seed: s["metrics"] for seed, s in summaries.items() if s is not None}
        if not finished:
            continue
        found[method.name] = {
            **{f"box {m}": [metrics["bbox"][m] for metrics in finished.values()] for m in METRICS},
            "mask AP": [metrics["segm"]["AP"] for metrics in finished.values()],
            "false positives": [
                experiment.false_positives(method, seed)
                for seed in finished
                if experiment.summary(Method("softmax"), seed) is not None
            ],
        }
    return found


def table(found: dict[str, Figures]) -> str:
    """Return the Markdown table."""
    header = ["method", "seeds", *next(iter(found.values()))]
    rows = []
    for name, figures in found.items():
        cells = [
            spread(values, digits=2 if column == "false positives" else 1)
            for column, values in figures.items()
        ]
        rows.append([name, str(len(figures["box AP"])), *cells])
    return markdown_table(header, rows)


def plot(found: dict[str, Figures]) -> Figure:
    """Return the figures as dots, one of each seed, with a line at their mean."""
    panels = {
        "Box AP (%)": {"box AP": RUN_COLORS[1]},
        "Box AP by frequency (%)": {f"box AP{g}": color for g, color in GROUP_COLORS.items()},
        "False positives, softmax = 1": {"false positives": RUN_COLORS[1]},
    }
    figure = Figure(figsize=(11, 0.9 + 0.34 * len(found)), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (title, columns) in zip(axes, panels.items(), strict=True):
        for column, color in columns.items():
            for y, figures in enumerate(found.values()):
                known = [value for value in figures[column] if value is not None]
                panel.scatter(known, [y] * len(known), s=16, color=color, alpha=0.6, lw=0)
                if known:
                    panel.plot([statistics.mean(known)] * 2, [y - 0.3, y + 0.3], color=color, lw=2)
        panel.set_title(title, fontsize=10)
        panel.margins(x=0.12)
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].invert_yaxis()
    axes[1].legend(
        [Line2D([], [], color=color, lw=2) for color in GROUP_COLORS.values()],
        [GROUP_LABELS[group] for group in GROUP_COLORS],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=len(GROUP_COLORS),
        frameon=False,
    )
    axes[2].axvline(1, color="0.6", lw=0.8, ls="--", zorder=0)
    return figure


def spread(values: Iterable[float | None], digits: int = 1) -> str:
    """Return mean ± sample standard deviation; a lone value alone, "-" without any."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def page(experiment: Experiment, args: argparse.Namespace, found: dict[str, Figures]) -> str:
    """Return docs/results.md."""
    data = experiment.settings
    command = shlex.join(["python", "benchmarks/results_table.py", *sys.argv[1:]])
    software = ", ".join(f"{name} {v}" for name, v in versions().items() if name != "platform")
    return f"""# Results

Written by `{command}`; not edited.

{table(found)}

![Each method's AP and false positives, a dot for each seed](images/{IMAGE})

- Mean ± standard deviation over training seeds {", ".join(map(str, args.seeds))}, in percent.
  Spread is that of training alone: the data set is one.
- Data: {data.train:,} training and {data.val:,} validation images, {data.image_size} px, of
  {data.categories:,} categories (`iif openmoji`, seed {data.seed}); federated as LVIS is.
- Configuration: `{" ".join([str(experiment.config.relative_to(ROOT)), *args.opts])}`
- False positives: boxes at IoU 0.5 at recall {RECALL}, over the categories that both runs bring to
  it, as a share of the softmax run's of the same seed (1 = as many).
- Post-hoc: the strength is chosen on {HELD_OUT:.0%} of the training images with a second baseline
  that was trained without them. Decoupled: from the softmax run on, a third of the iterations more.
- Repeat-factor sampling: threshold {args.repeat_threshold:g} of the images, for as many
  iterations.
- {processor()}, {os.cpu_count()} virtual cores, {args.jobs} runs side by side, {args.num_gpus} GPUs
  each; {software}.

## The target: the authors' figures on LVIS v1

Mask AP of Mask R-CNN R50-FPN as the IIF paper publishes it; **not measured here**.

{markdown_table(("setting", *METRICS), PUBLISHED)}
"""


def write(experiment: Experiment, args: argparse.Namespace, chosen: Sequence[Method]) -> None:
    """Write the page and its picture from the runs that are finished."""
    found = measured(experiment, chosen, args.seeds)
    with atomic_write(args.page.parent / "images" / IMAGE, "wb") as f:
        plot(found).savefig(f, format="png")
    with atomic_write(args.page) as f:
        f.write(page(experiment, args, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "results_table")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="default: all but the rarer ones")
    parser.add_argument("--list", action="store_true", help="print the methods and stop")
    parser.add_argument("--num-gpus", type=int, default=0, help="of each run")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side; they share the processor's cores"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE for all runs")
    args = parser.parse_args()
    args.repeat_threshold = REPEAT_THRESHOLD_IMAGES / SIZES[args.size][1].train
    known = {method.name: method for method in methods(args.repeat_threshold)}
    if args.list:
        print("\n".join(known))
        return
    names = args.methods or list(DEFAULT_METHODS)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown method {unknown[0]!r}; --list prints them")
    chosen = [known[name] for name in names]

    experiment = Experiment(args)
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {
            pool.submit(experiment.run, method, seed): f"seed {seed}: {method.name}"
            for seed in args.seeds
            for method in chosen
            if experiment.summary(method, seed) is None
        }
        bar = progress(as_completed(jobs), desc="runs", total=len(jobs), unit="run")
        for job in bar:
            if job.exception() is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            job.result()
            bar.write(f"{jobs[job]}: done")
            write(experiment, args, chosen)
    if not jobs:
        write(experiment, args, chosen)


if __name__ == "__main__":
    main()
