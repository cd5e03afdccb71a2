"""The launched processes: logs, seeds, shared buffers, and how an error leaves one of them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException

from iif import layout
from iif.d2.checkpoint import saved_seed
from iif.d2.method import method_from_config
from iif.d2.statistics import statistics_of_run
from iif.distributed import is_lost_connection
from iif.errors import InputError
from iif.files import os_error_text
from iif.locking import folder_lock

logger = logging.getLogger(__name__)


# Seconds within which the launching process ends those whose partner has failed.
_PATIENCE = 30


@contextlib.contextmanager
def rank_errors() -> Iterator[None]:
    """Print a fault of one of several processes in one line and exit with its status.

    The process that launched them sees the exit status alone, and ends the others. One that notices
    first, by a broken connection, waits for that.
    """
    try:
        yield
    except (InputError, FloatingPointError) as error:
        if comm.get_world_size() == 1:
            raise
        print(f"rank {comm.get_rank()}: error: {_one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(_status(error))
    except RuntimeError as error:
        if comm.get_world_size() == 1 or not is_lost_connection(error):
            raise
        time.sleep(_PATIENCE)
        print(
            f"rank {comm.get_rank()}: error: stopped, because another process of this run has "
            "failed; its message says why",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)


def exit_status(run: Callable[[], None]) -> int:
    """Return the exit status of a run; a fault is told in one line.

    Returns:
        0; 1 for a diverged loss or a process that a signal ended; 2 for a fault in the input or of
        the file system; 130 when the user interrupted.
    """
    try:
        run()
    except (InputError, FloatingPointError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return _status(error)
    except OSError as error:
        print(f"error: {os_error_text(error)}", file=sys.stderr)
        return 2
    except ProcessExitedException as error:
        if error.signal_name is None:
            return error.exit_code  # the process has told it
        print(
            f"error: process {error.error_index} was ended by {error.signal_name} (too little "
            "memory is a frequent cause); go on with --resume",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def _status(error: InputError | FloatingPointError) -> int:
    return 2 if isinstance(error, InputError) else 1


def _one_line(error: InputError | FloatingPointError) -> str:
    """Return the message alone: a data loader's worker process puts its traceback before it."""
    line = " ".join(str(error).rpartition(f"{InputError.__name__}: ")[2].split())
    if isinstance(error, InputError):
        return line
    return (
        f"{line}; lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS or set "
        "SOLVER.CLIP_GRADIENTS.ENABLED True"
    )


def _without_traceback(record: logging.LogRecord) -> bool:
    """Filter Detectron2's log of an error that is told in one line."""
    error = record.exc_info[1] if record.exc_info else None
    lost = error is not None and is_lost_connection(error)
    return not (lost or isinstance(error, InputError | FloatingPointError))


def run_lock(args: argparse.Namespace, cfg: CfgNode) -> AbstractContextManager[None]:
    """Return the lock of the folder that a run writes into; of several machines the first has it.

    Raises:
        InputError: when it is entered while another run writes there.
    """
    if args.machine_rank:
        return contextlib.nullcontext()
    folder = Path(cfg.OUTPUT_DIR)
    return folder_lock(folder / layout.INFERENCE if args.eval_only else folder)


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first.

    Statistics of batch normalisation differ from process to process, and a checkpoint has those of
    the first. All processes must call this.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def set_up_process(args: argparse.Namespace, cfg: CfgNode) -> CfgNode:
    """Set up logs and seeds, and save the configuration, as Detectron2 does.

    An evaluation's log and configuration go beside its results: those of the training, which make
    the output folder complete, are left alone.

    Returns:
        The configuration; of a training with the SEED that was drawn where it had none.
    """
    if not args.eval_only and cfg.SEED < 0:
        cfg = _seeded(args, cfg)
    saved = cfg.clone()
    if args.eval_only:
        saved.defrost()
        saved.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, layout.INFERENCE)
    default_setup(saved, args)
    setup_logger(saved.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="iif")
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_traceback)
    if cfg.MODEL.DEVICE == "cpu":
        logger.info("Running on the CPU")
    logger.info("Class statistics: %r", statistics_of_run(cfg))
    logger.info("Long-tail method: %s", method_from_config(cfg))
    return cfg


def _seeded(args: argparse.Namespace, cfg: CfgNode) -> CfgNode:
    """Give all processes the seed of the training to resume, or a new one."""
    seed = saved_seed(cfg.OUTPUT_DIR) if args.resume else None
    if seed is None:
        seed = secrets.randbelow(2**31)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = comm.all_gather(seed)[0]
    cfg.freeze()
    return cfg
