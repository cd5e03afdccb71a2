"""A small data set in the exact shape in which annotation tools export COCO's format."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

SIDE = 64
NAMES = ("disc", "square", "wedge")
COLORS = ("#c0392b", "#2471a3", "#1e8449")
IMAGES = {"train": 24, "val": 8}


class Thing(NamedTuple):
    """An object: its kind from 0 and its outline x, y, x, y, ..."""

    kind: int
    outline: list[float]

    @property
    def box(self) -> list[float]:
        x, y = self.outline[::2], self.outline[1::2]
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


class Export(NamedTuple):
    """The files of a tool's export."""

    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path


def scenes(split: str) -> list[list[Thing]]:
    """Return the objects of each image; squares and wedges are rarer than discs."""
    rng = np.random.default_rng(["train", "val"].index(split))
    found = []
    for row in range(IMAGES[split]):
        kinds = [k for k in range(3) if (row + k) % (2 + k) == 0]
        things = []
        for kind in kinds:
            x, y = rng.integers(2, 34, 2).tolist()
            size = int(rng.integers(16, 26))
            corners = {
                0: 10,
                1: 4,
                2: 3,
            }[kind]
            angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
            points = np.column_stack([np.cos(angle), np.sin(angle)]) * size / 2 + size / 2
            outline = np.round(points + np.array([x, y]), 2).ravel().tolist()
            things.append(Thing(kind, outline))
        found.append(things)
    return found


def draw(things: list[Thing], path: Path) -> None:
    # A shade of its own: images without an object are not the same image either.
    shade = zlib.crc32(str(path.relative_to(path.parents[2])).encode()) % 2**16
    image = Image.new("RGB", (SIDE, SIDE), (160 + shade % 64, 160 + shade // 64 % 64, 220))
    for kind, outline in things:
        points = list(zip(outline[::2], outline[1::2], strict=True))
        ImageDraw.Draw(image).polygon(points, fill=COLORS[kind])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def area_of(outline: list[float]) -> float:
    x, y = np.array(outline[::2]), np.array(outline[1::2])
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def runs_of(outline: list[float]) -> list[int]:
    """Return the runs of an uncompressed RLE."""
    (rle,) = mask_utils.frPyObjects([outline], SIDE, SIDE)
    bits = mask_utils.decode(rle).ravel(order="F")
    edges = np.flatnonzero(np.diff(bits)) + 1
    runs = np.diff([0, *edges, len(bits)]).tolist()
    return runs if bits[0] == 0 else [0, *runs]


_EMPTY_INFO = ("contributor", "date_created", "description", "url", "version", "year")


def _datumaro(
    folder: Path, split: str, attributes: dict[str, Any], *, painted: bool = False
) -> dict[str, Any]:
    """What Datumaro's exporter writes, which CVAT uses, too."""
    images, annotations = [], []
    for row, things in enumerate(scenes(split)):
        name = f"{split}/frame_{row:06d}.png"
        draw(things, folder / "images" / name)
        images.append(
            {
                "id": row + 1,
                "width": SIDE,
                "height": SIDE,
                "file_name": name,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        )
        for thing in things:
            mask = painted and thing.kind == 0 and row % 8 == 0
            segmentation: Any = [thing.outline]
            if mask:
                segmentation = {"counts": runs_of(thing.outline), "size": [SIDE, SIDE]}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row + 1,
                    "category_id": thing.kind + 1,
                    "segmentation": segmentation,
                    "area": round(area_of(thing.outline), 2),
                    "bbox": [round(v, 2) for v in thing.box],
                    "iscrowd": int(mask),
                    "attributes": attributes,
                }
            )
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": dict.fromkeys(_EMPTY_INFO, ""),
        "categories": [
            {"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(NAMES)
        ],
        "images": images,
        "annotations": annotations,
    }


def cvat(folder: Path) -> Export:
    """CVAT's "COCO 1.0": `datumaro/plugins/coco_format/converter.py` of cvat-ai/datumaro.

    Sub folders in the file names, an empty coco_url, CVAT's attributes of a shape.
    """
    return _two_files(folder, lambda split: _datumaro(folder, split, {"occluded": False}))


def datumaro(folder: Path) -> Export:
    """Datumaro: `plugins/data_formats/coco/exporter.py` of openvinotoolkit/datumaro.

    What was painted is an uncompressed RLE with iscrowd 1. Here the file begins with a byte order
    mark, as Windows' editors save it.
    """
    export = _two_files(folder, lambda split: _datumaro(folder, split, {}, painted=True))
    for path in (export.train_json, export.val_json):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return export


def _two_files(folder: Path, content: Callable[[str], dict[str, Any]]) -> Export:
    paths = []
    for split in IMAGES:
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content(split)))
        paths.append(path)
    return Export(paths[0], folder / "images", paths[1], folder / "images")


def roboflow(folder: Path) -> Export:
    """Roboflow's "COCO JSON": the example on its page of the format (roboflow.com/formats).

    Category 0 is the root of the others and has no annotation; ids count from 0; each split has
    its file beside its images.
    """
    paths = []
    for split, name in (("train", "train"), ("val", "valid")):
        images, annotations = [], []
        for row, things in enumerate(scenes(split)):
            file = f"photo_{row}_png.rf.{zlib.crc32(f'{split}{row}'.encode()):032x}.png"
            draw(things, folder / name / file)
            images.append(
                {
                    "id": row,
                    "license": 1,
                    "file_name": file,
                    "height": SIDE,
                    "width": SIDE,
                    "date_captured": "2024-06-25T13:08:10+00:00",
                }
            )
            for thing in things:
                x, y, width, height = thing.box
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": row,
                        "category_id": thing.kind + 1,
                        "bbox": [int(x), int(y), round(width, 2), round(height, 2)],
                        "area": round(width * height, 3),
                        "segmentation": [thing.outline],
                        "iscrowd": 0,
                    }
                )
        content = {
            "info": {
                "year": "2024",
                "version": "1",
                "description": "Exported from roboflow.com",
                "contributor": "",
                "url": "https://public.roboflow.com/object-detection/undefined",
                "date_created": "2024-06-25T13:08:10+00:00",
            },
            "licenses": [
                {
                    "id": 1,
                    "url": "https://creativecommons.org/licenses/by/4.0/",
                    "name": "CC BY 4.0",
                }
            ],
            "categories": [
                {"id": 0, "name": "shapes", "supercategory": "none"},
                *(
                    {"id": k + 1, "name": name, "supercategory": "shapes"}
                    for k, name in enumerate(NAMES)
                ),
            ],
            "images": images,
            "annotations": annotations,
        }
        path = folder / name / "_annotations.coco.json"
        path.write_text(json.dumps(content))
        paths.append(path)
    return Export(paths[0], paths[0].parent, paths[1], paths[1].parent)


def label_studio(folder: Path) -> Export:
    """Label Studio's COCO export of rectangles: `convert_to_coco` of label-studio-converter.

    No mask (an empty list), whole pixels, ids and categories from 0, "ignore" beside "iscrowd",
    names with the folder "images".
    """
    paths = []
    for split in IMAGES:
        images, annotations = [], []
        for row, things in enumerate(scenes(split)):
            name = f"images/{row:08x}-{split}.png"
            draw(things, folder / split / name)
            images.append({"width": SIDE, "height": SIDE, "id": row, "file_name": name})
            for thing in things:
                x, y, width, height = (int(v) for v in thing.box)
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": row,
                        "category_id": thing.kind,
                        "segmentation": [],
                        "bbox": [x, y, width, height],
                        "ignore": 0,
                        "iscrowd": 0,
                        "area": width * height,
                    }
                )
        content = {
            "images": images,
            "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
            "annotations": annotations,
            "info": {
                "year": 2026,
                "version": "1.0",
                "description": "",
                "contributor": "Label Studio",
                "url": "",
                "date_created": "2026-01-05 10:11:12.131415",
            },
        }
        path = folder / split / "result.json"
        path.write_text(json.dumps(content, indent=2))
        paths.append(path)
    return Export(paths[0], paths[0].parent, paths[1], paths[1].parent)


def make_sense(folder: Path) -> Export:
    """makesense.ai: `src/logic/export/polygon/COCOExporter.ts` of SkalskiP/make-sense.

    Polygons alone; images without one are left out, annotation ids count from 0, no licences.
    """
    paths = []
    for split in IMAGES:
        images, annotations = [], []
        for row, things in enumerate(scenes(split)):
            name = f"{split}-{row}.png"
            draw(things, folder / "pictures" / name)
            if not things:
                continue
            images.append({"id": len(images) + 1, "width": SIDE, "height": SIDE, "file_name": name})
            for thing in things:
                annotations.append(
                    {
                        "id": len(annotations),
                        "iscrowd": 0,
                        "image_id": len(images),
                        "category_id": thing.kind + 1,
                        "segmentation": [thing.outline],
                        "bbox": thing.box,
                        "area": area_of(thing.outline),
                    }
                )
        content = {
            "info": {"description": "my-project-name"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        }
        path = folder / f"labels_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")))
        paths.append(path)
    return Export(paths[0], folder / "pictures", paths[1], folder / "pictures")


TOOLS: dict[str, Callable[[Path], Export]] = {
    "cvat": cvat,
    "roboflow": roboflow,
    "label_studio": label_studio,
    "datumaro": datumaro,
    "make_sense": make_sense,
}
