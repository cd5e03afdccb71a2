"""The demo: data set, training of two runs, evaluation, comparison, false positives, report.

Every step is one that the ``iif`` command, ``iif.tv.train`` or ``train_net.py`` does on its own.
Here they follow one another, small enough for two processor cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO, Any

from iif import layout
from iif.demo.openmoji import TRAIN_JSON, VAL_JSON, make_openmoji
from iif.demo.plan import OpenMojiSettings
from iif.errors import InputError
from iif.files import packaged_file, read_json, sha256_file, write_json
from iif.locking import folder_lock
from iif.methods import BASELINE, DEFAULT
from iif.progress import progress, share_terminal, show_as

# Engines in the order of preference, and the modules that each needs.
_NEEDS = {"detectron2": ("iif.d2",), "torchvision": ("iif.tv", "tensorboard")}
_DRAWERS = {"detectron2": "iif.d2.visualizer", "torchvision": "iif.tv.drawing"}
ENGINES = tuple(_NEEDS)
# Folder of each run -> its method, and its name as printed.
RUNS = {"baseline": BASELINE, DEFAULT: DEFAULT}
NAMES = {"baseline": "baseline", DEFAULT: DEFAULT.upper()}
_PICTURES = 4
# What Detectron2 tells of its progress, and the number of the first.
_TOLD = {
    "training": (re.compile(r"\biter: (\d+)"), 0),
    "inference": (re.compile(r"\bInference done (\d+)/"), 1),
}
_DATA = OpenMojiSettings()
_FORMAT = "iif-quickstart/1"
# The repository, where this package lies in a checkout: Detectron2's configurations are there.


@dataclasses.dataclass(frozen=True)
class Demo:
    """The size of the demo.

    Attributes:
        data: the data set; its seed is the quickstart's.
        iterations: of each training run; None for those of the engine's configuration.
    """

    data: OpenMojiSettings = _DATA
    iterations: int | None = None


def quickstart(
    out: str | os.PathLike[str],
    *,
    engine: str = "auto",
    seed: int = 0,
    demo: Demo | None = None,
) -> Path:
    """Make the data set, train both runs, compare them, and write the report.

    Steps that are finished in ``out`` are not repeated, and training resumes from its last
    checkpoint. Prints one line for each step, the comparison, and where the files are.

    Args:
        out: the folder to work in: new, empty, or one that a quickstart was begun in.
        engine: "detectron2", "torchvision", or "auto": the one that ``out`` was begun with, else
            Detectron2 where it is installed, else torchvision.
        seed: of the data set and of both training runs.
        demo: the size; by default one for two processor cores.

    Returns:
        the report's path.

    Raises:
        InputError: no engine is installed, ``out`` holds other files or was begun with other
            settings, or another quickstart works in it.
    """
    folder = Path(out).resolve()
    demo = demo or Demo()
    demo = dataclasses.replace(demo, data=dataclasses.replace(demo.data, seed=seed))
    chosen, why = _choose_engine(engine, _begun_with(folder))
    print(f"Engine: {chosen} ({why})", flush=True)
    begin(folder, {"engine": chosen, "seed": seed, **_settings(chosen, demo)})

    with folder_lock(folder):
        data, size = folder / "openmoji", demo.data
        what = f"{size.categories} kinds of thing, {size.train} + {size.val} images"
        with step(1, f"data set: {what}"):
            make_openmoji(data, size)
        with step(2, "weights: table and plot"):
            _write_weights(folder, data)
        what = f"{' and '.join(NAMES.values())}: training and evaluation"
        with step(3, f"{what}, side by side (some minutes)"):
            _train_runs(chosen, demo, data, folder)
        return _compare(folder, data, chosen)


# --------------------------------------------------------------------------- engine and settings


def _choose_engine(engine: str, begun_with: str | None) -> tuple[str, str]:
    """Return the engine and the reason for its choice."""
    if engine != "auto":
        if engine not in ENGINES:
            raise InputError(f"engine is {engine!r}; it must be auto, {' or '.join(ENGINES)}")
        fault = _fault_of(engine)
        if fault is not None:
            raise InputError(f"engine {engine} cannot be used: {fault}")
        return engine, "as asked"
    if begun_with is not None and _fault_of(begun_with) is None:
        return begun_with, "as begun in this folder"
    faults = {name: _fault_of(name) for name in ENGINES}
    for name in ENGINES:
        if faults[name] is None:
            others = [f"{other}: {fault}" for other, fault in faults.items() if fault]
            return name, "; ".join(others) or "installed"
    raise InputError(
        "neither engine can be used: "
        + "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        + ". Try: pip install torchvision tensorboard"
    )


def _fault_of(engine: str) -> str | None:
    """Return the reason why an engine cannot be used, None when it can."""
    try:
        for module in _NEEDS[engine]:
            importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return None


def _config_file(run: str) -> Path:
    return packaged_file(f"iif://configs/openmoji_{run}.yaml")


def _settings(engine: str, demo: Demo) -> dict[str, Any]:
    """Return the settings that decide a quickstart's result, for its marker file."""
    settings: dict[str, Any] = {"data set": dataclasses.asdict(demo.data)}
    if engine == "torchvision":
        return settings | {"training": _torchvision_config(demo, BASELINE).to_dict()}
    files = [_config_file(run) for run in RUNS]
    return settings | {
        "training": {"iterations": demo.iterations, **{f.name: sha256_file(f) for f in files}}
    }


def _read_marker(folder: Path) -> dict[str, Any] | None:
    path = folder / layout.QUICKSTART
    if not path.is_file():
        return None
    return read_json(path, dict[str, Any], what="the marker of a quickstart")


def _begun_with(folder: Path) -> str | None:
    engine = (_read_marker(folder) or {}).get("engine")
    return engine if engine in ENGINES else None


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Mark the folder as this quickstart's, or refuse it."""
    marker = {"format": _FORMAT, **settings}
    found = _read_marker(folder)
    if found is not None:
        other = [key for key, value in marker.items() if found.get(key) != value]
        if other:
            raise InputError(
                f"{folder}: a quickstart was begun here with another {other[0]} "
                f"({found.get(other[0])}, now {marker[other[0]]}); take another output folder, or "
                "remove this one"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: holds something else; give a new output folder")
    else:
        write_json(folder / layout.QUICKSTART, marker)


# --------------------------------------------------------------------------------------- steps


@contextlib.contextmanager
def step(number: int, what: str, of: int = 6) -> Iterator[None]:
    """Print what a step of the quickstart does, and how long the block took."""
    print(f"[{number}/{of}] {what}", flush=True)
    start = time.monotonic()
    yield
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"    {minutes} min {seconds} s" if minutes else f"    {seconds} s", flush=True)


def _write_weights(folder: Path, data: Path) -> None:
    from iif.methods.iif import IIFOptions, iif_weights
    from iif.report.plots import save_weights_plot
    from iif.report.weights import write_weights_csv
    from iif.statistics import ClassStatistics

    statistics = ClassStatistics.from_json(data / TRAIN_JSON)
    variant = IIFOptions().variant
    weights = iif_weights(statistics, variant)
    write_weights_csv(folder / layout.WEIGHTS_CSV, statistics, weights)
    save_weights_plot(folder / layout.WEIGHTS_PLOT, statistics, weights, variant=variant)


def _train_runs(engine: str, demo: Demo, data: Path, folder: Path) -> None:
    """Train the runs that are not finished, at the same time.

    Two runs with one thread each finish sooner than one after the other with two threads: the
    operations on such small images are too short to be parallelised.
    """
    waiting = []
    for run in RUNS:
        if (folder / run / layout.INFERENCE / layout.SUMMARY).exists():
            print(f"    {run}: done before")
        else:
            waiting.append(run)
    if waiting:
        _train_side_by_side(waiting, engine, demo, data, folder)
    for run in RUNS:
        _remove_older_checkpoints(folder / run)


def _train_side_by_side(
    waiting: Sequence[str], engine: str, demo: Demo, data: Path, folder: Path
) -> None:
    train = _train_detectron2 if engine == "detectron2" else _train_torchvision
    cores = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(len(waiting), cores),
        mp_context=context,
        initializer=_begin_process,
        initargs=(max(1, cores // len(RUNS)), context.RLock()),
    ) as pool:
        futures = [pool.submit(train, demo, data, folder / run) for run in waiting]
        for future in futures:
            future.result()


def _remove_older_checkpoints(run: Path) -> None:
    """Remove what a finished run kept for the case of a stop: all checkpoints but the final one."""
    for path in run.glob(layout.CHECKPOINTS):
        if path.name != layout.FINAL_CHECKPOINT:
            path.unlink()


def _begin_process(threads: int, lock: Any) -> None:
    """Limit torch's threads, in the processes that this one starts too; share the terminal."""
    import torch

    # Detectron2 scripts functions while it is imported; a user cannot change it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    share_terminal(lock)


def _torchvision_config(demo: Demo, method: str) -> Any:
    from iif.tv.config import OPENMOJI

    length = [] if demo.iterations is None else [f"iterations={demo.iterations}"]
    return OPENMOJI.override([f"method={method}", f"seed={demo.data.seed}", *length])


def _train_torchvision(demo: Demo, data: Path, run: Path) -> None:
    from iif.tv import train

    show_as(run.name, list(RUNS).index(run.name))
    train(
        data / TRAIN_JSON,
        data,
        run,
        _torchvision_config(demo, RUNS[run.name]),
        val_json=data / VAL_JSON,
        resume=True,
        device="cpu",
    )


def _train_detectron2(demo: Demo, data: Path, run: Path) -> None:
    """Run ``train_net.py`` in a process of its own; its output goes to ``console.txt``."""
    from iif.d2.config import load_config

    datasets = [
        ["openmoji_train", str(data / TRAIN_JSON), str(data)],
        ["openmoji_val", str(data / VAL_JSON), str(data)],
    ]
    options = {
        "DATASETS.CUSTOM": datasets,
        "MODEL.ROI_HEADS.NUM_CLASSES": demo.data.categories,
        "MODEL.DEVICE": "cpu",
        "SEED": demo.data.seed,
        "OUTPUT_DIR": str(run),
    }
    if demo.iterations is not None:
        options |= {"SOLVER.MAX_ITER": demo.iterations, "SOLVER.STEPS": ()}
    config = str(_config_file(run.name))
    command = [sys.executable, "-m", "iif.d2.train", "--resume", "--config-file", config]
    command += [str(part) for option in options.items() for part in option]
    iterations = demo.iterations or load_config(config, []).SOLVER.MAX_ITER
    run.mkdir(parents=True, exist_ok=True)
    console = run / layout.CONSOLE
    show_as(run.name, list(RUNS).index(run.name))
    with (
        console.open("w", buffering=1, encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        _follow(process.stdout, log, {"training": iterations, "inference": demo.data.val})
    if process.returncode:
        tail = "\n".join(console.read_text(encoding="utf-8").splitlines()[-5:])
        raise InputError(f"training with Detectron2 failed; see {console}:\n{tail}")


def _follow(output: Iterable[str], log: IO[str], totals: Mapping[str, int]) -> None:
    """Copy Detectron2's output into ``log``; show the progress that it tells.

    Args:
        output: its lines.
        log: where they go.
        totals: how many iterations and images there are, by `_TOLD`'s names.
    """
    start = progress(desc="starting", unit=" lines of output")
    bars: dict[str, Any] = {}
    for line in output:
        log.write(line)
        if not bars:
            start.update()
        for what, (pattern, first) in _TOLD.items():
            told = pattern.search(line)
            if told:
                done = int(told[1]) + 1 - first
                if what not in bars:
                    start.close()
                    bars[what] = progress(desc=what, total=totals[what], initial=done)
                bars[what].update(done - bars[what].n)
                if done == totals[what]:
                    bars[what].close()
    for bar in (start, *bars.values()):
        bar.close()


def _analyse(inference: Path, annotations: Path) -> None:
    """Add the analyses to an evaluation that has none yet."""
    from iif.evaluation.evaluate import evaluate_files
    from iif.evaluation.summary_file import read_summary

    if not read_summary(inference / layout.SUMMARY).analyses:
        evaluate_files(annotations, inference / layout.RESULTS, output_dir=inference, analyses=True)


def _compare(folder: Path, data: Path, engine: str) -> Path:
    """Do the steps after training, which take seconds and are repeated each time."""
    from iif.data.images import find_images
    from iif.evaluation.compare import compare
    from iif.evaluation.scenes import choose_scenes
    from iif.report import pipelines
    from iif.report.html import write_report
    from iif.report.text import comparison_text, save_false_positives

    tables, report = folder / layout.FALSE_POSITIVES, folder / layout.REPORT
    with step(4, "analyses and comparison"):
        for run in RUNS:
            _analyse(folder / run / layout.INFERENCE, data / VAL_JSON)
        comparison = compare([folder / run for run in RUNS], names=list(NAMES.values()))
        pipelines.save_comparison(comparison, folder / layout.COMPARISON)
    with step(5, "false positives"):
        analysed = pipelines.analyse_compared(data / VAL_JSON, comparison)
        gt, runs, analysis = analysed.gt, analysed.runs, analysed.analysis
        save_false_positives(analysis, tables)
        scenes = choose_scenes(analysis, gt, runs, num_images=_PICTURES)
        draw_panel = importlib.import_module(_DRAWERS[engine]).draw_panel
        pictures = tables / layout.VISUALIZER
        pipelines.save_pictures(analysed, scenes, find_images(gt, data), pictures, draw_panel)
    with step(6, "report"):
        write_report(pipelines.make_report(comparison, analysed, images=data), report)
    print(f"\n{comparison_text(comparison)}\n")
    print(f"Weights:         {folder / layout.WEIGHTS_CSV}, {folder / layout.WEIGHTS_PLOT}")
    print(f"Comparison:      {folder / layout.COMPARISON}")
    print(f"False positives: {tables}")
    print(f"Pictures:        {pictures} ({len(scenes)})")
    print(f"Report:          {report} (open it in a browser)", flush=True)
    return report
