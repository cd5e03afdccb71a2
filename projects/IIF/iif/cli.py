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

from iif import commands, evaluating, layout
from iif.arguments import (
    BOOTSTRAP,
    EXHAUSTIVE,
    FILE,
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
    cap,
    check_classify,
    check_outputs,
    check_plain_model,
    check_report,
    check_train,
    check_tune,
    count,
    evaluation_files,
    inputs_of,
    itself,
    model_files,
    output,
    settings_or_run,
    unless_own,
)
from iif.classification.commands import classify
from iif.demo.commands import openmoji, openmoji_crops
from iif.errors import InputError
from iif.files import os_error_text
from iif.outputs import protect

Run = Callable[[argparse.Namespace], int | None]  # the exit status, None for 0


class _Command(NamedTuple):
    run: Run  # its docstring is the help
    arguments: tuple[Argument, ...]
    check: Run  # of arguments that depend on one another
    after_interrupt: str  # how to go on


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
    """Run the command line; return the exit status.

    It is 2 for a fault in the input or of the file system, 130 after Ctrl-C; both in one line.
    """
    # One plain line: where in the program a warning arises does not help a user.
    warnings.formatwarning = lambda message, *_, **__: f"iif: warning: {message}\n"
    # Detectron2 and torchvision script functions while they are imported; a user cannot change it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    args = build_parser().parse_args(argv)
    command = _COMMANDS[args.command]
    try:
        command.check(args)
        with protect(inputs_of(command.arguments, args)):
            check_outputs(command.arguments, args)
            status = command.run(args)
        sys.stdout.flush()
        return status or 0
    except InputError as error:
        flags = [flag for words, flag in _REMEDIES.items() if words in str(error)]
        known = [flag for flag in flags if flag[2:].replace("-", "_") in args]
        hint = f" ({', '.join(known)})" if known else ""
        print(f"iif {args.command}: error: {error}{hint}", file=sys.stderr)
        return 2
    except (FloatingPointError, ConnectionAbortedError) as error:  # a training cannot go on
        print(f"iif {args.command}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"iif {args.command}: error: {os_error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"iif {args.command}: interrupted; {command.after_interrupt}", file=sys.stderr)
        return 130


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


def _command(
    name: str,
    run: Run,
    *arguments: Argument,
    check: Run = lambda args: None,
    after_interrupt: str = "run it again",
) -> None:
    _COMMANDS[name] = _Command(run, arguments, check, after_interrupt)


_command(
    "weights",
    commands.weights,
    arg("--json", required=True, metavar="FILE", reads=itself, help="training annotations"),
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
    arg("--csv", required=True, metavar="FILE", writes=FILE, help="the table to write"),
    arg("--plot", metavar="FILE", writes=FILE, help="weight over count as PNG, PDF or SVG"),
)
_command(
    "methods",
    commands.methods,
    arg("--json", action="store_true", help="print JSON"),
)
_command(
    "openmoji",
    openmoji,
    arg("out_dir", metavar="OUT_DIR", writes=(), help="the folder to make"),
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
    arg("out_dir", metavar="OUT_DIR", writes=(), help="the folder to make"),
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
    evaluating.evaluate,
    GT,
    RESULTS,
    arg(
        "--iou-type",
        nargs="+",
        choices=("bbox", "segm"),
        help="evaluate boxes, masks or both (default: those that the results have)",
    ),
    output("DIR", layout.EVALUATION_FILES, "the folder to write to"),
    arg(
        "--max-dets",
        type=cap,
        default=300,
        metavar="N",
        help="the cap on detections of an image (LVIS's format) or of a category in an image "
        "(COCO's; COCOeval's default is 100); -1 for none (default %(default)s)",
    ),
    arg("--outcomes", action="store_true", help="write each detection's outcome as CSV"),
    arg(
        "--analyses",
        action="store_true",
        help="also analyse missed objects, errors (dAP), thresholds, confusions, calibration, "
        "class-agnostic recall and Boundary AP, and write their tables",
    ),
    arg("--csv", metavar="FILE", help="write the metrics as a table, by category too"),
    arg("--tensorboard", metavar="DIR", help="add the metrics to a TensorBoard log"),
    arg("--step", type=count, default=0, help="of the TensorBoard log (default %(default)s)"),
    arg(
        "--verify",
        action="store_true",
        help="run the official evaluator (lvis, or COCOeval) on the same files, too, and print the "
        "largest difference; exit status 1 where it is above 1e-9 percentage points",
    ),
    EXHAUSTIVE,
    TRAIN_JSON,
)
_command(
    "compare",
    commands.compare,
    arg(
        "baseline",
        reads=evaluation_files,
        help="eval_summary.json, or an output folder that has one",
    ),
    arg(
        "runs",
        nargs="+",
        metavar="run",
        reads=evaluation_files,
        help="the same of one or more runs",
    ),
    NAMES,
    arg(
        "--output",
        metavar="DIR",
        writes=layout.COMPARISON_TABLES,
        help="write tables and plots there",
    ),
    HTML,
    RECALL,
    BOOTSTRAP,
    SEED,
)
_command(
    "false-positives",
    commands.false_positives,
    GT,
    RESULTS,
    arg("--baseline", metavar="FILE", reads=itself, help="detections of the baseline"),
    NAMES,
    output("DIR", layout.FALSE_POSITIVE_TABLES, "folder of the tables and pictures"),
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
    arg(
        "runs",
        nargs="*",
        metavar="RUN",
        reads=evaluation_files,
        help="eval_summary.json, or a folder that has one",
    ),
    arg("--run", nargs="+", default=[], metavar="RUN", reads=evaluation_files, help="more runs"),
    arg(
        "--baseline",
        metavar="RUN",
        reads=evaluation_files,
        help="the run to compare them with (default: the first)",
    ),
    arg(
        "--gt",
        metavar="FILE",
        reads=itself,
        help="test annotations (default: those that the runs name)",
    ),
    arg(
        "--output",
        default=layout.REPORT,
        metavar="FILE",
        writes=FILE,
        help="the page (default %(default)s)",
    ),
    arg("--open", action="store_true", help="open the page in a browser"),
    NAMES,
    arg("--images", metavar="DIR", help="image folder; without it no crops, and no examples"),
    arg(
        "--crops",
        type=count,
        default=100,
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
    arg(
        "--json",
        metavar="FILE",
        reads=itself,
        help="training annotations, LVIS- or COCO-format",
    ),
    arg("--val-json", metavar="FILE", reads=itself, help="annotations to evaluate on"),
    arg("--images", required=True, metavar="DIR", help="folder of the images"),
    arg("--val-images", metavar="DIR", help="of --val-json; default: --images"),
    output("DIR", (), "the folder to write to"),
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
        reads=model_files,
        help="of --eval-only: the run or checkpoint (default: that of --config, or --output)",
    ),
    arg(
        "--config",
        metavar="FILE",
        reads=unless_own,
        help="settings to start from: a config.json",
    ),
    arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, see docs/torchvision.md"),
    check=check_train,
    after_interrupt="go on from the last checkpoint with --resume",
)
_command(
    "classify",
    classify,
    arg(
        "config",
        metavar="CONFIG",
        reads=settings_or_run,
        help="settings in YAML; of --second-stage and --eval-only a run's output folder, or "
        "checkpoint",
    ),
    output("DIR", (), "the folder to write to"),
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
    after_interrupt="go on from the last checkpoint with --resume",
)
_command(
    "predict",
    commands.predict,
    arg(
        "run",
        metavar="RUN",
        reads=model_files,
        help="output folder of a training, or a checkpoint in it",
    ),
    arg("images", nargs="+", metavar="IMAGE", reads=itself, help="image files, or folders of them"),
    output("DIR", (layout.DETECTIONS,), "the folder to write to"),
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
        writes=(),
        help="the folder to write to; steps finished in it are not repeated (default %(default)s)",
    ),
    arg("--seed", type=count, default=0, help="of data and training (default %(default)s)"),
    after_interrupt="run it again: it goes on where it was",
)
_command(
    "fold",
    commands.fold,
    output("FILE.pth", ("", ".yaml"), "the checkpoint to write"),
    *MODEL,
)
_command(
    "moments",
    commands.moments,
    output("FILE.json", FILE, "the file to write"),
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
    output("DIR", layout.TUNING_FILES, "the folder to write to"),
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
