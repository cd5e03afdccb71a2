"""FASA: running mean and variance, chances, noise and loss, by hand and over two processes."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iif import ClassStatistics, InputError, build_method
from iif.augmentation import (
    FasaOptions,
    FeatureAugmentation,
    HeldOutLoss,
    refuse_own_loss,
    still_logits,
)

K, C = 4, 3
COUNTS = [100, 20, 5, 1]
STATISTICS = ClassStatistics(
    image_count=[50, 20, 5, 1], num_images=60, instance_count=COUNTS, names=["a", "b", "c", "d"]
)


def augmentation(**options: Any) -> FeatureAugmentation:
    return FeatureAugmentation(COUNTS, C, seed=3, options=FasaOptions(epoch_length=2, **options))


def linear() -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(C, K + 1)


def regions(seed: int, number: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(number, C, generator=generator).clamp(min=0)
    return features, torch.randint(0, K + 1, (number,), generator=generator)


class TestObserve:
    def test_mean_and_variance_after_two_updates_by_hand(self):
        fasa = FeatureAugmentation(COUNTS, 2)
        features = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0], [9.0, 9.0]])
        fasa.observe(features, torch.tensor([0, 0, 2, K]))  # the last is background
        assert fasa.mean.tolist() == [[2.0, 4.0], [0.0, 0.0], [5.0, 1.0], [0.0, 0.0]]
        assert fasa.variance.tolist() == [[2.0, 8.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
        assert fasa.seen.tolist() == [True, False, True, False]
        # 0.1 new + 0.9 old; class 3 is new and taken over, class 2 is absent and stays.
        features = torch.tensor([[4.0, 0.0], [8.0, 2.0], [0.0, 4.0]])
        fasa.observe(features, torch.tensor([0, 3, 0]))
        mean = [[0.1 * 2 + 0.9 * 2, 0.1 * 2 + 0.9 * 4], [0, 0], [5, 1], [8, 2]]
        variance = [[0.1 * 8 + 0.9 * 2, 0.1 * 8 + 0.9 * 8], [0, 0], [0, 0], [0, 0]]
        torch.testing.assert_close(fasa.mean, torch.tensor(mean))
        torch.testing.assert_close(fasa.variance, torch.tensor(variance))
        assert fasa.seen.tolist() == [True, False, True, True]

    def test_against_numpy(self):
        fasa = augmentation(momentum=0.3)
        mean, variance = {}, {}
        for seed in range(5):
            features, labels = regions(seed)
            fasa.observe(features, labels)
            for c in set(labels.tolist()) - {K}:
                x = features[labels == c].double().numpy()
                new = x.mean(0), x.var(0, ddof=1) if len(x) > 1 else np.zeros(C)
                for old, value in zip((mean, variance), new, strict=True):
                    old[c] = 0.3 * value + 0.7 * old[c] if c in old else value
        for c in range(K):
            np.testing.assert_allclose(fasa.mean[c], mean[c], rtol=1e-5)
            np.testing.assert_allclose(fasa.variance[c], variance[c], rtol=1e-5)

    def test_a_batch_without_foreground_changes_nothing(self):
        fasa = augmentation()
        fasa.observe(*regions(0))
        before = {name: buffer.clone() for name, buffer in fasa.named_buffers()}
        fasa.observe(torch.ones(3, C), torch.full((3,), K))
        fasa.observe(torch.ones(0, C), torch.zeros(0, dtype=torch.int64))
        for name, buffer in fasa.named_buffers():
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)

    def test_half_precision_features_are_averaged_in_float32(self):
        fasa = FeatureAugmentation(COUNTS, 1)
        features = torch.tensor([[1.0], [1.0], [1.0078125]], dtype=torch.bfloat16)
        fasa.observe(features, torch.zeros(3, dtype=torch.int64))
        assert fasa.mean.dtype == torch.float32
        assert fasa.mean[0].item() == pytest.approx((2 + 1.0078125) / 3, rel=1e-7)


class TestChances:
    def test_start_from_the_instance_counts(self):
        inverse = 1 / np.array(COUNTS)
        np.testing.assert_allclose(augmentation().chance, inverse / inverse.sum(), rtol=1e-6)

    def test_a_class_without_instances_has_none(self):
        chance = FeatureAugmentation([4, 0, 4], C).chance
        assert chance.tolist() == [0.5, 0.0, 0.5]

    def test_adapt_to_the_change_of_the_held_out_loss(self):
        fasa = augmentation()
        fasa.chance.copy_(torch.tensor([0.2, 0.95, 0.4, 0.5]))
        fasa.adapt(torch.tensor([-0.3, -1e-3, 2.0, 0.0]))
        torch.testing.assert_close(fasa.chance, torch.tensor([0.22, 1.0, 0.36, 0.5]))
        fasa.adapt(torch.tensor([torch.nan, 1.0, -1.0, torch.nan]))
        torch.testing.assert_close(fasa.chance, torch.tensor([0.22, 0.9, 0.396, 0.5]))

    def test_the_first_epoch_only_stores(self):
        fasa = augmentation()
        start = fasa.chance.clone()
        fasa.follow(torch.tensor([1.0, 2.0, 3.0, torch.nan]))
        assert torch.equal(fasa.chance, start)
        fasa.follow(torch.tensor([0.5, 2.5, 3.0, torch.nan]))
        torch.testing.assert_close(fasa.chance, start * torch.tensor([1.1, 0.9, 1.0, 1.0]))
        assert fasa.held_out_loss[:3].tolist() == [0.5, 2.5, 3.0]

    def test_a_class_with_few_held_out_regions_takes_the_loss_of_its_group(self):
        torch.manual_seed(0)
        losses = HeldOutLoss(K, torch.device("cpu"))
        labels = torch.tensor([0] * 12 + [1] * 3 + [2] * 2)
        logits = torch.randn(len(labels), K + 1)
        losses.add(logits[:5], labels[:5])
        losses.add(logits[5:], labels[5:])
        each = F.cross_entropy(logits, labels, reduction="none").double()
        found = losses.by_class(np.array(["f", "f", "r", "c"]))
        expected = [each[:12].mean(), each[:15].mean(), each[15:].mean()]
        torch.testing.assert_close(found[:3], torch.stack(expected))
        assert found[3].isnan()  # no region in its group


class TestLoss:
    def test_virtual_features_begin_with_the_second_epoch(self):
        fasa, layer = augmentation(), linear()
        fasa.chance.fill_(1)
        losses = [
            fasa.loss(*regions(i), lambda x, y: layer(x)).item() for i in range(fasa.epoch_length)
        ]
        assert losses == [0.0, 0.0]
        assert fasa.loss(*regions(9), lambda x, y: layer(x)).item() > 0
        assert fasa.iteration.item() == 3

    def test_is_the_weighted_cross_entropy_of_mean_and_noise(self):
        fasa, layer = augmentation(start_epoch=1, weight=0.25), linear()
        fasa.chance.fill_(1)
        features, labels = regions(0)
        loss = fasa.loss(features, labels, lambda x, y: layer(x))
        assert fasa.seen.all()  # the regions count before anything is drawn
        fasa.iteration.zero_()
        virtual, classes = fasa.draw()
        assert classes.tolist() == list(range(K))
        assert virtual.min() >= 0
        torch.testing.assert_close(loss, 0.25 * F.cross_entropy(layer(virtual), classes))

    def test_noise_has_the_classes_mean_and_variance(self):
        fasa = augmentation(clip=False)
        fasa.mean.copy_(torch.randn(K, C))
        fasa.variance.copy_(torch.rand(K, C))
        fasa.seen[:3] = True
        fasa.chance.fill_(1)
        drawn = []
        for iteration in range(4000):
            fasa.iteration.fill_(iteration)
            virtual, classes = fasa.draw()
            assert classes.tolist() == [0, 1, 2]  # class 3 was never seen
            drawn.append(virtual)
        samples = torch.stack(drawn)
        torch.testing.assert_close(samples.mean(0), fasa.mean[:3], rtol=0, atol=0.06)
        torch.testing.assert_close(samples.var(0), fasa.variance[:3], rtol=0, atol=0.08)

    def test_a_class_is_drawn_as_often_as_its_chance(self):
        fasa = augmentation()
        fasa.seen.fill_(True)
        fasa.chance.copy_(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        times = torch.zeros(K)
        for iteration in range(2000):
            fasa.iteration.fill_(iteration)
            times[fasa.draw()[1]] += 1
        torch.testing.assert_close(times / 2000, fasa.chance, rtol=0, atol=0.04)

    def test_seed_iteration_and_stage_give_the_noise(self):
        def drawn(seed=3, stage=0, iteration=0):
            fasa = FeatureAugmentation(COUNTS, C, seed=seed)
            fasa.observe(*regions(0))
            fasa.chance.fill_(1)
            fasa.stage = stage
            fasa.iteration.fill_(iteration)
            return fasa.draw()[0]

        assert torch.equal(drawn(), drawn())
        others = [drawn(seed=4), drawn(stage=1), drawn(iteration=1)]
        for other in others:
            assert not torch.equal(other, drawn())

    def test_only_the_classifier_learns(self):
        fasa, layer = augmentation(start_epoch=1), linear()
        fasa.chance.fill_(1)
        features, labels = regions(0)
        features.requires_grad_()
        fasa.loss(features, labels, lambda x, y: layer(x)).backward()
        assert features.grad is None
        assert layer.weight.grad.abs().sum() > 0
        assert not any(buffer.requires_grad for buffer in fasa.buffers())

    def test_evaluation_mode_does_nothing(self):
        fasa = augmentation(start_epoch=1).eval()
        fasa.chance.fill_(1)
        before = {name: buffer.clone() for name, buffer in fasa.named_buffers()}
        assert fasa.loss(*regions(0), lambda x, y: pytest.fail("classified")).item() == 0
        for name, buffer in fasa.named_buffers():
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)

    def test_an_unknown_length_of_the_epoch_is_refused(self):
        fasa = FeatureAugmentation(COUNTS, C)
        with pytest.raises(InputError, match="set its epoch_length"):
            fasa.loss(*regions(0), lambda x, y: x)

    def test_a_resumed_run_equals_an_unbroken_one(self):
        def train(fasa, layer, start, stop):
            return [
                fasa.loss(*regions(i), lambda x, y: layer(x)).item() for i in range(start, stop)
            ]

        layer = linear()
        unbroken = augmentation()
        unbroken.chance.fill_(0.7)
        losses = train(unbroken, layer, 0, 8)

        first = augmentation()
        first.chance.fill_(0.7)
        train(first, layer, 0, 5)
        resumed = augmentation()
        resumed.load_state_dict(first.state_dict())
        assert resumed.iteration.item() == 5
        assert train(resumed, layer, 5, 8) == losses[5:]
        for name, buffer in resumed.named_buffers():
            expected = unbroken.get_buffer(name)
            torch.testing.assert_close(buffer, expected, rtol=0, atol=0, equal_nan=True)


class TestMethods:
    def test_virtual_features_leave_a_methods_counts_alone(self):
        method = build_method("seesaw", STATISTICS)
        outputs = torch.randn(6, K + 2)
        still_logits(method, outputs, torch.tensor([0, 0, 1, 2, 3, 3]))
        assert method.seen.tolist() == [0] * K
        assert method.training
        method.training_logits(outputs, torch.tensor([0, 0, 1, 2, 3, K]))
        assert method.seen.tolist() == [2, 1, 1, 1]

    def test_a_method_with_its_own_loss_is_refused(self):
        refuse_own_loss(build_method("none"))
        refuse_own_loss(build_method("iif", STATISTICS))
        with pytest.raises(InputError, match="method eqlv2 has a loss of its own"):
            refuse_own_loss(build_method("eqlv2", STATISTICS))


def _train(rank: int, port: int, results: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    fasa = augmentation()
    share = [(slice(None, 17), slice(17, None))[rank], slice(None) if rank else slice(0)]
    for part in share:  # in the second iteration process 0 has no region at all
        features, labels = regions(1 if part is share[0] else 2)
        fasa.observe(features[part], labels[part])
    fasa.chance.fill_(1)
    virtual, _ = fasa.draw()
    held_out = HeldOutLoss(K, torch.device("cpu"))
    features, labels = regions(3)
    rows = (labels < K).nonzero()[:, 0][rank::2]
    held_out.add(linear()(features[rows]), labels[rows])
    losses = held_out.by_class(STATISTICS.groups)
    buffers = {name: buffer.numpy() for name, buffer in fasa.named_buffers()}
    results.put((rank, buffers, virtual.numpy(), losses.detach().numpy()))
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_buffers_of_one_and_noise_of_their_own():
    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").Queue()
    mp.spawn(_train, (port, results), nprocs=2)
    found = {rank: rest for rank, *rest in (results.get(timeout=60) for _ in range(2))}

    one = augmentation()
    for seed in (1, 2):
        one.observe(*regions(seed))
    one.chance.fill_(1)
    features, labels = regions(3)
    held_out = HeldOutLoss(K, torch.device("cpu"))
    held_out.add(linear()(features)[labels < K], labels[labels < K])
    expected = held_out.by_class(STATISTICS.groups).detach().numpy()
    for buffers, _, losses in found.values():
        for name, buffer in one.named_buffers():
            np.testing.assert_array_equal(buffers[name], buffer.numpy(), name)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert not np.array_equal(found[0][1], found[1][1])
