"""What ``iif compare`` and ``iif report`` do for runs of image classification."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from iif.errors import InputError


def takes(runs: Sequence[str]) -> bool:
    """Return whether the runs are of classification.

    Raises:
        InputError: a run is missing, or they are of both kinds.
    """
    from iif.evaluation.classification.compare import are_classifications

    return are_classifications(runs)


def compare(args: Namespace) -> None:
    """Do what `iif.commands.compare` does."""
    from iif.evaluation.classification.compare import compare_classifications
    from iif.report.classification.page import write_classification_report
    from iif.report.classification.text import comparison_text, save_comparison_tables

    comparison = compare_classifications(
        [args.baseline, *args.runs], names=args.names, bootstrap=args.bootstrap, seed=args.seed
    )
    if args.output:
        save_comparison_tables(comparison, args.output)
    if args.html:
        write_classification_report(comparison, args.html)
    print(comparison_text(comparison))
    if args.output:
        print(f"\nTables: {args.output}")
    if args.html:
        print(f"Page: {args.html}")


def report(args: Namespace, runs: Sequence[str]) -> None:
    """Do what `iif.commands.report` does, the baseline first of the runs."""
    from iif.evaluation.classification.compare import compare_classifications
    from iif.report.classification.page import write_classification_report
    from iif.report.classification.pictures import MAX_EXAMPLES, make_examples

    for given, what in (
        (args.gt, "the annotation file that the runs were evaluated on"),
        (args.train_json, "the training annotations"),
    ):
        if given is not None:
            raise InputError(
                f"{given}: runs of image classification are reported without {what}; leave it out"
            )
    comparison = compare_classifications(
        runs, names=args.names, bootstrap=args.bootstrap, seed=args.seed
    )
    examples = None
    if args.images is not None:
        examples = make_examples(comparison, args.images, min(args.crops, MAX_EXAMPLES))
    write_classification_report(comparison, args.output, examples=examples)
    print(f"Page: {args.output}")
