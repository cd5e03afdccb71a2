"""``eval_matches.npz``: an evaluation's matches, for bootstraps, curves and reports."""

from __future__ import annotations

import io
import os
import time
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iif.data.results import IOU_TYPES, Detections, IouType
from iif.errors import InputError
from iif.evaluation.matching import NOT_COUNTED, TRUE_POSITIVE, Matches
from iif.files import atomic_write
from iif.threads import in_threads

_FORMAT = "iif-eval-matches/2"
_STORED = (
    *("outcome", "error_type", "gt_row", "rows", "category_offsets"),
    *("gt_image", "gt_category", "gt_in_area", "num_gt"),
)
# In no order that deflating could use.
_RANDOM = ("rows", "score", "category")


def save_matches(
    path: str | os.PathLike[str], matches: Mapping[IouType, Matches], detections: Detections
) -> None:
    """Write ``eval_matches.npz``: `Matches`, and image, category and score of each detection.

    Args:
        path: the file to write, whole or not at all.
        matches: by IoU type.
        detections: what was matched.
    """
    score = detections.score.astype(np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "format": np.array(_FORMAT),
        "path": np.array(detections.path),
        "sha256": np.array(detections.sha256),
        "image": detections.image,
        "category": detections.category.astype(
            np.min_scalar_type(detections.category.max(initial=0))
        ),
        "score": score if (score == detections.score).all() else detections.score,
    }
    for iou_type, m in matches.items():
        stored = {key: getattr(m, key) for key in _STORED}
        stored |= {
            "flags_shape": np.array(m.flags.shape),
            "true_positive": _packed(m.flags, TRUE_POSITIVE),
            "not_counted": _packed(m.flags, NOT_COUNTED),
        }
        arrays |= {f"{iou_type}/{key}": value for key, value in stored.items()}
    members = in_threads(_member, arrays.items())
    with atomic_write(path, "wb") as f, zipfile.ZipFile(f, "w") as archive:
        for info, content in members:
            # zipfile compresses in one thread only.
            info.header_offset = f.tell()
            f.write(info.FileHeader())
            f.writelines(content)
            archive.filelist.append(info)
            archive.start_dir = f.tell()


def _packed(flags: NDArray[np.uint8], flag: int) -> NDArray[np.uint8]:
    """Return (A, T, V / 8) bits that say where flags have a value.

    From the second threshold on they say where this differs from the first, which deflates well.
    """
    bits = np.empty((*flags.shape[:2], -(-flags.shape[2] // 8)), np.uint8)

    def pack(at: tuple[int, int]) -> None:
        bits[at] = np.packbits(flags[at] == flag)

    in_threads(pack, np.ndindex(*flags.shape[:2]))
    bits[:, 1:] ^= bits[:, :1]
    return bits


def _member(named: tuple[str, NDArray[Any]]) -> tuple[zipfile.ZipInfo, list[Any]]:
    """Return an array as a member of an archive: its entry and its content."""
    name, array = named
    head = io.BytesIO()
    array = np.asarray(array, order="C")
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    data: list[Any] = [head.getvalue(), array.reshape(-1).view(np.uint8)]
    info = zipfile.ZipInfo(f"{name}.npy", time.localtime()[:6])
    info.file_size = sum(map(len, data))
    info.CRC = zlib.crc32(data[1], zlib.crc32(data[0]))
    if name.rpartition("/")[2] not in _RANDOM:
        # Faster than a higher level by a factor of five, and at most 5% larger.
        info.compress_type = zipfile.ZIP_DEFLATED
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        data = [*map(packer.compress, data), packer.flush()]
    info.compress_size = sum(map(len, data))
    return info, data


def load_matches(path: str | os.PathLike[str]) -> dict[str, Matches]:
    """Read the matches that `save_matches` wrote.

    Raises:
        InputError: the file is missing or not of this format.
    """
    return {str(iou_type): matches for iou_type, matches in load_evaluated(path)[1].items()}


def load_evaluated(
    path: str | os.PathLike[str],
) -> tuple[Detections, dict[IouType, Matches]]:
    """Read what `save_matches` wrote; the detections are without boxes and masks.

    Raises:
        InputError: as `load_matches`.
    """
    try:
        with np.load(path) as stored:
            if str(stored["format"]) != _FORMAT:
                raise ValueError(f"its format is {stored['format']}")
            arrays = dict(
                zip(stored.files, in_threads(stored.__getitem__, stored.files), strict=True)
            )
        detections = Detections(
            path=str(arrays["path"]),
            sha256=str(arrays["sha256"]),
            image=arrays["image"],
            category=arrays["category"].astype(np.int32),
            score=arrays["score"].astype(np.float64),
            bbox=None,
        )
        return detections, {
            iou_type: _stored_matches(arrays, iou_type, detections)
            for iou_type in IOU_TYPES
            if f"{iou_type}/rows" in arrays
        }
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; iif evaluate writes it") from None
    except (
        *(KeyError, ValueError, IndexError, TypeError, OSError, EOFError),
        *(zlib.error, zipfile.BadZipFile),
    ) as error:
        raise InputError(
            f"{path}: not a file of {_FORMAT} ({error}); write it again with iif evaluate"
        ) from None


def _stored_matches(
    arrays: Mapping[str, NDArray[Any]], iou_type: IouType, detections: Detections
) -> Matches:
    def stored(key: str) -> NDArray[Any]:
        return arrays[f"{iou_type}/{key}"]

    shape = tuple(stored("flags_shape").tolist())
    flags = np.empty(shape, np.uint8)
    true, not_counted = stored("true_positive"), stored("not_counted")

    def unpack(at: tuple[int, int]) -> None:
        flags[at] = 0
        for packed, flag in ((true, TRUE_POSITIVE), (not_counted, NOT_COUNTED)):
            bits = packed[at] ^ packed[at[0], 0] if at[1] else packed[at]
            flags[at] += flag * np.unpackbits(bits, count=shape[2])

    in_threads(unpack, np.ndindex(*shape[:2]))
    rows = stored("rows")
    return Matches(
        iou_type=iou_type,
        image=detections.image[rows],
        score=detections.score[rows],
        flags=flags,
        **{key: stored(key) for key in _STORED},
    )
