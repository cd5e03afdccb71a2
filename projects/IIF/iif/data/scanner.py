"""Result files as programs write them, scanned in threads without the interpreter.

Read here: a list of objects with ``image_id``, ``category_id``, ``score``, ``bbox`` and
``segmentation``, in any order and with any other keys, in plain ASCII; whole numbers for ids,
decimal numbers of at most 19 digits, compressed RLEs. Whatever else a file holds, a fault above
all, is left to `iif.data.json_rows`, which names it: `scan` returns None.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.row_text import BBOX, CLOSE_LIST, POWERS, scan_text
from iif.progress import progress
from iif.threads import NUM_THREADS

_BLOCK_BYTES = 16 << 20
# No row is longer; it may begin at a block's last byte.
_MOST_ROW_BYTES = 1 << 20
_LEAST_ROW_BYTES = 40
_PADDING = 64
_SPACE = b" \t\r\n"


@dataclass(frozen=True, eq=False)
class ScannedRows:
    """The D rows of a result file, in its order.

    Attributes:
        sha256: of the file.
        image_id, category_id: (D,) int32.
        score: (D,) float64, finite.
        bbox: (D, 4) float64; None when a row has none.
        sizes: (D, 2) int32, height and width of each RLE; None unless scanned with masks.
        counts: (N,) uint8, the counts of all RLEs; ends: (D,) int64, where each one's end.
    """

    sha256: str
    image_id: NDArray[np.int32]
    category_id: NDArray[np.int32]
    score: NDArray[np.float64]
    bbox: NDArray[np.float64] | None
    sizes: NDArray[np.int32] | None = None
    counts: NDArray[np.uint8] | None = None
    ends: NDArray[np.int64] | None = None


def scan(
    path: str | os.PathLike[str], *, masks: bool, sha256: str | None = None
) -> ScannedRows | None:
    """Return a result file's rows, or None for a file that the strict reader must read.

    Args:
        path: the file.
        masks: whether every row must have an RLE, which is returned; else its syntax is checked.
        sha256: to be returned in the place of the file's own.
    """
    with ThreadPoolExecutor(NUM_THREADS + 1) as pool:
        try:
            scanner = _Scanner(path, masks)
            digest = pool.submit(scanner.digest) if sha256 is None else None
            blocks = range(len(scanner.starts))
            bar = progress(
                pool.map(scanner.read, blocks),
                desc=f"reading {os.path.basename(path)}",
                total=len(blocks),
                unit="block",
                delay=1,
            )
            parts = list(bar)
            if digest is not None:
                sha256 = digest.result()
        except (_Unusual, OSError):
            pool.shutdown(cancel_futures=True)
            return None
    if any(part.end != after.first for part, after in pairwise(parts)):
        return None
    keys = {part.keys for part in parts}
    if len(keys) > 1:
        return None
    if not keys.pop() & BBOX:
        if not masks:
            return None
        for part in parts:
            part.columns["bbox"] = None
    lengths = np.concatenate([part.lengths for part in parts]) if masks else None
    return ScannedRows(
        sha256=str(sha256),
        **{name: _join([part.columns for part in parts], name) for name in list(parts[0].columns)},
        ends=np.cumsum(lengths, dtype=np.int64) if lengths is not None else None,
    )


class _Unusual(Exception):
    """The file is for the strict reader."""


@dataclass
class _Part:
    """The rows of one block: where the first begins, where the block after them begins."""

    first: int
    end: int
    keys: int
    columns: dict[str, Any]
    lengths: NDArray[np.int32]


class _Scanner:
    """Reads a file's blocks; raises _Unusual as soon as one is not as expected."""

    def __init__(self, path: str | os.PathLike[str], masks: bool) -> None:
        self._path = path
        self._masks = masks
        self._local = threading.local()
        self._stat: os.stat_result | None = None
        with self._open() as f:
            self._size = os.fstat(f.fileno()).st_size
            head = f.read(_PADDING)
        begin = len(head) - len(head.lstrip(_SPACE))
        if head[begin : begin + 1] != b"[":
            raise _Unusual
        self.starts = range(begin, max(begin + 1, self._size - _MOST_ROW_BYTES), _BLOCK_BYTES)

    def _open(self) -> Any:
        """Open the file, which must still be the one that was opened first."""
        f = open(self._path, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
        found = os.fstat(f.fileno())
        if self._stat is None:
            self._stat = found
        same = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
        if any(getattr(found, name) != getattr(self._stat, name) for name in same):
            f.close()
            raise _Unusual
        return f

    def digest(self) -> str:
        with self._open() as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        self._open().close()  # not changed while it was read
        return found

    def read(self, block: int) -> _Part:
        start = self.starts[block]
        length = min(_BLOCK_BYTES + _MOST_ROW_BYTES, self._size - start)
        text = self._buffer(length + _PADDING)
        text[length:] = 0
        self._fill(text[:length], start)
        last = block == len(self.starts) - 1
        stop = length if last else _BLOCK_BYTES
        most = length // _LEAST_ROW_BYTES + 1
        image_id, category_id = np.empty(most, np.int32), np.empty(most, np.int32)
        score, bbox = np.empty(most), np.empty(4 * most)
        sizes, lengths = np.empty(2 * most, np.int32), np.empty(most, np.int32)
        counts = np.empty(length if self._masks else 0, np.uint8)
        words: NDArray[np.uint64] = np.ndarray(length + 8, np.uint64, text, strides=(1,))
        rows, first, end, keys, used = scan_text(
            text, words, stop, block == 0, self._masks, POWERS, image_id, category_id,
            score.view(np.uint64), bbox.view(np.uint64), sizes, counts, lengths,
        )  # fmt: skip
        if rows < 0 or (text[end - 1] == CLOSE_LIST) != last:
            raise _Unusual
        if last and text[end:length].tobytes().strip(_SPACE):
            raise _Unusual
        columns: dict[str, Any] = {
            "image_id": image_id[:rows].copy(),
            "category_id": category_id[:rows].copy(),
            "score": score[:rows].copy(),
            "bbox": bbox[: 4 * rows].reshape(-1, 4).copy(),
        }
        if self._masks:
            columns["sizes"] = sizes[: 2 * rows].reshape(-1, 2).copy()
            columns["counts"] = counts[:used].copy()
        return _Part(start + first, start + end, keys, columns, lengths[:rows].copy())

    def _buffer(self, size: int) -> NDArray[np.uint8]:
        """Return memory that this thread keeps: fresh memory costs as much as reading into it."""
        if not hasattr(self._local, "text"):
            self._local.text = np.empty(_BLOCK_BYTES + _MOST_ROW_BYTES + _PADDING, np.uint8)
        text: NDArray[np.uint8] = self._local.text[:size]
        return text

    def _fill(self, text: NDArray[np.uint8], start: int) -> None:
        rest = text.data
        with self._open() as f:
            f.seek(start)
            while rest and (number := f.readinto(rest)):
                rest = rest[number:]
        if rest:
            raise _Unusual


def _join(parts: Sequence[dict[str, Any]], name: str) -> Any:
    """Concatenate one column and free its parts, so that only one column exists twice at a time."""
    pieces = [part.pop(name) for part in parts]
    return np.concatenate(pieces) if pieces[0] is not None else None
