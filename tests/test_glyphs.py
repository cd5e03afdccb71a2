from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont
from pycocotools import mask as coco_mask

from iif import ClassStatistics, InputError
from iif.cli import main
from iif.data.outlines import coverage_to_polygons
from iif.demo import characters, glyphs
from iif.demo.characters import choose_characters, draw_character, font_path
from iif.demo.drawing import Glyph, draw_image
from iif.demo.glyphs import GlyphSettings, make_glyphs
from iif.demo.plan import ImagePlan, plan_images, training_counts

MEDIUM = GlyphSettings(categories=30, train=120, val=40, image_size=96, seed=3)


def read(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"glyphs_{split}.json").read_text())


def all_bytes(folder: Path) -> dict[str, bytes]:
    """The content of every file, save the counts that other tests may have cached there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".statistics.json")
    }


def raster(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))) > 0


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_glyphs(tmp_path_factory.mktemp("medium") / "set", MEDIUM, workers=1)


@pytest.fixture(scope="module")
def truth() -> dict[int, tuple[ImagePlan, list[Glyph]]]:
    """What each image of the medium set really shows, drawn again."""
    chosen = choose_characters(MEDIUM.categories)
    return {p.image_id: (p, draw_image(p, chosen, MEDIUM)[1]) for p in plan_images(MEDIUM)}


# ------------------------------------------------------------------------------- whole data set


def test_equal_byte_for_byte_whatever_the_number_of_processes(glyphs_dir, tmp_path):
    settings = GlyphSettings(categories=12, train=40, val=16, image_size=64, seed=0)
    again = make_glyphs(tmp_path / "again", settings, workers=2)
    assert all_bytes(again) == all_bytes(glyphs_dir)
    other = make_glyphs(
        tmp_path / "other", GlyphSettings(12, 40, 16, image_size=64, seed=1), workers=1
    )
    assert not set(all_bytes(other).values()) & set(all_bytes(glyphs_dir).values())


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

    assert [a["id"] for a in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    assert [c["id"] for c in content["categories"]] == list(range(1, 31))
    for category in content["categories"]:
        assert set(category) >= {"name", "synonyms", "def", "synset", "frequency"}
    assert len({c["name"] for c in content["categories"]}) == 30
    assert not set(images) & {
        image["id"] for image in read(medium, {"train": "val", "val": "train"}[split])["images"]
    }


def test_categories_carry_training_counts_in_both_files(medium):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the counts agree with the annotations
        counted = ClassStatistics.from_json(medium / "glyphs_train.json", cache=False)
    for split in ("train", "val"):
        categories = read(medium, split)["categories"]
        assert [c["image_count"] for c in categories] == counted.image_count.tolist()
        assert [c["instance_count"] for c in categories] == counted.instance_count.tolist()
        assert [c["frequency"] for c in categories] == counted.groups.tolist()


def test_training_is_long_tailed_and_validation_balanced(medium):
    train = ClassStatistics.from_json(medium / "glyphs_train.json", cache=False)
    assert sorted(train.image_count, reverse=True) == training_counts(30, 120).tolist()
    assert train.image_count.min() >= 1
    assert train.image_count.max() > 5 * np.median(train.image_count)
    # The rank must not follow from the id.
    rank = np.argsort(np.argsort(-train.image_count))
    assert abs(np.corrcoef(rank, train.ids)[0, 1]) < 0.5
    with pytest.warns(UserWarning, match="disagrees"):
        val = ClassStatistics.from_json(medium / "glyphs_val.json", cache=False)
    assert set(val.image_count) == {4}


@pytest.mark.parametrize(("categories", "train"), [(60, 1000), (1203, 20_000), (40, 600)])
def test_counts_fall_by_a_power_law_with_all_of_lvis_groups(categories, train):
    counts = training_counts(categories, train)
    assert (np.diff(counts) <= 0).all()
    assert counts.min() == 1
    groups = Counter(ClassStatistics(image_count=counts, num_images=train).groups.tolist())
    assert min(groups[g] for g in "rcf") >= categories // 10
    assert counts.max() < train / 2  # every variant's weights are positive
    free = (counts > 20) & (counts < counts.max())
    rank = np.flatnonzero(free) + 1 + categories / 4
    fit = np.polyfit(np.log(rank), np.log(counts[free]), 1)
    assert np.corrcoef(np.log(rank), np.log(counts[free]))[0, 1] < -0.999
    assert fit[0] == pytest.approx(-3.8, abs=0.15)


def test_every_category_is_in_training_even_with_few_images(tmp_path):
    folder = make_glyphs(tmp_path / "few", GlyphSettings(40, 10, 10, 96), workers=1)
    counted = ClassStatistics.from_json(folder / "glyphs_train.json", cache=False)
    assert counted.image_count.min() >= 1


# ------------------------------------------------------------------------------- the annotations


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotation_is_federated(medium, truth, split):
    content = read(medium, split)
    annotated: dict[int, Counter] = defaultdict(Counter)
    for annotation in content["annotations"]:
        annotated[annotation["image_id"]][annotation["category_id"]] += 1
    hidden = partly = 0
    for image in content["images"]:
        present = Counter(glyph.category + 1 for glyph in truth[image["id"]][1])
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


@pytest.mark.parametrize("split", ["train", "val"])
def test_polygons_are_the_visible_pixels(medium, truth, split):
    overlaps = []
    for annotation in read(medium, split)["annotations"]:
        mask = raster(annotation["segmentation"], 96, 96)
        ious = [
            (mask & visible).sum() / (mask | visible).sum()
            for glyph in truth[annotation["image_id"]][1]
            if glyph.category + 1 == annotation["category_id"]
            for visible in [glyph.coverage > 0.5]
        ]
        overlaps.append(max(ious))
        assert annotation["area"] == mask.sum()
        assert all(len(polygon) >= 6 for polygon in annotation["segmentation"])
        xy = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]])
        assert xy.min() >= 0
        assert xy.max() <= 96
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose([x, y], xy.min(axis=0), atol=0.011)
        np.testing.assert_allclose([x + width, y + height], xy.max(axis=0), atol=0.011)
    assert min(overlaps) > 0.8
    assert np.mean(overlaps) > 0.96


def test_what_is_annotated_can_be_seen(truth):
    for plan, drawn in truth.values():
        assert len(drawn) == sum(pair.instances for pair in plan.pairs)
        for glyph in drawn:
            visible = np.count_nonzero(glyph.coverage > 0.5)
            assert visible >= 0.55 * glyph.area
            assert visible >= 15
            assert max(s.stop - s.start for s in glyph.window) >= 0.1 * MEDIUM.image_size


def test_masks_lie_where_the_image_shows_the_character(medium):
    """The picture's colour inside a mask differs from that of its surroundings."""
    content = read(medium, "train")
    files = {image["id"]: image["file_name"] for image in content["images"]}
    contrasts = []
    for annotation in content["annotations"][:200]:
        image = np.asarray(Image.open(medium / files[annotation["image_id"]])).astype(float)
        mask = raster(annotation["segmentation"], 96, 96)
        near = mask.copy()
        for _ in range(3):
            near[1:] |= near[:-1]
            near[:-1] |= near[1:]
            near[:, 1:] |= near[:, :-1]
            near[:, :-1] |= near[:, 1:]
        around = image[near & ~mask]
        contrasts.append(np.linalg.norm(np.median(image[mask], 0) - np.median(around, 0)))
    assert np.median(contrasts) > 100
    assert np.mean(np.array(contrasts) > 60) > 0.95


def test_lvis_and_detectron2_read_it(medium):
    lvis = pytest.importorskip("lvis").LVIS(str(medium / "glyphs_val.json"))
    assert len(lvis.get_ann_ids()) == len(read(medium, "val")["annotations"])
    reader = pytest.importorskip(
        "detectron2.data.datasets.lvis", reason="Detectron2 is not installed"
    )
    dicts = reader.load_lvis_json(str(medium / "glyphs_val.json"), f"{medium}/")
    assert len(dicts) == 40
    assert all(os.path.isfile(entry["file_name"]) for entry in dicts)


# ------------------------------------------------------------------------------ folder and errors


def test_a_set_that_is_there_is_left_alone(glyphs_dir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(glyphs_dir, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    settings = GlyphSettings(categories=12, train=40, val=16, image_size=64, seed=0)
    make_glyphs(folder, settings, workers=1, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    other = GlyphSettings(categories=5, train=4, val=3, image_size=64)
    with pytest.raises(InputError, match=r"other settings.*or replace it"):
        make_glyphs(folder, other, workers=1)
    make_glyphs(folder, other, workers=1, overwrite=True)
    assert len(read(folder, "train")["images"]) == 4
    assert len(os.listdir(folder / "train")) == 4
    assert os.listdir(tmp_path) == ["copy"]


def test_a_folder_with_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="choose another folder"):
            make_glyphs(tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        make_glyphs(tmp_path / "thesis.tex", overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_left_of_a_set_that_could_not_be_finished(
    existing, glyphs_dir, tmp_path, monkeypatch
):
    folder = tmp_path / "set"
    if existing:
        shutil.copytree(glyphs_dir, folder)
    before = all_bytes(tmp_path)

    def disk_full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(glyphs, "_image_entry", disk_full)
    with pytest.raises(OSError, match="no space"):
        make_glyphs(folder, GlyphSettings(5, 4, 3, 64), workers=1, overwrite=True)
    assert all_bytes(tmp_path) == before
    assert os.listdir(tmp_path) == (["set"] if existing else [])


def test_an_image_with_a_character_too_small_to_outline_is_drawn_again(tmp_path, monkeypatch):
    settings = GlyphSettings(5, 4, 3, 64)
    whole = read(make_glyphs(tmp_path / "whole", settings, workers=1), "train")
    calls = []

    def outline(coverage):
        calls.append(1)
        return [] if len(calls) == 1 else coverage_to_polygons(coverage)

    monkeypatch.setattr(glyphs, "coverage_to_polygons", outline)
    again = read(make_glyphs(tmp_path / "again", settings, workers=1), "train")
    first, others = again["images"][0]["id"], slice(1, None)
    assert all(annotation["area"] > 0 for annotation in again["annotations"])
    assert again["images"][others] == whole["images"][others]
    kept = [
        [(a["image_id"], a["bbox"]) for a in content["annotations"] if a["image_id"] != first]
        for content in (whole, again)
    ]
    assert kept[0] == kept[1]
    monkeypatch.setattr(glyphs, "coverage_to_polygons", lambda _: [])
    with pytest.raises(InputError, match="image_size 64 is too small"):
        make_glyphs(tmp_path / "never", settings, workers=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"categories": 1}, "categories is 1.*at least 2"),
        ({"train": 0}, "train is 0"),
        ({"val": 0}, "val is 0"),
        ({"image_size": 20}, "image_size is 20.*64"),
        ({"seed": -1}, "seed is -1"),
        ({"categories": 700, "train": 100}, "train is 100; 700 categories need at least 117"),
        ({"categories": 700, "train": 900, "val": 50}, "val is 50"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_drawing(wrong, message, tmp_path):
    with pytest.raises(InputError, match=message):
        make_glyphs(tmp_path / "set", GlyphSettings(**wrong))
    assert not os.listdir(tmp_path)


def test_command_line(tmp_path, capsys):
    folder = tmp_path / "set"
    arguments = ["glyphs", str(folder), "--categories", "4", "--train", "3", "--val", "2"]
    assert main([*arguments, "--image-size", "64", "--workers", "1"]) == 0
    assert str(folder / "glyphs_train.json") in capsys.readouterr().out
    assert len(read(folder, "val")["images"]) == 2
    assert main([*arguments, "--image-size", "96"]) == 2
    assert "--overwrite" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ characters


@pytest.fixture(scope="module")
def as_many_as_lvis():
    return choose_characters(1203)


def test_there_are_as_many_characters_as_lvis_has_categories(as_many_as_lvis):
    assert len({c.text for c in as_many_as_lvis}) == 1203
    assert len({c.name for c in as_many_as_lvis}) == 1203
    assert [c.text for c in as_many_as_lvis] == sorted(c.text for c in as_many_as_lvis)


def test_more_categories_than_characters_are_refused(monkeypatch):
    monkeypatch.setattr(characters, "_BLOCKS", ((0x41, 0x43), (0x42, 0x45)))
    assert [c.text for c in choose_characters(5)] == list("ABCDE")
    with pytest.raises(InputError, match="categories is 6; the fonts have 5 characters"):
        choose_characters(6)


def test_no_two_characters_look_the_same(as_many_as_lvis):
    chosen = {c.text for c in as_many_as_lvis}
    # Latin, Greek and Cyrillic twins, capitals that are enlarged small letters, and so on.
    for alike in (
        "A\u0391\u0410",
        "B\u0392\u0412",
        "oO0\u03bf\u043e\u039f\u041e",
        "xX\u0445\u03a7\u0425",
        "P\u03a1\u0420",
        "sS5",
        "vV",
        "zZ",
    ):
        assert len(chosen & set(alike)) == 1
    assert not chosen & set(".,'`|lI-_:")


def test_each_font_has_its_characters(as_many_as_lvis):
    for character in as_many_as_lvis[::6]:
        assert len(set(character.fonts)) == len(character.fonts) >= 4
        for font in character.fonts:
            picture = draw_character(character.text, font_path(font), 40)
            assert max(picture.size) == pytest.approx(40, abs=4)
            # What a font draws in the place of a character that it lacks.
            mask = ImageFont.truetype(font_path(font), 64).getmask("\U0010fffd", mode="L")
            drawn = ImageFont.truetype(font_path(font), 64).getmask(character.text, mode="L")
            assert bytes(drawn) != bytes(mask)
