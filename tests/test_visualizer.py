from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from helpers_compare import SIZE, make_gt, make_results, write
from iif.cli import main
from iif.data.annotations import load_annotations
from iif.data.images import find_images, read_image
from iif.errors import InputError
from iif.evaluation.false_positives import ERROR_TYPES
from iif.evaluation.scenes import KINDS, Scene, SceneObject
from iif.report.labels import OUTCOME_LABELS
from iif.report.palette import DASHED, OUTCOME_COLORS
from iif.report.pictures import (
    MAX_OBJECTS,
    PANEL_SIDE,
    PanelObject,
    _shortened,
    draw_scene,
    label_of,
    place_labels,
)


def drawers():
    for package, module in (("detectron2", "iif.d2.visualizer"), ("torchvision", "iif.tv.drawing")):
        lacking = importlib.util.find_spec(package) is None
        yield pytest.param(
            module,
            id=package,
            marks=pytest.mark.skipif(lacking, reason=f"{package} is not installed"),
        )


@pytest.fixture(params=drawers())
def draw_panel(request):
    return importlib.import_module(request.param).draw_panel


def panel_object(color="#ff0000", box=(40.0, 60.0, 140.0, 160.0), **changes):
    mask = np.zeros((200, 300), bool)
    mask[80:140, 60:120] = True
    values = {
        "box": box,
        "mask": mask,
        "color": color,
        "dashed": False,
        "label": "cup 0.87 Loc",
        "text_color": "#ff8888",
        "label_box": (160.0, 20.0, 270.0, 40.0),
        "leader": None,
    }
    return PanelObject(**(values | changes))


def colored(image, color, tolerance=60):
    """Pixels (H, W) near a colour."""
    distance = np.abs(image.astype(int) - ImageColor.getrgb(color)).max(axis=2)
    return distance < tolerance


def test_a_panel_shows_box_mask_and_label(draw_panel):
    white = np.full((200, 300, 3), 255, np.uint8)
    panel = draw_panel(white, [panel_object()])
    assert panel.shape == white.shape
    assert panel.dtype == np.uint8
    assert (white == 255).all()  # the image given is left alone
    red = colored(panel, "#ff0000")
    for y, x in ((60, 90), (160, 90), (110, 40), (110, 140)):  # the box's sides
        assert red[y - 2 : y + 3, x - 2 : x + 3].any()
    inside = panel[110, 90].astype(int)  # in the mask: tinted
    assert inside[0] > 240
    assert 100 < inside[1] < 220
    assert (panel[70, 50] == 255).all()  # in the box, outside the mask
    label = panel[20:40, 160:270]
    assert (label.max(axis=2) < 90).mean() > 0.4  # dark ground
    assert colored(label, "#ff8888", 40).sum() > 30  # light text
    assert (panel[:55, :150] == 255).all()  # and nothing elsewhere


def test_dashed_boxes_have_gaps(draw_panel):
    white = np.full((200, 300, 3), 255, np.uint8)
    shares = []
    for dashed in (False, True):
        item = panel_object(dashed=dashed, mask=None, label_box=None)
        side = colored(draw_panel(white, [item]), "#ff0000", 130)[58:63, 45:135]
        shares.append(side.any(axis=0).mean())
    assert shares[0] == 1.0
    assert 0.3 < shares[1] < 0.9


def test_a_leader_joins_a_label_that_moved(draw_panel):
    white = np.full((200, 300, 3), 255, np.uint8)
    item = panel_object(mask=None, leader=(140.0, 60.0, 160.0, 40.0))
    plain, joined = (
        colored(draw_panel(white, [i]), "#ff0000", 130)[44:56, 144:156]
        for i in (panel_object(mask=None), item)
    )
    assert not plain.any()
    assert joined.sum() >= 8


def test_an_empty_panel_is_the_image(draw_panel):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    empty = panel_object(mask=np.zeros((90, 120), bool), box=(5.0, 5.0, 5.0, 5.0), label_box=None)
    np.testing.assert_array_equal(draw_panel(image, []), image)
    assert (draw_panel(image, [empty]) != image).any(axis=2).sum() < 60


def test_boxes_beyond_the_image_are_drawn_as_far_as_they_go(draw_panel):
    white = np.full((200, 300, 3), 255, np.uint8)
    panel = draw_panel(white, [panel_object(box=(-20.0, 50.0, 330.0, 230.0), label_box=None)])
    assert panel.shape == white.shape
    assert colored(panel, "#ff0000")[48:53, 150].any()


def scene_object(box, kind="TP", name="cup", score=0.5):
    return SceneObject(tuple(box), None, 0, name, kind, score, 0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(1, MAX_OBJECTS))
def test_labels_never_overlap_and_stay_inside(seed, count):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (count, 2))
    boxes = np.concatenate([corners, rng.uniform(2, 50, (count, 2))], axis=1)
    objects = [scene_object(b, name="c" * int(rng.integers(1, 12))) for b in boxes]
    placed = place_labels(objects, 5.0, (640, 640))
    spots = [item.label_box for item in placed]
    assert None not in spots
    for i, (x0, y0, x1, y1) in enumerate(spots):
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= 640
        assert y1 <= 640
        for u0, v0, u1, v1 in spots[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
    for item, box in zip(placed, boxes, strict=True):
        np.testing.assert_allclose(item.box, 5 * np.array([*box[:2], *(box[:2] + box[2:])]))
        (x0, y0, x1, y1), (u0, v0, u1, v1) = item.box, item.label_box
        gap = np.hypot(max(u0 - x1, x0 - u1, 0), max(v0 - y1, y0 - v1, 0))
        if item.leader is None:
            assert gap <= 3
        else:
            a, b, c, d = item.leader
            assert np.hypot(c - a, d - b) == pytest.approx(gap)


def test_a_label_without_room_is_left_out():
    (placed,) = place_labels([scene_object((0, 0, 5, 5), name="c" * 40)], 1.0, (30, 60))
    assert placed.label_box is None


def test_labels_name_category_score_and_error():
    assert label_of(scene_object((0, 0, 1, 1), "TP", score=0.871)) == "cup 0.87"
    assert label_of(scene_object((0, 0, 1, 1), "Loc", score=0.3)) == "cup 0.30 Loc"
    assert label_of(scene_object((0, 0, 1, 1), "Ground truth", score=None)) == "cup"


def test_long_names_are_short_in_panels_and_whole_in_the_legend():
    name = "railcar_(part_of_a_train)"
    long = scene_object((10, 10, 30, 30), "TP", name=name, score=0.871)
    assert label_of(long) == "railcar 0.87"

    def drawn(objects):
        scene = Scene(0, 1, "a.png", 96, 128, [0], [], [objects])
        return draw_scene(scene, ["run"], np.zeros((96, 128, 3), np.uint8), lambda p, o: p)

    # The line that tells the whole name adds to the height; the words themselves fit its width.
    short = scene_object((10, 10, 30, 30), "TP", name="railcar", score=0.871)
    assert drawn([long]).height - drawn([short]).height == 20
    assert _shortened([long, short, long]) == f"railcar: {name}"


def test_palette_covers_every_kind_with_colours_that_differ():
    assert set(OUTCOME_COLORS) == set(OUTCOME_LABELS) == {*KINDS, "Ground truth"}
    assert set(KINDS) >= DASHED
    colors = np.array([ImageColor.getrgb(color) for color in OUTCOME_COLORS.values()])
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2)
    assert distance[~np.eye(len(colors), dtype=bool)].min() > 60


@pytest.mark.parametrize(
    ("size", "expected"), [((96, 128), (480, 640)), ((480, 640), (480, 640)), ((3000, 1000), 960)]
)
def test_panels_have_a_legible_size(draw_panel, size, expected):
    height, width = size
    items = [scene_object((5, 5, 20, 20), kind) for kind in KINDS]
    scene = Scene(0, 7, "val/0007.png", height, width, [5, 5], [], [items, items])
    picture = draw_scene(scene, ["a", "b"], np.zeros((height, width, 3), np.uint8), draw_panel)
    long = max(expected) if isinstance(expected, tuple) else expected
    assert PANEL_SIDE[0] <= long <= PANEL_SIDE[1]
    scale = long / max(size)
    assert picture.width > 3 * width * scale
    assert picture.width < 3 * width * scale + 60
    assert picture.height > height * scale + 50


def test_crowded_panels_keep_the_false_positives():
    drawn = []

    def keep(image, objects):
        drawn.append(objects)
        return image

    def items(kind, count):
        return [scene_object((5, 5, 20, 20), kind) for _ in range(count)]

    crowd = [*items("Unverifiable", 20), *items("TP", 20), *items("Bkg", 10)]
    scene = Scene(0, 7, "a.png", 96, 128, [10], [], [crowd])
    draw_scene(scene, ["run"], np.zeros((96, 128, 3), np.uint8), keep)
    colors = [item.color for item in drawn[1]]
    assert colors == [OUTCOME_COLORS["Bkg"]] * 10 + [OUTCOME_COLORS["TP"]] * 15


@pytest.fixture
def files(tmp_path):
    gt_dict = make_gt(2)
    write(tmp_path / "gt.json", gt_dict)
    write(tmp_path / "base.json", make_results(gt_dict, 1, quality=0.6))
    write(tmp_path / "iif.json", make_results(gt_dict, 2, quality=0.8))
    (tmp_path / "images" / "val").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in gt_dict["images"]:
        pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    return tmp_path


def command(folder, *more, images="images"):
    return main(
        [
            "false-positives",
            *("--gt", str(folder / "gt.json"), "--results", str(folder / "iif.json")),
            *("--baseline", str(folder / "base.json"), "--output", str(folder / "out")),
            *("--images", str(folder / images), "--num-images", "2", *more),
        ]
    )


@pytest.mark.parametrize("package", ["detectron2", "torchvision"])
def test_command_draws_pictures_with_either_package(files, monkeypatch, package, capsys):
    pytest.importorskip(package, reason=f"{package} is not installed")
    found = importlib.util.find_spec
    hidden = {"detectron2"} - {package}
    monkeypatch.setattr(
        "iif.commands.showing.find_spec", lambda name: None if name in hidden else found(name)
    )
    assert command(files) == 0
    pictures = sorted((files / "out" / "visualizer").iterdir())
    assert len(pictures) == 4
    assert [path.name[:10] for path in pictures] == [
        *("01_removed", "02_removed"),
        *("03_added_i", "04_added_i"),
    ]
    assert f"Pictures: {files / 'out' / 'visualizer'} (4)" in capsys.readouterr().out
    for path in pictures:
        with Image.open(path) as image:
            pixels = np.asarray(image)
        assert pixels.shape[1] > 1900
        found_colors = {
            kind: colored(pixels[60:-40], OUTCOME_COLORS[kind], 12).sum() for kind in ERROR_TYPES
        }
        assert max(found_colors.values()) > 50


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("detectron2", "torchvision"))),
    reason="neither Detectron2 nor torchvision is installed",
)
def test_pictures_of_chosen_images(files):
    assert command(files, "--image-id", "10", "--image-id", "16", "--type", "Cls") == 0
    names = sorted(path.name for path in (files / "out" / "visualizer").iterdir())
    assert [name.split("_image_")[1] for name in names] == ["10.png", "16.png"]


def test_images_may_lie_in_one_folder(files):
    gt = load_annotations(files / "gt.json")
    by_name = find_images(gt, files / "images")
    assert by_name == [files / "images" / name for name in gt.file_names]
    assert find_images(gt, files / "images" / "val") == by_name


def test_a_missing_image_is_refused_before_the_results_are_read(files, capsys, monkeypatch):
    next((files / "images" / "val").iterdir()).unlink()
    monkeypatch.setattr("iif.report.pipelines.load_runs", lambda *_, **__: pytest.fail("was read"))
    assert command(files) == 2
    assert "no such image" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_an_image_of_another_size_is_refused(files):
    path = files / "images" / "val" / "0010.png"
    assert read_image(path, *SIZE).shape == (*SIZE, 3)
    Image.new("RGB", (50, 60)).save(path)
    with pytest.raises(InputError, match="50 x 60 pixels, but the annotations say 128 x 96"):
        read_image(path, *SIZE)
    path.write_text("no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(path, *SIZE)
