"""One process or several (torchrun): this process's rank, and collecting what the others have."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from iif.errors import InputError
from iif.locking import folder_lock

# How gloo and NCCL say that a process at the other end is gone.
_LOST = re.compile("[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|remote process exited")


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error is torch's word for a process at the other end that is gone."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def rank() -> int:
    """Return this process's number, 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any] | None:
    """Return every process's value, by rank, in process 0; None in the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values)
    return values


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of process 0: their batch normalisation saw other images."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def pick_device(name: str | None) -> torch.device:
    """Return the device to work on: by name, or this process's GPU, or the CPU without one.

    Raises:
        InputError: the device is unknown or absent.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if name is None:
        name = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'device is {name!r}; give "cpu", "cuda" or "cuda:N"') from None
    if device.type == "cuda":
        available = torch.cuda.device_count()
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index >= available:
            raise InputError(f"device {device}: {available} GPUs are available; use another device")
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, for the length of the block; alone, do nothing.

    Raises:
        InputError, FloatingPointError: those of the block; of several processes they name the rank.
        ConnectionAbortedError: another process has failed.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    own = rank()
    try:
        yield
    except (InputError, FloatingPointError) as error:
        raise type(error)(f"rank {own}: {error}") from None
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise ConnectionAbortedError(
            f"rank {own}: stopped, because another process of this run has failed; its message "
            "says why"
        ) from None
    finally:
        dist.destroy_process_group()


def lock_output(folder: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Return the lock of the folder that a run writes into; of several processes the first has it.

    Raises:
        InputError: when it is entered while another run writes there.
    """
    return folder_lock(folder) if rank() == 0 else contextlib.nullcontext()
