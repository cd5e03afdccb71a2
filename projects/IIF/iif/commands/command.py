"""A sub-command of ``iif``, and the list of all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from iif.commands.arguments import Argument

Run = Callable[[argparse.Namespace], int | None]  # the exit status, None for 0


class Command(NamedTuple):
    """What a sub-command does.

    Attributes:
        run: called with the arguments; its docstring is the help.
        arguments: in the order of the help.
        check: of arguments that depend on one another, before ``run``.
        after_interrupt: how to go on after Ctrl-C.
        details: a longer text for the end of the help, made when that is shown.
    """

    run: Run
    arguments: tuple[Argument, ...]
    check: Run
    after_interrupt: str
    details: Callable[[], str] | None = None


COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    run: Run,
    *arguments: Argument,
    check: Run = lambda args: None,
    after_interrupt: str = "run it again",
    details: Callable[[], str] | None = None,
) -> None:
    """Add a sub-command."""
    COMMANDS[name] = Command(run, arguments, check, after_interrupt, details)
