"""Result files as programs write them, scanned in threads without the interpreter.

Read here: a list of objects with ``image_id``, ``category_id``, ``score``, ``bbox`` and
``segmentation``, in any order and with any other keys, in plain ASCII; whole numbers for ids,
decimal numbers of at most 19 digits, compressed RLEs. Whatever else a file holds, a fault above
all, is left to `iif.data.json_rows`, which names it: `scan` returns None.

A block of the file ends in zero bytes, at which every loop over its text stops. ``words`` is the
same memory as ``text``: the 8 bytes at each place, the first of them the lowest.
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
from numba import njit
from numpy.typing import NDArray
from tqdm import tqdm

from iif.threads import NUM_THREADS

_BLOCK_BYTES = 16 << 20
# No row is longer; it may begin at a block's last byte.
_MOST_ROW_BYTES = 1 << 20
_LEAST_ROW_BYTES = 40
_PADDING = 64
_SPACE = b" \t\r\n"

_IMAGE, _CATEGORY, _SCORE, _BBOX, _MASK = 1, 2, 4, 8, 16
_QUOTE, _COMMA, _COLON, _BACKSLASH, _MINUS, _POINT, _ZERO = (ord(c) for c in '",:\\-.0')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = (ord(c) for c in "{}[]")
_MOST_DEPTH = 16


def _key(name: str) -> tuple[Any, ...]:
    """Return what `_is` takes: length, last word's place, a mask, the first and the last word."""
    text = f'"{name}"'.encode()
    length = min(len(text), 8)
    words = [np.uint64(int.from_bytes(part, "little")) for part in (text[:8], text[-8:])]
    return len(text), len(text) - length, np.uint64(256**length - 1), *words


_IMAGE_KEY, _CATEGORY_KEY = _key("image_id"), _key("category_id")
_SCORE_KEY, _BBOX_KEY, _MASK_KEY = _key("score"), _key("bbox"), _key("segmentation")
_SIZE_KEY, _COUNTS_KEY = _key("size"), _key("counts")


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


def scan(path: str | os.PathLike[str], *, masks: bool) -> ScannedRows | None:
    """Return a result file's rows, or None for a file that the strict reader must read.

    Args:
        path: the file.
        masks: whether every row must have an RLE, which is returned; else its syntax is checked.
    """
    with ThreadPoolExecutor(NUM_THREADS + 1) as pool:
        try:
            scanner = _Scanner(path, masks)
            digest = pool.submit(scanner.digest)
            blocks = range(len(scanner.starts))
            bar = tqdm(
                pool.map(scanner.read, blocks),
                desc=f"reading {os.path.basename(path)}",
                total=len(blocks),
                unit="block",
                delay=1,
                disable=None,
            )
            parts = list(bar)
            sha256 = digest.result()
        except (_Unusual, OSError):
            pool.shutdown(cancel_futures=True)
            return None
    if any(part.end != after.first for part, after in pairwise(parts)):
        return None
    keys = {part.keys for part in parts}
    if len(keys) > 1:
        return None
    if not keys.pop() & _BBOX:
        if not masks:
            return None
        for part in parts:
            part.columns["bbox"] = None
    lengths = np.concatenate([part.lengths for part in parts]) if masks else None
    return ScannedRows(
        sha256=sha256,
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
        rows, first, end, keys, used = _scan(
            text, words, stop, block == 0, self._masks, _POWERS, image_id, category_id,
            score.view(np.uint64), bbox.view(np.uint64), sizes, counts, lengths,
        )  # fmt: skip
        if rows < 0 or (text[end - 1] == _CLOSE_LIST) != last:
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


def _powers_of_ten() -> NDArray[np.uint64]:
    """Return (76, 2) the 128 leading bits of 10^-45 to 10^30, rounded as Eisel-Lemire needs."""
    halves = []
    for exponent in range(_LEAST_POWER, _GREATEST_POWER + 1):
        if exponent < 0:
            power = 5**-exponent
            bits = (power - 1).bit_length()
            value = 2 ** (bits + 127 if exponent >= -27 else 2 * bits + 128) // power + 1
        else:
            value = 5**exponent << 128
        value >>= value.bit_length() - 128
        halves.append((value >> 64, value & (2**64 - 1)))
    return np.array(halves, np.uint64)


_LEAST_POWER, _GREATEST_POWER = -45, 30
_POWERS = _powers_of_ten()
_MOST_DIGITS = 19
_0, _1, _3, _8, _9, _10, _16, _32, _52, _53, _63 = (
    np.uint64(n) for n in (0, 1, 3, 8, 9, 10, 16, 32, 52, 53, 63)
)
_ZEROS, _UPPER, _SIXES = (np.uint64(int(byte * 8, 16)) for byte in ("30", "F0", "06"))
_PAIRS, _BY_PAIRS = np.uint64(0x000000FF000000FF), np.uint64(100 + (1_000_000 << 32))
_EIGHT_DIGITS, _BY_FOURS = np.uint64(10**8), np.uint64(1 + (10_000 << 32))
_LOW_BITS, _HALF, _ALL = np.uint64(0x1FF), np.uint64(2**32 - 1), np.uint64(2**64 - 1)
_MANTISSA = np.uint64(2**52 - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _multiply_high(a: Any, b: Any) -> Any:
    """Return the upper 64 of the 128 bits of a product."""
    middle = (a >> _32) * (b & _HALF) + ((a & _HALF) * (b & _HALF) >> _32)
    lower = (a & _HALF) * (b >> _32) + (middle & _HALF)
    return (a >> _32) * (b >> _32) + (middle >> _32) + (lower >> _32)


@njit(cache=True, nogil=True, error_model="numpy")
def _number(text: NDArray, words: NDArray, p: int, powers: NDArray, out: NDArray, at: int) -> int:
    """Write the bits of the double nearest to the JSON number at p; return its end, 0 if unusual.

    The algorithm is Eisel and Lemire's (arXiv 2101.11408).
    """
    negative = text[p] == _MINUS
    p += negative
    digits = _0
    whole = 0  # digits before the point
    exponent: Any = 0
    first = p
    while True:
        c = np.int64(text[p]) - _ZERO
        if 0 <= c <= 9:
            word = words[p]
            if _are_digits(word):
                digits = digits * _EIGHT_DIGITS + _value(word)
                p += 8
                continue
            digits = digits * _10 + np.uint64(c)
        elif c == _POINT - _ZERO and whole == 0 and p > first:
            whole = p - first
        else:
            break
        p += 1
    zeros = first
    while text[zeros] == _ZERO or text[zeros] == _POINT:
        zeros += 1
    if p - zeros > _MOST_DIGITS + (zeros <= first + whole and whole > 0):
        return 0
    is_whole = whole == 0
    if is_whole:
        whole = p - first
    else:
        exponent = whole - (p - first - 1)
    if whole == 0 or (whole > 1 and text[first] == _ZERO) or (not is_whole and exponent == 0):
        return 0
    if text[p] == 101 or text[p] == 69:  # e, E
        is_whole = False
        p += 1
        sign = -1 if text[p] == _MINUS else 1
        p += text[p] == _MINUS or text[p] == 43
        begin = p
        power = np.int64(0)
        while 48 <= text[p] <= 57 and p - begin < 4:
            power = 10 * power + np.int64(text[p]) - _ZERO
            p += 1
        if p == begin or p - begin == 4:
            return 0
        exponent += sign * power
    top = _1 << _63 if negative else _0
    if digits == _0:
        out[at] = _0 if is_whole else top  # the whole number -0 is 0.0
        return p
    if exponent < _LEAST_POWER or exponent > _GREATEST_POWER:
        return 0
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if digits >> np.uint64(64 - step) == _0:
            digits = digits << np.uint64(step)
            zeros += step
    upper = powers[exponent - _LEAST_POWER, 0]
    high, low = _multiply_high(digits, upper), digits * upper
    if (high & _LOW_BITS) == _LOW_BITS:
        second = _multiply_high(digits, powers[exponent - _LEAST_POWER, 1])
        low = low + second
        if second > low:
            high = high + _1
        if low == _ALL and not -27 <= exponent <= 55:
            return 0
    carry = high >> _63
    shift = carry + _9
    mantissa = high >> shift
    binary = ((217706 * exponent) >> 16) + 63 + np.int64(carry) - zeros + 1023
    if binary <= 0:
        return 0
    halfway = low <= _1 and -4 <= exponent <= 23 and (mantissa & _3) == _1
    if halfway and (mantissa << shift) == high:
        mantissa = mantissa - _1
    mantissa = (mantissa + (mantissa & _1)) >> _1
    if mantissa >= _1 << _53:
        mantissa = _1 << _52
        binary += 1
    out[at] = (mantissa & _MANTISSA) | (np.uint64(binary) << _52) | top
    return p


@njit(cache=True, nogil=True)
def _are_digits(word: Any) -> bool:
    """Return whether 8 bytes of text are digits."""
    return word & _UPPER == _ZEROS and (word + _SIXES) & _UPPER == _ZEROS


@njit(cache=True, nogil=True)
def _value(word: Any) -> Any:
    """Return the value of 8 digits, the first of which is the lowest byte."""
    word = word - _ZEROS
    word = word * _10 + (word >> _8)
    return (word & _PAIRS) * _BY_PAIRS + (word >> _16 & _PAIRS) * _BY_FOURS >> _32


@njit(cache=True, nogil=True)
def _behind_space(text: NDArray, p: int) -> int:
    while text[p] == 32 or text[p] == 10 or text[p] == 13 or text[p] == 9:
        p += 1
    return p


@njit(cache=True, nogil=True)
def _is(words: NDArray, p: int, key: tuple[Any, ...]) -> bool:
    """Return whether a key of 6 to 16 bytes, of `_key`, is at p."""
    _, last, mask, first_word, last_word = key
    return words[p] & mask == first_word and words[p + last] & mask == last_word


@njit(cache=True, nogil=True)
def _whole(text: NDArray, p: int, out: NDArray, at: int) -> int:
    """Write the whole number below 2^31 at p; return its end, 0 for anything else."""
    first = p
    value = np.int64(0)
    while 48 <= text[p] <= 57 and p - first < 11:
        value = 10 * value + np.int64(text[p]) - _ZERO
        p += 1
    c = text[p]
    if p == first or (p - first > 1 and text[first] == _ZERO) or value >= 1 << 31:
        return 0
    if c == _POINT or c == 101 or c == 69:
        return 0
    out[at] = value
    return p


@njit(cache=True, nogil=True)
def _string(text: NDArray, p: int, copy: bool, out: NDArray, at: int) -> tuple[int, int]:
    """Pass the ASCII string at p, and copy its characters; return its end, 0 if unusual."""
    if text[p] != _QUOTE:
        return 0, at
    p += 1
    while text[p] != _QUOTE:
        c = text[p]
        if c == _BACKSLASH:
            p += 1
            c = text[p]
            if c != _BACKSLASH and c != _QUOTE and c != 47:
                return 0, at
        elif c < 32 or c > 126:
            return 0, at
        if copy:
            out[at] = c
            at += 1
        p += 1
    return p + 1, at


@njit(cache=True, nogil=True)
def _behind_colon(text: NDArray, p: int) -> int:
    p = _behind_space(text, p)
    return _behind_space(text, p + 1) if text[p] == _COLON else 0


@njit(cache=True, nogil=True)
def _behind_key(text: NDArray, p: int) -> int:
    """Return where the value behind any key at p begins; 0 if unusual."""
    p, _ = _string(text, p, False, text, 0)
    return _behind_colon(text, p) if p else 0


@njit(cache=True, nogil=True)
def _behind_value(text: NDArray, words: NDArray, p: int, powers: NDArray, scratch: NDArray) -> int:
    """Pass the JSON value at p; return its end, 0 if unusual."""
    depth, objects = 0, 0  # a bit for each open bracket: whether it is an object's
    while True:
        c = text[p]
        if c in (_OPEN, _OPEN_LIST):
            depth += 1
            objects = objects << 1 | (c == _OPEN)
            p = _behind_space(text, p + 1)
            if depth > _MOST_DEPTH:
                return 0
            if text[p] != _CLOSE and text[p] != _CLOSE_LIST:
                if c == _OPEN:
                    p = _behind_key(text, p)
                if p == 0:
                    return 0
                continue
        elif c == _QUOTE:
            p, _ = _string(text, p, False, text, 0)
        else:
            p = _number(text, words, p, powers, scratch, 0)
        if p == 0:
            return 0
        while depth:
            p = _behind_space(text, p)
            if text[p] == _COMMA:
                p = _behind_space(text, p + 1)
                if objects & 1:
                    p = _behind_key(text, p)
                break
            if text[p] != (_CLOSE if objects & 1 else _CLOSE_LIST):
                return 0
            p += 1
            depth -= 1
            objects >>= 1
        if depth == 0 or p == 0:
            return p


@njit(cache=True, nogil=True)
def _rle(
    text: NDArray, words: NDArray, p: int, sizes: NDArray, row: int, counts: NDArray, used: int
) -> tuple[int, int]:
    """Read the compressed RLE at p; return its end and that of its counts, 0 if unusual."""
    if text[p] != _OPEN:
        return 0, used
    seen = 0
    while True:
        p = _behind_space(text, p + 1)
        key = 1 if _is(words, p, _SIZE_KEY) else 2
        if (key == 2 and not _is(words, p, _COUNTS_KEY)) or seen & key:
            return 0, used
        seen |= key
        p = _behind_colon(text, p + (_SIZE_KEY[0] if key == 1 else _COUNTS_KEY[0]))
        if p and key == 2:
            p, used = _string(text, p, True, counts, used)
        elif p:
            for i in range(2):
                if text[p] != (_COMMA if i else _OPEN_LIST):
                    return 0, used
                p = _whole(text, _behind_space(text, p + 1), sizes, 2 * row + i)
                if p == 0:
                    return 0, used
                p = _behind_space(text, p)
            if text[p] != _CLOSE_LIST:
                return 0, used
            p += 1
        if p == 0:
            return 0, used
        p = _behind_space(text, p)
        if text[p] == _CLOSE:
            return (p + 1 if seen == 3 else 0), used
        if text[p] != _COMMA:
            return 0, used


@njit(cache=True, nogil=True)
def _box(text: NDArray, words: NDArray, p: int, powers: NDArray, bbox: NDArray, row: int) -> int:
    for i in range(4):
        if text[p] != (_COMMA if i else _OPEN_LIST):
            return 0
        p = _number(text, words, _behind_space(text, p + 1), powers, bbox, 4 * row + i)
        if p == 0:
            return 0
        p = _behind_space(text, p)
    return p + 1 if text[p] == _CLOSE_LIST else 0


@njit(cache=True, nogil=True)
def _scan(
    text: NDArray,
    words: NDArray,
    stop: int,
    at_start: bool,
    masks: bool,
    powers: NDArray,
    image_id: NDArray,
    category_id: NDArray,
    score: NDArray,
    bbox: NDArray,
    sizes: NDArray,
    counts: NDArray,
    lengths: NDArray,
) -> tuple[int, int, int, int, int]:
    """Read the rows that begin behind a bracket or a comma of the block, which is text[:stop].

    Returns:
        How many rows, -1 if one is unusual; where the first begins; where the row behind the last
        begins, or the list's end; the keys that all have; the bytes of counts.
    """
    p = 0
    scratch = np.empty(1, np.uint64)
    if not at_start:  # "}, {" of which the comma is in the block
        while True:
            while text[p] != _COMMA and p < stop:
                p += 1
            if p >= stop:
                return -1, 0, 1, 0, 0
            before = p - 1
            while before >= 0 and (text[before] <= 32):
                before -= 1
            after = _behind_space(text, p + 1)
            if text[after] == _OPEN and (before < 0 or text[before] == _CLOSE):
                break
            p += 1
    p = first = _behind_space(text, p + 1)
    keys = used = row = length = 0
    while True:
        if text[p] != _OPEN or row >= len(image_id):
            return -1, 0, 1, 0, 0
        seen = 0
        before = used
        while True:
            p = _behind_space(text, p + 1)
            key = 0
            if _is(words, p, _IMAGE_KEY):
                key, length = _IMAGE, _IMAGE_KEY[0]
            elif _is(words, p, _CATEGORY_KEY):
                key, length = _CATEGORY, _CATEGORY_KEY[0]
            elif _is(words, p, _SCORE_KEY):
                key, length = _SCORE, _SCORE_KEY[0]
            elif _is(words, p, _BBOX_KEY):
                key, length = _BBOX, _BBOX_KEY[0]
            elif _is(words, p, _MASK_KEY):
                key, length = _MASK, _MASK_KEY[0]
            if seen & key:
                return -1, 0, 1, 0, 0
            seen |= key
            p = _behind_colon(text, p + length) if key else _behind_key(text, p)
            if p == 0:
                return -1, 0, 1, 0, 0
            if key == _IMAGE:
                p = _whole(text, p, image_id, row)
            elif key == _CATEGORY:
                p = _whole(text, p, category_id, row)
            elif key == _SCORE:
                p = _number(text, words, p, powers, score, row)
            elif key == _BBOX:
                p = _box(text, words, p, powers, bbox, row)
            elif key == _MASK and masks:
                p, used = _rle(text, words, p, sizes, row, counts, used)
            else:
                p = _behind_value(text, words, p, powers, scratch)
            if p == 0:
                return -1, 0, 1, 0, 0
            p = _behind_space(text, p)
            if text[p] == _CLOSE:
                break
            if text[p] != _COMMA:
                return -1, 0, 1, 0, 0
        if not masks:
            seen &= ~_MASK
        if row == 0:
            keys = seen
        needed = _IMAGE | _CATEGORY | _SCORE | (_MASK if masks else 0)
        if seen != keys or seen & needed != needed:
            return -1, 0, 1, 0, 0
        lengths[row] = used - before
        row += 1
        p = _behind_space(text, p + 1)
        comma = p
        if text[p] == _CLOSE_LIST:
            return row, first, p + 1, keys, used
        if text[p] != _COMMA:
            return -1, 0, 1, 0, 0
        p = _behind_space(text, p + 1)
        if comma >= stop:
            return row, first, p, keys, used
