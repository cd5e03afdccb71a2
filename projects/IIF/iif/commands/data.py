"""Data sets, methods and settings: check, weights, methods, settings, openmoji, openmoji-crops."""

from __future__ import annotations

from argparse import Namespace

from iif.commands.arguments import FILE, HTML, arg, count, itself, number
from iif.commands.command import command
from iif.commands.settings import settings_text


def check(args: Namespace) -> int:
    """Report all faults of annotations and results.

    Says what each would do in training and in evaluation, counts the classes, their groups and
    IIF's weights, and looks whether a validation set shares images with the training set. The exit
    status is 0 where everything can be used (boxes alone are enough), 2 where not.
    """
    import msgspec

    from iif.check.run import check as run_check
    from iif.files import versions, write_json
    from iif.report.check import check_text, write_check_page

    found = run_check(
        args.annotations,
        images=args.images,
        val=args.val,
        val_images=args.val_images,
        results=args.results,
    )
    if args.json:
        write_json(args.json, {**msgspec.to_builtins(found), "versions": versions()})
    if args.html:
        write_check_page(found, args.html)
    print(check_text(found))
    for what, path in (("Record", args.json), ("Page", args.html)):
        if path:
            print(f"\n{what}: {path}")
    return 0 if found.usable else 2


def weights(args: Namespace) -> None:
    """Count the classes of an annotation file and show their IIF weights."""
    from iif.errors import InputError
    from iif.methods.counts import CountsRefused
    from iif.methods.iif import iif_weights
    from iif.report.weights import format_classes, format_weights, write_weights_csv
    from iif.statistics import ClassStatistics

    statistics = ClassStatistics.from_json(args.json)
    clamp = "clamp" if statistics.federated is False else "error"
    try:
        values = iif_weights(
            statistics,
            args.variant,
            args.count_by,
            zero_count=args.zero_count or clamp,
            nonpositive=args.nonpositive or clamp,
        )
    except CountsRefused as error:
        raise InputError(
            error.text(lambda option, value: f"--{option.replace('_', '-')} {value}")
        ) from None
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
    if args.csv:
        write_weights_csv(args.csv, statistics, values)
        print(f"Table: {args.csv}")
    else:
        print(f"\n{format_classes(statistics, values)}")


def methods(args: Namespace) -> None:
    """List the long-tail methods: phase, needs, options, paper."""
    from iif.methods.facts import all_facts
    from iif.report.methods import methods_text
    from iif.report.records import json_text

    found = all_facts()
    print(json_text({"methods": found}) if args.json else methods_text(found))


def settings(args: Namespace) -> None:
    """List the settings of a training: meaning, default, what is legal.

    Those of iif train, or after the word classify those of iif classify. A training with
    Detectron2 is set by its configuration: docs/training.md.
    """
    training, keys = "train", args.keys
    if keys and keys[0] in ("train", "classify"):
        training, *keys = keys
    print(settings_text(training, keys))


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


def openmoji_crops(args: Namespace) -> None:
    """Make a small long-tailed data set for classification.

    Cuts OpenMoji's drawings out of textured backgrounds, as many of each kind as CIFAR-LT's rule
    says for training and equally many for test. The same arguments make the same images; they have
    the licence of the drawings, CC BY-SA 4.0.
    """
    from iif.demo.openmoji_crops import CropSettings, make_openmoji_crops

    settings = CropSettings(
        categories=args.categories,
        largest=args.largest,
        imbalance_factor=args.imbalance_factor,
        test=args.test,
        image_size=args.image_size,
        seed=args.seed,
    )
    folder = make_openmoji_crops(args.out_dir, settings)
    print(f"Training and test images, a folder for each kind: {folder}")


command(
    "check",
    check,
    arg(
        "annotations",
        metavar="FILE",
        reads=itself,
        help="annotations in LVIS's or COCO's format: of the training set where there is --val",
    ),
    arg("--images", metavar="DIR", help="folder of the images, every one of which is read"),
    arg("--val", metavar="FILE", reads=itself, help="annotations of the validation set"),
    arg("--val-images", metavar="DIR", help="of --val; default: --images"),
    arg(
        "--results",
        metavar="FILE",
        reads=itself,
        help="detections in LVIS's submission format, for --val, or else for the annotations",
    ),
    arg("--json", metavar="FILE", writes=FILE, help="write the result as JSON"),
    HTML,
)
command(
    "weights",
    weights,
    arg("--json", required=True, metavar="FILE", reads=itself, help="training annotations"),
    # The values are checked where they are defined, which imports torch: too slow for --help.
    arg(
        "--variant",
        default="raw",
        help="raw, smooth, prob, normit, gombit, base2 or base10 (default %(default)s)",
    ),
    arg("--count-by", default="image", help="image or instance (default %(default)s)"),
    arg(
        "--zero-count",
        help="a class never seen: error, or clamp to count it as seen once (default: error for a "
        "file in LVIS's format, clamp for others)",
    ),
    arg(
        "--nonpositive",
        help="a weight that is not positive: error, or clamp to the smallest positive one (default "
        "as for --zero-count)",
    ),
    arg(
        "--csv",
        metavar="FILE",
        writes=FILE,
        help="write the classes with counts and weights (default: print them)",
    ),
    arg("--plot", metavar="FILE", writes=FILE, help="weight over count as PNG, PDF or SVG"),
)
command(
    "methods",
    methods,
    arg("--json", action="store_true", help="print JSON"),
)
command(
    "settings",
    settings,
    arg(
        "keys",
        nargs="*",
        metavar="KEY",
        help="train (the default) or classify, and the settings to list: a key, or a method's name "
        "for its options (default: all but the methods')",
    ),
)
command(
    "openmoji",
    openmoji,
    arg("out_dir", metavar="OUT_DIR", writes=(), help="the folder to make"),
    *(
        arg(f"--{name}", type=count, default=default, help=f"{text} (default %(default)s)")
        for name, default, text in (
            ("categories", 40, "number of categories"),
            ("train", 1000, "training images"),
            ("val", 300, "validation images"),
            ("image-size", 96, "height and width in pixels"),
            ("seed", 0, "of everything random"),
        )
    ),
    arg("--workers", type=count, help="processes (default: one per core)"),
    arg("--overwrite", action="store_true", help="replace a data set made with other arguments"),
)
command(
    "openmoji-crops",
    openmoji_crops,
    arg("out_dir", metavar="OUT_DIR", writes=(), help="the folder to make"),
    *(
        arg(f"--{name}", type=kind, default=default, help=f"{text} (default %(default)s)")
        for name, kind, default, text in (
            ("categories", count, 100, "number of kinds"),
            ("largest", count, 200, "training images of the first kind"),
            ("imbalance-factor", number, 100.0, "of the first kind's images to the last one's"),
            ("test", count, 20, "test images of each kind"),
            ("image-size", count, 32, "height and width in pixels"),
            ("seed", count, 0, "of everything random"),
        )
    ),
)
