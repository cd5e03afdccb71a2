"""The sub-commands of ``iif``: what each does, and its arguments.

A sub-command is a function, whose docstring is its help, and a call of `command` that names its
arguments. A function imports what it needs, so that ``iif --help`` and a bad argument answer at
once. `iif.cli` parses, calls and tells faults.
"""

from iif.commands import data, evaluating, post_hoc, showing, training
from iif.commands.command import COMMANDS, Command

__all__ = ["COMMANDS", "Command", "data", "evaluating", "post_hoc", "showing", "training"]
