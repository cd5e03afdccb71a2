"""The ``iif`` command: parses arguments, calls the rooms, prints. Nothing is computed here.

Each sub-command is one function that adds its parser and one that runs it; a run function imports
what it needs, so that ``iif --help`` and a bad argument answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from iif.errors import InputError

if TYPE_CHECKING:
    from iif.report.pictures import Drawer


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the ``iif`` command with all of its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="iif",
        description="Inverse Image Frequency for long-tailed instance segmentation.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_weights,
        _add_glyphs,
        _add_evaluate,
        _add_compare,
        _add_false_positives,
        _add_report,
        _add_train,
        _add_quickstart,
        _add_fold,
        _add_tune_strength,
    ):
        add(commands)
    return parser


def _add_weights(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "weights",
        help="count classes and make their IIF weights",
        description="Count the classes of an annotation file and write their IIF weights.",
    )
    parser.add_argument("--json", required=True, metavar="FILE", help="training annotations")
    # The values are checked where they are defined, which takes torch: too slow for --help.
    parser.add_argument(
        "--variant",
        default="raw",
        help="raw, smooth, prob, normit, gombit, base2 or base10 (default raw)",
    )
    parser.add_argument("--count-by", default="image", help="image or instance (default image)")
    parser.add_argument(
        "--zero-count",
        default="error",
        help="a class never seen: error, or clamp to count it as seen once (default error)",
    )
    parser.add_argument(
        "--nonpositive",
        default="error",
        help="a weight that is not positive: error, or clamp to the smallest positive one",
    )
    parser.add_argument("--csv", required=True, metavar="FILE", help="the table to write")
    parser.add_argument("--plot", metavar="FILE", help="weight over count as PNG, PDF or SVG")
    parser.set_defaults(run=_run_weights)


def _run_weights(args: argparse.Namespace) -> None:
    from iif.methods.iif import iif_weights
    from iif.report.weights import format_weights, write_weights_csv
    from iif.statistics import ClassStatistics

    statistics = ClassStatistics.from_json(args.json)
    weights = iif_weights(
        statistics,
        args.variant,
        args.count_by,
        zero_count=args.zero_count,
        nonpositive=args.nonpositive,
    )
    print(
        f"{args.json}: {len(statistics):,} classes, {statistics.num_images:,} images, "
        f"{statistics.num_instances:,} instances; {args.variant} weights by {args.count_by}\n"
    )
    print(format_weights(statistics, weights))
    if args.plot:
        from iif.report.plots import save_weights_plot

        save_weights_plot(
            args.plot, statistics, weights, variant=args.variant, count_by=args.count_by
        )
        print(f"\nPlot: {args.plot}")
    write_weights_csv(args.csv, statistics, weights)
    print(f"Table: {args.csv}")


def _add_glyphs(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "glyphs",
        help="make a small long-tailed data set",
        description="Draw characters on textured backgrounds and annotate them as LVIS v1 does: "
        "long-tailed training, balanced validation, federated. The same arguments make the same "
        "files; a data set that is already there is left alone.",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="the folder to make")
    for name, default, text in (
        ("categories", 60, "characters to tell apart"),
        ("train", 1000, "training images"),
        ("val", 300, "validation images"),
        ("image-size", 128, "height and width in pixels"),
        ("seed", 0, "of everything random"),
    ):
        parser.add_argument(
            f"--{name}", type=_count, default=default, help=f"{text} (default {default})"
        )
    parser.add_argument("--workers", type=_count, help="processes (default: one per core)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a data set made with other arguments"
    )
    parser.set_defaults(run=_run_glyphs)


def _run_glyphs(args: argparse.Namespace) -> None:
    from iif.data.glyphs import TRAIN_JSON, VAL_JSON, GlyphSettings, make_glyphs

    settings = GlyphSettings(
        categories=args.categories,
        train=args.train,
        val=args.val,
        image_size=args.image_size,
        seed=args.seed,
    )
    folder = make_glyphs(args.out_dir, settings, workers=args.workers, overwrite=args.overwrite)
    print(f"Training annotations: {folder / TRAIN_JSON}")
    print(f"Validation annotations: {folder / VAL_JSON}")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a result file as LVIS does",
        description="Evaluate a result file as LVIS does: AP and AR for boxes and masks, AP-fixed, "
        "and the outcome of each detection.",
    )
    parser.add_argument("--gt", required=True, help="LVIS-format annotation file")
    parser.add_argument("--results", required=True, help="result file (LVIS's submission format)")
    parser.add_argument(
        "--iou-type",
        nargs="+",
        choices=("bbox", "segm"),
        help="evaluate boxes, masks or both (default: what the results have)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--outcomes", action="store_true", help="write each detection's outcome as CSV"
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="every category is annotated in every image, as in COCO",
    )
    parser.add_argument(
        "--train-json",
        metavar="FILE",
        help="training annotations to count rare, common and frequent categories from, where the "
        "annotation file does not name them (COCO-format)",
    )
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> None:
    from iif.evaluation.summary import evaluate_files, format_summary

    summary = evaluate_files(
        args.gt,
        args.results,
        iou_types=args.iou_type,
        output_dir=args.output,
        outcomes=args.outcomes,
        exhaustive=args.exhaustive,
        train_json=args.train_json,
    )
    print(format_summary(summary))
    if args.iou_type is None and "segm" not in summary["metrics"]:
        print(f"\n{args.results} has no masks: evaluated as boxes alone.")
    print(f"\nSummary, matches{' and outcomes' if args.outcomes else ''}: {args.output}")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="hold evaluated runs beside a baseline",
        description="Hold evaluated runs beside a baseline: metrics, differences with intervals "
        "from a paired bootstrap over images, categories that gained and lost most.",
    )
    parser.add_argument("baseline", help="eval_summary.json, or an output folder that has one")
    parser.add_argument("runs", nargs="+", metavar="run", help="the same of one or more runs")
    parser.add_argument("--names", nargs="+", help="of all runs, the baseline first")
    parser.add_argument("--output", metavar="DIR", help="write tables and plots there")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page")
    parser.add_argument(
        "--bootstrap", type=_count, default=1000, metavar="N", help="replicates (default 1000)"
    )
    parser.add_argument("--seed", type=_count, default=0, help="of the bootstrap (default 0)")
    parser.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> None:
    from iif.evaluation.compare import compare

    comparison = compare(
        [args.baseline, *args.runs], names=args.names, bootstrap=args.bootstrap, seed=args.seed
    )
    if args.output:
        from iif.report.comparison_plots import save_comparison

        save_comparison(comparison, args.output)
    if args.html:
        from iif.report.html import Report, write_report

        note = "There are none: iif report makes the page with false positives and crops."
        write_report(Report(comparison, crops_note=note), args.html)
    print(comparison.to_text())
    if args.output:
        print(f"\nTables and plots: {args.output}")
    if args.html:
        print(f"Page: {args.html}")


def _add_false_positives(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "false-positives",
        help="count and draw false positives at matched recall",
        description="Count false positives where the annotation can prove them, at matched recall "
        "per category, and draw images with most of them removed and added.",
    )
    parser.add_argument("--gt", required=True, help="LVIS-format annotation file")
    parser.add_argument("--results", required=True, help="result file of the run")
    parser.add_argument("--baseline", help="result file of the baseline")
    parser.add_argument("--names", nargs="+", help="of all runs, the baseline first")
    parser.add_argument("--output", required=True, metavar="DIR", help="where tables and PNGs go")
    parser.add_argument("--images", metavar="DIR", help="image folder; without it no pictures")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained page")
    parser.add_argument(
        "--recall", type=float, default=0.5, help="recall to match, per category (default 0.5)"
    )
    parser.add_argument(
        "--iou-type", choices=("bbox", "segm"), help="default: segm where all files have masks"
    )
    parser.add_argument(
        "--exhaustive", action="store_true", help="COCO-format: all categories verified everywhere"
    )
    parser.add_argument(
        "--train-json",
        metavar="FILE",
        help="training annotations to count frequency groups from, where --gt has none",
    )
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--num-images",
        type=_count,
        default=8,
        metavar="N",
        help="with most false positives removed, and as many with most added (default 8)",
    )
    pictures.add_argument(
        "--category", action="append", default=[], help="only this category (name or id); repeat"
    )
    pictures.add_argument(
        "--group",
        action="append",
        default=[],
        choices=("r", "c", "f"),
        help="only categories of this frequency group; repeat",
    )
    pictures.add_argument(
        "--type",
        action="append",
        choices=("Loc", "Cls", "Dupe", "Bkg", "Both"),
        help="choose images by this error type; repeat",
    )
    pictures.add_argument(
        "--image-id", action="append", type=int, help="draw this image; repeat for more"
    )
    parser.set_defaults(run=_run_false_positives)


def _run_false_positives(args: argparse.Namespace) -> None:
    from iif.data.annotations import load_annotations
    from iif.data.images import find_images
    from iif.evaluation import false_positives as fp
    from iif.evaluation import scenes as sc
    from iif.report import pictures
    from iif.statistics import ClassStatistics

    paths = [args.baseline, args.results] if args.baseline else [args.results]
    names = args.names or ["baseline", "IIF"][-len(paths) :]
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise InputError(f"--names: {len(paths)} different names are needed, one for each run")
    fp.check_recall(args.recall)
    statistics = ClassStatistics.from_json(args.train_json) if args.train_json else None
    iou_type = args.iou_type or fp.common_iou_type(paths)
    gt = load_annotations(
        args.gt, exhaustive=args.exhaustive, masks=iou_type == "segm", statistics=statistics
    )
    categories = sc.find_categories(gt, args.category, args.group)
    sc.check_image_ids(gt, args.image_id or [])
    if args.images:
        images, draw_panel = find_images(gt, args.images), _panel_drawer()

    runs = fp.load_runs(gt, dict(zip(names, paths, strict=True)), iou_type=iou_type)
    analysis = fp.analyse(gt, runs, recall=args.recall)
    scenes = sc.choose_scenes(
        analysis,
        gt,
        runs,
        num_images=args.num_images,
        categories=categories,
        error_types=args.type,
        image_ids=args.image_id,
    )
    analysis.save(args.output)
    print(analysis.to_text())
    print(f"\nTables: {args.output}")
    if args.images:
        folder = Path(args.output, "visualizer")
        kind = {"bbox": "box", "segm": "mask"}[analysis.iou_type]
        subtitle = f"At recall {args.recall:g} of each category, {kind} IoU 0.5"
        if args.type:
            subtitle += f"; chosen by {', '.join(dict.fromkeys(args.type))} errors alone"
        pictures.save_pictures(scenes, names, images, folder, draw_panel, subtitle=subtitle)
        print(f"Pictures: {folder} ({len(scenes)})")
    if args.html:
        from iif.report.crops import crops_note, make_crops
        from iif.report.html import Report, write_report

        crops = make_crops(analysis, gt, runs, args.images) if args.images else []
        note = crops_note(analysis, crops, args.images)
        write_report(Report(None, [analysis], crops, note), args.html)
        print(f"Page: {args.html}")


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="write one HTML page: metrics, false positives, crops",
        description="Write one self-contained HTML page of evaluated runs: metrics with "
        "intervals, false positives at matched recall, every category, crops. Runs are given by "
        "their eval_summary.json, or an output folder that has one.",
    )
    parser.add_argument("--gt", required=True, help="annotation file they were evaluated on")
    parser.add_argument(
        "--run", required=True, nargs="+", dest="runs", metavar="RUN", help="one or more runs"
    )
    parser.add_argument("--baseline", metavar="RUN", help="the run to hold them beside")
    parser.add_argument("--output", required=True, metavar="FILE", help="the page, report.html")
    parser.add_argument("--names", nargs="+", help="of all runs, the baseline first")
    parser.add_argument("--images", metavar="DIR", help="image folder; without it no crops")
    parser.add_argument(
        "--crops", type=_count, default=200, metavar="N", help="at most so many (default 200)"
    )
    parser.add_argument(
        "--recall", type=float, default=0.5, help="recall to match, per category (default 0.5)"
    )
    parser.add_argument(
        "--bootstrap", type=_count, default=1000, metavar="N", help="replicates (default 1000)"
    )
    parser.add_argument("--seed", type=_count, default=0, help="of the bootstrap (default 0)")
    parser.add_argument(
        "--train-json",
        metavar="FILE",
        help="training annotations to count frequency groups from, where --gt has none",
    )
    parser.set_defaults(run=_run_report)


def _run_report(args: argparse.Namespace) -> None:
    from iif.report.build import build_report
    from iif.report.html import write_report

    report = build_report(
        args.gt,
        [args.baseline, *args.runs] if args.baseline else args.runs,
        names=args.names,
        images=args.images,
        max_crops=args.crops,
        recall=args.recall,
        bootstrap=args.bootstrap,
        seed=args.seed,
        train_json=args.train_json,
    )
    write_report(report, args.output)
    print(f"Page: {args.output}")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train with torchvision (with Detectron2: train_net.py)",
        description="Train torchvision's Faster R-CNN or Mask R-CNN, with IIF or as the plain "
        "baseline (variant=none), and evaluate it. In several processes: torchrun "
        "--nproc_per_node N -m iif.cli train ...",
    )
    parser.add_argument("--json", help="training annotations, LVIS- or COCO-format")
    parser.add_argument("--val-json", help="annotations to evaluate on")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--val-images", metavar="DIR", help="of --val-json; default: --images")
    parser.add_argument("--output", required=True, metavar="DIR", help="where the run goes")
    parser.add_argument(
        "--exhaustive", action="store_true", help="COCO-format: all categories verified everywhere"
    )
    parser.add_argument(
        "--preset",
        choices=("lvis", "glyphs"),
        default="lvis",
        help="settings to start from: the published ones on LVIS (default) or the demo's",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    going = parser.add_mutually_exclusive_group()
    going.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    going.add_argument(
        "--eval-only", action="store_true", help="evaluate the last checkpoint in --output"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="settings, see docs/torchvision.md"
    )
    parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> None:
    if find_spec("torchvision") is None:
        raise InputError("torchvision is not installed: pip install torchvision tensorboard")
    from iif.evaluation.summary import format_summary
    from iif.tv import TrainConfig, evaluate, train
    from iif.tv.config import GLYPHS

    if args.eval_only:
        if args.val_json is None or args.settings:
            raise InputError("--eval-only needs --val-json, and takes the trained run's settings")
        summary = evaluate(
            args.output,
            args.val_json,
            args.val_images or args.images,
            args.output,
            exhaustive=args.exhaustive,
            device=args.device,
        )
    elif args.json is None:
        raise InputError("--json is missing: the annotations to train on")
    else:
        preset = {"lvis": TrainConfig(), "glyphs": GLYPHS}[args.preset]
        summary = train(
            args.json,
            args.images,
            args.output,
            preset.override(args.settings),
            val_json=args.val_json,
            val_image_root=args.val_images,
            exhaustive=args.exhaustive,
            resume=args.resume,
            device=args.device,
        )
    if summary is not None:
        print(format_summary(summary))


def _add_quickstart(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "quickstart",
        help="the whole way on a small data set: train, evaluate, compare, report",
        description="Make the glyph data set, train the baseline and IIF on two CPU cores in "
        "minutes, evaluate and compare them, draw false positives and write the report.",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "detectron2", "torchvision"),
        default="auto",
        help="default: Detectron2 where it is installed, torchvision otherwise",
    )
    parser.add_argument(
        "--out",
        default="output/demo",
        metavar="DIR",
        help="where it goes; finished steps in it are not done again (default %(default)s)",
    )
    parser.add_argument("--seed", type=_count, default=0, help="of data and training (default 0)")
    parser.set_defaults(run=_run_quickstart)


def _run_quickstart(args: argparse.Namespace) -> None:
    from iif.quickstart import quickstart

    quickstart(args.out, engine=args.engine, seed=args.seed)


def _add_fold(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "fold",
        help="write IIF into the classifier of a checkpoint, for Detectron2 alone",
        description="Write IIF's weights into the linear classifier of a checkpoint. The result "
        "is an ordinary Detectron2 checkpoint with the same detections, and its configuration "
        "beside it.",
    )
    parser.add_argument("--output", required=True, metavar="FILE.pth", help="what to write")
    _add_model_arguments(parser)
    parser.set_defaults(run=_run_fold)


def _run_fold(args: argparse.Namespace) -> None:
    _require_detectron2()
    from iif.d2.checkpoint import fold
    from iif.d2.train import load_config

    config = fold(load_config(args), args.weights, args.output)
    print(f"Checkpoint: {args.output}\nConfiguration: {config}")


def _add_tune_strength(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "tune-strength",
        help="choose the strength of post-hoc IIF on held-out training images",
        description="Measure box AP of a model trained without IIF at several strengths of "
        "post-hoc IIF, on a held-out part of its training set; choose the best; write the curve "
        "and a configuration with the chosen value. Test sets are refused.",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write to")
    parser.add_argument("--dataset", metavar="NAME", help="default: the first of DATASETS.TRAIN")
    parser.add_argument(
        "--fraction",
        type=float,
        help="the part of the images to use (default: DATASETS.HELD_OUT of the configuration, or "
        "0.1 where nothing was held out)",
    )
    parser.add_argument(
        "--strengths",
        type=float,
        nargs="+",
        default=[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5],
        metavar="S",
        help="the exponents of the weights to try (default: 0 to 1.5 by 0.25)",
    )
    _add_model_arguments(parser)
    parser.set_defaults(run=_run_tune_strength)


def _run_tune_strength(args: argparse.Namespace) -> None:
    _require_detectron2()
    from iif.d2.post_hoc import format_curve, tune_strength
    from iif.d2.train import load_config

    result = tune_strength(
        load_config(args),
        args.weights,
        args.output,
        dataset=args.dataset,
        fraction=args.fraction,
        strengths=args.strengths,
    )
    print(f"Box AP on {result['num_images']} images of {result['dataset']['name']}:")
    print(format_curve(result))
    if result["seen_in_training"]:
        print(
            "Note: some of these images were trained on (DATASETS.HELD_OUT is smaller than "
            f"{result['fraction']:g}), where the model is better than on new ones."
        )
    print(f"Curve and configuration: {args.output}")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its checkpoint")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="overrides of the configuration, after all options, as for train_net.py",
    )


def _require_detectron2() -> None:
    if find_spec("detectron2") is None:
        raise InputError("this needs Detectron2, which is not installed: see README.md")


def _panel_drawer() -> Drawer:
    """Return Detectron2's drawer where it is installed, else torchvision's."""
    if find_spec("detectron2") is not None:
        from iif.d2.visualizer import draw_panel
    elif find_spec("torchvision") is not None:
        from iif.tv.drawing import draw_panel
    else:
        raise InputError(
            "pictures need Detectron2 or torchvision; install one, or leave --images out"
        )
    return draw_panel


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    # One plain line: where in the program a warning arises tells a user nothing.
    warnings.formatwarning = lambda message, *_, **__: f"iif: warning: {message}\n"
    # Detectron2 and torchvision script functions as they are imported; users can do nothing of it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"iif {args.command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has seen enough. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
