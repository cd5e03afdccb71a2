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
from iif.arguments import (
    BOOTSTRAP,
    EXHAUSTIVE,
    GT,
    HTML,
    MODEL,
    NAMES,
    ONE_OF,
    PLAIN_MODEL,
    RECALL,
    RESULTS,
    SEED,
    TRAIN_JSON,
    Argument,
    arg,
    check_classify,
    check_plain_model,
    check_report,
    check_train,
    check_tune,
    count,
)
from iif.classification.commands import classify
from iif.demo.commands import openmoji, openmoji_crops
from iif.errors import InputError

Run = Callable[[argparse.Namespace], None]


class _Command(NamedTuple):
    run: Run  # its docstring is the help
    arguments: tuple[Argument, ...]
    check: Run  # of arguments that depend on one another


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
                    if argument.group == ONE_OF
                    else subparser.add_argument_group(argument.group)
                )
            groups[argument.group].add_argument(*argument.flags, **argument.options)
    return parser


def _command(name: str, run: Run, *arguments: Argument, check: Run = lambda args: None) -> None:
    _COMMANDS[name] = _Command(run, arguments, check)


_command(
    "weights",
    commands.weights,
    arg("--json", required=True, metavar="FILE", help="training annotations"),
    # The values are checked where they are defined, which imports torch: too slow for --help.
    arg(
        "--variant",
        default="raw",
        help="raw, smooth, prob, normit, gombit, base2 or base10 (default %(default)s)",
    ),
    arg("--count-by", default="image", help="image or instance (default %(default)s)"),
    arg(
        "--zero-count",
        default="error",
        help="a class never seen: error, or clamp to count it as seen once (default %(default)s)",
    ),
    arg(
        "--nonpositive",
        default="error",
        help="a weight that is not positive: error, or clamp to the smallest positive one",
    ),
    arg("--csv", required=True, metavar="FILE", help="the table to write"),
    arg("--plot", metavar="FILE", help="weight over count as PNG, PDF or SVG"),
)
_command(
    "methods",
    commands.methods,
    arg("--json", action="store_true", help="print JSON"),
)
_command(
    "openmoji",
    openmoji,
    arg("out_dir", metavar="OUT_DIR", help="the folder to make"),
    *(
        arg(f"--{name}", type=count, default=default, help=f"{text} (default %(default)s)")
        for name, default, text in (
            ("categories", 40, "number of categories"),
            ("train", 1000, "training images"),
            ("val", 300, "validation images"),
            ("image-size", 96, "height and width in pixels"),
            ("seed", 0, "of everything random"),
        )
    ),
    arg("--workers", type=count, help="processes (default: one per core)"),
    arg("--overwrite", action="store_true", help="replace a data set made with other arguments"),
)
_command(
    "openmoji-crops",
    openmoji_crops,
    arg("out_dir", metavar="OUT_DIR", help="the folder to make"),
    *(
        arg(f"--{name}", type=kind, default=default, help=f"{text} (default %(default)s)")
        for name, kind, default, text in (
            ("categories", count, 100, "number of kinds"),
            ("largest", count, 200, "training images of the first kind"),
            ("imbalance-factor", float, 100.0, "of the first kind's images to the last one's"),
            ("test", count, 20, "test images of each kind"),
            ("image-size", count, 32, "height and width in pixels"),
            ("seed", count, 0, "of everything random"),
        )
    ),
)
_command(
    "evaluate",
    commands.evaluate,
    GT,
    RESULTS,
    arg(
        "--iou-type",
        nargs="+",
        choices=("bbox", "segm"),
        help="evaluate boxes, masks or both (default: those that the results have)",
    ),
    arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    arg("--outcomes", action="store_true", help="write each detection's outcome as CSV"),
    EXHAUSTIVE,
    TRAIN_JSON,
)
_command(
    "compare",
    commands.compare,
    arg("baseline", help="eval_summary.json, or an output folder that has one"),
    arg("runs", nargs="+", metavar="run", help="the same of one or more runs"),
    NAMES,
    arg("--output", metavar="DIR", help="write tables and plots there"),
    HTML,
    BOOTSTRAP,
    SEED,
)
_command(
    "false-positives",
    commands.false_positives,
    GT,
    RESULTS,
    arg("--baseline", metavar="FILE", help="detections of the baseline"),
    NAMES,
    arg("--output", required=True, metavar="DIR", help="folder of the tables and pictures"),
    arg("--images", metavar="DIR", help="image folder; without it no pictures"),
    HTML,
    RECALL,
    arg("--iou-type", choices=("bbox", "segm"), help="default: segm where all files have masks"),
    EXHAUSTIVE,
    TRAIN_JSON,
    arg(
        "--num-images",
        type=count,
        default=8,
        metavar="N",
        help="with most false positives removed, and as many with most added (default %(default)s)",
        group="pictures",
    ),
    arg(
        "--category",
        action="append",
        default=[],
        help="only this category (name or id); repeat",
        group="pictures",
    ),
    arg(
        "--group",
        action="append",
        default=[],
        choices=("r", "c", "f"),
        help="only rare, common or frequent categories; repeat",
        group="pictures",
    ),
    arg(
        "--type",
        action="append",
        choices=("Loc", "Cls", "Dupe", "Bkg", "Both"),
        help="choose images by this error type; repeat",
        group="pictures",
    ),
    arg(
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
    arg("--gt", metavar="FILE", help="test annotations; required for runs of detection"),
    arg("--run", required=True, nargs="+", dest="runs", metavar="RUN", help="one or more runs"),
    arg("--baseline", metavar="RUN", help="the run to compare them with"),
    arg("--output", required=True, metavar="FILE", help="the page, report.html"),
    NAMES,
    arg("--images", metavar="DIR", help="image folder; without it no crops, and no examples"),
    arg(
        "--crops",
        type=count,
        default=200,
        metavar="N",
        help="at most N (default %(default)s); of classification at most 24 examples",
    ),
    RECALL,
    BOOTSTRAP,
    SEED,
    TRAIN_JSON,
    check=check_report,
)
_command(
    "train",
    commands.train,
    arg("--json", help="training annotations, LVIS- or COCO-format"),
    arg("--val-json", help="annotations to evaluate on"),
    arg("--images", required=True, metavar="DIR", help="folder of the images"),
    arg("--val-images", metavar="DIR", help="of --val-json; default: --images"),
    arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    EXHAUSTIVE,
    arg(
        "--preset",
        choices=("lvis", "openmoji"),
        default="lvis",
        help="settings to start from: the published ones on LVIS (default) or the demo's",
    ),
    arg("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)"),
    arg("--resume", action="store_true", help="go on from the last checkpoint", group=ONE_OF),
    arg(
        "--eval-only",
        action="store_true",
        help="evaluate a checkpoint, the last one in --output; settings of the method and of the "
        "test may be given: method=NAME METHOD.OPTION=VALUE evaluates a plain model post-hoc",
        group=ONE_OF,
    ),
    arg(
        "--run",
        metavar="DIR",
        help="of --eval-only: the run or checkpoint (default: that of --config, or --output)",
    ),
    arg("--config", metavar="FILE", help="settings to start from: a config.json"),
    arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, see docs/torchvision.md"),
    check=check_train,
)
_command(
    "classify",
    classify,
    arg(
        "config",
        metavar="CONFIG",
        help="settings in YAML; of --second-stage and --eval-only a run's output folder, or "
        "checkpoint",
    ),
    arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    arg(
        "--second-stage",
        action="store_true",
        help="train the classifier of a run alone, under the settings of its second_stage",
    ),
    arg("--eval-only", action="store_true", help="test a run, a plain one post-hoc as well"),
    arg("--resume", action="store_true", help="go on from the last checkpoint in --output"),
    arg("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)"),
    arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, see docs/classification.md"),
    check=check_classify,
)
_command(
    "predict",
    commands.predict,
    arg("run", metavar="RUN", help="output folder of a training, or a checkpoint in it"),
    arg("images", nargs="+", metavar="IMAGE", help="image files, or folders of them"),
    arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    arg(
        "--min-score",
        type=float,
        default=0.5,
        metavar="S",
        help="leave out detections with a lower score (default %(default)s)",
    ),
    arg("--no-pictures", action="store_true", help="write the JSON file alone"),
    arg("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)"),
)
_command(
    "quickstart",
    commands.quickstart,
    arg(
        "--task",
        choices=("detection", "classification"),
        default="detection",
        help="instance segmentation or image classification (default %(default)s)",
    ),
    arg(
        "--engine",
        choices=("auto", "detectron2", "torchvision"),
        default="auto",
        help="of detection; default: Detectron2 where it is installed, torchvision otherwise",
    ),
    arg(
        "--out",
        default="output/demo",
        metavar="DIR",
        help="the folder to write to; steps finished in it are not repeated (default %(default)s)",
    ),
    arg("--seed", type=count, default=0, help="of data and training (default %(default)s)"),
)
_command(
    "fold",
    commands.fold,
    arg("--output", required=True, metavar="FILE.pth", help="the checkpoint to write"),
    *MODEL,
)
_command(
    "moments",
    commands.moments,
    arg("--output", required=True, metavar="FILE.json", help="the file to write"),
    arg(
        "--iterations",
        type=count,
        default=1000,
        metavar="N",
        help="training batches (default %(default)s)",
    ),
    arg(
        "--momentum",
        type=float,
        help="running moments, as batch normalisation keeps them (the authors': 5e-5 or 1e-4; "
        "default: exact ones)",
    ),
    *PLAIN_MODEL,
    check=check_plain_model,
)
_command(
    "tune",
    commands.tune,
    arg("--output", required=True, metavar="DIR", help="the folder to write to"),
    arg(
        "--all",
        nargs="?",
        const="",
        metavar="CHECKPOINT",
        help="try every post-hoc method; the checkpoint alone is enough where its configuration "
        "lies beside it",
    ),
    arg("--dataset", metavar="NAME", help="default: the first of DATASETS.TRAIN"),
    arg(
        "--fraction",
        type=float,
        help="the part of the images to use (default: DATASETS.HELD_OUT of the configuration, or "
        "0.1 where nothing was held out)",
    ),
    arg(
        "--values",
        type=float,
        nargs="+",
        metavar="V",
        help="the values to try (default: those that the method proposes; not with --all)",
    ),
    RECALL,
    BOOTSTRAP,
    EXHAUSTIVE,
    *PLAIN_MODEL,
    check=check_tune,
)


if __name__ == "__main__":
    sys.exit(main())
