"""What the page's script draws the crops from, and the links of other sections to them.

A crop around a missed object is of no detected category: its ``name`` is empty.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from iif.report.crop_subjects import MISSED
from iif.report.crops import Crop
from iif.report.labels import (
    CHANGE_LABELS,
    GROUP_LABELS,
    MISSED_LABEL,
    OUTCOME_LABELS,
    short_name,
)
from iif.report.page_charts import css_kind
from iif.report.palette import DASHED


class CropLinks:
    """Links to the crops of a kind, group, category or confusion; None where there is no crop."""

    def __init__(self, crops: Sequence[Crop]) -> None:
        """Keep what there are crops of."""
        self._found = {
            frozenset(wanted.items())
            for crop in crops
            for wanted in (
                {"kind": crop.kind},
                {"kind": crop.kind, "group": crop.group},
                {"kind": crop.kind, "name": _name(crop)},
                {"kind": crop.kind, "name": _name(crop), "truth": crop.truth},
                {"kind": crop.kind, "truth": crop.truth},
                {"kind": crop.kind, "why": crop.why},
                {"kind": crop.kind, "why": crop.why, "group": crop.group},
                {"group": crop.group},
                {"name": _name(crop)},
                {"name": _name(crop), "truth": crop.truth},
                {"truth": crop.truth},
            )
        }

    def __call__(self, **wanted: str) -> str | None:
        """Return "#crops?kind=Cls&group=r" for values that are not empty."""
        values = {key: value for key, value in wanted.items() if value}
        if frozenset(values.items()) not in self._found:
            return None
        return "#crops?" + "&".join(f"{key}={quote(value)}" for key, value in values.items())


def crops_payload(crops: Sequence[Crop], runs: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script draws the crops from.

    Returns:
        "panels": names of a crop's panels; "kinds": kind -> {"label", "css", "greyed"}; "names":
        category names, which shapes refer to by position; "short": the same for labels; "wholes":
        image id -> {"src", "w", "h"} of whole images; "crops": each {"id", "file", "src" (WebP as
        data URI), "w", "h", "window" (x, y, width, height in the image), "name", "truth", "group",
        "groupName", "kind", "about" (the kind in words), "change", "why", "panels" (lists of
        shapes), "leftOut"}; a shape is [name, kind, score or null, box, path, subject].
    """
    names: dict[str, int] = {}
    for crop in crops:
        for panel in crop.panels:
            for shape in panel:
                names.setdefault(shape.name, len(names))
    return {
        "panels": [*runs, "Ground truth"],
        "kinds": {
            kind: {"label": label, "css": css_kind(kind), "greyed": kind in DASHED}
            for kind, label in OUTCOME_LABELS.items()
        },
        "changes": CHANGE_LABELS if len(runs) > 1 else {},
        "names": list(names),
        "short": [short_name(name) for name in names],
        "wholes": {
            str(crop.image_id): {
                "src": _data_uri(crop.whole),
                "h": crop.image_size[0],
                "w": crop.image_size[1],
            }
            for crop in crops
            if crop.whole
        },
        "crops": [_crop(crop, names) for crop in crops],
    }


def _crop(crop: Crop, names: dict[str, int]) -> dict[str, Any]:
    return {
        "id": crop.image_id,
        "file": crop.file_name,
        "src": _data_uri(crop.picture),
        "w": crop.width,
        "h": crop.height,
        "window": list(crop.window),
        "name": _name(crop),
        "truth": crop.truth,
        "group": crop.group,
        "groupName": GROUP_LABELS.get(crop.group, "-"),
        "kind": crop.kind,
        "about": f"{MISSED_LABEL}, {crop.reason}" if crop.reason else OUTCOME_LABELS[crop.kind],
        "change": crop.change,
        "why": crop.why,
        "panels": [
            [
                [
                    names[s.name],
                    s.kind,
                    None if s.score is None else round(s.score, 4),
                    [round(v) if v == round(v) else v for v in s.box],
                    s.path,
                    int(s.subject),
                ]
                for s in panel
            ]
            for panel in crop.panels
        ],
        "leftOut": crop.left_out,
    }


def _name(crop: Crop) -> str:
    return "" if crop.kind == MISSED else crop.category


def _data_uri(picture: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(picture).decode()
