"""The parser of ``iif``: one for each sub-command, faults in one line, a help in groups."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import cleandoc
from typing import Any, NoReturn

from iif.commands.arguments import ONE_OF
from iif.commands.command import COMMANDS

_PACKAGE = __name__.rpartition(".")[0]
_WIDTH = 88
# The modules of the sub-commands in the help's order; their docstrings are "HEADING: NAMES".
_ORDER = ("training", "evaluating", "showing", "data", "post_hoc")
_ABOUT = "Long-tailed recognition: Inverse Image Frequency and other methods, measured alike."
_EXAMPLES = """\
examples:
  iif quickstart
      train, evaluate, compare and look at two runs on a small data set, in minutes
  iif evaluate --gt val.json --results detections.json --output output/mine
      evaluate any model's result file as LVIS does, or as COCO does
  iif train --help
      train on a data set of your own

iif COMMAND --help explains a command."""


class Parser(argparse.ArgumentParser):
    """A parser that tells a fault in one line of plain words, with a suggestion."""

    def __init__(self, *, details: Callable[[], str] | None = None, **options: Any) -> None:
        """Make it; ``details`` gives a text for the end of the help, when that is shown."""
        super().__init__(**options)
        self._details = details

    def format_help(self) -> str:
        """Return the help, with the details at its end."""
        text = super().format_help()
        return text if self._details is None else f"{text}\n{self._details()}\n"

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        self.exit(2, f"{self.prog}: error: {plain_words(message, flags)} ({self.prog} --help)\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; its ``command`` is the sub-command's name.

    Positional arguments may stand anywhere among the options, except those of a command that
    takes the rest of the line for a configuration.

    Raises:
        SystemExit: after --help and --version, with status 2 after a fault.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        raise SystemExit(0)
    name, *rest = argv
    if name == "--version":
        print(_version_text())
        raise SystemExit(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else "iif --help lists them"
        Parser().exit(2, f"iif: error: {name!r} is no command; {hint}\n")
    command = COMMANDS[name]
    parser = parser_of(name)
    takes_rest = any(a.options.get("nargs") == argparse.REMAINDER for a in command.arguments)
    args = parser.parse_args(rest) if takes_rest else parser.parse_intermixed_args(rest)
    args.command = name
    return args


def parser_of(name: str) -> Parser:
    """Return the parser of a sub-command."""
    command = COMMANDS[name]
    parser = Parser(
        prog=f"iif {name}",
        description=cleandoc(command.run.__doc__ or name),
        details=command.details,
    )
    groups: dict[str | None, Any] = {None: parser}
    for argument in command.arguments:
        if argument.group not in groups:
            groups[argument.group] = (
                parser.add_mutually_exclusive_group()
                if argument.group == ONE_OF
                else parser.add_argument_group(argument.group)
            )
        groups[argument.group].add_argument(*argument.flags, **argument.options)
    return parser


def help_text() -> str:
    """Return the help of ``iif``: the commands under a heading for each of their modules."""
    lines = ["usage: iif COMMAND ...", "       iif --version", "", _ABOUT]
    modules = {name: import_module(f"{_PACKAGE}.{name}") for name in _ORDER}
    width = max(map(len, COMMANDS)) + 2
    for module in modules.values():
        heading, _, names = cleandoc(module.__doc__ or "").rstrip(".").partition(": ")
        lines += ["", f"{heading}:"]
        for name in names.split(", "):
            summary = cleandoc(COMMANDS[name].run.__doc__ or "").splitlines()[0].rstrip(".")
            lines += textwrap.wrap(
                summary[0].lower() + summary[1:],
                _WIDTH,
                initial_indent=f"  {name.ljust(width)}",
                subsequent_indent=" " * (width + 2),
            )
    return "\n".join([*lines, "", _EXAMPLES])


def _version_text() -> str:
    from iif.files import versions

    found = versions()
    own = __name__.partition(".")[0]
    return "\n".join(f"{name} {found[name]}" for name in sorted(found, key=lambda n: n != own))


def plain_words(message: str, flags: Sequence[str]) -> str:
    """Return argparse's message in the words of the other errors.

    Args:
        message: of `argparse.ArgumentParser.error`.
        flags: the options that the command has.
    """
    found = re.match(r"argument ([^:]+): (.*)", message, re.DOTALL)
    argument, rest = found.groups() if found else ("", message)
    if choice := re.match(r"invalid choice: (.+) \(choose from (.*)\)$", rest):
        value, legal = choice[1], choice[2].replace("'", "")
        return f"{argument} is {value}; it must be one of {legal}"
    if rest.startswith("expected "):
        return f"{argument} needs a value"
    if other := rest.partition("not allowed with argument ")[2]:
        return f"{other} and {argument} exclude each other"
    if missing := rest.partition("arguments are required: ")[2]:
        names = missing.split(", ")
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if unknown := rest.partition("unrecognized arguments: ")[2]:
        first = unknown.split()[0].partition("=")[0]
        if not first.startswith("-"):
            return f"{first!r} is one argument too many"
        close = difflib.get_close_matches(first, flags, n=2)
        return f"{first} is no option" + (f"; did you mean {' or '.join(close)}?" if close else "")
    return f"{argument}: {rest}" if argument else rest
