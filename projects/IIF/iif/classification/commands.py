"""What ``iif classify`` does, and ``iif tune`` and ``iif moments`` for a classifier.

A function's docstring is the sub-command's help; its arguments are defined in `iif.cli`.
"""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec

from iif.errors import InputError


def classify(args: Namespace) -> None:
    """Train a classifier on long-tailed images.

    Trains under a long-tail method or as the plain baseline (the default), and tests the last
    epoch. A second stage trains the classifier of a run alone, under the method that is given;
    a plain run can also be tested under a method that acts at test alone. In several processes:
    torchrun --nproc_per_node N -m iif.cli classify ...
    """
    if find_spec("torchvision") is None:
        raise InputError("torchvision is not installed: pip install torchvision tensorboard")
    from iif.classification import checkpoint, evaluate, read_config, train
    from iif.classification.inference import metrics_text

    trained = args.second_stage or args.eval_only
    config = checkpoint.settings(args.config) if trained else read_config(args.config)
    config = config.override(args.settings)
    if args.eval_only:
        summary = evaluate(args.config, args.output, config, device=args.device)
    else:
        summary = train(
            config.of_second_stage() if args.second_stage else config,
            args.output,
            start=args.config if args.second_stage else None,
            resume=args.resume,
            device=args.device,
        )
    if summary is not None:
        print(f"{args.output}: {metrics_text(summary)}")
