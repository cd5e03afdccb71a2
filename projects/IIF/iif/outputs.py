"""Where a command may write: never over what it reads, and only where it can."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from iif.errors import InputError

# Of a probe: more than a file system keeps beside a file's name.
_PROBE_BYTES = 1 << 16

_protected: list[Path] = []


@contextlib.contextmanager
def protect(inputs: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Refuse to write over these files for the length of the block, under any of their names."""
    before = len(_protected)
    _protected.extend(map(Path, inputs))
    try:
        yield
    finally:
        del _protected[before:]


def refuse_input(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is one of the protected inputs, or a link to it.

    Raises:
        InputError: names both.
    """
    for source in _protected:
        with contextlib.suppress(OSError):
            if os.path.samefile(path, source):
                raise InputError(
                    f"{path}: would be written over {source}, which is read; give another place "
                    "to write to"
                )


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a device or a pipe, which is written to and never replaced."""
    # Not its real path: that of a pipe behind /dev/stdout does not exist.
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_output(path: str | os.PathLike[str], *, folder: bool = False) -> None:
    """Check that a file, or files in a folder, can be written, before there is anything to write.

    Where it, or the nearest folder above it that exists, is a folder, a temporary file is written
    there and removed. Devices and pipes are left alone.

    Raises:
        InputError: it is a folder or the other way round, something above it is no folder, the
            folder cannot be written to, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() and not folder:
        raise InputError(f"{path}: is a folder; give a file to write to")
    if target.is_file() and folder:
        raise InputError(f"{path}: is a file; give a folder to write to")
    if is_special(path):
        return
    place = target if folder else target.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path}: {place} is not a folder; give another place to write to")
    try:
        with tempfile.TemporaryFile(dir=place) as f:
            f.write(bytes(_PROBE_BYTES))
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written in {place} ({error.strerror}); make room or get the right "
            "to write there, or give another place to write to"
        ) from None
