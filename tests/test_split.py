"""Which images of a training set are held out: the rule itself."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iif import InputError
from iif.data.split import held_out_images


@given(ids=st.lists(st.integers(0, 10**7), min_size=1), a=st.floats(0, 0.99), b=st.floats(0, 0.99))
def test_a_larger_fraction_holds_out_the_same_images_and_more(ids, a, b):
    less, more = held_out_images(ids, min(a, b)), held_out_images(ids, max(a, b))
    assert (less <= more).all()
    assert held_out_images(ids[::-1], a).tolist() == held_out_images(ids, a).tolist()[::-1]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.75])
def test_the_fraction_is_that_of_the_images_held_out_not_of_the_others(fraction):
    assert held_out_images(range(100_000), fraction).mean() == pytest.approx(fraction, abs=0.005)


def test_a_fraction_of_zero_holds_out_no_image():
    assert not held_out_images(range(1000), 0.0).any()


def test_the_images_held_out_stay_the_same_in_every_version():
    chosen = held_out_images(range(1, 31), 0.2)
    assert [i for i, out in enumerate(chosen.tolist(), 1) if out] == [2, 6, 23, 27]
    # An id whose hash equals the limit is trained on.
    limit = zlib.crc32(b"7") / 2**32
    assert held_out_images([7], limit).tolist() == [False]
    assert held_out_images([7], limit + 2**-32).tolist() == [True]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_wrong_fraction_is_refused(fraction):
    with pytest.raises(InputError, match=r"must be in \[0, 1\)"):
        held_out_images([1], fraction)
