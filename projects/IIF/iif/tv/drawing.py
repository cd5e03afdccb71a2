"""Panels of detections drawn with torchvision, where Detectron2's visualizer is not installed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import max_pool2d, pad
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from iif.report.pictures import FONT, LABEL_SIZE, Box, PanelObject

_LINE = 2
_DASH, _STEP = 8, 13


def draw_panel(image: NDArray[np.uint8], objects: Sequence[PanelObject]) -> NDArray[np.uint8]:
    """Return a copy of an RGB image (H, W, 3) with the objects drawn on it."""
    panel = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for item in objects:
        if item.mask is not None and item.mask.any():
            _draw_mask(panel, torch.from_numpy(item.mask), item.color)
    outlines = [
        (box, item.color)
        for item in objects
        for box in (_dashes(item.box) if item.dashed else [item.box])
    ]
    if outlines:
        height, width = image.shape[:2]
        boxes = torch.tensor([box for box, _ in outlines]).round()
        boxes[:, 0::2].clamp_(0, width - 1)
        boxes[:, 1::2].clamp_(0, height - 1)
        colors = [color for _, color in outlines]
        panel = draw_bounding_boxes(panel, boxes, colors=colors, width=_LINE)
    leaders = [(item.leader, item.color) for item in objects if item.leader is not None]
    if leaders:
        # A line is a quadrilateral that goes there and back.
        there_and_back = [[*ends, *ends[2:], *ends[:2]] for ends, _ in leaders]
        colors = [color for _, color in leaders]
        panel = draw_bounding_boxes(panel, torch.tensor(there_and_back), colors=colors)
    return _draw_labels(panel, objects).permute(1, 2, 0).numpy()


def _draw_mask(panel: torch.Tensor, mask: torch.Tensor, color: str) -> None:
    """Tint a mask (H, W) and draw its edge, in place; only the part around it is worked on."""
    rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in mask.nonzero(as_tuple=True))
    part, mask = panel[:, rows, columns], mask[rows, columns]
    tinted = draw_segmentation_masks(part, mask, alpha=0.35, colors=color)
    part[:] = draw_segmentation_masks(tinted, _edge(mask), alpha=1.0, colors=color)


def _draw_labels(panel: torch.Tensor, objects: Sequence[PanelObject]) -> torch.Tensor:
    labelled = [(item, item.label_box) for item in objects if item.label_box is not None]
    if not labelled:
        return panel
    corners = []
    for _, label_box in labelled:
        x0, y0, x1, y1 = (round(value) for value in label_box)
        panel[:, y0:y1, x0:x1] //= 5
        corners.append([x0, y0, x0, y0])
    return draw_bounding_boxes(
        panel,
        torch.tensor(corners),
        labels=[item.label for item, _ in labelled],
        colors="black",
        label_colors=[item.text_color for item, _ in labelled],
        font=str(FONT),
        font_size=LABEL_SIZE,
    )


def _edge(mask: torch.Tensor) -> torch.Tensor:
    """Return the pixels of a mask (H, W) that touch its outside."""
    outside = pad((~mask).float()[None], (1, 1, 1, 1), value=1.0)
    return mask & (max_pool2d(outside, 3, stride=1)[0] > 0)


def _dashes(box: Box) -> list[Box]:
    """Return small filled boxes that make a dashed outline."""
    x0, y0, x1, y1 = box
    dashes: list[Box] = []
    for x in np.arange(x0, x1, _STEP):
        end = min(x + _DASH, x1)
        dashes += [(x, y, end, y + _LINE - 1) for y in (y0, y1 - _LINE + 1)]
    for y in np.arange(y0, y1, _STEP):
        end = min(y + _DASH, y1)
        dashes += [(x, y, x + _LINE - 1, end) for x in (x0, x1 - _LINE + 1)]
    return dashes
