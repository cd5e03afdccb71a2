"""The ``iif`` command: parses arguments, calls the rooms, prints. Nothing is computed here.

Each sub-command is one function that adds its parser and one that runs it; a run function imports
what it needs, so that ``iif --help`` and a bad argument answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from iif.files import InputError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the ``iif`` command with all of its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="iif",
        description="Inverse Image Frequency for long-tailed instance segmentation.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in ():
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except InputError as error:
        print(f"iif {args.command}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
