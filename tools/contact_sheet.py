"""Draw docs/images/openmoji.png: the demo's kinds, and images of its data set with their masks.

iif openmoji datasets/openmoji
python tools/contact_sheet.py datasets/openmoji docs/images/openmoji.png
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from iif.demo.drawing import Pose, pose_drawing
from iif.demo.kinds import all_kinds
from iif.demo.openmoji import TRAIN_JSON

WIDTH = 1200
COLUMNS = 10  # of kinds: a family a row
CELL, DRAWING = (WIDTH // COLUMNS, 112), 76
IMAGES = (2, 6)  # rows and columns
COLOURS = ("#e6194b", "#0050d8", "#008c3a", "#b000b0", "#c85a00", "#007c8c")
GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the data set's folder")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    content = json.loads((args.data / TRAIN_JSON).read_text(encoding="utf-8"))
    kinds, images = draw_kinds(content["categories"]), draw_images(content, args.data)
    sheet = Image.new("RGB", (WIDTH, kinds.height + images.height), "white")
    sheet.paste(kinds, (0, 0))
    sheet.paste(images, (0, kinds.height))
    sheet.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(args.output, optimize=True)


def draw_kinds(categories: list[dict[str, Any]]) -> Image.Image:
    """Draw each kind with its name, its number of training images and its group."""
    known = {category["name"]: category for category in categories}
    kinds = [kind for kind in all_kinds() if kind.name in known]
    width, height = CELL
    sheet = Image.new("RGB", (WIDTH, -(-len(kinds) // COLUMNS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    name_font, count_font = (ImageFont.load_default(size) for size in (12, 11))
    for place, kind in enumerate(kinds):
        left, top = place % COLUMNS * width, place // COLUMNS * height
        drawing = pose_drawing(kind.code, Pose(DRAWING))
        corner = left + (width - drawing.width) // 2, top + (DRAWING + 4 - drawing.height) // 2
        sheet.paste(drawing.convert("RGBA"), corner, drawing.getchannel("a"))
        middle, category = left + width // 2, known[kind.name]
        name = kind.name.replace("_", " ").replace("sport utility", "sport util.")
        pen.text((middle, top + 88), name, "#222222", name_font, anchor="mm")
        count = f"{category['image_count']} ({GROUPS[category['frequency']]})"
        pen.text((middle, top + 102), count, "#777777", count_font, anchor="mm")
    return sheet


def draw_images(content: dict[str, Any], folder: Path) -> Image.Image:
    """Draw the first images, in each the outlines of what is annotated."""
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    rows, columns = IMAGES
    side = WIDTH // columns
    sheet = Image.new("RGB", (WIDTH, rows * side), "white")
    for place, image in enumerate(content["images"][: rows * columns]):
        # Twice as large as shown, so that the outlines are smooth.
        large = 2 * (side - 4)
        picture = Image.open(folder / image["file_name"]).resize((large, large)).convert("RGBA")
        layer = Image.new("RGBA", picture.size)
        pen = ImageDraw.Draw(layer)
        for number, annotation in enumerate(annotations[image["id"]]):
            colour = COLOURS[number % len(COLOURS)]
            for polygon in annotation["segmentation"]:
                points = [value * large / image["width"] for value in polygon]
                pen.polygon(points, fill=f"{colour}18")
                pen.line([*points, *points[:2]], fill=colour, width=5, joint="curve")
        shown = Image.alpha_composite(picture, layer).resize((side - 4, side - 4))
        corner = place % columns * side + 2, place // columns * side + 2
        sheet.paste(shown.convert("RGB"), corner)
    return sheet


if __name__ == "__main__":
    main()
