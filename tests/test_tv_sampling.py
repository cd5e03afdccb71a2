"""iif.tv.sampling: repeat factors and the order of the training images."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torchvision", reason="torchvision is not installed")

from iif.tv.sampling import batches, image_stream, repeat_factors

instances = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=40)


def arrays(pairs):
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


@settings(deadline=None, max_examples=100)
@given(pairs=instances, threshold=st.floats(0.01, 1))
def test_repeat_factors_follow_the_formula(pairs, threshold):
    factors = repeat_factors(*arrays(pairs), 10, threshold)
    for image in range(10):
        expected = 1.0
        for category in {c for i, c in pairs if i == image}:
            share = len({i for i, c in pairs if c == category}) / 10
            expected = max(expected, math.sqrt(threshold / share))
        assert factors[image].item() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(pairs=instances, threshold=st.floats(0.01, 1))
def test_repeat_factors_are_detectron2s(pairs, threshold):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    dicts = [
        {"annotations": [{"category_id": c} for i, c in pairs if i == image]} for image in range(10)
    ]
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, threshold)
    assert torch.equal(repeat_factors(*arrays(pairs), 10, threshold), theirs)


def test_order_is_detectron2s():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler

    factors = torch.tensor([1.0, 1.5, 2.25, 1.0, 3.9])
    for theirs, ours in (
        (TrainingSampler(5, seed=7), image_stream(5, 7)),
        (RepeatFactorTrainingSampler(factors, seed=7), image_stream(5, 7, factors)),
    ):
        assert list(itertools.islice(ours, 60)) == list(itertools.islice(theirs, 60))


def test_every_image_is_shown_once_an_epoch():
    shown = list(itertools.islice(image_stream(7, seed=1), 21))
    epochs = [shown[:7], shown[7:14], shown[14:]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_images_are_repeated_their_factor_times_on_average():
    factors = torch.tensor([1.0, 1.25, 2.5])
    shown = np.array(list(itertools.islice(image_stream(3, 0, factors), 19_000)))
    share = np.bincount(shown) / len(shown)
    np.testing.assert_allclose(share, factors.numpy() / factors.sum().item(), atol=0.01)


def take(**options):
    defaults = {"images_per_batch": 4, "start": 0, "stop": 9, "flip": True, "seed": 3}
    return list(batches(image_stream(10, 3), **{**defaults, **options}))


def test_a_resumed_stream_goes_on_where_it_stopped():
    assert take(stop=4) + take(start=4) == take()


def test_processes_share_each_batch():
    whole = take()
    first, second = take(rank=0, world_size=2), take(rank=1, world_size=2)
    for all_items, a, b in zip(whole, first, second, strict=True):
        assert len(a) == len(b) == 2
        assert sorted(a + b) == sorted(all_items)


def test_half_of_the_images_are_mirrored_or_none():
    flags = [flag for batch in take(stop=500) for _, flag in batch]
    assert 0.45 < np.mean(flags) < 0.55
    assert not any(flag for batch in take(flip=False) for _, flag in batch)
