"""Result files as they are given: plain, compressed with gzip, standard input or a pipe.

Readers need a plain file that can be read from its start again. What is none is copied to a
temporary file first (in TMPDIR), which needs the room of the plain text there and no memory.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from iif.errors import InputError
from iif.outputs import is_special
from iif.progress import progress

# Stands for standard input.
STDIN = "-"
_GZIP = b"\x1f\x8b"
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """A result file whose text can be read from its start as often as it is needed.

    Attributes:
        name: as it was given, for messages.
        path: the plain file with its text: itself, or a temporary one.
        sha256: of what was given; None where that is ``path`` itself, whose readers hash it.
        lasting: whether it can be read again later, by its name: no pipe.
    """

    name: str
    path: str
    sha256: str | None = None
    lasting: bool = True


@dataclass(frozen=True)
class ReadFile:
    """A result file that was read.

    Attributes:
        path: None for a pipe, which cannot be read again.
        sha256: of the file as it lies there, compressed or not.
        num_detections: its rows.
    """

    path: str | None
    sha256: str
    num_detections: int


ResultFile = str | os.PathLike[str] | Source
ResultFiles = ResultFile | Sequence[ResultFile]


@contextlib.contextmanager
def open_sources(results: ResultFiles) -> Iterator[list[Source]]:
    """Make result files readable for the length of the block.

    Args:
        results: one or several: paths, "-" for standard input, or sources that are open already.

    Raises:
        InputError: there is none, a file is given twice, or its compressed content is cut off or
            damaged. A file that is missing is left for its reader to refuse.
    """
    given = [results] if isinstance(results, str | os.PathLike | Source) else list(results)
    if not given:
        raise InputError("no result file is given")
    _refuse_twice([os.fspath(one) for one in given if not isinstance(one, Source)])
    with contextlib.ExitStack() as stack:
        yield [
            one if isinstance(one, Source) else stack.enter_context(_readable(os.fspath(one)))
            for one in given
        ]


def combined_sha256(files: Sequence[ReadFile]) -> str:
    """Return the file's SHA-256; of several that of their hashes in order, a line each."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{file.sha256}\n" for file in files).encode()).hexdigest()


def _refuse_twice(paths: list[str]) -> None:
    seen: dict[Any, str] = {}
    for path in paths:
        file = path if path == STDIN or not os.path.isfile(path) else os.path.realpath(path)
        if file in seen and (path == STDIN or os.path.isfile(path)):
            raise InputError(f"{path}: is given twice; its detections would count twice")
        seen[file] = path


@contextlib.contextmanager
def _readable(path: str) -> Iterator[Source]:
    if path != STDIN and not is_special(path) and not _is_compressed(path):
        yield Source(path, path)
        return
    lasting = path != STDIN and not is_special(path)
    with tempfile.TemporaryDirectory(prefix="iif-") as folder:
        copy = Path(folder, "results.json")
        if path == STDIN:
            sha256 = _copy(sys.stdin.buffer, path, copy)
        else:
            with open(path, "rb") as f:
                sha256 = _copy(f, path, copy)
        yield Source(path, os.fspath(copy), sha256, lasting)


def _is_compressed(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as f:
        return f.read(len(_GZIP)) == _GZIP


def _copy(stream: IO[bytes], name: str, target: Path) -> str:
    """Write a stream's text to a file, unpacked; return the SHA-256 of the stream."""
    hashed = _Hashed(stream)
    text: Any = gzip.GzipFile(fileobj=hashed) if hashed.begins_with(_GZIP) else hashed  # type: ignore[call-overload]
    bar = progress(desc=f"unpacking {os.path.basename(name)}", unit="B", unit_scale=True, delay=1)
    try:
        with open(target, "wb") as f, bar:
            while block := text.read(_BLOCK_BYTES):
                f.write(block)
                bar.update(len(block))
    except EOFError:
        raise InputError(
            f"{name}: its compressed content is cut off; copy or make it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{name}: its compressed content is damaged ({error}); copy or make it again"
        ) from None
    except OSError as error:
        error.filename = error.filename or os.fspath(target)  # of a full disk it names nothing
        raise
    return hashed.sha256()


class _Hashed:
    """Reads a stream and hashes what it reads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._ahead = b""

    def begins_with(self, head: bytes) -> bool:
        """Look at the stream's first bytes, which `read` returns all the same."""
        while len(self._ahead) < len(head) and (more := self._next(len(head) - len(self._ahead))):
            self._ahead += more
        return self._ahead == head

    def read(self, size: int = -1) -> bytes:
        """Return at most so many bytes; none at the end."""
        ahead, self._ahead = self._ahead, b""
        return ahead or self._next(size)

    def sha256(self) -> str:
        """Return the hash of the stream, which is read to its end."""
        while self._next(_BLOCK_BYTES):
            pass
        return self._digest.hexdigest()

    def _next(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._digest.update(block)
        return block
