"""Panels of detections drawn with Detectron2's visualizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.utils.visualizer import Visualizer
from numpy.typing import NDArray

from iif.report.pictures import LABEL_MARGIN, LABEL_SIZE, PanelObject


def draw_panel(image: NDArray[np.uint8], objects: Sequence[PanelObject]) -> NDArray[np.uint8]:
    """Return a copy of an RGB image (H, W, 3) with the objects drawn on it."""
    # The visualizer's line widths follow its font size, whose default is heavy for many boxes.
    visualizer = Visualizer(image, font_size_scale=0.6)
    points = LABEL_SIZE * 72 / visualizer.output.dpi
    for item in objects:
        if item.mask is not None and item.mask.any():
            visualizer.draw_binary_mask(item.mask, color=item.color, alpha=0.35, area_threshold=0)
        visualizer.draw_box(
            item.box, alpha=1, edge_color=item.color, line_style="--" if item.dashed else "-"
        )
        if item.leader is not None:
            x0, y0, x1, y1 = item.leader
            visualizer.draw_line([x0, x1], [y0, y1], color=item.color, linewidth=1)
        if item.label_box is not None:
            x, y = (corner + LABEL_MARGIN for corner in item.label_box[:2])
            visualizer.draw_text(
                item.label,
                (x, y),
                font_size=points,
                color=item.text_color,
                horizontal_alignment="left",
            )
    return visualizer.get_output().get_image()
