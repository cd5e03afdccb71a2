"""What ``iif evaluate`` does, and ``iif compare`` with several seeds a method."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from iif.errors import InputError

if TYPE_CHECKING:
    from iif.statistics import ClassStatistics


def evaluate(args: Namespace) -> int:
    """Evaluate a result file as LVIS does, or as COCO does.

    The annotation file's content decides: LVIS's format or COCO's. Computes AP and AR for boxes and
    masks, AP-fixed, and the outcome of each detection.
    """
    from iif.evaluation.evaluate import evaluate_files
    from iif.evaluation.export import export_metrics, require_tensorboard
    from iif.report.analyses import analyses_text
    from iif.report.text import summary_text

    if args.tensorboard:
        require_tensorboard()
    summary = evaluate_files(
        args.gt,
        args.results,
        iou_types=args.iou_type,
        output_dir=args.output,
        outcomes=args.outcomes,
        exhaustive=args.exhaustive,
        statistics=training_statistics(args),
        max_dets=args.max_dets,
        analyses=args.analyses,
    )
    export_metrics(summary, csv_file=args.csv, tensorboard=args.tensorboard, step=args.step)
    print(summary_text(summary))
    if args.analyses:
        print(f"\n{analyses_text(summary)}")
    if args.iou_type is None and "segm" not in summary["metrics"]:
        print(f"\n{args.results} has no masks: evaluated as boxes alone.")
    print(f"\nSummary, matches{' and outcomes' if args.outcomes else ''}: {args.output}")
    if not args.verify:
        return 0
    from iif.evaluation.verify import verify
    from iif.report.verification import verification_text

    found = verify(args.gt, args.results, list(summary["metrics"]), max_dets=args.max_dets)
    print(f"\n{verification_text(found)}")
    return 0 if all(one.equal for one in found) else 1


def compare_seeds(args: Namespace) -> None:
    """Compare methods whose runs have equal names: their seeds."""
    from iif.evaluation.seeds import compare_seeds
    from iif.report.seeds import save_seeds, seeds_text

    if args.html:
        raise InputError("a comparison of several seeds a method has no page, only text and JSON")
    runs = [args.baseline, *args.runs]
    found = compare_seeds(runs, args.names, bootstrap=args.bootstrap, seed=args.seed)
    if args.output:
        save_seeds(found, args.output)
    print(seeds_text(found))


def training_statistics(args: Namespace) -> ClassStatistics | None:
    """Return the counts of the training annotations, where they are given."""
    from iif.statistics import ClassStatistics

    return ClassStatistics.from_json(args.train_json) if args.train_json else None
