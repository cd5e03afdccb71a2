"""Methods on a trained model: tune, moments, fold."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iif import layout
from iif.commands.arguments import (
    BOOTSTRAP,
    EXHAUSTIVE,
    FILE,
    MODEL,
    PLAIN_MODEL,
    RECALL,
    arg,
    count,
    number,
    output,
    require_detectron2,
    require_torchvision,
)
from iif.commands.command import command
from iif.errors import InputError

if TYPE_CHECKING:
    from iif.methods.moments import Moments


def fold(args: Namespace) -> None:
    """Write a method into the classifier of a checkpoint, for Detectron2 alone.

    The result is an ordinary Detectron2 checkpoint with the same detections, and its configuration
    beside it.
    """
    require_detectron2()
    from iif.d2.checkpoint import fold
    from iif.d2.config import load_config

    config = fold(load_config(args.config_file, args.opts), args.weights, args.output)
    print(f"Checkpoint: {args.output}\nConfiguration: {config}")


def moments(args: Namespace) -> None:
    """Gather the moments of a plain model's logits over training regions.

    Writes the JSON file that LogN is made from: mean and variance of each class's logit over the
    regions that training samples.
    """
    settings = {"iterations": args.iterations, "momentum": args.momentum}
    if args.run is None:
        require_detectron2()
        from iif.d2.config import load_config
        from iif.d2.moments import gather_moments

        cfg = load_config(args.config_file, args.opts)
        found = gather_moments(cfg, args.weights, args.output, **settings)
    elif is_classifier(args.run):
        found = classifier_moments(args, settings)
    else:
        require_torchvision()
        from iif.tv.moments import gather_moments as gather

        settings["device"] = args.device
        found = gather(args.run, args.json, args.images, args.output, **settings)
    print(
        f"Moments of {len(found.ids):,} classes over {found.regions:,} regions of "
        f"{found.iterations:,} batches: {args.output}"
    )


def tune(args: Namespace) -> None:
    """Choose the tuned option of a post-hoc method on held-out training images.

    Measures box AP of a model trained without the method at several values of the option (the
    strength of IIF), on a held-out part of its training set; chooses the best; writes the curve
    and a configuration with the chosen value. Test sets are refused. With --all every post-hoc
    method at every value is measured in one pass of the network, false positives and intervals
    too; the best is written as a configuration, and as a plain checkpoint where it folds.
    """
    if args.all is not None:
        _tune_all(args)
        return
    require_detectron2()
    from iif.d2.config import load_config
    from iif.d2.tuning import tune
    from iif.report.tuning import curve_text

    result = tune(
        load_config(args.config_file, args.opts),
        args.weights,
        args.output,
        dataset=args.dataset,
        fraction=args.fraction,
        values=args.values,
    )
    print(f"Box AP on {result['num_images']} images of {result['dataset']['name']}:")
    print(curve_text(result))
    if result["seen_in_training"]:
        print(
            "Note: some of these images were trained on (DATASETS.HELD_OUT is smaller than "
            f"{result['fraction']:g}), where the model is better than on new ones."
        )
    print(f"Curve and configuration: {args.output}")


def _tune_all(args: Namespace) -> None:
    if args.run is not None and is_classifier(args.run):
        tune_classifier(args)
        return
    from iif.report.tuning import trials_text

    settings = {
        "fraction": args.fraction,
        "recall": args.recall,
        "bootstrap": args.bootstrap,
    }
    if args.run is None:
        require_detectron2()
        from iif.d2.config import load_config
        from iif.d2.tune_all import tune_all

        cfg = load_config(args.config_file, args.opts)
        result = tune_all(cfg, args.weights, args.output, dataset=args.dataset, **settings)
    else:
        require_torchvision()
        from iif.tv.tuning import tune_all as tune_run

        result = tune_run(
            args.run,
            args.json,
            args.images,
            args.output,
            assignments=args.opts,
            exhaustive=args.exhaustive,
            device=args.device,
            **settings,
        )
    print(trials_text(result))
    print(f"Plain checkpoint: {result['folded']}")
    print(f"Curves, pages and configuration: {args.output}")


def find_model(args: Namespace) -> None:
    """Take the model of a checkpoint's path alone, by the configuration that lies beside it."""
    path = Path(args.all)
    folder = path if path.is_dir() else path.parent
    if (folder / layout.CONFIG_JSON).is_file() or is_classifier(args.all):
        args.run = args.run or args.all
        return
    if not (folder / layout.CONFIG_YAML).is_file():
        raise InputError(
            f"{path}: neither {layout.CONFIG_YAML} (Detectron2) nor {layout.CONFIG_JSON} "
            f"(torchvision) nor {layout.CLASSIFICATION_JSON} (a classifier) lies beside it: name "
            "the configuration too"
        )
    args.config_file = args.config_file or str(folder / layout.CONFIG_YAML)
    args.weights = args.weights or str(folder / layout.FINAL_CHECKPOINT if path.is_dir() else path)


def is_classifier(run: str) -> bool:
    """Return whether a run, a folder or a checkpoint in it, is one of ``iif classify``."""
    path = Path(run)
    folder = path if path.is_dir() else path.parent
    return (folder / layout.CLASSIFICATION_JSON).is_file()


def tune_classifier(args: Namespace) -> None:
    """Choose a post-hoc method and its value for a classifier."""
    require_torchvision()
    from iif.classification.tuning import tune_all, tuning_text

    found = tune_all(args.run, args.output, fraction=args.fraction, device=args.device)
    print(f"{tuning_text(found)}\nPlain checkpoint: {found['folded']}")


def classifier_moments(args: Namespace, settings: dict[str, Any]) -> Moments:
    """Gather the moments of a classifier's logits."""
    require_torchvision()
    from iif.classification.tuning import gather_moments

    return gather_moments(args.run, args.output, device=args.device, **settings)


def check_plain_model(args: Namespace) -> None:
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


def check_tune(args: Namespace) -> None:
    """Refuse a missing model; find that of a checkpoint that is given alone."""
    if args.all is None:
        if args.config_file is None or args.weights is None:
            raise InputError("--config-file and --weights are missing: the model to tune")
        return
    if args.values is not None:
        raise InputError("--all tries the values that each method proposes: leave --values out")
    if args.all:
        find_model(args)
    check_plain_model(args)


command(
    "fold",
    fold,
    output("FILE.pth", ("", ".yaml"), "the checkpoint to write"),
    *MODEL,
)
command(
    "moments",
    moments,
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
        type=number,
        help="running moments, as batch normalisation keeps them (the authors': 5e-5 or 1e-4; "
        "default: exact ones)",
    ),
    *PLAIN_MODEL,
    check=check_plain_model,
)
command(
    "tune",
    tune,
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
        type=number,
        help="the part of the images to use (default: DATASETS.HELD_OUT of the configuration, or "
        "0.1 where nothing was held out)",
    ),
    arg(
        "--values",
        type=number,
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
