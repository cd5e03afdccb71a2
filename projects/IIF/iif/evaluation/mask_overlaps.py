"""IoUs of masks, from their compressed RLEs, in threads.

Equal to those of pycocotools: both divide the same two whole numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iif.data.annotations import Annotations
from iif.data.results import Detections
from iif.data.rle import RLEs
from iif.kernels import kernel
from iif.threads import in_threads, ranges


def mask_overlaps(
    gt: Annotations,
    detections: Detections,
    wanted: NDArray[np.bool_],
    by_image: NDArray[np.int32],
    image_offsets: NDArray[np.int64],
    gt_rows: NDArray[np.int64],
    gt_offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Return the pairs of a wanted detection and ground truth in its image that overlap.

    Returns:
        (N,) the detection, ascending; (N,) the ground truth, ascending for each; (N,) their IoU.
    """
    assert isinstance(detections.rle, RLEs)
    assert detections.mask_area is not None
    counts, ends, areas = detections.rle.counts, detections.rle.ends, detections.mask_area
    masks = gt.rles(gt_rows)
    gt_areas, crowd = masks.areas(), gt.crowd[gt_rows]
    runs, run_ends = np.empty(len(masks.counts), np.int64), np.empty(len(masks), np.int64)
    _decode_all(masks.counts, masks.ends, runs, run_ends)
    most = int(np.diff(ends, prepend=0).max(initial=0))

    def overlaps(images: tuple[int, int]) -> tuple[NDArray, NDArray, NDArray]:
        number = np.diff(image_offsets[images[0] : images[1] + 1])
        size = int((number * np.diff(gt_offsets[images[0] : images[1] + 1])).sum())
        of, entries, iou = np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size)
        scratch = np.empty(most + 1, np.int64)
        found = np.zeros(1, np.int64)
        _overlaps(
            *images, by_image, image_offsets, wanted, counts, ends, areas, scratch, gt_rows,
            gt_offsets, runs, run_ends, gt_areas, crowd, of, entries, iou, found,
        )  # fmt: skip
        return of[: found[0]].copy(), entries[: found[0]].copy(), iou[: found[0]].copy()

    parts = in_threads(overlaps, ranges(image_offsets))
    of, entries, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(of, kind="stable")
    return of[order], entries[order], iou[order]


@kernel
def _decode(counts: NDArray, start: int, end: int, out: NDArray, at: int) -> int:
    """Write where the pixels of 1 begin and end, in turn; return where in ``out`` they end.

    The counts were checked by `iif.data.rle`.
    """
    before_last = last = position = np.int64(0)
    number = 0
    while start < end:
        run = np.int64(0)
        shift = 0
        more = True
        while more:
            digit = np.int64(counts[start]) - 48
            start += 1
            run |= (digit & 31) << shift
            shift += 5
            more = digit & 32 != 0
            if not more and digit & 16:
                run |= np.int64(-1) << shift
        if number > 2:
            run += before_last
        before_last, last = last, run
        position += run
        out[at] = position
        at += 1
        number += 1
    # The last run of 1 has its end; a last run of 0 has a beginning too many.
    return at - number % 2


@kernel
def _decode_all(counts: NDArray, ends: NDArray, runs: NDArray, run_ends: NDArray) -> None:
    at = start = 0
    for i in range(len(ends)):
        at = _decode(counts, start, ends[i], runs, at)
        run_ends[i] = at
        start = ends[i]


@kernel
def _shared(a: NDArray, i: int, end: int, b: NDArray, j: int, other_end: int) -> int:
    """Return how many pixels two masks share, of which runs i to end and j to other_end."""
    shared = 0
    while i < end and j < other_end:
        high = min(a[i + 1], b[j + 1])
        low = max(a[i], b[j])
        if high > low:
            shared += high - low
        if a[i + 1] < b[j + 1]:
            i += 2
        else:
            j += 2
    return shared


@kernel
def _overlaps(  # type: ignore[no-untyped-def]
    first, end, by_image, image_offsets, wanted, counts, ends, areas, mask, gt_rows,
    gt_offsets, runs, run_ends, gt_areas, crowd, of, entries, iou, number,
):  # fmt: skip
    found = 0
    for i in range(first, end):
        for e in range(image_offsets[i], image_offsets[i + 1]):
            d = by_image[e]
            if not wanted[d] or gt_offsets[i] == gt_offsets[i + 1]:
                continue
            # At least one run of 1: the mask has an area.
            used = _decode(counts, ends[d - 1] if d else 0, ends[d], mask, 0)
            for g in range(gt_offsets[i], gt_offsets[i + 1]):
                begin = run_ends[g - 1] if g else 0
                if begin == run_ends[g] or runs[run_ends[g] - 1] <= mask[0]:
                    continue
                if mask[used - 1] <= runs[begin]:  # as with most pairs: no column in common
                    continue
                shared = _shared(mask, 0, used, runs, begin, run_ends[g])
                if shared > 0:
                    union = areas[d] if crowd[g] else areas[d] + gt_areas[g] - shared
                    of[found] = d
                    entries[found] = gt_rows[g]
                    iou[found] = shared / union
                    found += 1
    number[0] = found
