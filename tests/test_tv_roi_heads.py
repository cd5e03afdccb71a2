"""LongTailRoIHeads: torchvision's detections, bit for bit, from the best-scored pairs."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("torchvision", reason="torchvision is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from iif import nms
from iif.tv.roi_heads import LongTailRoIHeads

IMAGE = (120, 160)
Case = tuple[Tensor, Tensor, list[Tensor], list[tuple[int, int]]]


def make_heads(score: float = 1e-4, overlap: float = 0.5, top: int = 100) -> RoIHeads:
    return RoIHeads(None, None, None, 0.5, 0.5, 64, 0.25, None, score, overlap, top)


def make_case(
    seed: int,
    regions: int,
    classes: int,
    *,
    images: int = 1,
    objects: int = 5,
    levels: int | None = None,
    spoilt: int = 0,
    thin: int = 0,
) -> Case:
    """Return class logits, box deltas, proposals and image shapes of regions on a few objects.

    ``levels`` rounds the logits so that scores tie; ``spoilt`` values are not finite; ``thin``
    regions have a box that is dropped because a side is too short.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    rows = regions * images
    owner = torch.randint(objects, (rows,), generator=generator)
    centre = torch.tensor([80.0, 60.0]) + 50 * normal(objects, 2)[owner] + 4 * normal(rows, 2)
    half = (20 + 8 * normal(objects, 2)).abs()[owner] + 2
    proposals = torch.cat([centre - half, centre + half], dim=1)
    deltas = 0.4 * normal(rows, 4 * (classes + 1))
    logits = 2 * normal(objects, classes + 1)[owner] + normal(rows, classes + 1)
    if levels:
        logits = (logits * levels).round() / levels
        logits[1:] = torch.where(normal(rows, 1)[1:] > 0, logits[:1], logits[1:])
    if rows:
        for row in torch.randint(rows, (thin,), generator=generator).tolist():
            proposals[row, 2] = proposals[row, 0]
        for place, row in enumerate(torch.randint(rows, (spoilt,), generator=generator).tolist()):
            values = logits if place % 2 else deltas
            values[row, place % values.shape[1]] = (float("nan"), float("inf"))[place % 3 > 0]
    return (
        logits,
        deltas,
        list(proposals.split(regions)) if regions else [proposals] * images,
        [IMAGE] * images,
    )


def used_torchvision(heads: RoIHeads, case: Case) -> bool:
    """Return whether the detections are torchvision's own; check that they equal them."""
    ours = LongTailRoIHeads.taking_over(heads)
    before = [value.clone() for value in (*case[:2], *case[2])]
    expected = heads.postprocess_detections(*case)
    with mock.patch.object(
        LongTailRoIHeads,
        "_torchvision_detections",
        autospec=True,
        side_effect=LongTailRoIHeads._torchvision_detections,
    ) as spy:
        found = ours.postprocess_detections(*case)
    for what, of_images, theirs in zip(("boxes", "scores", "labels"), found, expected, strict=True):
        assert len(of_images) == len(theirs) == len(case[2])
        for one, other in zip(of_images, theirs, strict=True):
            assert torch.equal(one, other), what
            assert one.dtype == other.dtype, what
    for value, kept in zip((*case[:2], *case[2]), before, strict=True):
        assert torch.equal(value.nan_to_num(), kept.nan_to_num())
    return spy.called


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    regions=st.sampled_from([0, 1, 7, 60, 150]),
    classes=st.sampled_from([1, 3, 40]),
    images=st.sampled_from([1, 1, 2]),
    objects=st.sampled_from([1, 3, 30]),
    levels=st.sampled_from([None, None, None, 1, 100]),
    spoilt=st.sampled_from([0, 0, 1, 5]),
    thin=st.sampled_from([0, 0, 5, 100]),
    score=st.sampled_from([-1.0, 0.0, 1e-4, 1e-3, 0.05, 2.0]),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    top=st.sampled_from([0, 1, 2, 10, 100, 300]),
)
def test_equals_torchvision(
    seed, regions, classes, images, objects, levels, spoilt, thin, score, overlap, top
):
    case = make_case(
        seed,
        regions,
        classes,
        images=images,
        objects=objects,
        levels=levels,
        spoilt=spoilt,
        thin=thin,
    )
    used_torchvision(make_heads(score, overlap, top), case)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("thin", [0, 60])
def test_decides_by_the_best_pairs(images, thin):
    case = make_case(0, 300, 60, images=images, thin=thin)
    assert not used_torchvision(make_heads(), case)


def test_many_classes():
    case = make_case(1, 200, 1203, objects=30)
    assert not used_torchvision(make_heads(top=300), case)


def test_few_candidates_are_left_to_torchvision():
    case = make_case(0, 300, 60)
    candidates = int((case[0].softmax(-1)[:, 1:] > 0.1).sum())
    assert 40 < candidates <= nms.SHIFTED_UP_TO_CPU
    assert used_torchvision(make_heads(score=0.1, top=10), case)
    assert not used_torchvision(make_heads(score=1e-3, top=10), case)
    boxes, scores = case[2][0][:, None], case[0].softmax(-1)[:, 1:]
    assert nms.prefix_nms(boxes, scores, IMAGE, 0.1, 0.5, 10) is None
    assert nms.prefix_nms(boxes, scores, IMAGE, 1e-3, 0.5, 10) is not None


def test_grows_the_prefix_where_most_of_it_is_suppressed():
    # One object: nearly all regions of the best classes suppress one another.
    case = make_case(1, 400, 60, objects=1)
    with mock.patch.object(nms, "_class_wise_nms", wraps=nms._class_wise_nms) as spy:
        assert not used_torchvision(make_heads(overlap=0.1, top=40), case)
    sizes = [len(call.args[0]) for call in spy.call_args_list]
    assert len(sizes) > 1
    assert sizes == sorted(sizes)


def test_a_tie_among_the_returned_is_left_to_torchvision():
    logits, deltas, proposals, shapes = make_case(2, 300, 60, objects=300)
    heads = make_heads(top=50)
    best = int(logits.softmax(-1)[:, 1:].amax(dim=1).argmax())
    other = (best + 1) % 300
    proposals[0][[best, other]] = torch.tensor([[10.0, 10, 40, 40], [100, 60, 140, 110]])
    deltas[[best, other]] = 0
    assert not used_torchvision(heads, (logits, deltas, proposals, shapes))
    logits[other] = logits[best]  # their boxes do not overlap: both survive
    assert used_torchvision(heads, (logits, deltas, proposals, shapes))


def test_a_score_that_is_no_number_is_left_to_torchvision():
    logits, deltas, proposals, shapes = make_case(0, 300, 60)
    logits[7, 3] = float("nan")
    assert used_torchvision(make_heads(), (logits, deltas, proposals, shapes))


@pytest.mark.parametrize("number", [nms.SHIFTED_UP_TO_CPU, nms.SHIFTED_UP_TO_CPU + 1])
def test_thin_boxes_do_not_count_as_many(number):
    """Up to a number of boxes torchvision shifts them; those dropped before do not count."""
    place = torch.arange(1200)
    corner = torch.stack([place % 40 * 4, place // 40 * 4], dim=1).float()
    proposals = torch.cat([corner, corner + 3], dim=1)
    proposals[number:, 2] = proposals[number:, 0]
    logits = torch.linspace(0, 3, 1200).flip(0)[:, None] * torch.tensor([[0.0, 1.0]])
    case = (logits, torch.zeros(1200, 8), [proposals], [IMAGE])
    assert used_torchvision(make_heads(top=20), case) is (number == nms.SHIFTED_UP_TO_CPU)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracing_is_left_to_torchvision():
    heads = make_heads()
    ours = LongTailRoIHeads.taking_over(heads)
    logits, deltas, proposals, shapes = make_case(0, 300, 60)

    def detections(*values: Tensor) -> tuple[Tensor, ...]:
        found = ours.postprocess_detections(values[0], values[1], [values[2]], shapes)
        return tuple(of_images[0] for of_images in found)

    traced = torch.jit.trace(detections, (logits, deltas, proposals[0]), check_trace=False)
    other = make_case(3, 300, 60)
    expected = heads.postprocess_detections(*other)
    for one, theirs in zip(traced(other[0], other[1], other[2][0]), expected, strict=True):
        assert torch.equal(one, theirs[0])


def test_torchvision_runs_on_each_class_alone_above_the_limit():
    """Fails when a version of torchvision moves the limit that iif.nms relies on."""
    # Two boxes at the image's origin whose IoU is just above 1/2: shifted by the offset of a high
    # class, their coordinates are rounded and they no longer overlap by that much.
    count = nms.SHIFTED_UP_TO_CPU + 1
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(count, 1)
    boxes[:, 2:] += 1e6 * torch.arange(count)[:, None]  # one box of each class, ever larger
    boxes[-2:] = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.01]])
    scores = torch.linspace(1, 0.1, count)
    classes = torch.arange(count)
    classes[-1] = classes[-2]
    assert torchvision_nms(boxes[-2:], scores[-2:], 0.5).tolist() == [0]
    assert len(batched_nms(boxes, scores, classes, 0.5)) == count - 1
    assert len(batched_nms(boxes[1:], scores[1:], classes[1:], 0.5)) == count - 1  # shifted
