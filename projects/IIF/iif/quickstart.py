"""The demo's whole way: data set, baseline, IIF, evaluation, comparison, false positives, report.

Every step is one that the ``iif`` command, ``iif.tv.train`` or ``train_net.py`` does on its own;
here they follow each other, small enough for two processor cores.
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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from iif.data.glyphs import TRAIN_JSON, VAL_JSON, GlyphSettings, make_glyphs
from iif.errors import InputError
from iif.files import read_json, sha256_file, write_json

# Engines in the order of preference, and what each imports.
_NEEDS = {"detectron2": ("iif.d2",), "torchvision": ("iif.tv", "tensorboard")}
ENGINES = tuple(_NEEDS)
# Folder of each run -> its name and IIF's variant.
RUNS = {"baseline": ("baseline", "none"), "iif": ("IIF", "raw")}
RECALL = 0.5
_PICTURES = 4
_GLYPHS = GlyphSettings(categories=40, train=1000, val=300, image_size=96)
_MARKER = "quickstart.json"
_FORMAT = "iif-quickstart/1"
# The repository, where this package lies in a checkout: Detectron2's configurations are there.
_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class Demo:
    """What is trained on, and for how long.

    Attributes:
        glyphs: the data set; its seed is the quickstart's.
        iterations: of each training run; None for what the engine's configuration says.
    """

    glyphs: GlyphSettings = _GLYPHS
    iterations: int | None = None


def quickstart(
    out: str | os.PathLike[str],
    *,
    engine: str = "auto",
    seed: int = 0,
    demo: Demo | None = None,
) -> Path:
    """Make the data set, train baseline and IIF, compare them, and write the report.

    A step that was finished in ``out`` is not done again, and training goes on from its last
    checkpoint. Prints one line for each step, the comparison, and where everything lies.

    Args:
        out: the folder to work in; an empty or new one, or one that a quickstart was begun in.
        engine: "detectron2", "torchvision", or "auto": what ``out`` was begun with, else
            Detectron2 where it is installed, else torchvision.
        seed: of the data set and of both training runs.
        demo: the size; by default one for two processor cores.

    Returns:
        the report's path.

    Raises:
        InputError: no engine is installed, or ``out`` holds something else or was begun with
            other settings.
    """
    folder = Path(out).resolve()
    demo = demo or Demo()
    demo = dataclasses.replace(demo, glyphs=dataclasses.replace(demo.glyphs, seed=seed))
    chosen, why = _choose_engine(engine, _begun_with(folder))
    print(f"Engine: {chosen} ({why})", flush=True)
    _begin(folder, {"engine": chosen, "seed": seed, **_settings(chosen, demo)})

    data = folder / "glyphs"
    glyphs = demo.glyphs
    with _step(
        1, f"data set: {glyphs.categories} characters, {glyphs.train} + {glyphs.val} images"
    ):
        make_glyphs(data, glyphs)
    with _step(2, "weights: table and plot"):
        _write_weights(folder, data)
    with _step(3, "baseline and IIF: training and evaluation, side by side (some minutes)"):
        _train_runs(chosen, demo, data, folder)
    return _compare(folder, data, chosen)


# --------------------------------------------------------------------------- engine and settings


def _choose_engine(engine: str, begun_with: str | None) -> tuple[str, str]:
    """Return the engine to take, and why."""
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
    """Return why an engine cannot be used, None when it can."""
    try:
        for module in _NEEDS[engine]:
            importlib.import_module(module)
    except ImportError as error:
        return str(error)
    if engine == "detectron2" and not _config_file("none").is_file():
        return f"its configurations are not in {_CHECKOUT / 'configs'}; run from a checkout"
    return None


def _config_file(variant: str) -> Path:
    name = "glyphs_baseline.yaml" if variant == "none" else "glyphs_iif.yaml"
    return _CHECKOUT / "configs" / name


def _settings(engine: str, demo: Demo) -> dict[str, Any]:
    """Return what decides a quickstart's result, for its marker file."""
    settings: dict[str, Any] = {"data set": dataclasses.asdict(demo.glyphs)}
    if engine == "torchvision":
        return settings | {"training": _torchvision_config(demo, "none").to_dict()}
    files = [_config_file(variant) for _, variant in RUNS.values()]
    return settings | {
        "training": {"iterations": demo.iterations, **{f.name: sha256_file(f) for f in files}}
    }


def _begun_with(folder: Path) -> str | None:
    path = folder / _MARKER
    if not path.is_file():
        return None
    engine = read_json(path, dict[str, Any], what="the marker of a quickstart").get("engine")
    return engine if engine in ENGINES else None


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Mark the folder as this quickstart's, or refuse it."""
    marker = {"format": _FORMAT, **settings}
    path = folder / _MARKER
    if path.is_file():
        found = read_json(path, dict[str, Any], what="the marker of a quickstart")
        other = [key for key, value in marker.items() if found.get(key) != value]
        if other:
            raise InputError(
                f"{folder}: a quickstart was begun here with another {other[0]} "
                f"({found.get(other[0])}, now {marker[other[0]]}); take another --out, or remove "
                "the folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: holds something else; give --out a new folder")
    else:
        write_json(path, marker)


# --------------------------------------------------------------------------------------- steps


@contextlib.contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    print(f"[{number}/6] {what}", flush=True)
    start = time.monotonic()
    yield
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f"    {minutes} min {seconds} s" if minutes else f"    {seconds} s", flush=True)


def _write_weights(folder: Path, data: Path) -> None:
    from iif.methods.iif import iif_weights
    from iif.report.plots import save_weights_plot
    from iif.report.weights import write_weights_csv
    from iif.statistics import ClassStatistics

    statistics = ClassStatistics.from_json(data / TRAIN_JSON)
    variant = RUNS["iif"][1]
    weights = iif_weights(statistics, variant)
    write_weights_csv(folder / "weights.csv", statistics, weights)
    save_weights_plot(folder / "weights.png", statistics, weights, variant=variant)


def _train_runs(engine: str, demo: Demo, data: Path, folder: Path) -> None:
    """Train what is not trained yet, at the same time.

    Two runs with a thread each finish sooner than one after the other with two: the operations on
    such small images are too short to be worth sharing.
    """
    waiting = []
    for run in RUNS:
        if (folder / run / "inference" / "eval_summary.json").exists():
            print(f"    {run}: done before")
        else:
            waiting.append(run)
    if not waiting:
        return
    train = _train_detectron2 if engine == "detectron2" else _train_torchvision
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(
        min(len(waiting), cores),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_threads,
        initargs=(max(1, cores // len(RUNS)),),
    ) as pool:
        futures = [pool.submit(train, demo, RUNS[run][1], data, folder / run) for run in waiting]
        for future in futures:
            future.result()


def _set_threads(number: int) -> None:
    """Let torch use so many threads in this process, and in those that it starts."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)


def _torchvision_config(demo: Demo, variant: str) -> Any:
    from iif.tv.config import GLYPHS

    length = [] if demo.iterations is None else [f"iterations={demo.iterations}"]
    return GLYPHS.override([f"variant={variant}", f"seed={demo.glyphs.seed}", *length])


def _train_torchvision(demo: Demo, variant: str, data: Path, run: Path) -> None:
    from iif.tv import train

    train(
        data / TRAIN_JSON,
        data,
        run,
        _torchvision_config(demo, variant),
        val_json=data / VAL_JSON,
        resume=True,
        device="cpu",
    )


def _train_detectron2(demo: Demo, variant: str, data: Path, run: Path) -> None:
    """Run ``train_net.py`` in a process of its own; its output goes to ``console.txt``."""
    datasets = [
        ["glyphs_train", str(data / TRAIN_JSON), str(data)],
        ["glyphs_val", str(data / VAL_JSON), str(data)],
    ]
    options = {
        "DATASETS.CUSTOM": datasets,
        "MODEL.ROI_HEADS.NUM_CLASSES": demo.glyphs.categories,
        "MODEL.DEVICE": "cpu",
        "SEED": demo.glyphs.seed,
        "OUTPUT_DIR": str(run),
    }
    if demo.iterations is not None:
        options |= {"SOLVER.MAX_ITER": demo.iterations, "SOLVER.STEPS": ()}
    command = [sys.executable, "-m", "iif.d2.train", "--resume"]
    command += ["--config-file", str(_config_file(variant))]
    command += [str(part) for option in options.items() for part in option]
    run.mkdir(parents=True, exist_ok=True)
    console = run / "console.txt"
    bar = tqdm(
        desc=run.name,
        unit="it",
        position=list(RUNS).index(run.name),
        disable=None,
    )
    with (
        bar,
        console.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            reached = re.search(r"\biter: (\d+)", line)
            if reached:
                bar.update(int(reached[1]) + 1 - bar.n)
    if process.returncode:
        tail = "\n".join(console.read_text(encoding="utf-8").splitlines()[-5:])
        raise InputError(f"training with Detectron2 failed; see {console}:\n{tail}")


def _compare(folder: Path, data: Path, engine: str) -> Path:
    """Do the steps after training; they take seconds, and are done anew each time."""
    from iif.data.annotations import load_annotations
    from iif.data.images import find_images
    from iif.evaluation import false_positives as fp
    from iif.evaluation.compare import compare
    from iif.evaluation.scenes import choose_scenes
    from iif.report.build import build_report, find_results
    from iif.report.comparison_plots import save_comparison
    from iif.report.html import write_report
    from iif.report.pictures import save_pictures

    names = [name for name, _ in RUNS.values()]
    runs = [folder / run for run in RUNS]
    with _step(4, "comparison"):
        comparison = compare(runs, names=names)
        save_comparison(comparison, folder / "comparison")
    with _step(5, "false positives"):
        gt = load_annotations(data / VAL_JSON, masks=True)
        results: dict[str, str | os.PathLike[str]]
        results = {run.name: find_results(run) for run in comparison.runs}
        matched = fp.load_runs(gt, results)
        analysis = fp.analyse(gt, matched, recall=RECALL)
        analysis.save(folder / "false_positives")
        scenes = choose_scenes(analysis, gt, matched, num_images=_PICTURES)
        if engine == "detectron2":
            from iif.d2.visualizer import draw_panel
        else:
            from iif.tv.drawing import draw_panel
        pictures = folder / "false_positives" / "visualizer"
        save_pictures(
            scenes,
            names,
            find_images(gt, data),
            pictures,
            draw_panel,
            subtitle=f"At recall {RECALL:g} of each category, mask IoU 0.5",
        )
    report = folder / "report.html"
    with _step(6, "report"):
        write_report(build_report(data / VAL_JSON, runs, names=names, images=data), report)
    print(f"\n{comparison.to_text()}\n")
    print(f"Weights:         {folder / 'weights.csv'}, {folder / 'weights.png'}")
    print(f"Comparison:      {folder / 'comparison'}")
    print(f"False positives: {folder / 'false_positives'}")
    print(f"Pictures:        {pictures} ({len(scenes)})")
    print(f"Report:          {report} (open it in a browser)", flush=True)
    return report
