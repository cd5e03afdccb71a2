"""``eval_matches.npz``: the part of an evaluation's matches that bootstraps and curves need."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.results import IouType
from iif.errors import InputError
from iif.evaluation.matching import NOT_COUNTED, TRUE_POSITIVE, Matches
from iif.files import atomic_write

_FORMAT = "iif-eval-matches/1"


def save_matches(
    path: str | os.PathLike[str],
    matches: Mapping[IouType, Matches],
    fixed: Mapping[IouType, NDArray[np.bool_] | None] = {},
) -> None:
    """Write ``eval_matches.npz``: all of `Matches` except its arrays by detection (D).

    Args:
        path: the file to write, whole or not at all.
        matches: by IoU type.
        fixed: by IoU type, (V,) which detections AP-fixed takes, where that is known
            (`iif.evaluation.intervals.within_fixed_cap`).
    """
    arrays: dict[str, Any] = {"format": np.array(_FORMAT)}
    for iou_type, m in matches.items():
        stored = {
            "rows": m.rows,
            "category_offsets": m.category_offsets,
            "image": m.image,
            "score": m.score,
            "flags_shape": np.array(m.flags.shape),
            "true_positive": np.packbits(m.flags == TRUE_POSITIVE),
            "not_counted": np.packbits(m.flags == NOT_COUNTED),
            "gt_image": m.gt_image,
            "gt_category": m.gt_category,
            "gt_in_area": m.gt_in_area,
            "num_gt": m.num_gt,
        }
        kept = fixed.get(iou_type)
        if kept is not None:
            stored["fixed"] = np.packbits(kept)
        arrays |= {f"{iou_type}/{key}": value for key, value in stored.items()}
    # Faster than np.savez_compressed (a higher level) by a factor of five, and at most 5% larger.
    with (
        atomic_write(path, "wb") as f,
        zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_matches(path: str | os.PathLike[str]) -> dict[str, Matches]:
    """Read what `save_matches` wrote; outcome, error_type and gt_row are empty.

    Raises:
        InputError: the file is missing or not of this format.
    """
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
        if str(arrays["format"]) != _FORMAT:
            raise ValueError(f"its format is {arrays['format']}")
        return {
            str(iou_type): _stored_matches(arrays, iou_type)
            for iou_type in ("bbox", "segm")
            if f"{iou_type}/rows" in arrays
        }
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; iif evaluate writes it") from None
    except (KeyError, ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of {_FORMAT} ({error}); write it again with iif evaluate"
        ) from None


def load_fixed(path: str | os.PathLike[str], matches: Matches) -> NDArray[np.bool_] | None:
    """Return (V,) which detections AP-fixed takes, of a file that `load_matches` has read."""
    with np.load(path) as stored:
        name = f"{matches.iou_type}/fixed"
        if name not in stored:
            return None
        return np.unpackbits(stored[name], count=len(matches.rows)).astype(np.bool_)


def _stored_matches(arrays: Mapping[str, NDArray[Any]], iou_type: Any) -> Matches:
    def stored(key: str) -> NDArray[Any]:
        return arrays[f"{iou_type}/{key}"]

    shape = tuple(stored("flags_shape").tolist())
    flags = np.zeros(shape, np.uint8)
    for key, flag in (("true_positive", TRUE_POSITIVE), ("not_counted", NOT_COUNTED)):
        bits = np.unpackbits(stored(key), count=flags.size).reshape(shape)
        flags[bits.astype(np.bool_)] = flag
    return Matches(
        iou_type=iou_type,
        outcome=np.zeros(0, np.uint8),
        error_type=np.zeros(0, np.uint8),
        gt_row=np.zeros(0, np.int32),
        flags=flags,
        **{
            key: stored(key)
            for key in (
                "rows",
                "category_offsets",
                "image",
                "score",
                "gt_image",
                "gt_category",
                "gt_in_area",
                "num_gt",
            )
        },
    )
