"""A trained torchvision run, ready for single images; `iif.predict` is for both engines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iif.distributed import pick_device
from iif.tv import checkpoint
from iif.tv.drawing import draw_panel
from iif.tv.inference import detections_to_results
from iif.tv.model import method_of


def load(path: str | os.PathLike[str], device: str | None) -> tuple[Any, Any, Any, Path, Any]:
    """Return the fields of an `iif.predict.Predictor`."""
    where = pick_device(device)
    file = checkpoint.find(path)
    detector = checkpoint.load(file, where)

    @torch.no_grad()
    def detect(pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        image = torch.from_numpy(pixels).permute(2, 0, 1).to(where).float() / 255
        (detections,) = detector.model([image])
        return detections_to_results(detections, 0, detector.statistics.ids)

    return detect, detector.statistics, method_of(detector.model).record(), file, draw_panel
