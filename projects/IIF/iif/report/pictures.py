"""Pictures of scenes: ground truth and every run side by side, coloured by outcome.

A drawer (``iif.d2.visualizer.draw_panel`` or ``iif.tv.drawing.draw_panel``) draws one panel. The
objects of a panel, the places of their labels and the arrangement of panels are decided here, once
for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from tqdm import tqdm

from iif.data.images import read_image
from iif.evaluation.false_positives import ERROR_TYPES, FalsePositiveAnalysis
from iif.evaluation.scenes import GROUND_TRUTH, KINDS, Scene, SceneObject
from iif.files import atomic_write
from iif.report.labels import IOU_NAMES, OUTCOME_LABELS
from iif.report.palette import DASHED, OUTCOME_COLORS
from iif.report.text import scene_text

# A panel's longer side, in pixels: small images are enlarged so that labels are legible.
PANEL_SIDE = (640, 960)
# More objects than this in a panel hide each other.
MAX_OBJECTS = 25
LABEL_SIZE = 13
LABEL_MARGIN = 2
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_BOLD = FONT.with_name("DejaVuSans-Bold.ttf")
_GAP = 12

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PanelObject:
    """One object as a drawer draws it, in pixels of the panel; boxes are x0, y0, x1, y1.

    Attributes:
        box: outline of the object.
        mask: (H, W) bool, or None.
        color: "#rrggbb".
        dashed: draw the outline dashed.
        label: text, in `FONT` at `LABEL_SIZE` pixels.
        text_color: of the label, legible on black.
        label_box: the label's place, `LABEL_MARGIN` included; None without a free place.
        leader: line from the object to a label that does not touch it; None when it does.
    """

    box: Box
    mask: NDArray[np.bool_] | None
    color: str
    dashed: bool
    label: str
    text_color: str
    label_box: Box | None
    leader: Box | None


Drawer = Callable[[NDArray[np.uint8], Sequence[PanelObject]], NDArray[np.uint8]]


def save_pictures(
    scenes: Sequence[Scene],
    names: Sequence[str],
    images: Sequence[Path],
    folder: str | os.PathLike[str],
    draw_panel: Drawer,
    *,
    subtitle: str = "",
) -> list[Path]:
    """Write one PNG for each scene; return their paths.

    Args:
        scenes: what to draw.
        names: of the runs.
        images: (I,) file of every image row, from `iif.data.images.find_images`.
        folder: where the PNG files go.
        draw_panel: draws one panel.
        subtitle: added to every picture's title, for example the matched recall.
    """
    paths = []
    bar = tqdm(scenes, desc="Pictures", disable=None)
    for number, scene in enumerate(bar, start=1):
        verb = "chosen"
        if len(names) > 1 and scene.change:
            verb = "added" if scene.change > 0 else "removed"
        path = Path(folder, f"{number:02d}_{verb}_image_{scene.image_id}.png")
        pixels = read_image(images[scene.image], scene.height, scene.width)
        picture = draw_scene(scene, names, pixels, draw_panel, subtitle=subtitle)
        with atomic_write(path, "wb") as f:
            picture.save(f, format="PNG")
        paths.append(path)
    return paths


def subtitle_of(analysis: FalsePositiveAnalysis, error_types: Sequence[str] | None = None) -> str:
    """Return the words under a picture's title: where detections are cut, how it was chosen."""
    at = f"At recall {analysis.recall:g} of each category, {IOU_NAMES[analysis.iou_type]} IoU 0.5"
    chosen = ", ".join(dict.fromkeys(error_types or ()))
    return f"{at}; chosen by {chosen} errors alone" if chosen else at


def draw_scene(
    scene: Scene,
    names: Sequence[str],
    image: NDArray[np.uint8],
    draw_panel: Drawer,
    *,
    subtitle: str = "",
) -> Image.Image:
    """Return the picture of a scene: a title, a panel for the truth and each run, and a legend."""
    pixels, scale = resize(image)
    truth, shown = _choose_objects(scene)
    panels = [(f"Ground truth: {_out_of(len(truth), len(scene.ground_truth), 'instance')}", truth)]
    for name, objects, everything in zip(names, shown, scene.detections, strict=True):
        true = sum(o.kind == "TP" for o in everything)
        false = sum(o.kind in ERROR_TYPES for o in everything)
        count = _out_of(len(objects), len(everything), "detection")
        panels.append((f"{name}: {true} true, {false} false; {count}", objects))
    drawn = [
        (title, draw_panel(pixels, place_labels(objects, scale, pixels.shape[:2])))
        for title, objects in panels
    ]
    title = f"{Path(scene.file_name).name} (id {scene.image_id}): {scene_text(scene)}"
    kinds = {o.kind for objects in shown for o in objects}
    legend = [GROUND_TRUTH, *(kind for kind in KINDS if kind in kinds)]
    return _compose(title, subtitle, drawn, legend)


def label_of(item: SceneObject) -> str:
    """Return "category", "category 0.87" or, unless it is a true positive, "category 0.87 Loc"."""
    if item.score is None:
        return item.name
    kind = "" if item.kind == "TP" else f" {item.kind}"
    return f"{item.name} {item.score:.2f}{kind}"


def place_labels(
    objects: Sequence[SceneObject],
    scale: float,
    size: tuple[int, ...],
    *,
    color_of: Callable[[SceneObject], str] = lambda item: OUTCOME_COLORS[item.kind],
) -> list[PanelObject]:
    """Return objects in panel pixels with labels that never overlap one another.

    Places around the object's box and on a grid over the panel are tried. The label goes where it
    hides least of the objects and lies nearest to its own; without a free place it is left out.

    Args:
        objects: in order of importance.
        scale: panel pixels in a pixel of the image.
        size: (height, width) of the panel.
        color_of: an object's colour; by default that of its outcome.
    """
    font = ImageFont.truetype(str(FONT), LABEL_SIZE)
    height, width = size
    boxes = np.array([_scaled_box(item, scale) for item in objects]).reshape(-1, 4)
    placed: list[Box] = []
    result = []
    for i, (item, box) in enumerate(zip(objects, boxes, strict=True)):
        label = label_of(item)
        label_size = (
            font.getlength(label) + 2 * LABEL_MARGIN + 2,
            sum(font.getmetrics()) + 2 * LABEL_MARGIN,
        )
        spot = _best_spot(boxes, i, label_size, np.array(placed).reshape(-1, 4), width, height)
        if spot is not None:
            placed.append(spot)
        result.append(
            PanelObject(
                box=tuple(box.tolist()),
                mask=_scaled_mask(item, width, height),
                color=color_of(item),
                dashed=item.kind in DASHED,
                label=label,
                text_color=_lightened(color_of(item)),
                label_box=spot,
                leader=None if spot is None else _leader(tuple(box.tolist()), spot),
            )
        )
    return result


def _best_spot(
    boxes: NDArray[np.float64],
    own: int,
    label_size: tuple[float, float],
    placed: NDArray[np.float64],
    width: int,
    height: int,
) -> Box | None:
    """Return the cheapest place for the label of box ``own``, x0, y0, x1, y1; None without room."""
    w, h = label_size
    x0, y0, x1, y1 = boxes[own]
    near = [(x, y) for x in (x0, x1 - w) for y in (y0 - h, y1, y0, y1 - h)]
    near += [(x, y) for x in (x0 - w, x1) for y in (y0, y1 - h)]
    grid_x, grid_y = np.meshgrid(np.arange(0, width - w, w / 4), np.arange(0, height - h, h / 2))
    corners = np.concatenate([np.array(near), np.stack([grid_x.ravel(), grid_y.ravel()], axis=1)])
    corners = corners.clip(0, [max(0, width - w), max(0, height - h)])
    spots = np.concatenate([corners, corners + np.array([w, h])], axis=1)
    spots = spots[_overlaps(spots, placed).sum(axis=1) == 0]
    if len(spots) == 0 or w > width:
        return None
    hidden = _overlaps(spots, boxes) / (w * h)
    hidden[:, own] *= 0.4
    gap = np.maximum(boxes[own, :2] - spots[:, 2:], spots[:, :2] - boxes[own, 2:]).clip(0)
    # A label may move by 40 pixels rather than lie on another object.
    cost = np.hypot(gap[:, 0], gap[:, 1]) + 40 * hidden.sum(axis=1)
    return tuple(spots[np.argmin(cost)].tolist())


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (A, B) areas of the intersections of boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)


def _leader(box: Box, label: Box) -> Box | None:
    """Return the shortest line between two boxes; None when they touch or nearly do."""
    ends = []
    for low, high in ((0, 2), (1, 3)):
        if box[high] < label[low]:
            ends.append((box[high], label[low]))
        elif label[high] < box[low]:
            ends.append((box[low], label[high]))
        else:
            middle = (max(box[low], label[low]) + min(box[high], label[high])) / 2
            ends.append((middle, middle))
    (x0, x1), (y0, y1) = ends
    return (x0, y0, x1, y1) if abs(x1 - x0) + abs(y1 - y0) > 3 else None


def _choose_objects(scene: Scene) -> tuple[list[SceneObject], list[list[SceneObject]]]:
    """Return the objects to draw: of each run false positives first, then by kind and score."""
    order = [*ERROR_TYPES, "TP", "Ignored", "Unverifiable"]
    rank = {kind: 0 if kind in ERROR_TYPES else order.index(kind) for kind in order}
    shown = [sorted(run, key=lambda o: rank[o.kind])[:MAX_OBJECTS] for run in scene.detections]
    named = {o.category for run in shown for o in run}
    truth = sorted(scene.ground_truth, key=lambda o: o.category not in named)[:MAX_OBJECTS]
    return truth, shown


def _out_of(shown: int, total: int, what: str) -> str:
    counted = f"{total} {what}{'' if total == 1 else 's'}"
    return counted if shown == total else f"{shown} of {counted} drawn"


def resize(
    image: NDArray[np.uint8], sides: tuple[int, int] = PANEL_SIDE
) -> tuple[NDArray[np.uint8], float]:
    """Return the image with its longer side between two lengths, and the factor."""
    height, width = image.shape[:2]
    side = max(height, width)
    scale = float(np.clip(side, *sides)) / side
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.array(resized), scale


def _lightened(color: str) -> str:
    """Return a colour mixed with white, as much as text on black needs (contrast above 7)."""
    red, green, blue = (value / 255 for value in ImageColor.getrgb(color)[:3])
    while 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.35:
        red, green, blue = (value + 0.1 * (1 - value) for value in (red, green, blue))
    return "#" + "".join(f"{round(255 * value):02x}" for value in (red, green, blue))


def _scaled_box(item: SceneObject, scale: float) -> Box:
    x, y, w, h = (value * scale for value in item.bbox)
    return x, y, x + w, y + h


def _scaled_mask(item: SceneObject, width: int, height: int) -> NDArray[np.bool_] | None:
    if item.segmentation is None:
        return None
    from pycocotools import mask

    # Resampling the mask as a grey image keeps its outline smooth when it is enlarged.
    grey = Image.fromarray(255 * mask.decode(item.segmentation))
    return np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR)) > 127


def _compose(
    title: str, subtitle: str, panels: Sequence[tuple[str, NDArray[np.uint8]]], legend: list[str]
) -> Image.Image:
    bold, plain = (ImageFont.truetype(str(f), s) for f, s in ((_BOLD, 18), (FONT, 15)))
    height, width = panels[0][1].shape[:2]
    columns = [_GAP + i * (width + _GAP) for i in range(len(panels))]
    total_width = columns[-1] + width + _GAP
    heads = [_wrap(text, plain, width) for text, _ in panels]
    titles = [(line, bold) for line in _wrap(title, bold, total_width - 2 * _GAP)]
    titles += [(line, plain) for line in _wrap(subtitle, plain, total_width - 2 * _GAP) if line]
    top = _GAP + 26 * len(titles)
    head_height = 20 * max(map(len, heads)) + 6
    rows = _legend_rows(legend, plain, total_width - 2 * _GAP)
    foot = top + head_height + height + _GAP
    picture = Image.new("RGB", (total_width, foot + 24 * len(rows) + _GAP // 2), "white")
    draw = ImageDraw.Draw(picture)
    for i, (line, font) in enumerate(titles):
        draw.text((_GAP, _GAP + 26 * i), line, fill="black", font=font)
    for x, lines, (_, pixels) in zip(columns, heads, panels, strict=True):
        for i, line in enumerate(lines):
            draw.text((x, top + 20 * i), line, fill="black", font=plain)
        picture.paste(Image.fromarray(pixels), (x, top + head_height))
    for i, row in enumerate(rows):
        for x, kind in row:
            _draw_legend_entry(draw, _GAP + x, foot + 24 * i, kind, plain)
    return picture


_SWATCH = 26


def _legend_rows(
    legend: Sequence[str], font: ImageFont.FreeTypeFont, width: float
) -> list[list[tuple[float, str]]]:
    """Return rows of (x, kind) that fit the width."""
    rows: list[list[tuple[float, str]]] = [[]]
    x = 0.0
    for kind in legend:
        needed = _SWATCH + font.getlength(OUTCOME_LABELS[kind]) + 22
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, kind))
        x += needed
    return rows


def _draw_legend_entry(
    draw: ImageDraw.ImageDraw, x: float, y: float, kind: str, font: ImageFont.FreeTypeFont
) -> None:
    color = OUTCOME_COLORS[kind]
    step, dash = (7, 4) if kind in DASHED else (_SWATCH, _SWATCH - 6)
    for start in range(0, _SWATCH - 6, step):
        draw.rectangle((x + start, y + 6, x + start + dash, y + 11), fill=color)
    draw.text((x + _SWATCH, y), OUTCOME_LABELS[kind], fill="black", font=font)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Return the text in lines that fit the width, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
