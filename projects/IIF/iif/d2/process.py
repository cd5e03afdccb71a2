"""One of the launched processes: its logs, and how an error in the input leaves it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from iif import layout
from iif.d2.method import method_from_config
from iif.d2.statistics import statistics_of_run
from iif.errors import InputError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def rank_errors() -> Iterator[None]:
    """Print an InputError of one of several processes and exit with status 2.

    The process that launched them sees the exit status alone.
    """
    try:
        yield
    except InputError as error:
        if comm.get_world_size() == 1:
            raise
        print(f"rank {comm.get_rank()}: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


def set_up_process(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Set up logs and seeds, and save the configuration, as Detectron2 does.

    An evaluation's log and configuration go beside its results: those of the training, which make
    the output folder complete, are left alone.
    """
    cfg = cfg.clone()
    if args.eval_only:
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, layout.INFERENCE)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="iif")
    if cfg.MODEL.DEVICE == "cpu":
        logger.info("Running on the CPU")
    logger.info("Class statistics: %r", statistics_of_run(cfg))
    logger.info("Long-tail method: %s", method_from_config(cfg))
