"""Look at runs: report, false-positives."""

from __future__ import annotations

import webbrowser
from argparse import Namespace
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

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
    count,
    evaluation_files,
    itself,
    output,
    training_statistics,
)
from iif.commands.command import command
from iif.errors import InputError

if TYPE_CHECKING:
    from iif.report.pictures import Drawer


def false_positives(args: Namespace) -> None:
    """Count and draw false positives at matched recall.

    Counts verified false positives at matched recall of each category, and draws the images from
    which the run removed most of them and to which it added most.
    """
    from iif.data.annotations import load_annotations
    from iif.data.images import find_images
    from iif.data.sources import open_sources
    from iif.evaluation import scenes as sc
    from iif.evaluation.operating_points import check_recall
    from iif.evaluation.runs import common_iou_type
    from iif.report import pipelines
    from iif.report.html import write_report
    from iif.report.text import false_positives_text, save_false_positives

    given = [args.baseline, args.results] if args.baseline else [args.results]
    names = args.names or ["baseline", "IIF"][-len(given) :]
    if len(names) != len(given) or len(set(names)) != len(names):
        raise InputError(f"{len(given)} different names are needed, one for each run")
    check_recall(args.recall)
    statistics = training_statistics(args)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_sources(files)) for files in given]
        iou_type = args.iou_type or common_iou_type(sources)
        gt = load_annotations(
            args.gt, exhaustive=args.exhaustive, masks=iou_type == "segm", statistics=statistics
        )
        categories = sc.find_categories(gt, args.category, args.group)
        sc.check_image_ids(gt, args.image_id or [])
        if args.images:
            images, draw_panel = find_images(gt, args.images), _panel_drawer()
        results = dict(zip(names, sources, strict=True))
        analysed = pipelines.analyse_results(gt, results, iou_type=iou_type, recall=args.recall)
    scenes = sc.choose_scenes(
        analysed.analysis,
        gt,
        analysed.runs,
        num_images=args.num_images,
        categories=categories,
        error_types=args.type,
        image_ids=args.image_id,
    )
    save_false_positives(analysed.analysis, args.output)
    print(false_positives_text(analysed.analysis))
    print(f"\nTables: {args.output}")
    if args.images:
        folder = Path(args.output, layout.VISUALIZER)
        pipelines.save_pictures(analysed, scenes, images, folder, draw_panel, error_types=args.type)
        print(f"Pictures: {folder} ({len(scenes)})")
    if args.html:
        write_report(pipelines.make_report(None, analysed, images=args.images), args.html)
        print(f"Page: {args.html}")


def report(args: Namespace) -> None:
    """Write one HTML page: what changed, what to do now, and all figures behind it.

    The page is self-contained: metrics with intervals, false positives at matched recall, every
    category, crops, training. A run is given by its eval_summary.json, or an output folder that
    has one; the first of several is the baseline. Runs of image classification have a page of
    their own: accuracy, false positives, calibration, every class.
    """
    from iif.classification import reports
    from iif.data.groups import given_limits
    from iif.evaluation.operating_points import check_recall
    from iif.report import pipelines
    from iif.report.html import write_report

    check_recall(args.recall)
    if not reports.report(args):
        compared = pipelines.compare_for_page(
            reports.runs_of(args),
            names=args.names,
            bootstrap=args.bootstrap,
            seed=args.seed,
            recall=args.recall,
            group_limits=given_limits(args.groups),
        )
        comparison = compared.comparison
        analysed = pipelines.analyse_compared(
            args.gt or pipelines.find_annotations(comparison),
            comparison,
            recall=args.recall,
            train_json=args.train_json,
            pictures=args.images is not None,
        )
        page = pipelines.make_report(
            comparison,
            analysed,
            images=args.images,
            max_crops=args.crops,
            everything=compared.everything,
            pooled=compared.pooled,
        )
        write_report(page, args.output)
        print(f"Page: {args.output}")
    if args.open and not webbrowser.open(Path(args.output).resolve().as_uri()):
        print("No browser could be started: open the page yourself.")


def check_report(args: Namespace) -> None:
    """Refuse a report without a run."""
    if not args.runs and not args.run and not args.baseline:
        raise InputError(
            "no run is given: name an eval_summary.json, or an output folder that has one"
        )


def _panel_drawer() -> Drawer:
    """Return Detectron2's drawer where it is installed, else torchvision's."""
    if find_spec("detectron2") is not None:
        from iif.d2.visualizer import draw_panel
    elif find_spec("torchvision") is not None:
        from iif.tv.drawing import draw_panel
    else:
        raise InputError(
            "pictures need Detectron2 or torchvision; install one, or give no image folder"
        )
    return draw_panel


command(
    "false-positives",
    false_positives,
    GT,
    RESULTS,
    arg(
        "--baseline",
        nargs="+",
        metavar="FILE",
        reads=itself,
        help="detections of the baseline, likewise",
    ),
    NAMES,
    output("DIR", layout.FALSE_POSITIVE_TABLES, "folder of the tables and pictures"),
    arg("--images", metavar="DIR", help="image folder; without it no pictures"),
    HTML,
    RECALL,
    arg("--iou-type", choices=("bbox", "segm"), help="default: segm where all files have masks"),
    EXHAUSTIVE,
    TRAIN_JSON,
    GROUPS,
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
        type=count,
        help="draw this image; repeat for more",
        group="pictures",
    ),
)
command(
    "report",
    report,
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
    GROUPS,
    check=check_report,
)
