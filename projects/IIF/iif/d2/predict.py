"""A trained Detectron2 run, ready for single images; `iif.predict` is for both engines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from numpy.typing import NDArray

from iif import layout
from iif.d2.checkpoint import load_model
from iif.d2.config import load_config
from iif.d2.method import record_of
from iif.d2.statistics import statistics_from_config
from iif.d2.visualizer import draw_panel
from iif.files import find_checkpoint


def load(path: str | os.PathLike[str], device: str | None) -> tuple[Any, Any, Any, Path, Any]:
    """Return the fields of an `iif.predict.Predictor`."""
    file = find_checkpoint(path)
    cfg = load_config(str(file.with_name(layout.CONFIG_YAML)), ["MODEL.WEIGHTS", str(file)])
    if device is not None:
        cfg.MODEL.DEVICE = device
    statistics = statistics_from_config(cfg)
    model = load_model(cfg, str(file))
    resize = T.ResizeShortestEdge(
        [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
    )

    @torch.no_grad()
    def detect(pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        height, width = pixels.shape[:2]
        image = pixels[:, :, ::-1] if cfg.INPUT.FORMAT == "BGR" else pixels
        image = resize.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        (output,) = model([{"image": tensor, "height": height, "width": width}])
        rows = instances_to_coco_json(output["instances"].to("cpu"), 0)
        for row in rows:
            row["category_id"] = int(statistics.ids[row["category_id"]])
        return rows

    return detect, statistics, record_of(model), file, draw_panel
