"""Arguments that several sub-commands of ``iif`` share, and checks of several together."""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iif.statistics import ClassStatistics

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iif import layout
from iif.errors import InputError
from iif.outputs import check_output, refuse_input

ONE_OF = "one of"
# What an argument writes when it is a file.
FILE = ("",)
# An interval of 100,000 replicates differs from that of a million by less than it is printed with.
MAX_REPLICATES = 1_000_000

Reads = Callable[[Path, argparse.Namespace], list[Path]]


class Argument(NamedTuple):
    """An argument of a sub-command."""

    flags: tuple[str, ...]
    options: dict[str, Any]  # of ArgumentParser.add_argument
    group: str | None = None  # heading in the help; ONE_OF: they exclude each other
    reads: Reads | None = None  # the files that are read where it is a path
    # Where it is a path that is written to: "" for itself, ".yaml" for itself with this suffix,
    # otherwise files in a folder.
    writes: tuple[str, ...] | None = None

    def paths(self, args: argparse.Namespace) -> list[Path]:
        """Return the paths that were given for it."""
        name = self.options.get("dest") or self.flags[0].lstrip("-").replace("-", "_")
        value = getattr(args, name)
        values = value if isinstance(value, list) else [value]
        return [Path(value) for value in values if value]


def arg(
    *flags: str,
    group: str | None = None,
    reads: Reads | None = None,
    writes: tuple[str, ...] | None = None,
    **options: Any,
) -> Argument:
    """Return an argument; ``options`` are those of ArgumentParser.add_argument."""
    return Argument(flags, options, group, reads, writes)


def output(metavar: str, writes: tuple[str, ...], text: str) -> Argument:
    """Return the argument --output; ``writes`` as in `Argument`, ``text`` is its help."""
    return arg("--output", required=True, metavar=metavar, writes=writes, help=text)


def itself(path: Path, args: argparse.Namespace) -> list[Path]:
    """Return a file as what is read."""
    return [path]


def unless_own(path: Path, args: argparse.Namespace) -> list[Path]:
    """Return a file of settings, unless it may be that of the run that goes on or is evaluated."""
    return [] if args.resume or args.eval_only else [path]


def model_files(path: Path, args: argparse.Namespace) -> list[Path]:
    """Return what is read of a trained model: a checkpoint, or a run's output folder."""
    folder = path if path.is_dir() else path.parent
    names = (layout.CONFIG_YAML, layout.CONFIG_JSON, layout.STATISTICS, layout.LAST_CHECKPOINT)
    return [path, *(folder / name for name in names), *folder.glob(layout.CHECKPOINTS)]


def settings_or_run(path: Path, args: argparse.Namespace) -> list[Path]:
    """Return what is read of a file of settings, or of a classifier's run in their place."""
    return model_files(path, args) if args.second_stage or args.eval_only else [path]


def evaluation_files(path: Path, args: argparse.Namespace) -> list[Path]:
    """Return what is read of an evaluation: an eval_summary.json, or a folder that has one."""
    folder = path if path.is_dir() else path.parent
    names = (layout.SUMMARY, layout.MATCHES, layout.RESULTS)
    folders = (folder, folder / layout.INFERENCE)
    return [path, *(folder / name for folder in folders for name in names)]


def inputs_of(arguments: Sequence[Argument], args: argparse.Namespace) -> list[Path]:
    """Return every file that the arguments of a command name as an input."""
    return [
        file
        for argument in arguments
        if argument.reads is not None
        for path in argument.paths(args)
        for file in argument.reads(path, args)
    ]


def check_outputs(arguments: Sequence[Argument], args: argparse.Namespace) -> None:
    """Check that every output of a command can be written, before it begins.

    Raises:
        InputError: one is a protected input or another output, or cannot be written.
    """
    seen: set[str] = set()
    for argument in arguments:
        if argument.writes is None:
            continue
        for path in argument.paths(args):
            for target in _targets(path, argument.writes):
                refuse_input(target)
                if (real := os.path.realpath(target)) in seen:
                    raise InputError(f"{target}: would be written twice; give different names")
                seen.add(real)
            check_output(path, folder="" not in argument.writes)


def _targets(path: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        yield path.with_suffix(name) if name.startswith(".") else path / name


def count(text: str) -> int:
    """Return a whole number from 0 on: the type of an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def number(text: str) -> float:
    """Return a finite number: the type of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def replicates(text: str) -> int:
    """Return a number of bootstrap replicates: the type of an argument."""
    if count(text) > MAX_REPLICATES:
        raise argparse.ArgumentTypeError(
            f"{text} replicates would never end; give at most {MAX_REPLICATES:,}"
        )
    return count(text)


def cap(text: str) -> int | None:
    """Return a cap on detections, None for -1, which is none: the type of an argument."""
    if text == "-1":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number from 1 on nor -1")
    return int(text)


# Arguments that several commands share.
GT = arg(
    "--gt",
    required=True,
    metavar="FILE",
    reads=itself,
    help="test annotations in LVIS's or COCO's format",
)
RESULTS = arg(
    "--results",
    nargs="+",
    required=True,
    metavar="FILE",
    reads=itself,
    help="detections in LVIS's submission format, also compressed with gzip, or - for standard "
    "input; several files are one run",
)
EXHAUSTIVE = arg(
    "--exhaustive",
    action="store_const",
    const=True,  # without the flag None: the file's content decides
    help="insist on COCO's format, in which every category is annotated in every image; a file "
    "in LVIS's format is refused (default: told from the file)",
)
TRAIN_JSON = arg(
    "--train-json",
    metavar="FILE",
    reads=itself,
    help="training annotations, to count rare, common and frequent categories from where the test "
    "annotations do not name them (COCO's format, without it: AP without these groups)",
)
GROUPS = arg(
    "--groups",
    nargs=2,
    type=count,
    metavar=("RARE", "COMMON"),
    help="the most training images of a rare and of a common category (default: LVIS's 10 and 100; "
    "of a training set in COCO's format terciles, where these leave a group empty)",
)
NAMES = arg("--names", nargs="+", metavar="NAME", help="of all runs, the baseline first")
RECALL = arg(
    "--recall", type=number, default=0.5, help="recall to match, per category (default %(default)s)"
)
BOOTSTRAP = arg(
    "--bootstrap",
    type=replicates,
    default=1000,
    metavar="N",
    help="replicates (default %(default)s)",
)
SEED = arg("--seed", type=count, default=0, help="of the bootstrap (default %(default)s)")
HTML = arg("--html", metavar="FILE", writes=FILE, help="write one self-contained page")
MODEL = (
    arg("--config-file", required=True, metavar="FILE", reads=itself, help="of the model"),
    arg("--weights", required=True, metavar="FILE", reads=itself, help="its checkpoint"),
    arg(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="overrides of the configuration, after all options, as for train_net.py",
    ),
)

PLAIN_MODEL = (
    arg("--config-file", metavar="FILE", reads=itself, help="Detectron2: of the plain model"),
    arg("--weights", metavar="FILE", reads=itself, help="Detectron2: its checkpoint"),
    arg(
        "--run",
        metavar="DIR",
        reads=model_files,
        help="torchvision or a classifier: the plain run's output folder, or checkpoint",
    ),
    arg("--json", metavar="FILE", reads=itself, help="torchvision: its training annotations"),
    arg("--images", metavar="DIR", help="torchvision: the folder of its training images"),
    arg("--device", help="torchvision: cpu, cuda or cuda:N (default: a GPU where there is one)"),
    MODEL[-1],
)


def training_statistics(args: Namespace) -> ClassStatistics | None:
    """Return the counts of the training annotations, where they are given.

    Raises:
        InputError: limits of the groups are given, but nothing to count.
    """
    from iif.statistics import ClassStatistics

    if args.train_json:
        return ClassStatistics.from_json(args.train_json).replace(group_limits=args.groups)
    if args.groups:
        raise InputError(
            "the limits of the groups are numbers of training images: give the training annotations"
        )
    return None


def require_detectron2() -> None:
    """Refuse a command of Detectron2 where that is not installed."""
    if find_spec("detectron2") is None:
        raise InputError("this needs Detectron2, which is not installed: see README.md")


def require_torchvision() -> None:
    """Refuse a command of torchvision where that is not installed."""
    if find_spec("torchvision") is None:
        raise InputError("torchvision is not installed: pip install torchvision tensorboard")
