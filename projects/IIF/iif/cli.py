"""The ``iif`` command: its sub-commands, their arguments, and how faults are told.

What a sub-command does is a function of `iif.commands`, whose docstring is the help.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Any, NamedTuple

from iif import commands
from iif.errors import InputError

Run = Callable[[argparse.Namespace], None]


class _Argument(NamedTuple):
    flags: tuple[str, ...]
    options: dict[str, Any]  # of ArgumentParser.add_argument
    group: str | None = None  # heading in the help; _ONE_OF: they exclude each other


class _Command(NamedTuple):
    run: Run  # its docstring is the help
    arguments: tuple[_Argument, ...]
    check: Run  # of arguments that depend on one another


_ONE_OF = "one of"
_COMMANDS: dict[str, _Command] = {}
# Words of a remedy in an error of the library -> the flag that does it.
_REMEDIES = {
    "training annotations": "--train-json",
    "annotation is exhaustive": "--exhaustive",
    "annotation file that the runs were evaluated on": "--gt",
    "lower recall": "--recall",
    "as the IoU type": "--iou-type",
    "names are needed": "--names",
    "image folder": "--images",
    "output folder": "--out",
    "replace it": "--overwrite",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    # One plain line: where in the program a warning arises does not help a user.
    warnings.formatwarning = lambda message, *_, **__: f"iif: warning: {message}\n"
    # Detectron2 and torchvision script functions while they are imported; a user cannot change it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    args = build_parser().parse_args(argv)
    command = _COMMANDS[args.command]
    try:
        command.check(args)
        command.run(args)
        return 0
    except InputError as error:
        flags = [flag for words, flag in _REMEDIES.items() if words in str(error)]
        known = [flag for flag in flags if flag[2:].replace("-", "_") in args]
        hint = f" ({', '.join(known)})" if known else ""
        print(f"iif {args.command}: error: {error}{hint}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the ``iif`` command with all of its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="iif",
        description="Inverse Image Frequency for long-tailed instance segmentation.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        description = cleandoc(command.run.__doc__ or name)
        summary = description.splitlines()[0].rstrip(".")
        subparser = subparsers.add_parser(
            name, help=summary[0].lower() + summary[1:], description=description
        )
        groups: dict[str | None, Any] = {None: subparser}
        for argument in command.arguments:
            if argument.group not in groups:
                groups[argument.group] = (
                    subparser.add_mutually_exclusive_group()
                    if argument.group == _ONE_OF
                    else subparser.add_argument_group(argument.group)
                )
            groups[argument.group].add_argument(*argument.flags, **argument.options)
    return parser


def _command(name: str, run: Run, *arguments: _Argument, check: Run = lambda args: None) -> None:
    _COMMANDS[name] = _Command(run, arguments, check)


def _arg(*flags: str, group: str | None = None, **options: Any) -> _Argument:
    return _Argument(flags, options, group)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


# Arguments that several commands share.
_GT = _arg(
    "--gt", required=True, metavar="FILE", help="test annotations in LVIS's or COCO's format"
)
_RESULTS = _arg(
    "--results", required=True, metavar="FILE", help="detections in LVIS's submission format"
)
_EXHAUSTIVE = _arg(
    "--exhaustive",
    action="store_const",
    const=True,  # without the flag None: the file's content decides
    help="every category is annotated in every image, as in COCO (default: told from the file)",
)
_TRAIN_JSON = _arg(
    "--train-json",
    metavar="FILE",
    help="training annotations, to count rare, common and frequent categories from where the test "
    "annotations do not name them (COCO's format)",
)
_NAMES = _arg("--names", nargs="+", metavar="NAME", help="of all runs, the baseline first")
_RECALL = _arg(
    "--recall", type=float, default=0.5, help="recall to match, per category (default %(default)s)"
)
_BOOTSTRAP = _arg(
    "--bootstrap", type=_count, default=1000, metavar="N", help="replicates (default %(default)s)"
)
_SEED = _arg("--seed", type=_count, default=0, help="of the bootstrap (default %(default)s)")
_HTML = _arg("--html", metavar="FILE", help="write one self-contained page")
_MODEL = (
    _arg("--config-file", required=True, metavar="FILE", help="of the model"),
    _arg("--weights", required=True, metavar="FILE", help="its checkpoint"),
    _arg(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="overrides of the configuration, after all options, as for train_net.py",
    ),
)

_PLAIN_MODEL = (
    _arg("--config-file", metavar="FILE", help="Detectron2: of the plain model"),
    _arg("--weights", metavar="FILE", help="Detectron2: its checkpoint"),
    _arg("--run", metavar="DIR", help="torchvision: the plain run's output folder, or checkpoint"),
    _arg("--json", metavar="FILE", help="torchvision: its training annotations"),
    _arg("--images", metavar="DIR", help="torchvision: the folder of its training images"),
    _arg("--device", help="torchvision: cpu, cuda or cuda:N (default: a GPU where there is one)"),
    _MODEL[-1],
)


def _check_plain_model(args: argparse.Namespace) -> None:
    if args.run is None and (args.config_file is None or args.weights is None):
        raise InputError(
            "a plain model is missing: give --config-file and --weights (Detectron2) or --run "
            "(torchvision)"
        )
    if args.run is not None and (args.config_file or args.weights):
        raise InputError(
            "--run is a torchvision model, --config-file and --weights a Detectron2 one"
        )
    if args.run is not None and (args.json is None or args.images is None):
        raise InputError("--run needs --json and --images: its training data")


def _check_train(args: argparse.Namespace) -> None:
    if args.eval_only and (args.val_json is None or args.settings):
        raise InputError("--eval-only needs --val-json, and takes the trained run's settings")
    if not args.eval_only and args.json is None:
        raise InputError("--json is missing: the annotations to train on")


_command(
    "weights",
    commands.weights,
    _arg("--json", required=True, metavar="FILE", help="training annotations"),
    # The values are checked where they are defined, which imports torch: too slow for --help.
    _arg(
        "--variant",
        default="raw",
        help="raw, smooth, prob, normit, gombit, base2 or base10 (default %(default)s)",
    ),
    _arg("--count-by", default="image", help="image or instance (default %(default)s)"),
    _arg(
        "--zero-count",
        default="error",
        help="a class never seen: error, or clamp to count it as seen once (default %(default)s)",
    ),
    _arg(
        "--nonpositive",
        default="error",
        help="a weight that is not positive: error, or clamp to the smallest positive one",
    ),
    _arg("--csv", required=True, metavar="FILE", help="the table to write"),
    _arg("--plot", metavar="FILE", help="weight over count as PNG, PDF or SVG"),
)
_command(
    "methods",
    commands.methods,
    _arg("--json", action="store_true", help="print JSON"),
)
_command(
    "glyphs",
    commands.glyphs,
    _arg("out_dir", metavar="OUT_DIR", help="the folder to make"),
    *(
        _arg(f"--{name}", type=_count, default=default, help=f"{text} (default %(default)s)")
        for name, default, text in (
            ("categories", 60, "number of characters"),
            ("train", 1000, "training images"),
            ("val", 300, "validation images"),
            ("image-size", 128, "height and width in pixels"),
            ("seed", 0, "of everything random"),
        )
    ),
    _arg("--workers", type=_count, help="processes (default: one per core)"),
    _arg("--overwrite", action="store_true", help="replace a data set made with other arguments"),
)
_command(
    "openmoji",
    commands.openmoji,
    _arg("out_dir", metavar="OUT_DIR", help="the folder to make"),
    *(
        _arg(f"--{name}", type=_count, default=default, help=f"{text} (default %(default)s)")
        for name, default, text in (
            ("categories", 40, "number of categories"),
            ("train", 1000, "training images"),
            ("val", 300, "validation images"),
            ("image-size", 96, "height and width in pixels"),
            ("seed", 0, "of everything random"),
        )
    ),
    _arg("--workers", type=_count, help="processes (default: one per core)"),
    _arg("--overwrite", action="store_true", help="replace a data set made with other arguments"),
)
_command(
    "evaluate",
    commands.evaluate,
    _GT,
    _RESULTS,
    _arg(
        "--iou-type",
        nargs="+",
        choices=("bbox", "segm"),
        help="evaluate boxes, masks or both (default: those that the results have)",
    ),
    _arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    _arg("--outcomes", action="store_true", help="write each detection's outcome as CSV"),
    _EXHAUSTIVE,
    _TRAIN_JSON,
)
_command(
    "compare",
    commands.compare,
    _arg("baseline", help="eval_summary.json, or an output folder that has one"),
    _arg("runs", nargs="+", metavar="run", help="the same of one or more runs"),
    _NAMES,
    _arg("--output", metavar="DIR", help="write tables and plots there"),
    _HTML,
    _BOOTSTRAP,
    _SEED,
)
_command(
    "false-positives",
    commands.false_positives,
    _GT,
    _RESULTS,
    _arg("--baseline", metavar="FILE", help="detections of the baseline"),
    _NAMES,
    _arg("--output", required=True, metavar="DIR", help="folder of the tables and pictures"),
    _arg("--images", metavar="DIR", help="image folder; without it no pictures"),
    _HTML,
    _RECALL,
    _arg("--iou-type", choices=("bbox", "segm"), help="default: segm where all files have masks"),
    _EXHAUSTIVE,
    _TRAIN_JSON,
    _arg(
        "--num-images",
        type=_count,
        default=8,
        metavar="N",
        help="with most false positives removed, and as many with most added (default %(default)s)",
        group="pictures",
    ),
    _arg(
        "--category",
        action="append",
        default=[],
        help="only this category (name or id); repeat",
        group="pictures",
    ),
    _arg(
        "--group",
        action="append",
        default=[],
        choices=("r", "c", "f"),
        help="only rare, common or frequent categories; repeat",
        group="pictures",
    ),
    _arg(
        "--type",
        action="append",
        choices=("Loc", "Cls", "Dupe", "Bkg", "Both"),
        help="choose images by this error type; repeat",
        group="pictures",
    ),
    _arg(
        "--image-id",
        action="append",
        type=int,
        help="draw this image; repeat for more",
        group="pictures",
    ),
)
_command(
    "report",
    commands.report,
    _GT,
    _arg("--run", required=True, nargs="+", dest="runs", metavar="RUN", help="one or more runs"),
    _arg("--baseline", metavar="RUN", help="the run to compare them with"),
    _arg("--output", required=True, metavar="FILE", help="the page, report.html"),
    _NAMES,
    _arg("--images", metavar="DIR", help="image folder; without it no crops"),
    _arg("--crops", type=_count, default=200, metavar="N", help="at most N (default %(default)s)"),
    _RECALL,
    _BOOTSTRAP,
    _SEED,
    _TRAIN_JSON,
)
_command(
    "train",
    commands.train,
    _arg("--json", help="training annotations, LVIS- or COCO-format"),
    _arg("--val-json", help="annotations to evaluate on"),
    _arg("--images", required=True, metavar="DIR", help="folder of the images"),
    _arg("--val-images", metavar="DIR", help="of --val-json; default: --images"),
    _arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    _EXHAUSTIVE,
    _arg(
        "--preset",
        choices=("lvis", "glyphs", "openmoji"),
        default="lvis",
        help="settings to start from: the published ones on LVIS (default) or the demo's",
    ),
    _arg("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)"),
    _arg("--resume", action="store_true", help="go on from the last checkpoint", group=_ONE_OF),
    _arg(
        "--eval-only",
        action="store_true",
        help="evaluate the last checkpoint in --output",
        group=_ONE_OF,
    ),
    _arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, see docs/torchvision.md"),
    check=_check_train,
)
_command(
    "quickstart",
    commands.quickstart,
    _arg(
        "--engine",
        choices=("auto", "detectron2", "torchvision"),
        default="auto",
        help="default: Detectron2 where it is installed, torchvision otherwise",
    ),
    _arg(
        "--out",
        default="output/demo",
        metavar="DIR",
        help="the folder to write to; steps finished in it are not repeated (default %(default)s)",
    ),
    _arg("--seed", type=_count, default=0, help="of data and training (default %(default)s)"),
)
_command(
    "fold",
    commands.fold,
    _arg("--output", required=True, metavar="FILE.pth", help="the checkpoint to write"),
    *_MODEL,
)
_command(
    "moments",
    commands.moments,
    _arg("--output", required=True, metavar="FILE.json", help="the file to write"),
    _arg(
        "--iterations",
        type=_count,
        default=1000,
        metavar="N",
        help="training batches (default %(default)s)",
    ),
    _arg(
        "--momentum",
        type=float,
        help="running moments, as batch normalisation keeps them (the authors': 5e-5 or 1e-4; "
        "default: exact ones)",
    ),
    *_PLAIN_MODEL,
    check=_check_plain_model,
)
_command(
    "tune",
    commands.tune,
    _arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    _arg("--dataset", metavar="NAME", help="default: the first of DATASETS.TRAIN"),
    _arg(
        "--fraction",
        type=float,
        help="the part of the images to use (default: DATASETS.HELD_OUT of the configuration, or "
        "0.1 where nothing was held out)",
    ),
    _arg(
        "--values",
        type=float,
        nargs="+",
        metavar="V",
        help="the values to try (default: those that the method proposes)",
    ),
    *_MODEL,
)


if __name__ == "__main__":
    sys.exit(main())
