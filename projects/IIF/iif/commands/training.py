"""Train, and use what was trained: quickstart, train, classify, predict."""

from __future__ import annotations

from argparse import Namespace

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


def train(args: Namespace) -> None:
    """Train with torchvision (with Detectron2: train_net.py).

    Trains torchvision's Faster R-CNN or Mask R-CNN, under a long-tail method or as the plain
    baseline (method=none), and evaluates it. In several processes: torchrun --nproc_per_node N
    -m iif.cli train ...
    """
    require_torchvision()
    from iif.report.text import summary_text
    from iif.tv import TrainConfig, checkpoint, evaluate, train
    from iif.tv.config import OPENMOJI, read_config

    config, named = (None, None) if args.config is None else read_config(args.config)
    if args.eval_only:
        model = args.run or named or args.output
        if args.settings:
            config = (config or checkpoint.settings(model)).override(args.settings)
        summary = evaluate(
            model,
            args.val_json,
            args.val_images or args.images,
            args.output,
            config=config,
            exhaustive=args.exhaustive,
            device=args.device,
        )
    else:
        preset = {"lvis": TrainConfig(), "openmoji": OPENMOJI}[args.preset]
        summary = train(
            args.json,
            args.images,
            args.output,
            (config or preset).override(args.settings),
            val_json=args.val_json,
            val_image_root=args.val_images,
            exhaustive=args.exhaustive,
            resume=args.resume,
            device=args.device,
        )
    if summary is not None:
        print(summary_text(summary))


def check_train(args: Namespace) -> None:
    """Refuse missing training or test annotations."""
    if args.eval_only and args.val_json is None:
        raise InputError("--eval-only needs --val-json")
    if args.run is not None and not args.eval_only:
        raise InputError("--run is the model that --eval-only evaluates")
    if not args.eval_only and args.json is None:
        raise InputError("--json is missing: the annotations to train on")


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
