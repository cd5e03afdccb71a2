#!/usr/bin/env python3
"""Train and evaluate Mask R-CNN under a long-tail method, or as the plain baseline.

python train_net.py --config-file configs/lvis_iif.yaml --num-gpus 8 [--baseline FOLDER] [KEY VALUE]
"""

import argparse
import sys
import weakref
from importlib.util import find_spec
from typing import Any

if find_spec("detectron2") is None:
    sys.exit("Detectron2 is not installed: see README.md, Installation; iif train works without it")

import detectron2.utils.comm as comm
from detectron2 import engine
from detectron2.config import CfgNode
from torch import nn

from iif.d2 import register_custom_datasets
from iif.d2.augmented_test import test_all, tta_hooks
from iif.d2.checkpoint import MethodCheckpointer
from iif.d2.checks import check_input
from iif.d2.config import load_config
from iif.d2.decoupled import freeze_all_but_classifier
from iif.d2.evaluator import compare_with_baseline, evaluators_of
from iif.d2.hooks import training_hooks
from iif.d2.loader import evaluation_loader, train_loader
from iif.d2.process import exit_status, rank_errors, run_lock, set_up_process, share_buffers
from iif.d2.statistics import save_statistics, statistics_of_run


class Trainer(engine.DefaultTrainer):
    """Detectron2's default trainer; checkpoints carry the method, LVIS's rules evaluate."""

    build_train_loader = staticmethod(train_loader)
    build_test_loader = staticmethod(evaluation_loader)

    def __init__(self, cfg: CfgNode) -> None:
        """Build model, optimizer, data loader, checkpointer and hooks."""
        # DefaultTrainer's own constructor, written out. It always passes the local rank as
        # device_ids, which DDP rejects for CPU modules, and it makes its own checkpointer.
        engine.TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        devices = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        model = engine.create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        step = engine.AMPTrainer if cfg.SOLVER.AMP.ENABLED else engine.SimpleTrainer
        self._trainer = step(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = MethodCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), stream=loader
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(training_hooks(cfg) + self.build_hooks() + tta_hooks(self))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return the model, all but its classifier frozen when TRAIN_CLASSIFIER_ONLY says so."""
        model = super().build_model(cfg)
        alone = cfg.MODEL.LONG_TAIL.TRAIN_CLASSIFIER_ONLY
        return freeze_all_but_classifier(model) if alone else model

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on in the stream of images; a run killed in its last save makes that save again."""
        super().resume_or_load(resume)
        self._trainer.data_loader.start = self.start_iter
        if self.start_iter >= self.max_iter:
            self.checkpointer.save("model_final", iteration=self.max_iter - 1)

    def after_train(self) -> None:
        """Evaluate, but not where the training failed: other processes may wait elsewhere."""
        if self.iter >= self.max_iter:
            self.iter: int = self.max_iter  # a resumed training may have had nothing left to do
            super().after_train()

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate the model on DATASETS.TEST, by default with LVIS's evaluation."""
        share_buffers(model)
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
        cfg = set_up_process(args, cfg)
        if args.eval_only:
            model = Trainer.build_model(cfg)
            checkpointer = MethodCheckpointer(model, cfg.OUTPUT_DIR, evaluate=True)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
            test_all(Trainer, cfg, model)
        else:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            trainer.train()
        if args.baseline is not None and comm.is_main_process():
            compare_with_baseline(args.baseline, cfg)


def run(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status (2 for a fault in the input)."""
    parser = engine.default_argument_parser()
    parser.add_argument("--baseline", metavar="RUN", help="a run's output folder, to compare with")
    args = parser.parse_args(argv)

    def launch_all() -> None:
        cfg = setup(args)
        where = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
        with run_lock(args, cfg):
            engine.launch(main, *where, (args, cfg))

    return exit_status(launch_all)


if __name__ == "__main__":
    sys.exit(run())
