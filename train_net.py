#!/usr/bin/env python3
"""Train and evaluate Mask R-CNN under a long-tail method, or as the plain baseline.

python train_net.py --config-file configs/lvis_iif.yaml --num-gpus 8 [--baseline FOLDER] [KEY VALUE]
"""

import argparse
import sys
import weakref
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    default_argument_parser,
    launch,
)
from detectron2.evaluation import verify_results
from torch import nn

from iif.d2 import register_custom_datasets
from iif.d2.augmented_test import test_all, tta_hooks
from iif.d2.checkpoint import MethodCheckpointer
from iif.d2.checks import check_input
from iif.d2.config import load_config
from iif.d2.decoupled import freeze_all_but_classifier
from iif.d2.evaluator import compare_with_baseline, evaluators_of
from iif.d2.hooks import augmentation_hooks
from iif.d2.loader import train_loader
from iif.d2.process import exit_status, rank_errors, run_lock, set_up_process
from iif.d2.statistics import save_statistics, statistics_of_run


class Trainer(DefaultTrainer):
    """Detectron2's default trainer; checkpoints carry the method, LVIS's rules evaluate."""

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader, checkpointer and hooks."""
        # DefaultTrainer's own constructor, written out. It always passes the local rank as
        # device_ids, which DDP rejects for CPU modules, and it makes its own checkpointer.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        devices = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        step = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = MethodCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(augmentation_hooks(cfg) + self.build_hooks() + tta_hooks(self))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return the model, all but its classifier frozen when TRAIN_CLASSIFIER_ONLY says so."""
        model = super().build_model(cfg)
        decoupled = cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY
        return freeze_all_but_classifier(model) if decoupled else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Return the loader of DATASETS.TRAIN without the images of DATASETS.HELD_OUT."""
        return train_loader(cfg)

    def resume_or_load(self, resume: bool = True) -> None:
        """Start as DefaultTrainer does; a run killed in its last save makes that save again."""
        super().resume_or_load(resume)
        if self.start_iter >= self.max_iter:
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate the model on DATASETS.TEST, by default with LVIS's evaluation."""
        return super().test(cfg, model, evaluators or evaluators_of(cfg, model))


def setup(args: argparse.Namespace) -> CfgNode:
    """Make the configuration and check all of the input, before any process is launched."""
    cfg = load_config(args.config_file, args.opts)
    statistics = check_input(cfg, args)
    save_statistics(cfg, statistics, evaluate=args.eval_only)
    cfg.freeze()
    return cfg


def main(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Train or evaluate in one of the launched processes."""
    with rank_errors():
        register_custom_datasets(cfg, statistics_of_run(cfg))
        set_up_process(args, cfg)
        if args.eval_only:
            model = Trainer.build_model(cfg)
            checkpointer = MethodCheckpointer(model, cfg.OUTPUT_DIR, evaluate=True)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
            results = test_all(Trainer, cfg, model)
            if comm.is_main_process():
                verify_results(cfg, results)
        else:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
        if args.baseline is not None and comm.is_main_process():
            compare_with_baseline(args.baseline, cfg)


def run(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    parser = default_argument_parser()
    parser.add_argument("--baseline", metavar="RUN", help="a run's output folder, to compare with")
    args = parser.parse_args(argv)

    def launch_all() -> None:
        cfg = setup(args)
        machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank}
        with run_lock(args, cfg):
            launch(main, args.num_gpus, dist_url=args.dist_url, args=(args, cfg), **machines)

    return exit_status(launch_all)


if __name__ == "__main__":
    sys.exit(run())
