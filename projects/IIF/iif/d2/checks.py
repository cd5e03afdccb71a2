"""All of the input of a run, checked before any process is launched."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils.file_io import PathManager

from iif import layout
from iif.d2.augmentation import KEY as FASA_KEY
from iif.d2.datasets import (
    check_dataset,
    check_masks,
    refuse_test_set,
    register_custom_datasets,
)
from iif.d2.evaluator import baseline_summary, evaluation_folder, test_settings
from iif.d2.fast_rcnn import IIFFastRCNNOutputLayers
from iif.d2.method import METHOD_KEY, options_from_config, options_node
from iif.d2.roi_heads import IIFCascadeROIHeads, IIFRes5ROIHeads, IIFROIHeads
from iif.d2.statistics import statistics_from_config
from iif.data.annotation_file import read_annotation_file
from iif.data.annotations import load_annotations
from iif.errors import InputError
from iif.evaluation.conditions import Conditions, refuse_differences
from iif.methods import BASELINE
from iif.methods.usable import clamps_needed
from iif.outputs import check_output
from iif.statistics import ClassStatistics

# Detectron2's weighted ones need a key, TRAIN_REPEAT_FACTOR, that its configuration has not.
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")


def check_input(cfg: CfgNode, args: argparse.Namespace) -> ClassStatistics | None:
    """Check configuration, data sets, weights and baseline; return the class statistics.

    Args:
        cfg: the configuration; data sets of DATASETS.CUSTOM are registered.
        args: of the command line: eval_only, resume, num_gpus, num_machines, baseline.

    Returns:
        The statistics of the training set; None for a baseline that is evaluated without its
        training set.

    Raises:
        InputError: something cannot be used; names the file or key, and the remedy.
    """
    check_output(cfg.OUTPUT_DIR, folder=True)
    _check_processes(args, cfg)
    _check_weights_file(args, cfg)
    options_from_config(cfg)
    statistics = _statistics(args, cfg)
    _clamp_own_data(cfg, args, statistics)
    register_custom_datasets(cfg, statistics)
    needed = "TEST" if args.eval_only else "TRAIN"
    if not len(cfg.DATASETS[needed]):
        raise InputError(f"DATASETS.{needed} is empty")
    for part in dict.fromkeys([needed, "TEST"]):
        for name in cfg.DATASETS[part]:
            check_dataset(name, f"DATASETS.{part}", cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    if cfg.MODEL.MASK_ON and not args.eval_only:
        for name in cfg.DATASETS.TRAIN:
            check_masks(name, "DATASETS.TRAIN", cfg.INPUT.MASK_FORMAT)
    _check_model(cfg, statistics)
    if not args.eval_only:
        _check_augmentation(cfg)
        _check_sampler(cfg)
    for name in cfg.DATASETS.TEST:
        _check_evaluation(cfg, name, statistics, args.baseline)
    return statistics


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
    if cfg.MODEL.DEVICE != "cpu":
        return
    if cfg.SOLVER.AMP.ENABLED and not args.eval_only:
        raise InputError(
            "SOLVER.AMP.ENABLED is True, but Detectron2's mixed precision is for GPUs and "
            "MODEL.DEVICE is cpu: set SOLVER.AMP.ENABLED False"
        )
    if torch.cuda.is_available() and args.num_gpus * args.num_machines > 1:
        raise InputError(
            "MODEL.DEVICE is cpu, but on a machine with GPUs Detectron2 lets several processes "
            "exchange tensors of GPUs alone (NCCL): hide the GPUs (CUDA_VISIBLE_DEVICES=) or set "
            "--num-gpus 1"
        )


def _check_weights_file(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Check that the weights exist before training or evaluating."""
    last = Path(cfg.OUTPUT_DIR, layout.LAST_CHECKPOINT)
    if args.resume and last.is_file():
        name = last.read_text(encoding="utf-8").strip()
        if not name or not (last.parent / name).is_file():
            raise InputError(
                f"{last}: names {name or 'no file'!r}, which is not there; write the name of a "
                "checkpoint (.pth) of this folder into it, or train without --resume"
            )
        return
    if args.eval_only and args.resume:
        raise InputError(f"OUTPUT_DIR {cfg.OUTPUT_DIR} has no {layout.LAST_CHECKPOINT} to evaluate")
    weights = cfg.MODEL.WEIGHTS
    if args.eval_only and not weights:
        raise InputError(
            "--eval-only needs a model: set MODEL.WEIGHTS, or add --resume to evaluate the last "
            "checkpoint in OUTPUT_DIR"
        )
    if weights and "://" not in weights and not PathManager.isfile(weights):
        raise InputError(f"MODEL.WEIGHTS: no such file {weights}")
    own = Path(weights).parent.resolve() == Path(cfg.OUTPUT_DIR).resolve()
    if own and not args.eval_only and Path(weights).match(layout.CHECKPOINTS):
        raise InputError(
            f"MODEL.WEIGHTS: {weights} lies in OUTPUT_DIR, whose checkpoints this training would "
            "write over; set another OUTPUT_DIR, or add --resume to go on"
        )


def _statistics(args: argparse.Namespace, cfg: CfgNode) -> ClassStatistics | None:
    # A baseline can be evaluated without its training set.
    optional = (
        args.eval_only
        and cfg.MODEL.LONG_TAIL.METHOD == BASELINE
        and not cfg.MODEL.LONG_TAIL.STATISTICS
        and not cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS
    )
    with contextlib.suppress(InputError) if optional else contextlib.nullcontext():
        return statistics_from_config(cfg, training=not args.eval_only)
    return None


def _clamp_own_data(
    cfg: CfgNode, args: argparse.Namespace, statistics: ClassStatistics | None
) -> None:
    """Let the method use the counts of data that is not in LVIS's format, and say so.

    An option that the configuration or the command line sets stays as it is.
    """
    name = cfg.MODEL.LONG_TAIL.METHOD
    if statistics is None or statistics.federated is not False or name == BASELINE:
        return
    node = options_node(name)
    given = set(args.opts[::2])
    if args.config_file:
        written = CfgNode.load_yaml_with_base(args.config_file)
        own = written.get("MODEL", {}).get(name.upper(), {})
        given |= {f"{node}.{option}" for option in own}
    prefix = f"{node}."
    chosen = {key.removeprefix(prefix).lower() for key in given if key.startswith(prefix)}
    clamps = clamps_needed(name, statistics, options_from_config(cfg), chosen)
    if not clamps.usable or not clamps.options:
        return
    for option in clamps.options:
        cfg.MODEL[name.upper()][option.upper()] = "clamp"
    keys = [f"{node}.{option.upper()}" for option in clamps.options]
    warnings.warn(
        f"{statistics.source}: {clamps.fact}, which would be refused: "
        f"{', '.join(f'{key} clamp' for key in keys)} is set; "
        f"{' '.join(f'{key} error' for key in keys)} refuses it",
        stacklevel=2,
    )


def _check_model(cfg: CfgNode, statistics: ClassStatistics | None) -> None:
    """Refuse illegal values of MODEL.LONG_TAIL, and a method with heads that would ignore it."""
    IIFFastRCNNOutputLayers(cfg, ShapeSpec(channels=1))
    name = cfg.MODEL.ROI_HEADS.NAME
    if name not in ROI_HEADS_REGISTRY:
        raise InputError(f"MODEL.ROI_HEADS.NAME: there are no ROI heads {name!r}")
    known = IIFROIHeads | IIFCascadeROIHeads | IIFRes5ROIHeads
    knows_methods = issubclass(ROI_HEADS_REGISTRY.get(name), known)
    if cfg.MODEL.LONG_TAIL.METHOD != BASELINE and not knows_methods:
        raise InputError(
            f"{METHOD_KEY} is {cfg.MODEL.LONG_TAIL.METHOD!r}, but MODEL.ROI_HEADS.NAME {name!r} "
            f"knows no method: set MODEL.ROI_HEADS.NAME IIFROIHeads, or {METHOD_KEY} {BASELINE}"
        )
    if cfg.MODEL.FASA.ENABLED and not knows_methods:
        raise InputError(
            f"{FASA_KEY}.ENABLED is True, but MODEL.ROI_HEADS.NAME {name!r} has no place for it: "
            f"set MODEL.ROI_HEADS.NAME IIFROIHeads, or {FASA_KEY}.ENABLED False"
        )
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.USE_FED_LOSS and not knows_methods and statistics is not None:
        sampled = int((statistics.image_count > 0).sum())
        if sampled < head.FED_LOSS_NUM_CLASSES:
            raise InputError(
                f"MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES is {head.FED_LOSS_NUM_CLASSES}, but "
                f"{statistics.source} has {sampled} classes with an image: set it to {sampled}, or "
                "MODEL.ROI_HEADS.NAME IIFROIHeads, which needs no such number"
            )


def _check_augmentation(cfg: CfgNode) -> None:
    """Check that FASA has training images of its own to adapt to, none of them a test image."""
    if not (cfg.MODEL.FASA.ENABLED and cfg.MODEL.FASA.ADAPT):
        return
    if not cfg.DATASETS.HELD_OUT:
        raise InputError(
            f"{FASA_KEY}.ADAPT is True, but DATASETS.HELD_OUT 0 holds out no training image to "
            f"adapt to: set DATASETS.HELD_OUT, 0.01 for instance, or {FASA_KEY}.ADAPT False"
        )
    for name in cfg.DATASETS.TRAIN:
        if MetadataCatalog.get(name).get("json_file") is not None:
            refuse_test_set(cfg, name, "FASA must not adapt to")
        elif name in cfg.DATASETS.TEST:
            raise InputError(
                f"{name!r} is in DATASETS.TEST too: FASA must not adapt to the data that the "
                "result is measured on"
            )


def _check_sampler(cfg: CfgNode) -> None:
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler not in _SAMPLERS:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {sampler!r}; it must be one of {', '.join(_SAMPLERS)}"
        )


def _check_evaluation(
    cfg: CfgNode, name: str, statistics: ClassStatistics | None, baseline: str | None
) -> None:
    """Read a test set as the evaluation will, and refuse what the comparison would refuse."""
    path = MetadataCatalog.get(name).get("json_file")
    if path is None:
        raise InputError(
            f"data set {name!r} names no annotation file (json_file of its metadata) to evaluate "
            "with: name its files in DATASETS.CUSTOM"
        )
    if not read_annotation_file(path).annotated:
        return
    if cfg.MODEL.MASK_ON:
        check_masks(name, "DATASETS.TEST", "bitmask")
    gt = load_annotations(path, masks=cfg.MODEL.MASK_ON, statistics=statistics)
    if baseline is not None:
        summary = baseline_summary(baseline, cfg, name)
        own = evaluation_folder(cfg.OUTPUT_DIR, cfg, name) / layout.SUMMARY
        if own.is_file() and own.samefile(summary):
            raise InputError(
                f"--baseline {baseline}: lies in OUTPUT_DIR, where this run would write over it; "
                "set another OUTPUT_DIR"
            )
        planned = Conditions.planned(
            gt,
            test_settings(cfg),
            iou_types=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",),
        )
        refuse_differences(
            (f"--baseline {summary}", Conditions.of_summary(summary)), ("this run", planned)
        )
