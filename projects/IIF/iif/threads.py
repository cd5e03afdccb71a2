"""Threads for work that releases the interpreter lock: kernels, sorting, compression."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

NUM_THREADS = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return the results of a function that releases the interpreter lock, in the items' order."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, items))


def ranges(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Divide groups among threads: return ranges of them with about as many rows each.

    Args:
        offsets: (groups + 1,) where the rows of each group begin.
    """
    number = len(offsets) - 1
    inner = np.linspace(0, offsets[-1], 8 * NUM_THREADS + 1)[1:-1]
    edges = sorted({0, number, *np.searchsorted(offsets[:-1], inner).tolist()})
    return list(pairwise(edges))
