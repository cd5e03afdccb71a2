"""What the page says of a run beyond its detections: method, settings, seed, training curves.

All of it lies in the run's own folder: the configuration in ``eval_summary.json``, the losses in
``metrics.json`` (one JSON object a line, as Detectron2 writes it), the class counts in
``class_statistics.json``. What is missing there is left out of the page.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from iif import layout
from iif.errors import InputError
from iif.evaluation.compare import Comparison
from iif.evaluation.summary_file import read_summary
from iif.files import read_json
from iif.statistics import ClassStatistics

# Points of a curve on the page.
MAX_POINTS = 200

_ENDINGS = (layout.CONFIG_YAML, layout.CONFIG_JSON, layout.METRICS, layout.STATISTICS)


@dataclass(frozen=True)
class RunDetails:
    """A run's training, as far as its folder tells.

    Attributes:
        name: the run's name.
        method: the long-tail method with its options, in words; "" where not recorded.
        family: what runs of other seeds share: the method, and the settings but the seed.
        seed: of training; None where not recorded.
        settings: flat names ("SOLVER.BASE_LR") -> values as text.
        curves: metric ("total_loss") -> (iteration, value), in the order of iterations.
        statistics: counts of the training classes; None without class_statistics.json.
        weights: (what they are, (K,) numbers) of a method that is fixed by the class counts.
        analyses: those of the evaluation, by IoU type; empty where it was not asked for them.
    """

    name: str
    method: str = ""
    family: str = ""
    seed: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    statistics: ClassStatistics | None = None
    weights: tuple[str, list[float]] | None = None
    analyses: Mapping[str, Any] = field(default_factory=dict)


class _Analyses(msgspec.Struct):
    analyses: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


def read_details(comparison: Comparison) -> list[RunDetails]:
    """Return the details of each run, from its summary and the folder that it lies in.

    Raises:
        InputError: a file is there but malformed.
    """
    return [_details(run.name, Path(run.summary)) for run in comparison.runs]


def run_folder(summary: Path) -> Path | None:
    """Return the output folder of the training run that a summary belongs to; None without one.

    The summary lies in it, in its ``inference`` folder, or in a data set's folder there.
    """
    for folder in list(summary.absolute().parents)[:3]:
        if any((folder / name).is_file() for name in _ENDINGS):
            return folder
    return None


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of a ``metrics.json``: metric -> (iteration, value).

    A run that was resumed writes an iteration twice; the later line counts. A last line that was
    cut off, by a run that was killed or still writes, is left out.

    Raises:
        InputError: another line is no JSON object with an iteration.
    """
    found: dict[str, dict[int, float]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            iteration = int(row["iteration"])
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise InputError(
                f"{path}: line {number} is no JSON object with an iteration; remove the line"
            ) from None
        for key, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(key, {})[iteration] = float(value)
    return {key: sorted(values.items()) for key, values in found.items() if key != "iteration"}


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most MAX_POINTS points: means over as many stretches of about equal length."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    size = math.ceil(len(finite) / MAX_POINTS) or 1
    parts = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _details(name: str, path: Path) -> RunDetails:
    summary, folder = read_summary(path), run_folder(path)
    settings = flat(summary.config or {})
    seed_key = next((key for key in ("SEED", "seed") if key in settings), None)
    seed = settings[seed_key] if seed_key else ""
    method = method_words(summary.method)
    curves: dict[str, list[tuple[int, float]]] = {}
    statistics = None
    if folder is not None and (folder / layout.METRICS).is_file():
        curves = read_curves(folder / layout.METRICS)
    if folder is not None and (folder / layout.STATISTICS).is_file():
        statistics = ClassStatistics.load(folder / layout.STATISTICS)
    apart = (seed_key, "OUTPUT_DIR", "MODEL.WEIGHTS")
    family = json.dumps([method, {k: v for k, v in settings.items() if k not in apart}])
    return RunDetails(
        name,
        method,
        family if settings else name,
        int(seed) if seed.lstrip("-").isdecimal() and int(seed) >= 0 else None,
        settings,
        curves,
        statistics,
        class_weights(summary.method, statistics),
        read_json(path, _Analyses, what="a summary written by iif evaluate").analyses,
    )


def class_weights(
    record: Mapping[str, Any] | None, statistics: ClassStatistics | None
) -> tuple[str, list[float]] | None:
    """Return what a method multiplies each class's logit with, or adds to it, and which it is.

    None for a method without such numbers, one that needs more than the class counts, or one that
    this version cannot build from what the run recorded.
    """
    if not record or statistics is None:
        return None
    from iif.methods import build_method, method_type  # imports torch

    try:
        kind = method_type(str(record["name"]))
        if tuple(kind.needs) != ("counts",):
            return None
        with warnings.catch_warnings():  # what was clamped was said when it was trained
            warnings.simplefilter("ignore")
            method = build_method(kind.name, statistics, record["options"])
    except InputError:
        return None
    for attribute, words in (("scale", "factor of the logit"), ("shift", "added to the logit")):
        values = getattr(method, attribute, None)
        if values is not None and len(set(numbers := values[: len(statistics)].tolist())) > 1:
            return words, numbers
    return None


def method_words(record: Mapping[str, Any] | None) -> str:
    """Return a method's name and options: "iif (variant raw, count_by image)"."""
    if not record:
        return ""
    options = ", ".join(f"{key} {_text(value)}" for key, value in record["options"].items())
    return f"{record['name']} ({options})" if options else str(record["name"])


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, values as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
