"""Where the images of an annotation file lie, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iif.data.annotations import Annotations, load_annotations
from iif.data.images import find_images, read_image
from iif.errors import InputError


def annotations_of(folder: Path, *names: str) -> Annotations:
    content = {
        "images": [
            {"id": i, "file_name": name, "height": 4, "width": 4}
            for i, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 1, "name": "cat", "frequency": "r"}],
        "annotations": [],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return load_annotations(path)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_images_lie_at_their_names_or_at_the_names_end(tmp_path: Path) -> None:
    gt = annotations_of(tmp_path, "a/x.png", "b/y.png")
    first, second = image(tmp_path / "data" / "a" / "x.png"), image(tmp_path / "data" / "y.png")
    assert find_images(gt, tmp_path / "data") == [first, second]


def test_two_images_are_never_one_file(tmp_path: Path) -> None:
    gt = annotations_of(tmp_path, "a/x.png", "b/x.png")
    image(tmp_path / "data" / "x.png")
    with pytest.raises(InputError, match=r"x.png: would be both a/x.png and b/x.png; .*start"):
        find_images(gt, tmp_path / "data")


def test_the_same_image_under_two_ids_is_one_file(tmp_path: Path) -> None:
    gt = annotations_of(tmp_path, "a/x.png", "a/x.png")
    path = image(tmp_path / "data" / "a" / "x.png")
    assert find_images(gt, tmp_path / "data") == [path, path]


def test_a_names_end_that_several_names_share_finds_no_image(tmp_path: Path) -> None:
    """Only one of the two is missing, and the file in the folder may be anything."""
    gt = annotations_of(tmp_path, "a/x.png", "b/x.png", "c/y.png")
    image(tmp_path / "data" / "a" / "x.png")
    image(tmp_path / "data" / "x.png")
    image(tmp_path / "data" / "y.png")
    with pytest.raises(InputError, match=r"x.png: would be both a/x.png and b/x.png; .*start"):
        find_images(gt, tmp_path / "data")
    both = image(tmp_path / "data" / "b" / "x.png")
    found = find_images(gt, tmp_path / "data")
    assert found == [tmp_path / "data" / "a" / "x.png", both, tmp_path / "data" / "y.png"]


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "{}/x.png", "{}/data-2/x.png", ".", "..", "a\0.png"]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    for place in (".", "data", "data-2"):  # wherever it leads, there is an image
        image(tmp_path / place / "x.png")
    gt = annotations_of(tmp_path, name.format(tmp_path))
    with pytest.raises(InputError, match=r"annotations.json: the file name '.*' of image 1 leads"):
        find_images(gt, tmp_path / "data")


@pytest.mark.parametrize("name", ["a/../x.png", "./x.png", "{}/data/x.png"])
def test_a_name_that_stays_in_the_folder_is_taken(tmp_path: Path, name: str) -> None:
    path = image(tmp_path / "data" / "x.png")
    image(tmp_path / "data" / "a" / "y.png")
    (found,) = find_images(annotations_of(tmp_path, name.format(tmp_path)), tmp_path / "data")
    assert found.samefile(path)


def test_an_image_without_a_name_is_refused_where_images_are_needed(tmp_path: Path) -> None:
    image(tmp_path / "data" / "x.png")
    gt = annotations_of(tmp_path, "x.png", "")
    with pytest.raises(InputError, match="image 2 has neither file_name nor coco_url; add one"):
        find_images(gt, tmp_path / "data")


def turned_jpeg(path: Path, orientation: int, mode: str = "RGB") -> Path:
    """Write a JPEG of 24 x 16 stored pixels, whose EXIF says how they are turned."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = (250, 30, 20), (10, 60, 240)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).convert(mode).save(path, quality=95, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_turned_as_detectron2_turns_them(
    tmp_path: Path, orientation: int, mode: str
) -> None:
    utils = pytest.importorskip(
        "detectron2.data.detection_utils", reason="Detectron2 is not installed"
    )
    path = turned_jpeg(tmp_path / "x.jpg", orientation, mode)
    height, width = (24, 16) if orientation in (5, 6, 7, 8) else (16, 24)
    pixels = read_image(path, height, width)
    assert np.array_equal(pixels, utils.read_image(path, format="RGB"))


def test_the_annotated_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    path = turned_jpeg(tmp_path / "x.jpg", 6)
    pixels = read_image(path, 24, 16)
    red, blue = pixels[4, 12], pixels[20, 4]  # stored at the upper left and the lower right
    assert red[0] > 200 > 60 > red[2]
    assert blue[2] > 200 > 60 > blue[0]
    with pytest.raises(InputError, match="16 x 24 pixels, but the annotations say 24 x 16"):
        read_image(path, 16, 24)


def test_an_image_with_broken_exif_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    path = turned_jpeg(tmp_path / "x.jpg", 6)
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert read_image(path, 16, 24).shape == (16, 24, 3)
