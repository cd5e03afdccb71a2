"""Run-length encoded masks in COCO's compressed form: checked, measured and stored compactly.

A compressed RLE is ``{"size": [height, width], "counts": str}``. Its counts are the lengths of
alternating runs of 0 and 1 in column-major order, each written as a little-endian base-32 number
(from the fourth run on, as the difference from the run two before) in the characters "0" to "o".
pycocotools reads past the end of a string that was cut off and may never return. Therefore every
string is checked here before pycocotools reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from iif.threads import in_threads, ranges

FAULTS = {
    -1: "counts has a character outside of the RLE alphabet",
    -2: "counts ends in the middle of a number; it was cut off",
    -3: "counts holds a negative run or one above height * width",
    -4: "the runs of counts do not sum to height * width",
}


class RLEs(Sequence[dict[str, Any]]):
    """Compressed RLEs stored as one byte array; an item is a dict as pycocotools takes it.

    A list of dicts would cost about 400 bytes for each mask on top of its counts.
    Attributes: ``sizes``, ``counts`` and ``ends``, as given.
    """

    def __init__(self, sizes: NDArray[np.int64], counts: NDArray[np.uint8], ends: NDArray) -> None:
        """Store the masks; the counts of mask i are ``counts[ends[i - 1]:ends[i]]``.

        Args:
            sizes: (D, 2) height and width.
            counts: (N,) bytes of all masks, concatenated.
            ends: (D,) int64, where the counts of each mask end.
        """
        self.sizes = sizes
        self.counts = counts
        self.ends = ends

    @classmethod
    def joined(cls, parts: Sequence[RLEs]) -> RLEs:
        """Return the masks of several, one after the other."""
        starts = np.cumsum([0] + [len(part.counts) for part in parts])
        return cls(
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.ends + start for part, start in zip(parts, starts, strict=False)]),
        )

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """Return mask ``index``, or a list of masks for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        start = self.ends[row - 1] if row else 0
        return {
            "size": self.sizes[row].tolist(),
            "counts": self.counts[start : self.ends[row]].tobytes(),
        }

    def areas(self) -> NDArray[np.int64]:
        """Return the (D,) number of pixels of each mask, or the negative key of its FAULTS."""
        pixels = self.sizes[:, 0] * self.sizes[:, 1]
        areas = np.empty(len(self), np.int64)
        offsets = np.concatenate([[0], self.ends])
        in_threads(lambda rows: _areas(*rows, self.counts, offsets, pixels, areas), ranges(offsets))
        return areas


def from_runs(runs: Sequence[int], height: int, width: int) -> bytes:
    """Compress the counts of an uncompressed RLE.

    Raises:
        ValueError: the runs are not those of a mask of this size.
    """
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(FAULTS[-4])
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width)
    return rle["counts"]


def checked(rle: Any, height: int, width: int) -> dict[str, Any]:
    """Return one RLE, compressed or not, as a compressed RLE that is safe for pycocotools.

    Raises:
        ValueError: it is no RLE of a mask of this size; the message says why.
    """
    counts = rle.get("counts") if isinstance(rle, dict) else None
    if not isinstance(counts, list | str | bytes):
        raise ValueError('expected an RLE {"size": [height, width], "counts": ...}')
    if rle.get("size") != [height, width]:
        raise ValueError(f"size is {rle.get('size')} but the image is [{height}, {width}]")
    if isinstance(counts, list):
        return {"size": [height, width], "counts": from_runs(counts, height, width)}
    text = counts if isinstance(counts, bytes) else counts.encode()
    masks = RLEs(
        np.array([[height, width]], np.int64),
        np.frombuffer(text, np.uint8),
        np.array([len(text)], np.int64),
    )
    fault = int(masks.areas()[0])
    if fault < 0:
        raise ValueError(FAULTS[fault])
    return masks[0]


@njit(cache=True, nogil=True)
def _areas(
    first: int, end: int, counts: NDArray, offsets: NDArray, pixels: NDArray, areas: NDArray
) -> None:
    for i in range(first, end):
        areas[i] = _area(counts, offsets[i], offsets[i + 1], pixels[i])


@njit(cache=True, nogil=True)
def _area(counts: NDArray, start: int, end: int, pixels: int) -> np.int64:
    before_last = np.int64(0)
    last = np.int64(0)
    total = np.int64(0)
    area = np.int64(0)
    number = 0
    at = start
    while at < end:
        run = np.int64(0)
        shift = 0
        while True:
            if at >= end:
                return np.int64(-2)
            digit = np.int64(counts[at]) - 48
            if digit < 0 or digit > 63:
                return np.int64(-1)
            at += 1
            # 12 digits fill the 64 bits; a run of a real mask has at most 7.
            if shift > 55:
                return np.int64(-3)
            run |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                if digit & 16:
                    run |= np.int64(-1) << shift
                break
        if number > 2:
            run += before_last
        if run < 0 or run > pixels:
            return np.int64(-3)
        total += run
        if number % 2:
            area += run
        before_last, last = last, run
        number += 1
    return area if total == pixels else np.int64(-4)
