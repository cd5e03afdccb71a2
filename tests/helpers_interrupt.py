"""Processes that take an interrupt, whoever started the tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def start_interruptible(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a process in which Ctrl-C works.

    A shell's background job, as a CI's tests may be, ignores SIGINT, and its children inherit that.
    """

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, preexec_fn=heed, **options)
