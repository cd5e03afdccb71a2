"""Files that are broken, of another kind, or changed while they are read: one line or a warning."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers_compare import SIZE, make_gt, make_results, write
from iif.cli import main
from iif.data.annotation_file import read_annotation_file
from iif.data.annotations import load_annotations
from iif.data.images import find_images
from iif.data.masks import check_polygons, polygon_fault
from iif.data.names import image_name, one_line
from iif.data.results import load_results
from iif.data.trainable import trainable
from iif.errors import InputError
from iif.evaluation.evaluate import evaluate_files
from iif.statistics import ClassStatistics

Content = dict[str, Any]
Read = Callable[[Path], object]


def gt_text() -> str:
    return json.dumps(make_gt())


def read_annotations(path: Path) -> object:
    return load_annotations(path)


def read_results(path: Path) -> object:
    return load_results(path, load_annotations(write(path.with_name("gt.json"), make_gt())))


def results_text() -> str:
    return json.dumps(make_results(make_gt()))


READERS = pytest.mark.parametrize(
    ("read", "text"),
    [(read_annotations, gt_text), (read_results, results_text)],
    ids=["annotations", "results"],
)


# ----------------------------------------------------------------- text that is not UTF-8 JSON


@READERS
def test_a_byte_order_mark_is_read_over(
    tmp_path: Path, read: Read, text: Callable[[], str]
) -> None:
    (tmp_path / "file.json").write_bytes(b"\xef\xbb\xbf" + text().encode())
    read(tmp_path / "file.json")


@READERS
@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda s: bz2.compress(s.encode()), "is compressed with bzip2; unpack it first"),
        (lambda s: lzma.compress(s.encode()), "is compressed with xz; unpack it first"),
        (lambda s: b"PK\x03\x04" + s.encode(), "is a ZIP archive; unpack it first"),
        (lambda s: s.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        (lambda s: b"\xfe\xff" + s.encode("utf-16-be"), "is text in UTF-16; save it as UTF-8"),
        (lambda s: s.encode("utf-32"), "is text in UTF-32; save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(
    tmp_path: Path,
    read: Read,
    text: Callable[[], str],
    encode: Callable[[str], bytes],
    message: str,
) -> None:
    (tmp_path / "file.json").write_bytes(encode(text()))
    with pytest.raises(InputError, match=message):
        read(tmp_path / "file.json")


def test_compressed_annotations_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(gzip.compress(gt_text().encode()))
    with pytest.raises(InputError, match=r"is compressed with gzip; unpack it first \(gunzip"):
        read_annotations(tmp_path / "file.json")


@pytest.mark.parametrize("where", ["category", "file_name", "far"])
def test_annotations_in_another_encoding_are_refused(tmp_path: Path, where: str) -> None:
    gt = make_gt()
    if where == "category":
        gt["categories"][0]["name"] = "caf\u00e9"
    elif where == "file_name":
        gt["images"][0]["file_name"] = "caf\u00e9.jpg"
    else:  # beyond the block that is looked at first, and in the middle of a character there
        gt = {"padding": "\u20ac" * (3 << 20)} | gt
        gt["categories"][0]["name"] = "caf\u00e9"
    text = json.dumps(gt, ensure_ascii=False)
    content = text.encode().replace("\u00e9".encode(), b"\xe9")
    (tmp_path / "gt.json").write_bytes(content)
    place = f"{content.index(0xE9):,}" if where != "far" else f"{content.rindex(0xE9):,}"
    with pytest.raises(InputError, match=rf"not in UTF-8.*byte 0xe9 at {place}\); save the file"):
        load_annotations(tmp_path / "gt.json")


def test_an_rle_in_another_encoding_is_refused(tmp_path: Path) -> None:
    gt = make_gt()
    gt["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": "\u00e9"}
    text = json.dumps(gt, ensure_ascii=False).encode("latin-1")
    (tmp_path / "gt.json").write_bytes(text)
    annotations = load_annotations(tmp_path / "gt.json", masks=True)
    with pytest.raises(InputError, match="outside of the RLE alphabet"):
        annotations.rle(0)
    with pytest.raises(InputError, match="outside of the RLE alphabet"):
        trainable(read_annotation_file(tmp_path / "gt.json"), masks=True)


def test_results_in_another_encoding_are_refused(tmp_path: Path) -> None:
    results = make_results(make_gt())
    results[0]["segmentation"]["counts"] = "\u00e9"
    text = json.dumps(results, ensure_ascii=False).encode("latin-1")
    (tmp_path / "r.json").write_bytes(text)
    gt = load_annotations(write(tmp_path / "gt.json", make_gt()), masks=True)
    with pytest.raises(InputError, match=r"row 0: .*outside of the RLE alphabet"):
        load_results(tmp_path / "r.json", gt, iou_type="segm")


@READERS
def test_deep_nesting_is_refused(tmp_path: Path, read: Read, text: Callable[[], str]) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    spoilt = text().replace('"bbox": [', f'"other": {deep}, "bbox": [', 1)
    (tmp_path / "file.json").write_text(spoilt)
    with pytest.raises(InputError, match="nested too deeply; expected"):
        read(tmp_path / "file.json")


# --------------------------------------------------------------------------- names of images


@pytest.mark.parametrize(
    ("file_name", "coco_url", "name"),
    [
        ("x.jpg", None, "x.jpg"),
        ("x.jpg", "", "x.jpg"),  # CVAT
        ("COCO_x.jpg", "", "COCO_x.jpg"),
        ("", "http://host/val2017/y.jpg", "val2017/y.jpg"),
        (None, "y.jpg", "y.jpg"),
        (None, "http://host/val2017/", ""),
        (None, "", ""),
        (None, None, ""),
        ("", None, ""),
    ],
)
def test_an_empty_name_or_address_is_none(
    file_name: str | None, coco_url: str | None, name: str
) -> None:
    assert image_name(file_name, coco_url) == name


@pytest.mark.parametrize("given", [{}, {"coco_url": ""}, {"file_name": ""}])
def test_an_evaluation_needs_no_names_of_images(tmp_path: Path, given: dict[str, str]) -> None:
    gt = make_gt()
    named = load_annotations(write(tmp_path / "named.json", gt))
    for image in gt["images"]:
        del image["file_name"]
        image.update(given)
    without = load_annotations(write(tmp_path / "gt.json", gt))
    assert without.file_names == [""] * len(named.file_names)
    write(tmp_path / "r.json", make_results(gt))
    command = ["evaluate", "--gt", str(tmp_path / "gt.json"), "--output", str(tmp_path / "out")]
    assert main([*command, "--results", str(tmp_path / "r.json")]) == 0


# ------------------------------------------------------------------- numbers beyond any image


def test_polygons_are_bounded_by_their_image() -> None:
    inside = [1.0, 1.0, 50.0, 1.0, 50.0, 40.0]
    assert polygon_fault([inside, [-20.0, 1.0, 200.0, 1.0, 50.0, 140.0]], *SIZE) == ""
    reach = 10 * max(SIZE)
    assert polygon_fault([[*inside[:4], reach, -reach]], *SIZE) == ""
    for value in (reach + 1, -reach - 1, 1e9, 1e30, float("inf"), 2**70):
        assert "far out of the image" in polygon_fault([inside, [*inside[:4], value, 1.0]], *SIZE)


def test_a_far_coordinate_is_refused_before_training(tmp_path: Path) -> None:
    gt = make_gt()
    spoilt = gt["annotations"][3]
    spoilt["segmentation"].append([1, 2, 3, 4])  # left out of training, and no fault there
    content = read_annotation_file(write(tmp_path / "gt.json", gt))
    trainable(content, masks=True)
    spoilt["segmentation"][0][5] = 1e30
    content = read_annotation_file(write(tmp_path / "spoilt.json", gt))
    with pytest.raises(
        InputError, match=rf"id {spoilt['id']}: polygon 0 has the coordinate 1e\+30"
    ):
        trainable(content, masks=True)
    trainable(content, masks=False)
    spoilt["segmentation"] = [1, 2, 3, 4, 5, 6]
    content = read_annotation_file(write(tmp_path / "flat.json", gt))
    with pytest.raises(InputError, match="not a list of polygons"):
        check_polygons(content, np.arange(len(gt["annotations"])))


def test_boxes_far_out_of_the_image_are_evaluated_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    from iif.evaluation.scenes import SceneObject
    from iif.report.pictures import place_labels
    from iif.tv.drawing import draw_panel

    item = SceneObject(
        index=0,
        category=0,
        name="cat",
        bbox=(-1e12, 5.0, 1e30, 20.0),
        segmentation=None,
        score=0.5,
        kind="Ignored",
    )
    (placed,) = place_labels([item], 1.0, SIZE)
    assert np.isfinite(placed.box).all()
    assert max(map(abs, placed.box)) < 2 * max(SIZE)
    drawn = draw_panel(np.zeros((*SIZE, 3), np.uint8), [placed])
    assert drawn.any()


# ----------------------------------------------------------------------------- silent misreadings


def corners(boxes: list[Content]) -> None:
    for row in boxes:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


def test_corners_taken_for_sizes_are_warned_of(tmp_path: Path) -> None:
    gt = make_gt(images=40)
    results = make_results(gt)
    sound = load_annotations(write(tmp_path / "gt.json", gt))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_annotations(tmp_path / "gt.json")
        load_results(write(tmp_path / "sound.json", results), sound)
    corners(results)
    with pytest.warns(UserWarning, match=r"r.json: \d\d% of the boxes reach beyond .* two corners"):
        load_results(write(tmp_path / "r.json", results), sound)
    corners(gt["annotations"])
    with pytest.warns(UserWarning, match=r"c.json: \d\d% of the boxes reach beyond"):
        load_annotations(write(tmp_path / "c.json", gt))


@pytest.mark.parametrize("share", [0.4, 0.6, 1.0])
def test_areas_of_0_are_warned_of(tmp_path: Path, share: float) -> None:
    gt = make_gt()
    number = round(share * len(gt["annotations"]))
    for annotation in gt["annotations"][:number]:
        annotation["area"] = 0
    path = write(tmp_path / "gt.json", gt)
    if share < 0.5:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_annotations(path)
        return
    message = rf"gt.json: {number} of {len(gt['annotations'])} annotations have no area above 0"
    with pytest.warns(UserWarning, match=message):
        load_annotations(path)


def test_too_many_replicates_are_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["compare", "a", "b", "--bootstrap", str(10**13)])
    assert done.value.code == 2
    assert "give at most 1,000,000" in capsys.readouterr().err


# ------------------------------------------------------------------------------ category names


def test_names_are_one_line() -> None:
    assert one_line("a\nb") == one_line("a \r\n b".replace(" ", "")) == "a b"
    assert one_line("\x00a\u2028b\x85") == "a b"
    assert one_line("snow  leopard \u00e9") == "snow  leopard \u00e9"


def test_a_line_break_in_a_name_is_drawn_as_a_space(tmp_path: Path) -> None:
    gt = make_gt(masks=False)
    for category in gt["categories"]:
        category["name"] = f"two\nlines {category['id']}"
    for image in gt["images"]:
        path = tmp_path / "images" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(path)
    write(tmp_path / "gt.json", gt)
    write(tmp_path / "r.json", make_results(gt, masks=False))
    command = ["false-positives", "--gt", str(tmp_path / "gt.json")]
    command += ["--results", str(tmp_path / "r.json"), "--output", str(tmp_path / "out")]
    command += ["--images", str(tmp_path / "images"), "--num-images", "1"]
    assert main(command) == 0
    assert "two lines" in (tmp_path / "out" / "false_positives.txt").read_text()
    assert list((tmp_path / "out" / "visualizer").iterdir())


# ------------------------------------------------------------------ a file that changes meanwhile


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("change", ["cut off", "written over"])
def test_a_file_that_changes_after_reading_changes_nothing(tmp_path: Path, change: str) -> None:
    """In a process of its own: a mapped file that is cut off kills its readers."""
    path = write(tmp_path / "gt.json", make_gt(images=300))
    script = (
        "import sys\n"
        "from iif.data.annotations import load_annotations\n"
        "path, change = sys.argv[1:]\n"
        "gt = load_annotations(path, masks=True)\n"
        "before = [gt.encode(row) for row in range(len(gt.ann_ids))]\n"
        "with open(path, 'r+b') as f:\n"
        "    if change == 'cut off':\n"
        "        f.truncate(10)\n"
        "    else:\n"
        "        content = f.read()\n"
        "        f.seek(0)\n"
        "        f.write(content.replace(b'1', b'2').replace(b'3', b'4'))\n"
        "after = [gt.encode(row) for row in range(len(gt.ann_ids))]\n"
        "sys.exit(0 if before == after else 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), change], check=False)
    assert done.returncode == 0


# ---------------------------------------------------------------------------------- anything else

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**70), 0.5, 1e30, float("inf")),
    *("", "x", "\n", "\ud800", [], {}, [[]], [1], [-1.0] * 4, [1e300] * 4),
    *([[1, 2, 3, 4, 5, 6]], [[1e30] * 6], [[True] * 7], [[[1]]]),
    *({"a": 1}, {"size": [1, 1], "counts": "1"}, {"size": list(SIZE), "counts": "Z" * 20}),
    *({"size": list(SIZE), "counts": [-1, SIZE[0] * SIZE[1] + 1]}, {"size": [2**70, 1]}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inside = [
        place
        for key, item in items
        for place in (
            [(*path, key)] + (places(item, (*path, key)) if isinstance(item, dict | list) else [])
        )
    ]
    return inside


def spoilt(random: np.random.Generator, content: Any) -> Any:
    """Return a copy of a file's content with another value somewhere, or without a key."""
    content = json.loads(json.dumps(content))
    found = places(content)
    *way, last = found[random.integers(len(found))]
    holder = content
    for key in way:
        holder = holder[key]
    if isinstance(holder, dict) and random.random() < 0.2:
        del holder[last]
    else:
        holder[last] = VALUES[random.integers(len(VALUES))]
    return content


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_spoilt_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    gt = make_gt(images=3, categories=3)
    results = make_results(gt)[:6]
    gt_path, results_path = tmp_path / "gt.json", tmp_path / "r.json"
    uses: list[Callable[[], object]] = [
        lambda: ClassStatistics.from_json(gt_path, cache=False),
        lambda: trainable(read_annotation_file(gt_path), masks=True),
        lambda: find_images(load_annotations(gt_path), tmp_path),
        lambda: evaluate_files(gt_path, results_path, output_dir=tmp_path / "o", outcomes=True),
    ]
    refused: list[str] = []
    for number in range(40):
        gt_path.write_text(json.dumps(spoilt(random, gt) if number % 2 else gt))
        results_path.write_text(json.dumps(results if number % 2 else spoilt(random, results)))
        for use in uses:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    use()
                except InputError as error:
                    refused.append(str(error))
    assert len(refused) > 40
    assert all(str(tmp_path) in message for message in refused)
