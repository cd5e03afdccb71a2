"""What the ``iif`` command's sub-commands do: each calls the library and prints.

A function's docstring is the sub-command's help; its arguments are defined in `iif.cli`. It imports
what it needs, so that ``iif --help`` and a bad argument answer at once.
"""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from iif import layout
from iif.errors import InputError
from iif.evaluating import compare_seeds, training_statistics

if TYPE_CHECKING:
    from iif.report.pictures import Drawer


def weights(args: Namespace) -> None:
    """Count the classes of an annotation file and write their IIF weights."""
    from iif.methods.iif import iif_weights
    from iif.report.weights import format_weights, write_weights_csv
    from iif.statistics import ClassStatistics

    statistics = ClassStatistics.from_json(args.json)
    values = iif_weights(
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
    print(format_weights(statistics, values))
    if args.plot:
        from iif.report.plots import save_weights_plot

        save_weights_plot(
            args.plot, statistics, values, variant=args.variant, count_by=args.count_by
        )
        print(f"\nPlot: {args.plot}")
    write_weights_csv(args.csv, statistics, values)
    print(f"Table: {args.csv}")


def methods(args: Namespace) -> None:
    """List the long-tail methods: phase, needs, options, paper."""
    from iif.methods.facts import all_facts
    from iif.report.methods import methods_text
    from iif.report.records import json_text

    found = all_facts()
    print(json_text({"methods": found}) if args.json else methods_text(found))


def openmoji(args: Namespace) -> None:
    """Make a small long-tailed data set.

    Lays OpenMoji's drawings on textured backgrounds and annotates them as LVIS v1 does: long-tailed
    training, balanced validation, federated. The same arguments make the same files. A data set
    of the same arguments that is already there is kept. The images have the licence of the
    drawings, CC BY-SA 4.0.
    """
    from iif.demo.openmoji import TRAIN_JSON, VAL_JSON, make_openmoji, read_groups
    from iif.demo.plan import OpenMojiSettings

    settings = OpenMojiSettings(
        categories=args.categories,
        train=args.train,
        val=args.val,
        image_size=args.image_size,
        seed=args.seed,
    )
    folder = make_openmoji(args.out_dir, settings, workers=args.workers, overwrite=args.overwrite)
    groups = read_groups(folder)
    few = "" if all(groups.values()) else " (too few training images or categories for all three)"
    print(f"Categories: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent{few}")
    print(f"Training annotations: {folder / TRAIN_JSON}")
    print(f"Validation annotations: {folder / VAL_JSON}")


def compare(args: Namespace) -> None:
    """Compare evaluated runs with a baseline.

    Shows metrics, differences with intervals from a paired bootstrap over images, and the
    categories that gained and lost most. Runs of the same name are seeds of one method: means,
    standard deviations, intervals over seeds and images.
    """
    from iif.evaluation.compare import compare
    from iif.report import pipelines
    from iif.report.html import write_report
    from iif.report.text import comparison_text

    if args.names and len(set(args.names)) < len(args.names):
        compare_seeds(args)
        return
    comparison = compare(
        [args.baseline, *args.runs], names=args.names, bootstrap=args.bootstrap, seed=args.seed
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


def false_positives(args: Namespace) -> None:
    """Count and draw false positives at matched recall.

    Counts verified false positives at matched recall of each category, and draws the images from
    which the run removed most of them and to which it added most.
    """
    from iif.data.annotations import load_annotations
    from iif.data.images import find_images
    from iif.evaluation import scenes as sc
    from iif.evaluation.operating_points import check_recall
    from iif.evaluation.runs import common_iou_type
    from iif.report import pipelines
    from iif.report.html import write_report
    from iif.report.text import false_positives_text, save_false_positives

    paths = [args.baseline, args.results] if args.baseline else [args.results]
    names = args.names or ["baseline", "IIF"][-len(paths) :]
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise InputError(f"{len(paths)} different names are needed, one for each run")
    check_recall(args.recall)
    statistics = training_statistics(args)
    iou_type = args.iou_type or common_iou_type(paths)
    gt = load_annotations(
        args.gt, exhaustive=args.exhaustive, masks=iou_type == "segm", statistics=statistics
    )
    categories = sc.find_categories(gt, args.category, args.group)
    sc.check_image_ids(gt, args.image_id or [])
    if args.images:
        images, draw_panel = find_images(gt, args.images), _panel_drawer()

    results = dict(zip(names, paths, strict=True))
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
    """Write one HTML page: metrics, false positives, crops.

    The page is self-contained: metrics with intervals, false positives at matched recall, every
    category, crops. A run is given by its eval_summary.json, or an output folder that has one.
    """
    from iif.evaluation.compare import compare
    from iif.evaluation.operating_points import check_recall
    from iif.report import pipelines
    from iif.report.html import write_report

    check_recall(args.recall)
    runs = [args.baseline, *args.runs] if args.baseline else args.runs
    comparison = compare(runs, names=args.names, bootstrap=args.bootstrap, seed=args.seed)
    analysed = pipelines.analyse_compared(
        args.gt,
        comparison,
        recall=args.recall,
        train_json=args.train_json,
        pictures=args.images is not None,
    )
    page = pipelines.make_report(comparison, analysed, images=args.images, max_crops=args.crops)
    write_report(page, args.output)
    print(f"Page: {args.output}")


def train(args: Namespace) -> None:
    """Train with torchvision (with Detectron2: train_net.py).

    Trains torchvision's Faster R-CNN or Mask R-CNN, under a long-tail method or as the plain
    baseline (method=none), and evaluates it. In several processes: torchrun --nproc_per_node N
    -m iif.cli train ...
    """
    _require_torchvision()
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
    and compares them, draws false positives and writes the report.
    """
    from iif.demo.quickstart import quickstart

    quickstart(args.out, engine=args.engine, seed=args.seed)


def fold(args: Namespace) -> None:
    """Write a method into the classifier of a checkpoint, for Detectron2 alone.

    The result is an ordinary Detectron2 checkpoint with the same detections, and its configuration
    beside it.
    """
    _require_detectron2()
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
        _require_detectron2()
        from iif.d2.config import load_config
        from iif.d2.moments import gather_moments

        cfg = load_config(args.config_file, args.opts)
        found = gather_moments(cfg, args.weights, args.output, **settings)
    else:
        _require_torchvision()
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
    _require_detectron2()
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


def find_model(args: Namespace) -> None:
    """Take the model of a checkpoint's path alone, by the configuration that lies beside it."""
    path = Path(args.all)
    folder = path if path.is_dir() else path.parent
    if (folder / layout.CONFIG_JSON).is_file():
        args.run = args.run or args.all
        return
    if not (folder / layout.CONFIG_YAML).is_file():
        raise InputError(
            f"{path}: neither {layout.CONFIG_YAML} (Detectron2) nor {layout.CONFIG_JSON} "
            "(torchvision) lies beside it: name the configuration too"
        )
    args.config_file = args.config_file or str(folder / layout.CONFIG_YAML)
    args.weights = args.weights or str(folder / layout.FINAL_CHECKPOINT if path.is_dir() else path)


def _tune_all(args: Namespace) -> None:
    from iif.report.tuning import trials_text

    settings = {
        "fraction": args.fraction,
        "recall": args.recall,
        "bootstrap": args.bootstrap,
    }
    if args.run is None:
        _require_detectron2()
        from iif.d2.config import load_config
        from iif.d2.tune_all import tune_all

        cfg = load_config(args.config_file, args.opts)
        result = tune_all(cfg, args.weights, args.output, dataset=args.dataset, **settings)
    else:
        _require_torchvision()
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


def _require_detectron2() -> None:
    if find_spec("detectron2") is None:
        raise InputError("this needs Detectron2, which is not installed: see README.md")


def _require_torchvision() -> None:
    if find_spec("torchvision") is None:
        raise InputError("torchvision is not installed: pip install torchvision tensorboard")


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
