"""Small exhaustive data sets, and what tidecv 1.0.1 (PyPI) finds in them.

EXPECTED was written once by ``TIDE(mode=TIDE.BOX).evaluate(gt, detections)``, with both ``Data``
made with ``max_dets=300`` and numpy 1.23: the AP at IoU 0.5, the six main errors' dAP
(``get_main_errors``), the two special ones (``get_special_errors``), and ``count_errors``. Every
category has ground truth, no two objects of an image have the same box, and no two scores are
equal: there tidecv's rules differ. Figures are rounded to 10 decimals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_utils


def tide_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a COCO-format annotation file's content and a result file's."""
    rng = np.random.default_rng(seed)
    images = [{"id": i, "height": 100, "width": 100, "file_name": f"{i}.jpg"} for i in (3, 5, 8, 9)]
    categories = [{"id": c, "name": f"category {c}"} for c in (2, 4, 7)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(int(rng.integers(2, 7))):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(8, 40, 2)])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([2, 4, 7])),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                spread = rng.choice([0.05, 0.25, 0.6])
                moved = box + rng.normal(0, spread, 4) * box[[2, 3, 2, 3]]
                category = annotations[-1]["category_id"]
                if rng.random() < 0.3:
                    category = int(rng.choice([2, 4, 7]))
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": category,
                        "bbox": [*moved[:2].tolist(), *np.maximum(moved[2:], 1).tolist()],
                        "score": float(rng.random()),
                    }
                )
    return {"images": images, "categories": categories, "annotations": annotations}, results


def mask_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return `tide_case` with masks: of each box its ellipse, of every third the box itself."""
    gt, results = tide_case(seed)
    for items in (gt["annotations"], results):
        for number, item in enumerate(items):
            mask = _shape(item["bbox"], ellipse=number % 3 > 0)
            rle = mask_utils.encode(np.asfortranarray(mask))
            item["segmentation"] = {"size": [100, 100], "counts": rle["counts"].decode()}
            if "area" in item:
                item["area"] = float(mask.sum())
    for result in results:
        del result["bbox"]
    return gt, results


def federated_mask_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return `mask_case` in LVIS's format: one category absent for certain, one not exhaustive."""
    gt, results = mask_case(seed)
    for number, image in enumerate(gt["images"]):
        present = {a["category_id"] for a in gt["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({2, 4, 7} - present)[:1]
        image["not_exhaustive_category_ids"] = [4] if number % 2 else []
    for category in gt["categories"]:
        category |= {"frequency": "f", "image_count": 1}
    return gt, results


def _shape(bbox: list[float], *, ellipse: bool) -> np.ndarray:
    x, y, w, h = bbox
    rows, columns = np.mgrid[:100, :100] + 0.5
    if ellipse:
        mask = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 <= 0.25
    else:
        mask = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    return mask.astype(np.uint8)


# seed -> AP50; dAP of Cls, Loc, Both, Dupe, Bkg, Miss; of FalsePos, FalseNeg; numbers of errors.
EXPECTED: dict[int, tuple[float, list[float], list[float], list[int]]] = {
    0: (
        28.1937946542,
        [5.1822334248, 19.22094682, 0.0, 2.0957700166, 8.1616980379, 12.3481304174],
        [23.621386864, 24.7609980778],
        [1, 6, 0, 5, 7, 7],
    ),
    1: (
        42.9702970297,
        [0.733406674, 23.2838283828, 0.733406674, 1.6574990832, 0.3465346535, 15.3135313531],
        [15.4455445545, 28.8778877888],
        [1, 10, 3, 4, 2, 3],
    ),
    2: (
        9.534286762,
        [5.9772643931, 17.9606055844, 0.0, 0.0, 8.7000366703, 6.3714704804],
        [16.2082874954, 27.5485881922],
        [3, 12, 1, 3, 8, 8],
    ),
    3: (
        24.3541790076,
        [0.0, 34.3940529584, 0.0, 0.2200220022, 4.9197483851, 10.2386392485],
        [21.1903754478, 24.6275140335],
        [1, 15, 1, 3, 5, 7],
    ),
    4: (
        29.3821048772,
        [13.2224055739, 14.1044580649, 2.7777777778, 0.9403321285, 2.2723820001, 7.0040337367],
        [39.9248258159, 17.9737021321],
        [4, 11, 1, 6, 5, 5],
    ),
    5: (
        28.2068206821,
        [11.7177432029, 27.4367436744, 0.4400440044, 0.0, 0.0, 10.4510451045],
        [18.9878987899, 31.9471947195],
        [3, 7, 2, 0, 0, 4],
    ),
    6: (
        23.102310231,
        [0.5421970769, 32.4532453245, 0.0, 1.4851485149, 1.0136727959, 11.3448844884],
        [19.1419141914, 30.0165016502],
        [1, 6, 0, 3, 1, 5],
    ),
}
