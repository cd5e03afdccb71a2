"""The text of result files: kernels that read a block's rows, for `iif.data.scanner`.

A block of the file ends in zero bytes, at which every loop over its text stops. ``words`` is the
same memory as ``text``: the 8 bytes at each place, the first of them the lowest.
What a function does not know it answers with 0, or -1 rows: it is for the strict reader.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.kernels import kernel

_IMAGE, _CATEGORY, _SCORE, BBOX, _MASK = 1, 2, 4, 8, 16
_QUOTE, _COMMA, _COLON, _BACKSLASH, _MINUS, _POINT, _ZERO = (ord(c) for c in '",:\\-.0')
_OPEN, _CLOSE, _OPEN_LIST, CLOSE_LIST = (ord(c) for c in "{}[]")
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
POWERS = _powers_of_ten()
_MOST_DIGITS = 19
_0, _1, _3, _8, _9, _10, _16, _32, _52, _53, _63 = (
    np.uint64(n) for n in (0, 1, 3, 8, 9, 10, 16, 32, 52, 53, 63)
)
_ZEROS, _UPPER, _SIXES = (np.uint64(int(byte * 8, 16)) for byte in ("30", "F0", "06"))
_HIGH, _ONES, _SPACES, _QUOTES, _BACKSLASHES, _DELETES = (
    np.uint64(int(byte * 8, 16)) for byte in ("80", "01", "20", "22", "5C", "7F")
)
_PAIRS, _BY_PAIRS = np.uint64(0x000000FF000000FF), np.uint64(100 + (1_000_000 << 32))
_EIGHT_DIGITS, _BY_FOURS = np.uint64(10**8), np.uint64(1 + (10_000 << 32))
_BYTE, _LOW_BITS = np.uint64(0xFF), np.uint64(0x1FF)
_HALF, _ALL = np.uint64(2**32 - 1), np.uint64(2**64 - 1)
_MANTISSA = np.uint64(2**52 - 1)


@kernel
def _multiply_high(a: Any, b: Any) -> Any:
    """Return the upper 64 of the 128 bits of a product."""
    middle = (a >> _32) * (b & _HALF) + ((a & _HALF) * (b & _HALF) >> _32)
    lower = (a & _HALF) * (b >> _32) + (middle & _HALF)
    return (a >> _32) * (b >> _32) + (middle >> _32) + (lower >> _32)


@kernel
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
            digits = digits * _10 + np.uint64(c)
        elif c == _POINT - _ZERO and whole == 0 and p > first:
            whole = p - first
            while _are_digits(words[p + 1]):
                digits = digits * _EIGHT_DIGITS + _value(words[p + 1])
                p += 8
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


@kernel
def _are_digits(word: Any) -> bool:
    """Return whether 8 bytes of text are digits."""
    return word & _UPPER == _ZEROS and (word + _SIXES) & _UPPER == _ZEROS


@kernel
def _is_plain(word: Any) -> bool:
    """Return whether 8 bytes of text are printable ASCII without quotes and backslashes."""
    # The highest bit of a byte says that it is another: below a space, one of three, or no ASCII.
    found = (word - _SPACES) | _zero_bytes(word ^ _QUOTES) | _zero_bytes(word ^ _BACKSLASHES)
    return (found | _zero_bytes(word ^ _DELETES) | word) & _HIGH == _0


@kernel
def _zero_bytes(word: Any) -> Any:
    return (word - _ONES) & ~word


@kernel
def _value(word: Any) -> Any:
    """Return the value of 8 digits, the first of which is the lowest byte."""
    word = word - _ZEROS
    word = word * _10 + (word >> _8)
    return (word & _PAIRS) * _BY_PAIRS + (word >> _16 & _PAIRS) * _BY_FOURS >> _32


@kernel
def _behind_space(text: NDArray, p: int) -> int:
    while text[p] == 32 or text[p] == 10 or text[p] == 13 or text[p] == 9:
        p += 1
    return p


@kernel
def _is(words: NDArray, p: int, key: tuple[Any, ...]) -> bool:
    """Return whether a key of 6 to 16 bytes, of `_key`, is at p."""
    _, last, mask, first_word, last_word = key
    return words[p] & mask == first_word and words[p + last] & mask == last_word


@kernel
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


@kernel
def _string(
    text: NDArray, words: NDArray, p: int, copy: bool, out: NDArray, at: int
) -> tuple[int, int]:
    """Pass the ASCII string at p, and copy its characters; return its end, 0 if unusual."""
    if text[p] != _QUOTE:
        return 0, at
    p += 1
    while True:
        while _is_plain(words[p]):
            if copy:
                for i in range(8):
                    out[at + i] = words[p] >> np.uint64(8 * i) & _BYTE
                at += 8
            p += 8
        c = text[p]
        if c == _QUOTE:
            return p + 1, at
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


@kernel
def _behind_colon(text: NDArray, p: int) -> int:
    p = _behind_space(text, p)
    return _behind_space(text, p + 1) if text[p] == _COLON else 0


@kernel
def _behind_key(text: NDArray, words: NDArray, p: int) -> int:
    """Return where the value behind any key at p begins; 0 if unusual."""
    p, _ = _string(text, words, p, False, text, 0)
    return _behind_colon(text, p) if p else 0


@kernel
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
            if text[p] != _CLOSE and text[p] != CLOSE_LIST:
                if c == _OPEN:
                    p = _behind_key(text, words, p)
                if p == 0:
                    return 0
                continue
        elif c == _QUOTE:
            p, _ = _string(text, words, p, False, text, 0)
        else:
            p = _number(text, words, p, powers, scratch, 0)
        if p == 0:
            return 0
        while depth:
            p = _behind_space(text, p)
            if text[p] == _COMMA:
                p = _behind_space(text, p + 1)
                if objects & 1:
                    p = _behind_key(text, words, p)
                break
            if text[p] != (_CLOSE if objects & 1 else CLOSE_LIST):
                return 0
            p += 1
            depth -= 1
            objects >>= 1
        if depth == 0 or p == 0:
            return p


@kernel
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
            p, used = _string(text, words, p, True, counts, used)
        elif p:
            for i in range(2):
                if text[p] != (_COMMA if i else _OPEN_LIST):
                    return 0, used
                p = _whole(text, _behind_space(text, p + 1), sizes, 2 * row + i)
                if p == 0:
                    return 0, used
                p = _behind_space(text, p)
            if text[p] != CLOSE_LIST:
                return 0, used
            p += 1
        if p == 0:
            return 0, used
        p = _behind_space(text, p)
        if text[p] == _CLOSE:
            return (p + 1 if seen == 3 else 0), used
        if text[p] != _COMMA:
            return 0, used


@kernel
def _box(text: NDArray, words: NDArray, p: int, powers: NDArray, bbox: NDArray, row: int) -> int:
    for i in range(4):
        if text[p] != (_COMMA if i else _OPEN_LIST):
            return 0
        p = _number(text, words, _behind_space(text, p + 1), powers, bbox, 4 * row + i)
        if p == 0:
            return 0
        p = _behind_space(text, p)
    return p + 1 if text[p] == CLOSE_LIST else 0


@kernel
def scan_text(  # type: ignore[no-untyped-def]
    text, words, stop, at_start, masks, powers, image_id, category_id, score, bbox, sizes,
    counts, lengths, scratch, out,
):  # fmt: skip
    """Read the rows that begin behind a bracket or a comma of the block, which is text[:stop].

    Writes to ``out``: how many rows, -1 if one is unusual; where the first begins; where the row
    behind the last begins, or the list's end; the keys that all have; the bytes of counts.
    """
    p = 0
    out[0] = -1
    if not at_start:  # "}, {" of which the comma is in the block
        while True:
            while text[p] != _COMMA and p < stop:
                p += 1
            if p >= stop:
                return
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
            return
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
                key, length = BBOX, _BBOX_KEY[0]
            elif _is(words, p, _MASK_KEY):
                key, length = _MASK, _MASK_KEY[0]
            if seen & key:
                return
            seen |= key
            p = _behind_colon(text, p + length) if key else _behind_key(text, words, p)
            if p == 0:
                return
            if key == _IMAGE:
                p = _whole(text, p, image_id, row)
            elif key == _CATEGORY:
                p = _whole(text, p, category_id, row)
            elif key == _SCORE:
                p = _number(text, words, p, powers, score, row)
            elif key == BBOX:
                p = _box(text, words, p, powers, bbox, row)
            elif key == _MASK and masks:
                p, used = _rle(text, words, p, sizes, row, counts, used)
            else:
                p = _behind_value(text, words, p, powers, scratch)
            if p == 0:
                return
            p = _behind_space(text, p)
            if text[p] == _CLOSE:
                break
            if text[p] != _COMMA:
                return
        if not masks:
            seen &= ~_MASK
        if row == 0:
            keys = seen
        needed = _IMAGE | _CATEGORY | _SCORE | (_MASK if masks else 0)
        if seen != keys or seen & needed != needed:
            return
        lengths[row] = used - before
        row += 1
        p = _behind_space(text, p + 1)
        comma = p
        if text[p] == CLOSE_LIST:
            out[0], out[1], out[2], out[3], out[4] = row, first, p + 1, keys, used
            return
        if text[p] != _COMMA:
            return
        p = _behind_space(text, p + 1)
        if comma >= stop:
            out[0], out[1], out[2], out[3], out[4] = row, first, p, keys, used
            return
