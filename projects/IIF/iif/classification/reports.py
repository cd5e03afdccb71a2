"""What ``iif compare`` and ``iif report`` do for runs of image classification."""

from __future__ import annotations

from argparse import Namespace

from iif.errors import InputError
from iif.evaluation.classification.compare import (
    ClassificationComparison,
    are_classifications,
    compare_classifications,
)
from iif.report.classification.page import write_classification_report
from iif.report.classification.pictures import MAX_EXAMPLES, make_examples
from iif.report.classification.text import comparison_text, save_comparison_tables


def runs_of(args: Namespace) -> list[str]:
    """Return the runs of a command, the baseline first."""
    baseline = [args.baseline] if args.baseline else []
    return [*baseline, *args.runs, *getattr(args, "run", [])]


def compare(args: Namespace) -> bool:
    """Compare classifiers for ``iif compare``; return False, with nothing done, for detection."""
    if not are_classifications(runs_of(args)):
        return False
    comparison = _compare(args)
    if args.output:
        save_comparison_tables(comparison, args.output)
    if args.html:
        write_classification_report(comparison, args.html)
    print(comparison_text(comparison))
    if args.output:
        print(f"\nTables: {args.output}")
    if args.html:
        print(f"Page: {args.html}")
    return True


def report(args: Namespace) -> bool:
    """Write the page for ``iif report``; return False, with nothing done, for detection."""
    if not are_classifications(runs_of(args)):
        return False
    for flag, value in (("gt", args.gt), ("train_json", args.train_json)):
        if value is not None:
            raise InputError(
                f"{value}: {flag} is for runs of detection; these are of image classification"
            )
    comparison = _compare(args)
    examples = None
    if args.images is not None:
        examples = make_examples(comparison, args.images, min(args.crops, MAX_EXAMPLES))
    write_classification_report(comparison, args.output, examples=examples)
    print(f"Page: {args.output}")
    return True


def _compare(args: Namespace) -> ClassificationComparison:
    return compare_classifications(
        runs_of(args), names=args.names, bootstrap=args.bootstrap, seed=args.seed
    )
