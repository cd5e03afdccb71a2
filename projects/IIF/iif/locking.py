"""One run in a folder at a time: two that mix their files would both end well, and wrong."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from iif import layout
from iif.errors import InputError

# Files that hold a folder. A forked process must not hold it on when this one is killed.
_held: set[IO[str]] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: [f.close() for f in _held])


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for the length of the block; it is created where it is missing.

    The lock is the operating system's and ends with the process, however it ends. What a killed
    process left is taken over, with a warning. Where platform or file system have no such locks,
    the folder is not held.

    Raises:
        InputError: a living process holds the folder.
    """
    path = Path(folder, layout.LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as f:
        if not _acquire(f):
            raise InputError(
                f"{folder}: {_holder(f)} is writing into it; wait until it has ended, or take "
                "another output folder"
            )
        left = _holder(f)
        if left:
            warnings.warn(f"{folder}: {left} was killed there; taking over", stacklevel=3)
        owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%c")}
        _write(f, json.dumps(owner))
        _held.add(f)
        try:
            yield
        finally:
            _held.discard(f)
            if not f.closed:  # a forked process does not hold it
                _write(f, "")


def _acquire(f: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # not POSIX
        return True
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _holder(f: IO[str]) -> str:
    """Return who wrote into the lock, in words; empty when nobody did."""
    f.seek(0)
    text = f.read()
    if not text:
        return ""
    try:
        owner = json.loads(text)
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _write(f: IO[str], text: str) -> None:
    f.seek(0)
    f.truncate()
    f.write(text)
    f.flush()
