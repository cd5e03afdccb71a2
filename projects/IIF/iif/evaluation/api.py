"""Evaluation from Python: of a result file, a list or arrays, or of predictions batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from iif.data.annotations import Annotations, load_annotations
from iif.data.columns import detections_of
from iif.data.results import IouType
from iif.data.sources import ResultFiles
from iif.errors import InputError
from iif.evaluation.evaluate import evaluate as evaluate_detections
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.matching import MAX_DETECTIONS
from iif.statistics import ClassStatistics

AnnotationSource = str | os.PathLike[str] | Mapping[str, Any] | Annotations


def evaluate(
    annotations: AnnotationSource,
    results: ResultFiles | Sequence[Mapping[str, Any]] | Mapping[str, Any] | NDArray,
    *,
    iou_types: Sequence[IouType] | None = None,
    max_dets: int | None = MAX_DETECTIONS,
    output_dir: str | os.PathLike[str] | None = None,
    statistics: ClassStatistics | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate detections as ``iif evaluate`` does: LVIS's rules or COCO's, as the format says.

    Args:
        annotations: path of an LVIS- or COCO-format file, its content as a dict, or `Annotations`
            (loaded with masks, where masks are evaluated).
        results: path of a result file, a list of paths (one run), or what
            `iif.data.columns.detections_of` takes: rows as such a file has them, columns
            ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, width, height) and
            ``segmentation`` (RLEs), or a (D, 7) table of boxes.
        iou_types: "bbox", "segm" or both; by default those that the results have.
        max_dets: the cap on an image's detections (LVIS's format) or on those of each category in
            an image (COCO's); None for no cap.
        output_dir: write there what ``iif evaluate`` writes; by default nothing is written.
        statistics: the training set's counts (`iif.ClassStatistics`), for the rare, common and
            frequent categories of a COCO-format file.
        options: further options of `iif.evaluation.evaluate.evaluate`.

    Returns:
        The content of ``eval_summary.json``: ``["metrics"]["bbox"]["AP"]`` is box AP in percent,
        None where it is undefined.

    Raises:
        InputError: annotations or results have a fault; the message names the place.
    """
    given = {"output_dir": output_dir, "max_dets": max_dets, **options}
    if _are_files(results):
        if isinstance(annotations, Annotations):
            raise InputError("a result file is read with the path of the annotations, or a dict")
        return evaluate_files(
            annotations, results, iou_types=iou_types, statistics=statistics, **given
        )
    gt = annotations
    if not isinstance(gt, Annotations):
        gt = load_annotations(gt, statistics=statistics)
    detections, chosen = detections_of(cast(Any, results), gt, iou_types)
    if "segm" in chosen and gt.segmentation is None:
        if isinstance(annotations, Annotations):
            raise InputError("the annotations were loaded without masks: give masks=True")
        gt = load_annotations(annotations, statistics=statistics, masks=True)
    return evaluate_detections(gt, detections, chosen, **given)


class Evaluator:
    """Collects predictions batch by batch and evaluates them: torchmetrics' way, LVIS's rules.

    ::

        evaluator = Evaluator("lvis_v1_val.json")
        for images, image_ids in loader:
            evaluator.update(dict(zip(image_ids, model(images))))
        print(evaluator.compute()["metrics"]["bbox"]["AP"])

    A prediction is a dict with ``boxes``, (N, 4) x0, y0, x1, y1 in pixels of the original image,
    ``scores`` (N,), ``labels`` (N,) and, for mask AP, ``masks``: (N, H, W) or (N, 1, H, W), a pixel
    above 0.5 being inside, or N RLE dicts. Tensors of any device and arrays are taken.
    """

    def __init__(
        self,
        annotations: AnnotationSource,
        *,
        category_ids: Sequence[int] | None = None,
        iou_types: Sequence[IouType] | None = None,
        max_dets: int | None = MAX_DETECTIONS,
        statistics: ClassStatistics | None = None,
    ) -> None:
        """Read the annotations.

        Args:
            annotations, iou_types, max_dets, statistics: as for `evaluate`. By default masks are
                evaluated where every image's predictions have them.
            category_ids: the category id of each label, for a model whose labels count from 0 (or
                from 1 with an unused first id). By default labels are category ids.

        Raises:
            InputError: the annotations have a fault.
        """
        self._source = annotations
        self._statistics = statistics
        self._iou_types = iou_types
        self._max_dets = max_dets
        self._category_ids = None if category_ids is None else np.asarray(category_ids, np.int64)
        self._columns: dict[int, dict[str, Any]] = {}
        self._gt: Annotations | None = self._load(masks=False)

    def update(
        self, predictions: Mapping[int, Mapping[str, Any]] | Iterable[Mapping[str, Any]]
    ) -> None:
        """Add the predictions of images.

        Args:
            predictions: image id -> prediction, or predictions that have their ``image_id``.

        Raises:
            InputError: an image is unknown or was given before, or a prediction's parts do not
                fit together.
        """
        if isinstance(predictions, Mapping):
            pairs = list(predictions.items())
        else:
            pairs = [(_image_id(prediction), prediction) for prediction in predictions]
        if self._gt is None:
            self._gt = self._load(masks=False)
        added: dict[int, dict[str, Any]] = {}
        for given_id, prediction in pairs:
            image_id = int(given_id)
            if self._gt.image_row([image_id])[0] < 0:
                raise InputError(f"image {image_id} is not in {self._gt.path}")
            if image_id in self._columns or image_id in added:
                raise InputError(f"image {image_id} was given before; give each image once")
            added[image_id] = self._columns_of(image_id, prediction)
        self._columns |= added

    def merge(self, *others: Evaluator) -> None:
        """Add the predictions of other evaluators, those of other processes for one.

        An image that both have is kept once: samplers of distributed loaders repeat images to
        give each process as many. Evaluators can be pickled (``all_gather_object``); their
        annotations, where they came from a file, stay behind.
        """
        for other in others:
            self._columns = other._columns | self._columns

    def reset(self) -> None:
        """Forget the predictions."""
        self._columns = {}

    def compute(
        self, *, output_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Evaluate the predictions so far; images without predictions count as empty.

        Args:
            output_dir, options: as for `evaluate`.

        Returns:
            As `evaluate`.
        """
        # In the order of ids, so that ties are broken alike however the images were distributed.
        images = [self._columns[image_id] for image_id in sorted(self._columns)]
        with_detections = [columns for columns in images if len(columns["score"])]
        with_masks = bool(with_detections) and all("segmentation" in c for c in with_detections)
        columns: dict[str, Any] = {
            "image_id": _join(images, "image_id", np.zeros(0, np.int64)),
            "category_id": _join(images, "category_id", np.zeros(0, np.int64)),
            "score": _join(images, "score", np.zeros(0)),
            "bbox": _join(images, "bbox", np.zeros((0, 4))),
        }
        if with_masks:
            columns["segmentation"] = [r for part in with_detections for r in part["segmentation"]]
        found: Sequence[IouType] = ("bbox", "segm") if with_masks else ("bbox",)
        wanted = found if self._iou_types is None else self._iou_types
        return evaluate(
            self._load(masks="segm" in wanted),
            columns,
            iou_types=wanted,
            max_dets=self._max_dets,
            output_dir=output_dir,
            **options,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the annotations, which a file gives again."""
        return self.__dict__ | {"_gt": None}

    def _load(self, *, masks: bool) -> Annotations:
        if isinstance(self._source, Annotations):
            return self._source
        return load_annotations(self._source, masks=masks, statistics=self._statistics)

    def _columns_of(self, image_id: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
        place = f"image {image_id}"
        missing = [key for key in ("boxes", "scores", "labels") if key not in prediction]
        if missing:
            raise InputError(f"{place}: {missing[0]} is missing")
        boxes = _array(prediction["boxes"]).astype(np.float64).reshape(-1, 4)
        scores = _array(prediction["scores"]).astype(np.float64)
        labels = _array(prediction["labels"]).astype(np.int64)
        if not len(boxes) == len(scores) == len(labels):
            raise InputError(
                f"{place}: {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels; "
                "give one of each for a detection"
            )
        if self._category_ids is not None:
            known = (labels >= 0) & (labels < len(self._category_ids))
            if not known.all():
                raise InputError(
                    f"{place}: label {labels[~known][0]} has no category id; there are "
                    f"{len(self._category_ids)}"
                )
            labels = self._category_ids[labels]
        columns: dict[str, Any] = {
            "image_id": np.full(len(boxes), image_id, np.int64),
            "category_id": labels,
            "score": scores,
            "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        }
        if prediction.get("masks") is not None:
            masks = _rles(prediction["masks"])
            if len(masks) != len(boxes):
                raise InputError(f"{place}: {len(masks)} masks for {len(boxes)} boxes")
            columns["segmentation"] = masks
        return columns


def _are_files(results: Any) -> TypeGuard[ResultFiles]:
    paths = results if isinstance(results, list | tuple) and results else [results]
    return all(isinstance(path, str | os.PathLike) for path in paths)


def _image_id(prediction: Mapping[str, Any]) -> Any:
    if "image_id" not in prediction:
        raise InputError("a prediction has no image_id; give it, or a dict from image id to each")
    return prediction["image_id"]


def _array(values: Any) -> NDArray[Any]:
    """Return a tensor of any device, or what NumPy takes, as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def _rles(masks: Any) -> list[dict[str, Any]]:
    if isinstance(masks, Sequence) and all(isinstance(mask, Mapping) for mask in masks):
        return [dict(mask) for mask in masks]
    pixels = _array(masks)
    if pixels.ndim == 4:
        pixels = pixels[:, 0]
    if len(pixels) == 0:
        return []
    inside = np.asfortranarray((pixels > 0.5).transpose(1, 2, 0), dtype=np.uint8)
    return mask_utils.encode(inside)


def _join(images: Sequence[Mapping[str, Any]], key: str, empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([empty, *(columns[key] for columns in images)])
