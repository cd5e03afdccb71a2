"""The image files of an annotation file: there, readable, of the annotated size, in one split."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from iif.data.annotation_file import AnnotationFile
from iif.data.faults import Fault, Report
from iif.data.images import locate_images, size_fault, upright_size
from iif.progress import progress
from iif.threads import NUM_THREADS

_OF_NAMES = ("no_names", "unusable_names")  # told of the annotation file already


def check_images(
    content: AnnotationFile, folder: str | os.PathLike[str], report: Report
) -> list[Path]:
    """Report image files that are missing, broken or not of the annotated size.

    Every file is read to its end.

    Args:
        content: the annotations.
        folder: that the file names start from.
        report: is handed the faults.

    Returns:
        (I,) the files, there or not.

    Raises:
        InputError: there is no such folder.
    """

    def note(fault: Fault) -> None:
        if fault.kind not in _OF_NAMES:
            report(fault)

    ids = content.image_ids.tolist()
    paths = locate_images(content.path, ids, content.file_names(), folder, note)
    sizes = [(image.height or 0, image.width or 0) for image in content.images]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        faults = progress(
            pool.map(_fault_of, paths, ids, sizes),
            desc="reading images",
            total=len(paths),
            unit="image",
        )
        for fault in filter(None, faults):
            report(fault)
    return paths


def _fault_of(path: Path, image_id: int, annotated: tuple[int, int]) -> Fault | None:
    """Return what is wrong with one image file that is there; None for nothing."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            stored = image.height, image.width
            upright = upright_size(image)
            image.draft(None, (image.width // 8, image.height // 8))  # JPEG: fewer pixels
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        message = f"{path}: cannot be read as an image ({error})"
        return Fault("unreadable_images", message, examples=(image_id,))
    if not min(annotated):  # not known
        return None
    fault = size_fault(path, upright, annotated)
    if fault and stored == annotated:
        message = f"{fault}, or turn their pixels as EXIF says and annotate them again"
        return Fault("sizes_before_rotation", message, examples=(image_id,))
    if fault:
        return Fault("other_sizes", fault, examples=(image_id,))
    if upright != stored:
        message = f"{path}: stored as {stored[1]} x {stored[0]} pixels"
        return Fault("rotated", message, examples=(image_id,))
    return None


def shared_content(training: Sequence[Path], validation: Sequence[Path]) -> list[str]:
    """Return the files of the validation set whose content a file of the training set has, too."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in filter(Path.is_file, training):
        by_size[path.stat().st_size].append(path)
    candidates = [path for path in validation if path.is_file() and path.stat().st_size in by_size]
    sizes = {path.stat().st_size for path in candidates}
    hashes = set(_hashes(path for size in sizes for path in by_size[size]))
    found = zip(candidates, _hashes(candidates), strict=True)
    return [path.name for path, digest in found if digest in hashes]


def _hashes(paths: Iterable[Path]) -> list[bytes]:
    def digest(path: Path) -> bytes:
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").digest()

    files = list(paths)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        bar = progress(
            pool.map(digest, files), desc="comparing images", total=len(files), unit="image"
        )
        return list(bar)
