"""Work in threads: results in order, groups divided without a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iif.threads import in_threads, ranges


@given(st.lists(st.integers(0, 1000)))
def test_ranges_cover_every_group_once(sizes):
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    covered = [group for pair in ranges(offsets) for group in range(*pair)]
    assert covered == list(range(len(sizes)))


def test_results_are_in_order_and_errors_are_raised():
    assert in_threads(lambda n: n * n, range(100)) == [n * n for n in range(100)]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda n: 1 // n, [1, 0, 2])
