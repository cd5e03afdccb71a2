"""From a trained model to LVIS's result file and the evaluation summary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from iif import layout
from iif.data.annotations import Annotations, load_annotations
from iif.data.results import write_results
from iif.distributed import gather, lock_output, pick_device, process_group, rank, world_size
from iif.errors import InputError
from iif.progress import progress
from iif.statistics import ClassStatistics
from iif.tv import checkpoint
from iif.tv.config import TrainConfig
from iif.tv.dataset import DetectionImages, image_loader
from iif.tv.log import log_file, logger
from iif.tv.model import has_masks, method_of

# A pixel belongs to the mask when its probability is above this, as in Detectron2.
_MASK_THRESHOLD = 0.5


def check_classes(annotations: Annotations, statistics: ClassStatistics, what: str) -> None:
    """Raise InputError unless an annotation file has the classes that ``what`` was trained on."""
    ours = dict(zip(statistics.ids.tolist(), statistics.names, strict=True))
    theirs = dict(zip(annotations.category_ids.tolist(), annotations.category_names, strict=True))
    theirs = {key: name for key, name in theirs.items() if key not in statistics.left_out}
    if ours == theirs:
        return
    other = sorted(ours.items() ^ theirs.items())
    raise InputError(
        f"{annotations.path}: its {len(theirs)} categories are not the {len(ours)} of {what}; the "
        f"first that differs is {other[0][1]!r} (id {other[0][0]})"
    )


def detections_to_results(
    detections: dict[str, Tensor], image_id: int, category_ids: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return a model's detections of one image as entries of LVIS's result file.

    Args:
        detections: ``boxes`` (D, 4) corners in the image's pixels, ``labels`` (D,) category row
            + 1, ``scores`` (D,), and with masks ``masks`` (D, 1, H, W) probabilities.
        image_id: the image.
        category_ids: (K,) id of each category row.
    """
    boxes = detections["boxes"].double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    results = [
        {"image_id": image_id, "category_id": int(category_ids[label - 1])}
        | {"bbox": box, "score": score}
        for label, box, score in zip(
            detections["labels"].tolist(),
            boxes.tolist(),
            detections["scores"].tolist(),
            strict=True,
        )
    ]
    if "masks" in detections and results:
        bits = (detections["masks"][:, 0] > _MASK_THRESHOLD).cpu().numpy().astype(np.uint8)
        for result, rle in zip(
            results, coco_mask.encode(np.asfortranarray(bits.transpose(1, 2, 0))), strict=True
        ):
            result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    return results


@torch.no_grad()
def predict(
    model: nn.Module,
    images: DetectionImages,
    category_ids: NDArray[np.int64],
    device: torch.device,
) -> list[dict[str, Any]] | None:
    """Run a model over all images, one at a time, shared among the processes.

    Returns:
        the entries of LVIS's result file by image id in process 0, None in the others.
    """
    model.eval()
    mine = range(rank(), len(images), world_size())
    results: list[tuple[int, list[dict[str, Any]]]] = []
    loader = image_loader(images, device, mine)
    bar = progress(loader, desc="inference", total=len(mine), unit="image")
    for row, image in zip(mine, bar, strict=True):
        (detections,) = model([image.to(device)])
        image_id = int(images.annotations.image_ids[row])
        results.append((row, detections_to_results(detections, image_id, category_ids)))
    shares = gather(results)
    if shares is None:
        return None
    by_row = dict(pair for share in shares for pair in share)
    return [result for row in range(len(images)) for result in by_row[row]]


def evaluate(
    model: str | os.PathLike[str] | checkpoint.Detector,
    gt_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    config: TrainConfig | None = None,
    exhaustive: bool | None = None,
    device: str | None = None,
) -> dict[str, Any] | None:
    """Evaluate a trained model, by default under its own settings, without the training data.

    Writes ``inference/lvis_instances_results.json``, ``inference/eval_summary.json`` and
    ``inference/log.txt`` into ``output_dir``.

    Args:
        model: a checkpoint, an output folder of :func:`iif.tv.train`, or what
            :func:`iif.tv.load` returned.
        gt_json: LVIS- or COCO-format annotations.
        image_root: the folder that their file names start from.
        output_dir: where to write.
        config: the settings of a checkpoint with another method or other test-time settings: a
            plain model is evaluated under a method that acts at test alone.
        exhaustive: whether every category was verified in every image, as in COCO; by default the
            file's content tells.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Returns:
        the summary, in process 0; None in the others that torchrun started.

    Raises:
        InputError: no checkpoint, other categories than it was trained on, missing images,
            settings or a method that the model was not trained for, or another run writes into
            ``output_dir``.
    """
    where = pick_device(device)
    with process_group(where):
        detector = (
            model
            if isinstance(model, checkpoint.Detector)
            else checkpoint.load(model, where, config)
        )
        detector.model.to(where)
        annotations = load_annotations(
            gt_json, exhaustive=exhaustive, statistics=detector.statistics
        )
        check_classes(annotations, detector.statistics, "the model")
        images = DetectionImages(annotations, image_root)
        folder = Path(output_dir) / layout.INFERENCE
        with lock_output(output_dir), log_file(folder):
            return evaluate_model(detector, images, folder, where)


def test_settings(config: TrainConfig) -> dict[str, float | None]:
    """Return what runs must have in common at test time to be compared."""
    return {
        "score_threshold": config.score_threshold,
        "nms_threshold": config.nms_threshold,
        "detections_per_image": config.detections_per_image,
    }


def evaluate_model(
    detector: checkpoint.Detector,
    images: DetectionImages,
    folder: Path,
    device: torch.device,
) -> dict[str, Any] | None:
    """Write result file and summary of ``detector`` on ``images`` into ``folder``."""
    from iif.evaluation.evaluate import evaluate_files
    from iif.report.text import summary_text

    logger.info("Evaluating on %d images of %s", len(images), images.annotations.path)
    statistics, config = detector.statistics, detector.config
    results = predict(detector.model, images, statistics.ids, device)
    if results is None:
        return None
    write_results(folder / layout.RESULTS, results)
    summary = evaluate_files(
        images.annotations.path,
        folder / layout.RESULTS,
        iou_types=("bbox", "segm") if has_masks(detector.model) else ("bbox",),
        output_dir=folder,
        exhaustive=images.annotations.exhaustive,
        statistics=statistics,
        test_settings=test_settings(config),
        method=method_of(detector.model).record(),
        config={"engine": "torchvision", **config.to_dict()},
    )
    logger.info("Evaluation on %s:\n%s", images.annotations.path, summary_text(summary))
    return summary
