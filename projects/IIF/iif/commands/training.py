"""Train, and use what was trained: quickstart, train, classify, predict."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from iif import layout
from iif.commands.arguments import (
    EXHAUSTIVE,
    ONE_OF,
    arg,
    count,
    itself,
    model_files,
    number,
    output,
    require_torchvision,
    settings_or_run,
    unless_own,
)
from iif.commands.command import command
from iif.commands.settings import settings_text
from iif.errors import InputError
from iif.files import read_json

# The part of the images that is held out where no validation set is given.
_VAL_PART = 0.1


def train(args: Namespace) -> None:
    """Train on your own data with torchvision (with Detectron2: train_net.py).

    Chooses model, image size, batch, learning rate and length from the training data, and says
    what and why; KEY=VALUE changes each. Trains torchvision's Faster R-CNN or Mask R-CNN under a
    long-tail method or as the plain baseline (method=none), evaluates it during training and at
    the end, keeps the best and the last checkpoint, and writes a report. In several processes:
    torchrun --nproc_per_node N -m iif.cli train ...
    """
    require_torchvision()
    if args.eval_only:
        evaluate_run(args)
        return
    from iif.commands.finish import finish_text
    from iif.distributed import pick_device
    from iif.methods import BASELINE
    from iif.tv import TrainConfig, train
    from iif.tv.config import read_config
    from iif.tv.defaults import choose
    from iif.tv.trainer import refuse_earlier_run

    TrainConfig().override(args.settings)  # a mistyped one is told before anything is written
    refuse_earlier_run(Path(args.output), args.resume)
    annotations, validation, notes = training_files(args)
    own = Path(args.output, layout.CONFIG_JSON)
    if args.config is not None:
        config = read_config(args.config)[0].override(args.settings)
    elif args.resume and own.is_file():
        config = read_config(own)[0].override(args.settings)
        notes.append(f"Settings: those of {own}.")
    else:
        choice = choose(
            annotations,
            args.settings,
            device=pick_device(args.device),
            validated=validation is not None,
        )
        config, notes = choice.config, [*choice.notes, *notes]
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        print("\n".join(notes), flush=True)
    summary = train(
        annotations,
        args.images,
        args.output,
        config,
        val_json=validation,
        val_image_root=args.val_images,
        exhaustive=args.exhaustive,
        resume=args.resume,
        device=args.device,
        notes=notes,
    )
    if first:
        page = write_page(args, summary)
        baseline = None if config.method == BASELINE else BASELINE
        print(finish_text(args.output, summary, report=page, baseline=baseline))


def evaluate_run(args: Namespace) -> None:
    """Evaluate a run, or a checkpoint of one."""
    from iif.report.text import summary_text
    from iif.tv import checkpoint, evaluate
    from iif.tv.config import read_config

    config, named = (None, None) if args.config is None else read_config(args.config)
    model = args.run or named or args.output
    if args.settings:
        config = (config or checkpoint.settings(model)).override(args.settings)
    summary = evaluate(
        model,
        args.val,
        args.val_images or args.images,
        args.output,
        config=config,
        exhaustive=args.exhaustive,
        device=args.device,
    )
    if summary is not None:
        print(summary_text(summary))


def training_files(args: Namespace) -> tuple[str | Path, str | Path | None, list[str]]:
    """Return the annotations to train and to evaluate on, and what was done to get them."""
    preset = [text.partition("=")[2] for text in args.settings if text.startswith("preset=")]
    whole = args.config is not None or (preset and preset[-1] != "own")
    folder, run = Path(args.output, layout.SPLIT), Path(args.output, layout.CONFIG_JSON)
    if args.resume and run.is_file():  # as the run began
        recorded = read_json(run, dict[str, Any], what="settings (config.json)").get("train", "")
        whole = Path(recorded).parent.name != layout.SPLIT
    if args.val is not None or args.val_part == 0 or (args.val_part is None and whole):
        return args.train, args.val, []
    from iif.data.annotation_file import read_annotation_file
    from iif.data.split import write_split
    from iif.distributed import lock_output

    read_annotation_file(args.train)
    part = _VAL_PART if args.val_part is None else args.val_part
    first = int(os.environ.get("RANK", 0)) == 0
    with lock_output(args.output) if first else contextlib.nullcontext():
        train, val = write_split(args.train, folder, part)
    note = (
        f"No --val is given: {part:.0%} of the images are held out to evaluate on ({val}); "
        "--val-part chooses how many, 0 trains on all. Where several images show the same scene, "
        "split by scenes yourself and give --val."
    )
    return train, val, [note]


def write_page(args: Namespace, summary: dict[str, Any] | None) -> Path | None:
    """Write the report of a run that was evaluated; return its path."""
    if summary is None:
        return None
    from iif.report import pipelines
    from iif.report.html import write_report

    comparison = pipelines.compare_for_page([args.output]).comparison
    analysed = pipelines.analyse_compared(pipelines.find_annotations(comparison), comparison)
    images = args.val_images or args.images
    page = Path(args.output, layout.REPORT)
    write_report(pipelines.make_report(comparison, analysed, images=images), page)
    return page


def check_train(args: Namespace) -> None:
    """Refuse missing training or test annotations."""
    if args.eval_only and args.val is None:
        raise InputError("--eval-only needs --val")
    if args.run is not None and not args.eval_only:
        raise InputError("--run is the model that --eval-only evaluates")
    if not args.eval_only and args.train is None:
        raise InputError("--train is missing: the annotations to train on")
    if args.val is not None and args.val_part is not None:
        raise InputError("--val-part is for a training without --val")


def classify(args: Namespace) -> None:
    """Train a classifier on long-tailed images.

    Trains under a long-tail method or as the plain baseline (the default), and tests the last
    epoch. A second stage trains the classifier of a run alone, under the method that is given;
    a plain run can also be tested under a method that acts at test alone. In several processes:
    torchrun --nproc_per_node N -m iif.cli classify ...
    """
    require_torchvision()
    from iif.classification import checkpoint, evaluate, read_config, train
    from iif.classification.inference import metrics_text

    trained = args.second_stage or args.eval_only
    config = checkpoint.settings(args.config) if trained else read_config(args.config)
    if args.second_stage:
        config = config.of_second_stage()
    config = config.override(args.settings)
    if args.eval_only:
        summary = evaluate(args.config, args.output, config, device=args.device)
    else:
        summary = train(
            config,
            args.output,
            start=args.config if args.second_stage else None,
            resume=args.resume,
            device=args.device,
        )
    if summary is not None:
        print(f"{args.output}: {metrics_text(summary)}")


def check_classify(args: Namespace) -> None:
    """Refuse to train and to test alone at once."""
    if args.eval_only and (args.second_stage or args.resume):
        raise InputError("--eval-only tests a run; leave --second-stage and --resume out")


def predict(args: Namespace) -> None:
    """Detect objects in images with a trained run: JSON and pictures."""
    from iif.predict import image_files, load_predictor
    from iif.predict import predict as run_predictor

    files = image_files(args.images)
    predictor = load_predictor(args.run, args.device)
    path = run_predictor(
        predictor,
        files,
        args.output,
        min_score=args.min_score,
        pictures=not args.no_pictures,
    )
    print(f"Detections: {path}")
    if not args.no_pictures:
        print(f"Pictures:   {path.parent / 'pictures'} ({len(files)})")


def quickstart(args: Namespace) -> None:
    """Run every step on a small data set: train, evaluate, compare, report.

    Makes the OpenMoji data set, trains the baseline and IIF on two CPU cores in minutes, evaluates
    and compares them, draws false positives and writes the report; for detection or, with crops of
    the drawings, for classification.
    """
    if args.task == "classification":
        from iif.demo.classification import quickstart as classify

        require_torchvision()
        classify(args.out, seed=args.seed)
        return
    from iif.demo.quickstart import quickstart

    quickstart(args.out, engine=args.engine, seed=args.seed)


command(
    "train",
    train,
    arg(
        "--train",
        metavar="FILE",
        reads=itself,
        help="training annotations in LVIS's or COCO's format (told from the content)",
    ),
    arg(
        "--val",
        metavar="FILE",
        reads=itself,
        help="annotations to evaluate on (default: a part of --train that is held out)",
    ),
    arg("--images", required=True, metavar="DIR", help="folder of the images"),
    arg("--val-images", metavar="DIR", help="of --val; default: --images"),
    arg(
        "--val-part",
        type=number,
        metavar="P",
        help=f"without --val: the part of the images to hold out (default {_VAL_PART}; with "
        "--config or preset=lvis 0, no evaluation)",
    ),
    output("DIR", (), "the folder to write to"),
    EXHAUSTIVE,
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
        help="settings to start from: a config.json (default: chosen from the training data)",
    ),
    arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, listed below"),
    check=check_train,
    details=lambda: settings_text("train"),
    after_interrupt="go on from the last checkpoint with --resume",
)
command(
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
    arg("settings", nargs="*", metavar="KEY=VALUE", help="settings, listed below"),
    check=check_classify,
    details=lambda: settings_text("classify"),
    after_interrupt="go on from the last checkpoint with --resume",
)
command(
    "predict",
    predict,
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
        type=number,
        default=0.5,
        metavar="S",
        help="leave out detections with a lower score (default %(default)s)",
    ),
    arg("--no-pictures", action="store_true", help="write the JSON file alone"),
    arg("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)"),
)
command(
    "quickstart",
    quickstart,
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
