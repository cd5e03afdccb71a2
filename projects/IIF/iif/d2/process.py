"""One of the launched processes: its logs, and how an error in the input leaves it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing.spawn import ProcessExitedException

from iif import layout
from iif.d2.method import method_from_config
from iif.d2.statistics import statistics_of_run
from iif.errors import InputError
from iif.files import os_error_text
from iif.locking import folder_lock

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


def exit_status(run: Callable[[], None]) -> int:
    """Return the exit status of a run, with one line for any but 0.

    It is 2 for a fault in the input or of the file system, 130 after Ctrl-C.
    """
    try:
        run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {os_error_text(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; a training goes on with --resume", file=sys.stderr)
        return 130
    except ProcessExitedException as error:
        if error.exit_code != 2:
            raise
        return 2  # the process has told it
    return 0


def run_lock(args: argparse.Namespace, cfg: CfgNode) -> AbstractContextManager[None]:
    """Return the lock of the folder that a run writes into; of several machines the first has it.

    Raises:
        InputError: when it is entered while another run writes there.
    """
    if args.machine_rank:
        return contextlib.nullcontext()
    folder = Path(cfg.OUTPUT_DIR)
    return folder_lock(folder / layout.INFERENCE if args.eval_only else folder)


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
