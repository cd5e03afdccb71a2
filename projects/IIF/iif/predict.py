"""Use a trained run: its detections on images of any size, as JSON and as pictures."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from iif import layout
from iif.data.images import read_upright
from iif.errors import InputError
from iif.evaluation.scenes import SceneObject
from iif.files import atomic_write, write_json
from iif.report.pictures import MAX_OBJECTS, PANEL_SIDE, Drawer, place_labels, resize
from iif.statistics import ClassStatistics

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
# Successive hues that differ most: the golden angle, as a part of the circle.
_HUE_STEP = 0.381966


@dataclass(frozen=True)
class Predictor:
    """A trained run, ready for images.

    Attributes:
        detect: (H, W, 3) uint8 RGB -> the detections as entries of LVIS's result file, best first;
            their ``image_id`` means nothing.
        statistics: the classes that it was trained on.
        method: the record of its method.
        checkpoint: the file that it was read from.
        draw_panel: the engine's drawer.
    """

    detect: Callable[[NDArray[np.uint8]], list[dict[str, Any]]]
    statistics: ClassStatistics
    method: dict[str, Any]
    checkpoint: Path
    draw_panel: Drawer


def load_predictor(run: str | os.PathLike[str], device: str | None = None) -> Predictor:
    """Load the last checkpoint of an output folder, of either engine.

    Args:
        run: the output folder, or a checkpoint that lies in it.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Raises:
        InputError: it is no run, or its engine is not installed.
    """
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    try:
        if (folder / layout.CONFIG_YAML).is_file():
            from iif.d2.predict import load
        elif (folder / layout.CONFIG_JSON).is_file():
            from iif.tv.predict import load
        else:
            raise InputError(
                f"{run}: no run: neither {layout.CONFIG_YAML} (Detectron2) nor "
                f"{layout.CONFIG_JSON} (torchvision) lies there; give the output folder of a "
                "training"
            )
    except ImportError as error:
        raise InputError(f"{run}: its engine is not installed here ({error})") from None
    return Predictor(*load(run, device))


def image_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return images, and those of folders with their sub-folders, in order.

    Raises:
        InputError: a path is not there, or there is no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path}: no such image or folder")
    if not found:
        raise InputError(
            f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in {', '.join(map(str, paths))}"
        )
    return found


def predict(
    predictor: Predictor,
    files: Sequence[Path],
    output_dir: str | os.PathLike[str],
    *,
    min_score: float = 0.5,
    pictures: bool = True,
) -> Path:
    """Write what a run detects in images: ``predictions.json``, and a picture of each.

    Args:
        predictor: the run.
        files: the images.
        output_dir: where to write; the pictures go into its folder ``pictures``.
        min_score: detections with a lower score are left out.
        pictures: draw them.

    Returns:
        the path of ``predictions.json``: the run, its method, its categories, and of each image
        its size and its detections, with boxes as XYWH in pixels and masks as COCO's compressed
        RLE.

    Raises:
        InputError: the score is not one, or a file is no image.
    """
    if not 0 <= min_score <= 1:
        raise InputError(f"the least score is {min_score:g}; it must be in [0, 1]")
    statistics, folder = predictor.statistics, Path(output_dir)
    names = dict(zip(statistics.ids.tolist(), statistics.names, strict=True))
    images = []
    for number, file in enumerate(tqdm(files, desc="Images", unit="image", disable=None), start=1):
        pixels = read_upright(file)
        rows = [row for row in predictor.detect(pixels) if row["score"] >= min_score]
        detections = [
            {
                "category": names[row["category_id"]],
                **{key: value for key, value in row.items() if key != "image_id"},
            }
            for row in rows
        ]
        height, width = pixels.shape[:2]
        picture = None
        if pictures:
            picture = str(Path("pictures", f"{number:04d}_{file.stem}.png"))
            drawn = draw_detections(pixels, detections, predictor.draw_panel, statistics)
            with atomic_write(folder / picture, "wb") as f:
                drawn.save(f, format="PNG")
        images.append(
            {
                "file_name": str(file),
                "height": height,
                "width": width,
                "picture": picture,
                "detections": detections,
            }
        )
    path = folder / layout.PREDICTIONS
    write_json(
        path,
        {
            "checkpoint": str(predictor.checkpoint),
            "method": predictor.method,
            "min_score": min_score,
            "categories": [{"id": i, "name": name} for i, name in names.items()],
            "images": images,
        },
    )
    return path


def draw_detections(
    pixels: NDArray[np.uint8],
    detections: Sequence[dict[str, Any]],
    draw_panel: Drawer,
    statistics: ClassStatistics,
) -> Image.Image:
    """Return a picture of the best-scored detections of an image, a colour for each category."""
    rows = {category: row for row, category in enumerate(statistics.ids.tolist())}
    best = sorted(detections, key=lambda d: -d["score"])[:MAX_OBJECTS]
    objects = [
        SceneObject(
            bbox=tuple(d["bbox"]),
            segmentation=d.get("segmentation"),
            category=rows[d["category_id"]],
            name=d["category"],
            kind="TP",  # no word about truth beside the score
            score=d["score"],
            index=index,
        )
        for index, d in enumerate(best)
    ]
    panel, scale = resize(pixels, PANEL_SIDE)
    placed = place_labels(objects, scale, panel.shape[:2], color_of=_color)
    return Image.fromarray(draw_panel(panel, placed))


def _color(item: SceneObject) -> str:
    red, green, blue = colorsys.hsv_to_rgb(item.category * _HUE_STEP % 1, 0.75, 0.95)
    return "#" + "".join(f"{round(255 * value):02x}" for value in (red, green, blue))
