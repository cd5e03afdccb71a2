"""Seesaw under the contract of all methods, against the two losses of the paper, and its counts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional as F

from iif import build_method
from method_contract import STATISTICS, K, MethodContract


def factors(outputs, labels, seen, p=0.8, q=2.0, eps=0.01):
    """Return ln S (R, K), region by region, from equations 3 to 7."""
    result = np.zeros((len(outputs), K))
    for r, (row, label) in enumerate(zip(outputs, labels, strict=True)):
        if label == K:
            continue
        score = softmax(row[:K])
        for j in range(K):
            if j != label:
                mitigation = min(1.0, (seen[j] / seen[label]) ** p)
                compensation = max(1.0, (score[j] / max(score[label], eps)) ** q)
                result[r, j] = np.log(mitigation * compensation)
    return result


def joint(classes, objectness):
    known = log_softmax(objectness, axis=1)
    return np.column_stack([log_softmax(classes, axis=1) + known[:, :1], known[:, 1:]])


class TestSeesaw(MethodContract):
    NAME = "seesaw"
    OPTIONS: ClassVar = [{}, {"p": 0.5, "q": 1.0, "eps": 0.1}]
    REFUSED: ClassVar = [
        ({"p": -0.1}, "p is -0.1; it must be a number, 0 or more"),
        ({"eps": 0.0}, "eps is 0.0; it must be a number, above 0"),
    ]

    def hand(self, outputs, labels, options, background, fixed=None):
        at = outputs if fixed is None else fixed
        seen = np.maximum(np.bincount(labels, minlength=K + 1)[:K], 1)
        moved = outputs[:, :K] + factors(at, labels, seen, **options)
        if not background:
            return moved, outputs
        return joint(moved, outputs[:, K:]), joint(outputs[:, :K], outputs[:, K:])

    def folds(self, options):
        return False


def test_one_cross_entropy_is_the_sum_of_the_papers_two_losses():
    method = build_method("seesaw", STATISTICS)
    outputs = torch.randn(20, K + 2, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, K + 1, (20,))
    loss = F.cross_entropy(method.training_logits(outputs, labels), labels)
    seen = np.maximum(np.bincount(labels.numpy(), minlength=K + 1)[:K], 1)
    shift = torch.from_numpy(factors(outputs.detach().numpy(), labels.numpy(), seen))
    foreground = labels < K
    classes = F.cross_entropy(
        (outputs[:, :K] + shift)[foreground], labels[foreground], reduction="sum"
    )
    objects = F.cross_entropy(outputs[:, K:], (~foreground).long(), reduction="sum")
    expected = (classes + objects) / 20
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, outputs)[0], torch.autograd.grad(expected, outputs)[0]
    )


def test_the_test_probabilities_are_softmax_times_objectness():
    outputs = torch.randn(9, K + 2)
    found = build_method("seesaw", STATISTICS).test_logits(outputs).softmax(-1)
    objectness = outputs[:, K:].softmax(-1)
    torch.testing.assert_close(found[:, :K], outputs[:, :K].softmax(-1) * objectness[:, :1])
    torch.testing.assert_close(found[:, K], objectness[:, 1])


def test_regions_are_counted_in_training_alone_and_saved():
    method = build_method("seesaw", STATISTICS)
    labels = torch.tensor([0, 0, 3, K, K])
    outputs = torch.randn(5, K + 2)
    method.training_logits(outputs, labels)
    method.training_logits(outputs[3:], labels[3:])  # a batch without foreground
    assert method.seen.tolist() == [2, 0, 0, 1, 0]
    method.eval().training_logits(outputs, labels)
    assert method.seen.tolist() == [2, 0, 0, 1, 0]
    fresh = build_method("seesaw", STATISTICS)
    fresh.load_state_dict(method.state_dict())
    assert fresh.seen.tolist() == [2, 0, 0, 1, 0]
    assert fresh.seen.dtype == torch.int64  # float32 would stop counting at 2 ** 24


def _count_in_two(rank, port, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    method = build_method("seesaw", STATISTICS)
    labels = torch.tensor([[0, 1, K], [K, K, K]])[rank]  # one process has no foreground
    method.training_logits(torch.zeros(3, K + 2), labels)
    results.put((rank, method.seen.tolist()))
    torch.distributed.destroy_process_group()


def test_two_processes_count_together():
    import socket

    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    mp.spawn(_count_in_two, (port, results), nprocs=2)
    found = dict(results.get(timeout=60) for _ in range(2))
    assert found == {0: [1, 1, 0, 0, 0], 1: [1, 1, 0, 0, 0]}


@pytest.mark.parametrize("background", [True, False])
def test_the_number_of_outputs_follows_the_background(background):
    method = build_method("seesaw", STATISTICS, background=background)
    assert method.extra_outputs == int(background)
