"""Where the images of an annotation file lie, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from iif.data.annotations import Annotations, load_annotations
from iif.data.images import find_images
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
    with pytest.raises(InputError, match=r"x.png: would be both a/x.png and b/x.png of .*start"):
        find_images(gt, tmp_path / "data")


def test_the_same_image_under_two_ids_is_one_file(tmp_path: Path) -> None:
    gt = annotations_of(tmp_path, "a/x.png", "a/x.png")
    path = image(tmp_path / "data" / "a" / "x.png")
    assert find_images(gt, tmp_path / "data") == [path, path]
