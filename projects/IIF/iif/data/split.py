"""Which images of a training set are held out of training."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from iif.errors import InputError


def held_out_images(image_ids: Iterable[int], fraction: float) -> NDArray[np.bool_]:
    """Return a boolean for each image id: whether the image is held out.

    The choice depends on the id and the fraction alone; a larger fraction holds out all images of
    a smaller one and more.

    Raises:
        InputError: the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction of images held out is {fraction}; it must be in [0, 1)")
    hashes = [zlib.crc32(str(image_id).encode()) for image_id in image_ids]
    return np.array(hashes, dtype=np.int64) < fraction * 2**32
