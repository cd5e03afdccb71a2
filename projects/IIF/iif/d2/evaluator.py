"""LVIS's evaluation behind Detectron2's evaluator interface."""

from __future__ import annotations

import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from iif import layout
from iif.d2.config import plain_config
from iif.d2.method import record_of
from iif.d2.statistics import statistics_of_run
from iif.data.annotation_file import read_annotation_file
from iif.data.results import IouType, write_results
from iif.evaluation.compare import compare
from iif.evaluation.evaluate import evaluate_files
from iif.evaluation.summary_file import find_summary
from iif.report.text import comparison_text, save_comparison_tables, summary_text
from iif.statistics import ClassStatistics

logger = logging.getLogger(__name__)


class IIFEvaluator(DatasetEvaluator):
    """Box and mask AP by LVIS's rules, for LVIS- and COCO-format data sets.

    The main process writes into ``output_dir`` the detections in LVIS's submission format
    (``lvis_instances_results.json``) and ``eval_summary.json``. Detections of every rank are
    gathered there.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        *,
        iou_types: Sequence[IouType] = ("bbox", "segm"),
        statistics: ClassStatistics | None = None,
        test_settings: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        method: Mapping[str, Any] | None = None,
        baseline: str | Path | None = None,
        log_to: str | Path | None = None,
        distributed: bool = True,
    ) -> None:
        """Take what the evaluation needs to know; nothing is read yet.

        Args:
            dataset_name: a registered data set whose metadata names its annotation file.
            output_dir: the folder to write to.
            iou_types: "bbox", "segm" or both.
            statistics: the training set's counts, which give a COCO-format data set its rare,
                common and frequent classes. An LVIS-format file has its own.
            test_settings: score_threshold, nms_threshold and detections_per_image, for the
                summary: only runs with the same are compared. With test-time augmentation also
                augmented_images, the versions of each image.
            config: the whole configuration, for the summary.
            method: the record of the model's method (`iif.methods.Method.record`), likewise.
            baseline: an evaluated run's folder or summary; the evaluation ends with the comparison.
            log_to: a folder: this project's log lines are shown, and written to ``log.txt`` there.
                Detectron2's own tools set up the lines of Detectron2 alone.
            distributed: gather the detections of all ranks.
        """
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir)
        self._iou_types = iou_types
        self._statistics = statistics
        self._test_settings = None if test_settings is None else dict(test_settings)
        self._config = config
        self._method = method
        self._baseline = baseline
        self._distributed = distributed
        metadata = MetadataCatalog.get(dataset_name)
        self._json_file = metadata.json_file
        to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
        # LVIS's own ids are 1 to K, and Detectron2 keeps no mapping for them.
        self._category_ids = (
            {i: i + 1 for i in range(len(metadata.thing_classes))}
            if to_contiguous is None
            else {contiguous: category for category, contiguous in to_contiguous.items()}
        )
        self._results: list[dict[str, Any]] = []
        if log_to is not None:
            setup_logger(str(log_to), distributed_rank=comm.get_rank(), name="iif")

    @classmethod
    def from_config(
        cls, cfg: CfgNode, dataset_name: str, model: nn.Module, *, augmented: bool = False
    ) -> IIFEvaluator:
        """Return the evaluator of a model on one of ``DATASETS.TEST``.

        Args:
            cfg: the model's configuration.
            dataset_name: the data set.
            model: the model.
            augmented: whether the model applies the test-time augmentation of TEST.AUG.
        """
        return cls(
            dataset_name,
            evaluation_folder(cfg.OUTPUT_DIR, cfg, dataset_name, augmented=augmented),
            iou_types=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
            statistics=statistics_of_run(cfg),
            test_settings=test_settings(cfg, augmented=augmented),
            config=plain_config(cfg),
            method=record_of(model),
        )

    def reset(self) -> None:
        """Forget the detections so far."""
        self._results = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the detections (``outputs[i]["instances"]``) of a batch of images."""
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to(torch.device("cpu"))
            for result in instances_to_coco_json(instances, image["image_id"]):
                result["category_id"] = self._category_ids[result["category_id"]]
                self._results.append(result)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Write and evaluate the detections.

        Returns:
            ``{"bbox": {"AP": ..., "APr": ..., ...}, "segm": {...}}`` in percent, NaN where a
            metric is undefined; empty for a data set without annotations (LVIS's test sets), None
            on other ranks than the main one.
        """
        results = self._results
        if self._distributed:
            gathered = comm.gather(results, dst=0)
            if not comm.is_main_process():
                return None
            results = list(itertools.chain.from_iterable(gathered))
        path = self._output_dir / layout.RESULTS
        write_results(path, results)
        logger.info("Saved %d detections to %s", len(results), path)
        if not read_annotation_file(self._json_file).annotated:
            logger.info("%s has no annotations to evaluate with", self._json_file)
            return OrderedDict()
        summary = evaluate_files(
            self._json_file,
            path,
            iou_types=self._iou_types,
            output_dir=self._output_dir,
            statistics=self._statistics,
            dataset_name=self._dataset_name,
            test_settings=self._test_settings,
            config=self._config,
            method=self._method,
        )
        logger.info("Evaluation of %s:\n%s", self._dataset_name, summary_text(summary))
        if self._baseline is not None:
            _log_comparison(find_summary(self._baseline), self._output_dir)
        return OrderedDict(
            (iou_type, {k: math.nan if v is None else v for k, v in metrics.items()})
            for iou_type, metrics in summary["metrics"].items()
        )


def evaluators_of(
    cfg: CfgNode, model: nn.Module, *, augmented: bool = False
) -> list[DatasetEvaluator]:
    """Return the evaluator of a model on each of ``DATASETS.TEST``."""
    return [
        IIFEvaluator.from_config(cfg, name, model, augmented=augmented)
        for name in cfg.DATASETS.TEST
    ]


def evaluation_folder(
    root: str | Path, cfg: CfgNode, dataset_name: str, *, augmented: bool = False
) -> Path:
    """Return the folder, under an output folder, of the evaluation on a data set."""
    return layout.evaluation_folder(
        root,
        dataset_name,
        several=len(cfg.DATASETS.TEST) > 1,
        inference=layout.INFERENCE_TTA if augmented else layout.INFERENCE,
    )


def test_settings(
    cfg: CfgNode,
    *,
    augmented: bool = False,  # noqa: PT028 (no test)
) -> dict[str, float | None]:
    """Return what runs must have in common at test time to be compared."""
    settings: dict[str, float | None] = {
        "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        "nms_threshold": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
    if augmented:
        sizes = len(cfg.TEST.AUG.MIN_SIZES)
        settings["augmented_images"] = 2 * sizes if cfg.TEST.AUG.FLIP else sizes
    return settings


def baseline_summary(baseline: str, cfg: CfgNode, dataset_name: str) -> Path:
    """Return the eval_summary.json of a baseline on one of ``DATASETS.TEST``."""
    several = len(cfg.DATASETS.TEST) > 1
    return find_summary(evaluation_folder(baseline, cfg, dataset_name) if several else baseline)


def compare_with_baseline(baseline: str, cfg: CfgNode) -> None:
    """Log and save baseline, this run and their difference, for each of ``DATASETS.TEST``."""
    for name in cfg.DATASETS.TEST:
        folder = evaluation_folder(cfg.OUTPUT_DIR, cfg, name)
        _log_comparison(baseline_summary(baseline, cfg, name), folder)


def _log_comparison(baseline: Path, folder: Path) -> None:
    comparison = compare([baseline, folder])
    logger.info("%s", comparison_text(comparison))
    for path in save_comparison_tables(comparison, folder):
        logger.info("Comparison saved to %s", path)
