"""How much of the image plane the boxes of a class cover: the fractal dimension of their centres.

FRACAL, Alexandridis et al., CVPR 2025, arXiv 2410.11774, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Grids of 1 x 1 to 64 x 64 cells.
MAX_GRID = 64
# With fewer boxes there is no slope; the dimension is then 1, and never less.
MIN_BOXES = 4


def box_counting_dimension(
    centres: NDArray[np.float64], category: NDArray[np.integer], num_categories: int
) -> NDArray[np.float64]:
    """Return the box-counting dimension of each category's box centres.

    For each grid of g x g cells with g^2 at most the category's number of boxes, the cells that
    hold a centre are counted; the dimension is the least-squares slope of ln(count) over ln(g).

    Args:
        centres: (G, 2) box centres as fractions of the image's width and height. A centre outside
            the image counts in the cell at its edge.
        category: (G,) category rows.
        num_categories: K.

    Returns:
        (K,) dimensions, 1 where there are fewer than `MIN_BOXES` boxes or the slope is below 1.
    """
    boxes = np.bincount(category, minlength=num_categories)
    largest = np.minimum(np.floor(np.sqrt(boxes)), MAX_GRID).astype(np.int64)
    grids = np.arange(1, MAX_GRID + 1)
    filled = np.ones((num_categories, MAX_GRID))
    for g in grids[1:]:
        rows = np.flatnonzero(largest[category] >= g)
        cell = np.clip((centres[rows] * g).astype(np.int64), 0, g - 1)
        seen = np.zeros((num_categories, g * g), bool)
        seen[category[rows], cell[:, 1] * g + cell[:, 0]] = True
        filled[:, g - 1] = np.maximum(seen.sum(axis=1), 1)
    used = grids <= largest[:, None]
    count = used.sum(axis=1)
    x = np.where(used, np.log(grids), 0.0)
    y = np.where(used, np.log(filled), 0.0)
    variance = count * (x**2).sum(axis=1) - x.sum(axis=1) ** 2
    covariance = count * (x * y).sum(axis=1) - x.sum(axis=1) * y.sum(axis=1)
    enough = boxes >= MIN_BOXES
    slope = np.divide(covariance, variance, out=np.ones(num_categories), where=enough)
    return np.maximum(slope, 1.0)
