"""Names in an annotation file: those of images, which become paths, and those of categories."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from iif.data.faults import Fault, Report, refuse

# Line breaks and control characters: tables and pictures have no place for them.
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(name: str) -> str:
    """Return a name with a space for line breaks and other control characters."""
    return _BREAKS.sub(" ", name).strip() if _BREAKS.search(name) else name


def image_name(file_name: str | None, coco_url: str | None) -> str:
    """Return where an image lies in the image folder: ``file_name``, or the end of ``coco_url``.

    LVIS v1 names its images by ``coco_url`` alone, of which the last two parts count. LVIS v0.5
    also has ``file_name``, but COCO 2014's (COCO_val2014_...) of images whose URL is COCO 2017's.
    An empty one, which CVAT writes, is none; without any the name is empty.
    """
    *folders, file = (coco_url or "").split("/")
    if file and (not file_name or (file_name.startswith("COCO_") and file_name != file)):
        return "/".join([*folders[-1:], file])
    return file_name or ""


def image_paths(
    source: str,
    ids: Iterable[int],
    names: Iterable[str],
    folder: str | os.PathLike[str],
    report: Report | None = None,
) -> list[str]:
    """Return the path of each image: its name in the image folder.

    Args:
        source: the annotation file, for messages.
        ids: of the images, for messages.
        names: of the images, from `image_name`.
        folder: the image folder.
        report: is handed the faults, and the path of such an image is empty; by default the first
            is refused.

    Raises:
        InputError: an image has no name, or one that leaves the folder.
    """
    inside = os.path.join(os.path.abspath(folder), "")
    report = report or refuse(source)
    paths = []
    for image_id, name in zip(ids, names, strict=True):
        message = ""
        if not name:
            message = f"image {image_id} has neither file_name nor coco_url; add one of them"
        elif "\0" in name or not os.path.normpath(os.path.join(inside, name)).startswith(inside):
            message = (
                f"the file name {name!r} of image {image_id} leads out of the image folder "
                f"{folder}; names must start from that folder"
            )
        if message:
            report(Fault("unusable_names" if name else "no_names", message, examples=(image_id,)))
        paths.append("" if message else os.path.join(folder, name))
    return paths
