"""The check of compressed RLEs, character by character."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from iif.data import rle


def encode(*numbers: int) -> bytes:
    """Return numbers as COCO writes them: five bits a character, the least significant first."""
    text = bytearray()
    for number in numbers:
        while True:
            digit = number & 31
            number >>= 5
            done = number == (-1 if digit & 16 else 0)
            text.append(48 + (digit | (0 if done else 32)))
            if done:
                break
    return bytes(text)


def area(counts: bytes, height: int, width: int) -> int:
    """Return what the check says of one mask."""
    masks = rle.RLEs(
        np.array([[height, width]]), np.frombuffer(counts, np.uint8), np.array([len(counts)])
    )
    return int(masks.areas()[0])


def test_the_encoding_of_this_file_is_pycocotools():
    mask = np.zeros((7, 9), np.uint8, order="F")
    mask[1:5, 2:4] = 1
    mask[6, 5:] = 1
    # From the fourth run on, the difference from the run two before.
    flat = mask.ravel(order="F")
    runs = np.diff(np.flatnonzero(np.concatenate([[1], flat[1:] != flat[:-1], [1]]))).tolist()
    numbers = runs[:3] + [runs[i] - runs[i - 2] for i in range(3, len(runs))]
    counts = mask_utils.encode(mask)["counts"]
    assert encode(*numbers) == counts
    assert area(counts, 7, 9) == mask.sum()


@pytest.mark.parametrize("character", [b"/", b"p", b"q", b"~", b"\x00", b"\xff"])
def test_the_characters_next_to_the_alphabet_are_outside_of_it(character):
    assert area(character, 2, 2) == -1
    assert area(encode(1) + character, 2, 2) == -1


def test_the_last_character_of_the_alphabet_is_inside():
    # "o" is five set bits and a continuation: the number goes on.
    assert area(b"o0", 31, 1) == 0
    assert area(b"o", 31, 1) == -2


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([4], 0),
        ([0, 4], 4),
        ([1, 2, 1], 2),
        ([1, 1, 1, 0], 2),  # the fourth run is as long as the second
        ([5], -3),
        ([0, 5], -3),
        ([3], -4),
        ([2, 1], -4),
        ([2, 3], -4),
        ([-1], -3),
        ([4, -1], -3),
        ([1, 1, 1, -2], -3),  # 1 - 2 is below zero
        ([], -4),
    ],
)
def test_runs_are_those_of_a_mask_or_refused(runs, expected):
    assert area(encode(*runs), 2, 2) == expected


def test_runs_whose_sum_passes_64_bits_are_refused():
    huge = 2**58
    # 64 of them sum to 0 modulo 2**64.
    runs = [huge] * 3 + [0] * 61
    assert area(encode(*runs, 1, 3 - huge), 2, 2) == -3


def test_a_number_of_more_digits_than_64_bits_have_is_refused():
    assert area(b"P" * 11 + b"0", 2, 2) == -4  # twelve digits: the number is 0
    assert area(b"P" * 12 + b"0", 2, 2) == -3


def test_a_mask_after_another_starts_where_that_one_ended():
    texts = [encode(1, 2, 1), encode(0, 6), encode(4)]
    masks = rle.RLEs(
        np.array([[2, 2], [3, 2], [2, 2]]),
        np.frombuffer(b"".join(texts), np.uint8),
        np.cumsum([len(text) for text in texts]),
    )
    assert masks.areas().tolist() == [2, 6, 0]
    assert [mask["counts"] for mask in masks] == texts
    assert masks[-1] == {"size": [2, 2], "counts": texts[2]}
    assert [mask["size"] for mask in masks[1:]] == [[3, 2], [2, 2]]
    with pytest.raises(IndexError):
        masks[3]


@pytest.mark.parametrize("runs", [[5], [3], [5, -1], [2.0, 2], [2, 3], []])
def test_uncompressed_runs_must_be_those_of_the_mask(runs):
    with pytest.raises(ValueError, match="do not sum to height"):
        rle.from_runs(runs, 2, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"counts": "4", "size": [2, 3]}, r"size is \[2, 3\] but the image is \[2, 2\]"),
        ({"counts": 4, "size": [2, 2]}, "expected an RLE"),
        ({"size": [2, 2]}, "expected an RLE"),
        ([1, 2, 3], "expected an RLE"),
        ({"counts": "5", "size": [2, 2]}, "negative run or one above"),
    ],
)
def test_what_is_no_rle_of_the_image_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        rle.checked(value, 2, 2)
