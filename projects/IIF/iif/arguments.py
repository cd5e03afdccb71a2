"""Arguments that several sub-commands of ``iif`` share, and checks of several together."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from iif import commands
from iif.classification.commands import is_classifier
from iif.errors import InputError

ONE_OF = "one of"


class Argument(NamedTuple):
    """An argument of a sub-command."""

    flags: tuple[str, ...]
    options: dict[str, Any]  # of ArgumentParser.add_argument
    group: str | None = None  # heading in the help; ONE_OF: they exclude each other


def arg(*flags: str, group: str | None = None, **options: Any) -> Argument:
    """Return an argument; ``options`` are those of ArgumentParser.add_argument."""
    return Argument(flags, options, group)


def count(text: str) -> int:
    """Return a whole number from 0 on: the type of an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


# Arguments that several commands share.
GT = arg("--gt", required=True, metavar="FILE", help="test annotations in LVIS's or COCO's format")
RESULTS = arg(
    "--results", required=True, metavar="FILE", help="detections in LVIS's submission format"
)
EXHAUSTIVE = arg(
    "--exhaustive",
    action="store_const",
    const=True,  # without the flag None: the file's content decides
    help="every category is annotated in every image, as in COCO (default: told from the file)",
)
TRAIN_JSON = arg(
    "--train-json",
    metavar="FILE",
    help="training annotations, to count rare, common and frequent categories from where the test "
    "annotations do not name them (COCO's format)",
)
NAMES = arg("--names", nargs="+", metavar="NAME", help="of all runs, the baseline first")
RECALL = arg(
    "--recall", type=float, default=0.5, help="recall to match, per category (default %(default)s)"
)
BOOTSTRAP = arg(
    "--bootstrap", type=count, default=1000, metavar="N", help="replicates (default %(default)s)"
)
SEED = arg("--seed", type=count, default=0, help="of the bootstrap (default %(default)s)")
HTML = arg("--html", metavar="FILE", help="write one self-contained page")
MODEL = (
    arg("--config-file", required=True, metavar="FILE", help="of the model"),
    arg("--weights", required=True, metavar="FILE", help="its checkpoint"),
    arg(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="overrides of the configuration, after all options, as for train_net.py",
    ),
)

PLAIN_MODEL = (
    arg("--config-file", metavar="FILE", help="Detectron2: of the plain model"),
    arg("--weights", metavar="FILE", help="Detectron2: its checkpoint"),
    arg(
        "--run",
        metavar="DIR",
        help="torchvision or a classifier: the plain run's output folder, or checkpoint",
    ),
    arg("--json", metavar="FILE", help="torchvision: its training annotations"),
    arg("--images", metavar="DIR", help="torchvision: the folder of its training images"),
    arg("--device", help="torchvision: cpu, cuda or cuda:N (default: a GPU where there is one)"),
    MODEL[-1],
)


def check_plain_model(args: argparse.Namespace) -> None:
    """Refuse no model, two, or one without its training data."""
    if args.run is None and (args.config_file is None or args.weights is None):
        raise InputError(
            "a plain model is missing: give --config-file and --weights (Detectron2) or --run "
            "(torchvision)"
        )
    if args.run is not None and (args.config_file or args.weights):
        raise InputError(
            "--run is a torchvision model, --config-file and --weights a Detectron2 one"
        )
    if args.run is None or is_classifier(args.run):
        return
    if args.json is None or args.images is None:
        raise InputError("--run needs --json and --images: its training data")


def check_tune(args: argparse.Namespace) -> None:
    """Refuse a missing model; find that of a checkpoint that is given alone."""
    if args.all is None:
        if args.config_file is None or args.weights is None:
            raise InputError("--config-file and --weights are missing: the model to tune")
        return
    if args.values is not None:
        raise InputError("--all tries the values that each method proposes: leave --values out")
    if args.all:
        commands.find_model(args)
    check_plain_model(args)


def check_report(args: argparse.Namespace) -> None:
    """Refuse runs of detection without test annotations, and of classification with them."""
    from iif.classification.reports import runs_of
    from iif.evaluation.classification.compare import are_classifications

    if not are_classifications(runs_of(args)):
        if args.gt is None:
            raise InputError("--gt is missing: the test annotations of the runs")
        return
    for flag, value in (("--gt", args.gt), ("--train-json", args.train_json)):
        if value is not None:
            raise InputError(f"{flag} is for runs of detection; these are of image classification")


def check_train(args: argparse.Namespace) -> None:
    """Refuse missing training or test annotations."""
    if args.eval_only and args.val_json is None:
        raise InputError("--eval-only needs --val-json")
    if args.run is not None and not args.eval_only:
        raise InputError("--run is the model that --eval-only evaluates")
    if not args.eval_only and args.json is None:
        raise InputError("--json is missing: the annotations to train on")


def check_classify(args: argparse.Namespace) -> None:
    """Refuse to train and to test alone at once."""
    if args.eval_only and (args.second_stage or args.resume):
        raise InputError("--eval-only tests a run; leave --second-stage and --resume out")
