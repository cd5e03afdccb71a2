"""iif.tv.dataset: images and targets of an annotation file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("torchvision", reason="torchvision is not installed")

from helpers_tv import COLOURS, make_dataset
from iif import InputError
from iif.data.annotations import load_annotations
from iif.tv.dataset import DetectionImages, DetectionTargets


@pytest.fixture
def path(tmp_path):
    return make_dataset(tmp_path / "data")


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def targets(path, **options) -> DetectionTargets:
    return DetectionTargets(
        load_annotations(path, masks=True), path.parent / "images", masks=True, **options
    )


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_masks_and_labels_lie_on_their_objects(path, cache, mirrored):
    data = targets(path, cache=cache)
    ids = sorted(COLOURS)
    for _ in range(2):  # the second time from the cache
        for row in range(len(data)):
            image, target = data[row, mirrored]
            assert image.dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
            x0, y0, x1, y1 = target["boxes"][-1].long().tolist()  # the one drawn last, on top
            colour = torch.tensor(COLOURS[ids[target["labels"][-1] - 1]]) / 255
            inside = image[:, y0:y1, x0:x1]
            torch.testing.assert_close(inside, colour[:, None, None].expand_as(inside))
            expected = torch.zeros_like(target["masks"][-1])
            expected[y0:y1, x0:x1] = 1
            assert torch.equal(target["masks"][-1], expected)


def test_mirroring_twice_changes_nothing_and_leaves_the_cache_alone(path):
    data = targets(path, cache=True)
    image, target = data[3, False]
    mirrored_image, mirrored = data[3, True]
    assert torch.equal(mirrored_image.flip(-1), image)
    assert not torch.equal(mirrored["boxes"], target["boxes"])
    again, same = data[3, False]
    assert torch.equal(again, image)
    assert torch.equal(same["boxes"], target["boxes"])


def test_crowds_and_boxes_without_area_are_left_out(path):
    def change(content):
        content["annotations"][0]["bbox"][2] = 0
        content["annotations"][1]["iscrowd"] = 1

    image = load_annotations(path).ann_image
    assert image[0] == image[1]
    before = targets(path)[int(image[0]), False][1]["labels"]
    edit(path, change)
    data = targets(path)
    assert len(data[int(image[0]), False][1]["labels"]) == len(before) - 2


def test_boxes_end_at_the_image(path):
    def change(content):
        content["annotations"][0]["bbox"] = [-3.0, 50.0, 20.0, 30.0]

    edit(path, change)
    target = targets(path)[int(load_annotations(path).ann_image[0]), False][1]
    assert [0, 50, 17, 64] in target["boxes"].tolist()


def test_images_without_annotations_are_not_shown(path):
    def drop_first_image(content):
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 95]

    edit(path, drop_first_image)
    data = targets(path)
    ids = load_annotations(path).image_ids
    assert list(ids[data.shown_images]) == [93, 94, 96, 97, 98, 99, 100]
    # Of the 7 images 7, 4, 3 and 2 show the categories, the rarest of an image decides.
    possible = {round((7 / count) ** 0.5, 4) for count in (7, 4, 3, 2)}
    factors = data.repeat_factors(1.0)
    assert len(factors) == 7
    assert {round(factor, 4) for factor in factors.tolist()} == possible
    image, target = data[int(np.flatnonzero(ids == 95)[0]), False]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *image.shape[1:])


def test_a_missing_image_is_named(path):
    (path.parent / "images" / "003.png").unlink()
    with pytest.raises(
        InputError, match=r"003\.png: no such image \(1 of the 8 images are missing"
    ):
        DetectionImages(load_annotations(path), path.parent / "images")


def test_an_image_of_another_size_is_named(path):
    Image.new("RGB", (30, 20)).save(path.parent / "images" / "007.png")
    images = DetectionImages(load_annotations(path), path.parent / "images")
    with pytest.raises(
        InputError, match=r"007\.png: 30 x 20 pixels, but the annotations say 64 x 64"
    ):
        images[0]


def test_a_broken_image_is_named(path):
    (path.parent / "images" / "007.png").write_bytes(b"not an image")
    images = DetectionImages(load_annotations(path), path.parent / "images")
    with pytest.raises(InputError, match=r"007\.png: cannot be read"):
        images[0]


def test_grey_images_become_rgb(path):
    Image.new("L", (64, 64), 51).save(path.parent / "images" / "007.png")
    image = DetectionImages(load_annotations(path), path.parent / "images")[0]
    torch.testing.assert_close(image, torch.full((3, 64, 64), 0.2))


def test_nothing_to_train_on_is_an_error(path):
    edit(path, lambda content: content.update(annotations=[]))
    with pytest.raises(InputError, match="no annotation to train on"):
        targets(path)
