"""The content of an annotation file that is in memory already, read by the same rules as a file."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from iif.data.annotation_file import AnnotationFile, decode_text
from iif.data.annotation_rows import WHAT
from iif.errors import InputError

# What messages call annotations that come from no file.
SOURCE = "annotations"


def decode_content(content: Mapping[str, Any]) -> tuple[AnnotationFile, str]:
    """Return what a dict holds that is an annotation file's content, and the hash of its JSON.

    NumPy's numbers and arrays are taken, and RLEs as pycocotools gives them.

    Raises:
        InputError: as `iif.data.annotation_file.read_annotation_file`.
    """
    try:
        text = msgspec.json.encode(_without_bytes(content), enc_hook=lambda value: value.tolist())
        return decode_text(SOURCE, text), sha256(text).hexdigest()
    except (msgspec.ValidationError, TypeError, AttributeError) as error:
        raise InputError(f"{SOURCE}: not {WHAT}: {error}") from None


def _without_bytes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the counts of its RLEs as text: msgspec would write base 64."""
    annotations = []
    for annotation in content.get("annotations") or ():
        rle = annotation.get("segmentation")
        if isinstance(rle, Mapping) and isinstance(rle.get("counts"), bytes):
            annotation = {**annotation, "segmentation": {**rle, "counts": rle["counts"].decode()}}
        annotations.append(annotation)
    return {**content, "annotations": annotations} if "annotations" in content else dict(content)
