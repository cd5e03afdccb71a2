"""Evaluate and compare: evaluate, compare."""

from __future__ import annotations

from argparse import Namespace

from iif import layout
from iif.commands.arguments import (
    BOOTSTRAP,
    EXHAUSTIVE,
    FILE,
    GROUPS,
    GT,
    HTML,
    NAMES,
    RECALL,
    RESULTS,
    SEED,
    TRAIN_JSON,
    arg,
    cap,
    count,
    evaluation_files,
    output,
    training_statistics,
)
from iif.commands.command import command
from iif.errors import InputError


def evaluate(args: Namespace) -> int:
    """Evaluate a run's result files as LVIS does, or as COCO does.

    The annotation file's content decides: LVIS's format or COCO's. Computes AP and AR for boxes and
    masks, AP-fixed, and the outcome of each detection.
    """
    from iif.data.sources import open_sources
    from iif.evaluation.evaluate import evaluate_files
    from iif.evaluation.export import export_metrics, require_tensorboard
    from iif.evaluation.verify import verify
    from iif.report.analyses import analyses_text
    from iif.report.text import summary_text
    from iif.report.verification import verification_text

    if args.tensorboard:
        require_tensorboard()
    with open_sources(args.results) as sources:
        summary = evaluate_files(
            args.gt,
            sources,
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
            have = "has" if len(sources) == 1 else "have"
            names = ", ".join(source.name for source in sources)
            print(f"\n{names} {have} no masks: evaluated as boxes alone.")
        print(f"\nSummary, matches{' and outcomes' if args.outcomes else ''}: {args.output}")
        if not args.verify:
            return 0
        found = verify(args.gt, sources, list(summary["metrics"]), max_dets=args.max_dets)
    print(f"\n{verification_text(found)}")
    return 0 if all(one.equal for one in found) else 1


def compare(args: Namespace) -> None:
    """Compare evaluated runs with a baseline.

    Shows metrics, differences with intervals from a paired bootstrap over images, and the
    categories that gained and lost most. Runs of the same name are seeds of one method: means,
    standard deviations, intervals over seeds and images. Runs of detection or of image
    classification.
    """
    from iif.classification import reports
    from iif.data.groups import given_limits

    if reports.compare(args):
        return
    from iif.evaluation.compare import compare
    from iif.report import pipelines
    from iif.report.html import write_report
    from iif.report.text import comparison_text

    if args.names and len(set(args.names)) < len(args.names):
        compare_seeds(args)
        return
    comparison = compare(
        [args.baseline, *args.runs],
        names=args.names,
        bootstrap=args.bootstrap,
        seed=args.seed,
        recall=args.recall,
        group_limits=given_limits(args.groups),
    )
    if args.output:
        pipelines.save_comparison(comparison, args.output)
    if args.html:
        write_report(pipelines.make_report(comparison), args.html)
    print(comparison_text(comparison))
    if args.output:
        print(f"\nTables and plots: {args.output}")
    if args.html:
        print(f"Page: {args.html}")


def compare_seeds(args: Namespace) -> None:
    """Compare methods whose runs have equal names: their seeds."""
    from iif.data.groups import given_limits
    from iif.evaluation.seeds import compare_seeds
    from iif.report.seeds import save_seeds, seeds_text

    if args.html:
        raise InputError("a comparison of several seeds a method has no page, only text and JSON")
    runs = [args.baseline, *args.runs]
    found = compare_seeds(
        runs,
        args.names,
        bootstrap=args.bootstrap,
        seed=args.seed,
        group_limits=given_limits(args.groups),
    )
    if args.output:
        save_seeds(found, args.output)
    print(seeds_text(found))


command(
    "evaluate",
    evaluate,
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
    arg(
        "--csv",
        metavar="FILE",
        writes=FILE,
        help="write the metrics as a table, by category too",
    ),
    arg("--tensorboard", metavar="DIR", writes=(), help="add the metrics to a TensorBoard log"),
    arg("--step", type=count, default=0, help="of the TensorBoard log (default %(default)s)"),
    arg(
        "--verify",
        action="store_true",
        help="run the official evaluator (lvis, or COCOeval) on the same files, too, and print the "
        "largest difference; exit status 1 where it is above 1e-9 percentage points",
    ),
    EXHAUSTIVE,
    TRAIN_JSON,
    GROUPS,
)
command(
    "compare",
    compare,
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
    GROUPS,
    BOOTSTRAP,
    SEED,
)
