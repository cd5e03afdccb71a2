"""Training and evaluation with Detectron2: what ``train_net.py`` runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import detectron2.engine.defaults
import msgspec
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import (
    DefaultTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    launch,
)
from detectron2.evaluation import verify_results
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException

from iif.d2.checkpoint import StrictCheckpointer
from iif.d2.config import add_iif_config
from iif.d2.datasets import check_dataset, check_masks, read_header, register_custom_datasets
from iif.d2.decoupled import freeze_all_but_classifier
from iif.d2.evaluator import IIFEvaluator
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.roi_heads import IIFCascadeROIHeads, IIFROIHeads
from iif.d2.statistics import (
    clear_statistics,
    statistics_from_config,
    store_statistics,
    weights_from_config,
)
from iif.data.annotations import load_annotations
from iif.data.split import held_out_images
from iif.errors import InputError
from iif.evaluation.compare import compare, find_summary
from iif.files import read_json, sha256_file
from iif.statistics import ClassStatistics

logger = logging.getLogger(__name__)


class IIFTrainer(DefaultTrainer):
    """Detectron2's default trainer with LVIS's evaluation; trains in CPU processes too."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader and hooks."""
        with _ddp_on_any_device():
            super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return the model, all but its classifier frozen when TRAIN_CLASSIFIER_ONLY says so."""
        model = super().build_model(cfg)
        return freeze_all_but_classifier(model) if cfg.MODEL.IIF.TRAIN_CLASSIFIER_ONLY else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Return the loader of DATASETS.TRAIN without the images of DATASETS.HELD_OUT."""
        if not cfg.DATASETS.HELD_OUT:
            return super().build_train_loader(cfg)
        images = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        held_out = held_out_images([image["image_id"] for image in images], cfg.DATASETS.HELD_OUT)
        kept = [image for image, out in zip(images, held_out, strict=True) if not out]
        return build_detection_train_loader(cfg, dataset=kept)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> IIFEvaluator:
        """Return the evaluator of one of ``DATASETS.TEST``."""
        return IIFEvaluator(
            dataset_name,
            evaluation_folder(cfg.OUTPUT_DIR, cfg, dataset_name),
            iou_types=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
            statistics=_training_statistics(cfg),
            test_settings=test_settings(cfg),
            config=_finite(yaml.safe_load(cfg.dump())),
        )


def _finite(value: Any) -> Any:
    """Return nested values with infinities, which JSON has not, as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _ddp_on_any_device() -> Iterator[None]:
    """Let DefaultTrainer wrap a model on the CPU for several processes.

    It always names the local rank as the model's device, which torch refuses for the CPU, and
    offers no other way in than the function that it calls.
    """

    def create(model: nn.Module, **kwargs: Any) -> nn.Module:
        if next(model.parameters()).device.type == "cpu":
            kwargs["device_ids"] = None
        return create_ddp_model(model, **kwargs)

    with mock.patch.object(detectron2.engine.defaults, "create_ddp_model", create):
        yield


def evaluation_folder(root: str | os.PathLike[str], cfg: CfgNode, dataset_name: str) -> Path:
    """Return the folder, under an output folder, of the evaluation on a data set."""
    folder = Path(root) / "inference"
    return folder if len(cfg.DATASETS.TEST) == 1 else folder / dataset_name


def test_settings(cfg: CfgNode) -> dict[str, float]:
    """Return what runs must have in common at test time to be compared."""
    return {
        "score_threshold": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        "nms_threshold": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }


def argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's arguments and ``--baseline``."""
    parser = default_argument_parser()
    parser.add_argument(
        "--baseline",
        metavar="PATH",
        help="a baseline's output folder or eval_summary.json: after the evaluation, print and "
        "save baseline, this run and the difference side by side",
    )
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the configuration and check all of the input, before any process is launched.

    Raises:
        InputError: something in the configuration, the data sets, the weights or the baseline
            cannot be used.
    """
    cfg = load_config(args)
    _check_processes(args, cfg)
    _check_weights_file(args, cfg)
    _fill_statistics(args, cfg)
    register_custom_datasets(cfg)
    needed = "TEST" if args.eval_only else "TRAIN"
    if not len(cfg.DATASETS[needed]):
        raise InputError(f"DATASETS.{needed} is empty")
    for part in dict.fromkeys([needed, "TEST"]):
        for name in cfg.DATASETS[part]:
            check_dataset(name, f"DATASETS.{part}", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    if cfg.MODEL.MASK_ON and not args.eval_only:
        for name in cfg.DATASETS.TRAIN:
            check_masks(name, "DATASETS.TRAIN", cfg.INPUT.MASK_FORMAT)
    _check_model(cfg)
    for name in cfg.DATASETS.TEST:
        _check_annotations(cfg, name)
        if args.baseline is not None:
            _check_baseline(args.baseline, cfg, name)
    cfg.freeze()
    return cfg


def load_config(args: argparse.Namespace) -> CfgNode:
    """Return the configuration of ``args.config_file`` with the overrides ``args.opts``.

    Raises:
        InputError: the file or an override cannot be used; the message names it.
    """
    cfg = get_cfg()
    add_iif_config(cfg)
    what = args.config_file
    try:
        if args.config_file:
            cfg.merge_from_file(args.config_file)
        what = "command line"
        cfg.merge_from_list(args.opts)
    except (OSError, KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        raise InputError(f"{what}: {message}") from None
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _check_processes(args: argparse.Namespace, cfg: CfgNode) -> None:
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()}"
        )
    # For another number of processes than the reference's Detectron2 scales the batch.
    processes = cfg.SOLVER.REFERENCE_WORLD_SIZE or args.num_gpus * args.num_machines
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH % max(processes, 1):
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {processes} processes "
            "cannot share alike"
        )


def _check_weights_file(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Refuse to start from, and above all to evaluate, weights that are not there."""
    resumed = args.resume and Path(cfg.OUTPUT_DIR, "last_checkpoint").is_file()
    if resumed:
        return
    if args.eval_only and args.resume:
        raise InputError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} has no last_checkpoint to evaluate")
    weights = cfg.MODEL.WEIGHTS
    if args.eval_only and not weights:
        raise InputError(
            "--eval-only needs a model: set MODEL.WEIGHTS, or add --resume to evaluate the last "
            "checkpoint in OUTPUT_DIR"
        )
    if weights and "://" not in weights and not PathManager.isfile(weights):
        raise InputError(f"MODEL.WEIGHTS: no such file {weights}")


def _fill_statistics(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Put the training set's counts into the configuration, which is saved with the model."""
    if not args.eval_only:
        clear_statistics(cfg)
    if len(cfg.MODEL.IIF.FREQUENCY.IMAGE_COUNT):
        return
    # A baseline can be evaluated without its training set.
    optional = (
        args.eval_only and cfg.MODEL.IIF.VARIANT == "none" and not cfg.MODEL.IIF.FREQUENCY_FILE
    )
    with contextlib.suppress(InputError) if optional else contextlib.nullcontext():
        store_statistics(cfg, statistics_from_config(cfg))


def _training_statistics(cfg: CfgNode) -> ClassStatistics | None:
    return statistics_from_config(cfg) if len(cfg.MODEL.IIF.FREQUENCY.IMAGE_COUNT) else None


def _check_model(cfg: CfgNode) -> None:
    """Refuse illegal values of MODEL.IIF, and IIF with ROI heads that would ignore it."""
    IIFFastRCNNOutputLayers(cfg, ShapeSpec(channels=1))
    name = cfg.MODEL.ROI_HEADS.NAME
    if name not in ROI_HEADS_REGISTRY:
        raise InputError(f"MODEL.ROI_HEADS.NAME: there are no ROI heads {name!r}")
    knows_iif = issubclass(ROI_HEADS_REGISTRY.get(name), IIFROIHeads | IIFCascadeROIHeads)
    if cfg.MODEL.IIF.VARIANT != "none" and not knows_iif:
        raise InputError(
            f"MODEL.IIF.VARIANT is {cfg.MODEL.IIF.VARIANT!r}, but MODEL.ROI_HEADS.NAME "
            f"{name!r} has no IIF: set MODEL.ROI_HEADS.NAME IIFROIHeads, or MODEL.IIF.VARIANT none"
        )


def _check_annotations(cfg: CfgNode, name: str) -> None:
    """Read a test set as the evaluation will, so that its faults show before training."""
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        raise InputError(
            f"data set {name!r} names no annotation file (json_file of its metadata) to evaluate "
            "with: name its files in DATASETS.CUSTOM"
        )
    header = read_header(path)
    if header.annotated:
        if cfg.MODEL.MASK_ON:
            check_masks(name, "DATASETS.TEST", "bitmask")
        load_annotations(
            path,
            exhaustive=not header.federated,
            masks=cfg.MODEL.MASK_ON,
            statistics=_training_statistics(cfg),
        )


class _Dataset(msgspec.Struct):
    sha256: str


class _Summary(msgspec.Struct):
    dataset: _Dataset
    test_settings: dict[str, int | float | None]


def _baseline_summary(baseline: str, cfg: CfgNode, dataset_name: str) -> Path:
    several = len(cfg.DATASETS.TEST) > 1
    return find_summary(evaluation_folder(baseline, cfg, dataset_name) if several else baseline)


def _check_baseline(baseline: str, cfg: CfgNode, dataset_name: str) -> None:
    """Refuse now what the comparison would refuse when training is over."""
    path = _baseline_summary(baseline, cfg, dataset_name)
    summary = read_json(path, _Summary, what="a summary written by an evaluation")
    json_file = MetadataCatalog.get(dataset_name).json_file
    if summary.dataset.sha256 != sha256_file(json_file):
        raise InputError(
            f"--baseline {path}: it was evaluated on another annotation file than {json_file}; "
            "evaluate it on this one"
        )
    for key, value in test_settings(cfg).items():
        other = summary.test_settings.get(key)
        if other is not None and other != value:
            raise InputError(
                f"--baseline {path}: it was evaluated with {key} {other}, this run has {value}; "
                "evaluate both with the same"
            )


def main(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Train or evaluate in this process, one of those that :func:`run` launched.

    Args:
        args: of :func:`argument_parser`.
        cfg: of :func:`setup`.
    """
    try:
        _train_or_evaluate(args, cfg)
    except InputError as error:
        if comm.get_world_size() == 1:
            raise
        # The process that launched this one sees the exit status alone.
        print(f"rank {comm.get_rank()}: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def _train_or_evaluate(args: argparse.Namespace, cfg: CfgNode) -> None:
    register_custom_datasets(cfg)
    _set_up_process(args, cfg)
    _log_choices(cfg)
    if args.eval_only:
        model = IIFTrainer.build_model(cfg)
        StrictCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = IIFTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
    else:
        trainer = IIFTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
    if args.baseline is not None and comm.is_main_process():
        for name in cfg.DATASETS.TEST:
            _compare(args.baseline, cfg, name)


def _set_up_process(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Set up logs and seeds, and save the configuration, as Detectron2 does.

    An evaluation's log and configuration go beside its results: those of the training, which make
    the output folder complete, are left alone.
    """
    cfg = cfg.clone()
    if args.eval_only:
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "inference")
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="iif")


def _log_choices(cfg: CfgNode) -> None:
    if cfg.MODEL.DEVICE == "cpu":
        logger.info("Running on the CPU")
    statistics, weights = _training_statistics(cfg), weights_from_config(cfg)
    if statistics is not None:
        logger.info("Class statistics: %r", statistics)
    if weights is not None:
        logger.info(
            "IIF variant %s by %s: weights from %.4g to %.4g",
            cfg.MODEL.IIF.VARIANT,
            cfg.MODEL.IIF.COUNT_BY,
            weights.min(),
            weights.max(),
        )


def _compare(baseline: str, cfg: CfgNode, dataset_name: str) -> None:
    folder = evaluation_folder(cfg.OUTPUT_DIR, cfg, dataset_name)
    comparison = compare([_baseline_summary(baseline, cfg, dataset_name), folder])
    logger.info("%s", comparison.to_text())
    for path in comparison.save(folder):
        logger.info("Comparison saved to %s", path)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    args = argument_parser().parse_args(argv)
    try:
        cfg = setup(args)
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, cfg),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ProcessExitedException as error:
        if error.exit_code == 2:
            return 2
        raise
    return 0


if __name__ == "__main__":
    sys.exit(run())
