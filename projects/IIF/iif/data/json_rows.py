"""Large JSON lists of objects, decoded block by block."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from iif.errors import InputError
from iif.files import nested_too_deeply, text_start
from iif.progress import progress

# A block holds many rows, and no row is longer than a block.
_BLOCK_BYTES = 8 << 20
_TAIL_BYTES = 1 << 16
_JSON_SPACE = b" \t\r\n"
_SPACE = re.compile(r"[ \t\r\n]*")
_GAP = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*(?=\{)")
_JSON = json.JSONDecoder()


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True)
class JsonList:
    """A file that holds one JSON list of objects, its rows.

    Attributes:
        path: the file, as messages name it.
        what: what the file should be, for messages.
        row: what each row should be, for messages.
        if_empty: what an empty file should be instead, for messages.
        block_bytes: how much is read at a time; default 8 MB.
        text: the plain file with the list, where that is another than ``path``.
    """

    path: str
    what: str
    row: str
    if_empty: str
    block_bytes: int | None = None
    text: str | None = None

    def blocks(
        self, row_type: type[Any], digest: _Hash | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield the rows block by block, each block with the number of its first row.

        Args:
            row_type: a msgspec.Struct to decode each row into.
            digest: a hash to update with the bytes of the file (complete after the last block).

        Raises:
            InputError: the file is missing, not JSON (cut off) or not a list, or a row is not of
                ``row_type``; the message names file, row (from 0) and key.
        """
        decoder = msgspec.json.Decoder(list[row_type])  # type: ignore[valid-type]
        first_row = 0
        rest = b""
        for block, last in self._inside(digest):
            rest += block
            text = self._without_comma(rest, first_row) if first_row else rest
            cut = len(text) if last else _last_gap(text)
            try:
                if not cut and len(text) > self._block:
                    rows, cut = self._decode_leniently(text, row_type, first_row, last)
                else:
                    rows = decoder.decode(b"[" + text[:cut] + b"]")
            except msgspec.ValidationError as error:
                raise self._validation_error(first_row, error) from None
            except (msgspec.DecodeError, UnicodeDecodeError):
                rows, cut = self._decode_leniently(text, row_type, first_row, last)
            except RecursionError:
                raise nested_too_deeply(self.path, self.what) from None
            if rows:
                yield first_row, rows
                first_row += len(rows)
                rest = text[cut:]

    @property
    def _block(self) -> int:
        return self.block_bytes or _BLOCK_BYTES

    def row_error(self, row: int, key: str, fault: str) -> InputError:
        """Return the error for a fault under a key of a row."""
        return InputError(f"{self.path}: row {row}: {key} {fault}")

    def _inside(self, digest: _Hash | None) -> Iterator[tuple[bytes, bool]]:
        """Yield the inside of the list in blocks, and with each whether it is the last."""
        try:
            f = open(self.text or self.path, "rb")  # noqa: SIM115 - closed by the with statement below
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file; expected {self.what}") from None
        except IsADirectoryError:
            raise InputError(f"{self.path}: is a folder; expected {self.what}") from None
        size = os.fstat(f.fileno()).st_size
        bar = progress(
            desc=f"reading {os.path.basename(self.path)}",
            total=size,
            unit="B",
            unit_scale=True,
            delay=1,
        )
        with f, bar:
            # Both ends before the rest: a file that was cut off is refused at once, however large.
            f.seek(max(0, size - _TAIL_BYTES))
            tail = f.read().rstrip(_JSON_SPACE)
            f.seek(0)
            block = f.read(self._block)
            head = block[text_start(block, self.path) :].lstrip(_JSON_SPACE)
            if not head:
                raise InputError(f"{self.path}: is empty; {self.if_empty}")
            if not head.startswith(b"["):
                raise InputError(
                    f"{self.path}: begins with {head[:1].decode(errors='replace')!r}; expected "
                    f"{self.what}"
                )
            if not tail.endswith(b"]"):
                raise InputError(
                    f"{self.path}: does not end with the list's closing ']': the file is cut off; "
                    "copy or make it again"
                )
            inside = head[1:]
            while block:
                if digest is not None:
                    digest.update(block)
                bar.update(len(block))
                block = f.read(self._block)
                if block.strip(_JSON_SPACE):
                    yield inside, False
                    inside = block
            yield inside.rstrip(_JSON_SPACE)[:-1], True

    def _without_comma(self, text: bytes, row: int) -> bytes:
        """Return the text behind the comma that separates it from the row before."""
        text = text.lstrip(_JSON_SPACE)
        if text[:1] not in (b",", b""):
            raise self._malformed_error(row, "expected ',' before it")
        return text[1:]

    def _decode_leniently(
        self, text: bytes, row_type: type[Any], first_row: int, last: bool
    ) -> tuple[list[Any], int]:
        """Decode row by row what msgspec refuses: NaN and Infinity, which Python's json writes.

        Which numbers must be finite is for the caller to check.

        Args:
            text: rows with commas between; unless ``last``, it may end within a row.
            row_type: what each row must be.
            first_row: the number of the first row, for messages.
            last: whether ``text`` reaches the list's end.

        Returns:
            The rows and how many bytes they take.

        Raises:
            InputError: names the row that is not JSON.
        """
        # One character for each byte, so that positions agree; no value that is read has others.
        string = text.decode("latin-1")
        rows: list[Any] = []
        at = used = 0
        while True:
            try:
                value, at = _JSON.raw_decode(string, _behind_space(string, at))
            except json.JSONDecodeError as error:
                if not last and used + self._block > len(text):
                    return rows, used
                raise self._malformed_error(first_row + len(rows), error.msg) from None
            except RecursionError:
                raise nested_too_deeply(self.path, self.what) from None
            try:
                rows.append(msgspec.convert(value, row_type))
            except msgspec.ValidationError as error:
                raise self._validation_error(first_row + len(rows), error) from None
            except UnicodeEncodeError:
                fault = "half of a surrogate pair"
                raise self._malformed_error(first_row + len(rows), fault) from None
            used = at
            at = _behind_space(string, at)
            if at == len(string):
                return rows, used
            if string[at] != ",":
                raise self._malformed_error(first_row + len(rows), "expected ',' before it")
            at += 1

    def _validation_error(self, first_row: int, error: msgspec.ValidationError) -> InputError:
        """Reword msgspec's "Expected `int`, got `str` - at `$[3].image_id`"."""
        fault, _, place = str(error).partition(" - at `$")
        match = re.match(r"(?:\[(\d+)\])?\.?(.*?)`?$", place)
        row = first_row + int(match[1] or 0) if match else first_row
        key = match[2] if match else ""
        missing = re.match(r"Object missing required field `(.*)`", fault)
        if missing:
            key = f"{key}.{missing[1]}" if key else missing[1]
            fault = "is missing"
        fault = f"{fault[0].lower()}{fault[1:]}; a row is {self.row}"
        return self.row_error(row, key or "the row", fault)

    def _malformed_error(self, row: int, fault: str) -> InputError:
        return InputError(f"{self.path}: row {row}: not valid JSON ({fault}); make the file again")


def _last_gap(text: bytes) -> int:
    """Return where the last of the gaps "}, {" between objects begins its comma; 0 for none.

    A gap may lie within a row, in a list of objects or a string; the text before it is not JSON
    then, because a bracket or a quote stays open.
    """
    for start in (max(0, len(text) - _TAIL_BYTES), 0):
        gaps = list(_GAP.finditer(text, start))
        if gaps:
            return gaps[-1].start() + 1
    return 0


def _behind_space(string: str, at: int) -> int:
    match = _SPACE.match(string, at)
    assert match is not None  # an empty match at least
    return match.end()
