"""The segmentations of an annotation file, which stay text in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class _Segmentation(msgspec.Struct, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class Segmentations(Sequence[Any]):
    """The ``segmentation`` of each annotation: text in memory, decoded on access."""

    def __init__(self, annotations: list[msgspec.Raw]) -> None:
        """Keep the annotations, which are views into the file's content."""
        self._annotations = annotations
        self._decoder = msgspec.json.Decoder(_Segmentation)

    def __len__(self) -> int:
        """Return the number of annotations."""
        return len(self._annotations)

    def __getitem__(self, index: Any) -> Any:
        """Return polygons (lists of x, y, x, y, ...) or an RLE dict, as the file has it."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return msgspec.json.decode(self.text(index) or b"null")

    def part(self, rows: Sequence[int]) -> Segmentations:
        """Return those of some annotations."""
        return Segmentations([self._annotations[row] for row in rows])

    def text(self, row: int) -> bytes:
        """Return the JSON text of a segmentation; empty where the annotation has none."""
        text = bytes(self._decoder.decode(self._annotations[row]).segmentation)
        # What is no UTF-8 is no mask either, and refused as such.
        return text if text.isascii() else text.decode(errors="replace").encode()
