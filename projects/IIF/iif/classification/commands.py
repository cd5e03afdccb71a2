"""What ``iif classify`` does, and ``iif tune`` and ``iif moments`` for a classifier.

Arguments are defined in `iif.cli`; torch is imported when it is needed.
"""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iif import layout
from iif.errors import InputError

if TYPE_CHECKING:
    from iif.methods.moments import Moments


def classify(args: Namespace) -> None:
    """Train a classifier on long-tailed images.

    Trains under a long-tail method or as the plain baseline (the default), and tests the last
    epoch. A second stage trains the classifier of a run alone, under the method that is given;
    a plain run can also be tested under a method that acts at test alone. In several processes:
    torchrun --nproc_per_node N -m iif.cli classify ...
    """
    _require_torchvision()
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


def is_classifier(run: str) -> bool:
    """Return whether a run, a folder or a checkpoint in it, is one of ``iif classify``."""
    path = Path(run)
    folder = path if path.is_dir() else path.parent
    return (folder / layout.CLASSIFICATION_JSON).is_file()


def tune_classifier(args: Namespace) -> None:
    """Choose a post-hoc method and its value for a classifier."""
    _require_torchvision()
    from iif.classification.tuning import tune_all, tuning_text

    found = tune_all(args.run, args.output, fraction=args.fraction, device=args.device)
    print(f"{tuning_text(found)}\nPlain checkpoint: {found['folded']}")


def classifier_moments(args: Namespace, settings: dict[str, Any]) -> Moments:
    """Gather the moments of a classifier's logits."""
    _require_torchvision()
    from iif.classification.tuning import gather_moments

    return gather_moments(args.run, args.output, device=args.device, **settings)


def _require_torchvision() -> None:
    if find_spec("torchvision") is None:
        raise InputError("torchvision is not installed: pip install torchvision tensorboard")
