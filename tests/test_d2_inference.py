"""The fast Fast R-CNN inference against Detectron2's, bit for bit."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling.roi_heads import fast_rcnn as d2_fast_rcnn

from iif import nms
from iif.d2 import inference

IMAGE = (120, 160)


def make_case(
    seed: int,
    regions: int,
    classes: int,
    *,
    agnostic: bool = False,
    objects: int = 5,
    levels: int | None = None,
    spoilt: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes around a few objects, some outside the image, and softmax scores.

    ``levels`` rounds the scores so that many tie; ``spoilt`` rows hold a NaN or an infinity.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    owner = torch.randint(objects, (regions,), generator=generator)
    centre = torch.tensor([80.0, 60.0]) + 50 * normal(objects, 2)[owner] + 4 * normal(regions, 2)
    half = (20 + 8 * normal(objects, 2)).abs()[owner] + 2
    boxes = torch.cat([centre - half, centre + half], dim=1)[:, None]
    boxes = boxes + 2 * normal(regions, 1 if agnostic else classes, 4)
    boxes = boxes.flatten(1)
    scores = (2 * normal(objects, classes + 1)[owner] + normal(regions, classes + 1)).softmax(1)
    if levels:
        scores = (scores * levels).round() / levels
    for row in range(spoilt):
        place = scores if row % 2 else boxes
        value = (float("nan"), float("inf"), -float("inf"))[row % 3]
        place[int(torch.randint(regions, (), generator=generator)), -1] = value
    return boxes, scores


def assert_same(boxes: torch.Tensor, scores: torch.Tensor, *settings: float) -> None:
    expected, expected_rows = d2_fast_rcnn.fast_rcnn_inference_single_image(
        boxes.clone(), scores.clone(), IMAGE, *settings
    )
    given_boxes, given_scores = boxes.clone(), scores.clone()
    found, rows = inference.fast_rcnn_inference_single_image(
        given_boxes, given_scores, IMAGE, *settings
    )
    assert torch.equal(rows, expected_rows)
    assert found.image_size == expected.image_size
    assert set(found.get_fields()) == set(expected.get_fields())
    for name in ("scores", "pred_classes"):
        assert torch.equal(found.get(name), expected.get(name))
        assert found.get(name).dtype == expected.get(name).dtype
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    # Neither input was changed.
    assert torch.equal(given_boxes.nan_to_num(), boxes.nan_to_num())
    assert torch.equal(given_scores.nan_to_num(), scores.nan_to_num())


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    regions=st.sampled_from([0, 1, 7, 60, 150]),
    classes=st.sampled_from([1, 3, 40]),
    agnostic=st.booleans(),
    objects=st.sampled_from([1, 3, 30]),
    levels=st.sampled_from([None, None, 10, 1000]),
    spoilt=st.sampled_from([0, 0, 1, 5]),
    score_thresh=st.sampled_from([-1.0, 0.0, 1e-4, 1e-3, 0.05, 2.0]),
    nms_thresh=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    topk=st.sampled_from([-1, 0, 1, 2, 10, 100, 300]),
)
def test_equals_detectron2(
    seed, regions, classes, agnostic, objects, levels, spoilt, score_thresh, nms_thresh, topk
):
    boxes, scores = make_case(
        seed,
        regions,
        classes,
        agnostic=agnostic,
        objects=objects,
        levels=levels,
        spoilt=min(spoilt, regions),
    )
    assert_same(boxes, scores, score_thresh, nms_thresh, topk)


def used_detectron2(*arguments: object) -> bool:
    with mock.patch.object(
        d2_fast_rcnn,
        "fast_rcnn_inference_single_image",
        wraps=d2_fast_rcnn.fast_rcnn_inference_single_image,
    ) as spy:
        inference.fast_rcnn_inference_single_image(*arguments)
    return spy.called


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("spoilt", [0, 4])
def test_decides_by_the_prefix(agnostic, spoilt):
    boxes, scores = make_case(0, 300, 60, agnostic=agnostic, spoilt=spoilt)
    assert_same(boxes, scores, 1e-4, 0.5, 100)
    assert not used_detectron2(boxes, scores, IMAGE, 1e-4, 0.5, 100)


def test_grows_the_prefix_where_most_of_it_is_suppressed():
    # One object: nearly all regions of the best classes suppress one another.
    boxes, scores = make_case(1, 400, 60, objects=1)
    with mock.patch.object(nms, "_class_wise_nms", wraps=nms._class_wise_nms) as spy:
        assert_same(boxes, scores, 1e-4, 0.5, 40)
    sizes = [len(call.args[0]) for call in spy.call_args_list]
    assert len(sizes) > 1
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("place", ["inside", "at the cut"])
def test_a_tie_among_the_returned_is_left_to_detectron2(place):
    boxes, scores = make_case(2, 300, 60, objects=300)
    top = 50
    result, rows = d2_fast_rcnn.fast_rcnn_inference_single_image(
        boxes, scores, IMAGE, 1e-4, 0.5, top + 1
    )
    rank = 10 if place == "inside" else top - 1
    first = (rows[rank], result.pred_classes[rank])
    second = (rows[rank + 1], result.pred_classes[rank + 1])
    assert not used_detectron2(boxes, scores, IMAGE, 1e-4, 0.5, top)
    scores[second] = scores[first]
    assert used_detectron2(boxes, scores, IMAGE, 1e-4, 0.5, top)
    assert_same(boxes, scores, 1e-4, 0.5, top)


def test_a_tie_below_the_returned_does_not_matter():
    boxes, scores = make_case(2, 300, 60, objects=300)
    low = scores < 0.01
    scores[low] = 0.005
    assert not used_detectron2(boxes, scores, IMAGE, 1e-4, 0.5, 50)
    assert_same(boxes, scores, 1e-4, 0.5, 50)


def test_a_tie_within_a_class_is_decided_by_the_lower_row():
    boxes, scores = make_case(3, 300, 60)
    boxes[:2] = torch.tensor([10.0, 10.0, 50.0, 50.0]).repeat(60)
    scores[1] = scores[0]  # one suppresses the other in every class
    scores[:2, 0], scores[2:, 0] = 2.0, 0.001
    assert not used_detectron2(boxes, scores, IMAGE, 1e-4, 0.5, 50)
    result, rows = inference.fast_rcnn_inference_single_image(boxes, scores, IMAGE, 1e-4, 0.5, 50)
    assert (rows[0], result.pred_classes[0]) == (0, 0)
    assert_same(boxes, scores, 1e-4, 0.5, 50)


@pytest.mark.parametrize("seed", range(5))
def test_a_tie_at_the_end_of_the_prefix(seed):
    """The prefix of 40 pairs ends among 20 equal ones; the lowest row of them is to survive."""
    places = torch.cat(
        [torch.arange(9), torch.zeros(30), torch.full((20,), 9), torch.arange(10, 1100)]
    )
    corner = torch.stack([places % 40, places // 40], dim=1)
    boxes = torch.cat([corner, corner + 0.9], dim=1)
    scores = torch.linspace(0.9, 0.1, len(places))
    scores[39:59] = scores[39]
    shuffled = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    scores = torch.stack([scores, 1 - scores], dim=1)[shuffled]
    assert_same(boxes[shuffled], scores, 1e-4, 0.5, 10)


def test_several_images():
    cases = [make_case(seed, regions, 50) for seed, regions in enumerate((200, 0, 90))]
    arguments = ([b for b, _ in cases], [s for _, s in cases], [IMAGE] * 3, 1e-4, 0.5, 60)
    found, rows = inference.fast_rcnn_inference(*arguments)
    expected, expected_rows = d2_fast_rcnn.fast_rcnn_inference(*arguments)
    assert [len(x) for x in found] == [60, 0, 60]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_classes, b.pred_classes)
    assert all(torch.equal(a, b) for a, b in zip(rows, expected_rows, strict=True))
