"""What a run with torchvision writes while it goes on: log.txt, metrics.json, TensorBoard's events.

Process 0 alone writes. Names and form of log.txt and metrics.json are Detectron2's.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor

from iif import layout
from iif.distributed import rank
from iif.errors import InputError
from iif.files import atomic_write
from iif.progress import progress

T = TypeVar("T")

_PERIOD = 20  # iterations
logger = logging.getLogger("iif.tv")


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """Append what this engine logs in the block to ``log.txt``, and how the block failed."""
    if rank() > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    handler = _Appender(folder / layout.LOG)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk, which the error tells
            logger.info("Stopped by %r", error)
        raise
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Appender(logging.Handler):
    """Appends each record to a file, which is closed in between; raises OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S"))
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        _append(self._path, self.format(record))


class TrainingLog:
    """Losses and times of a training, every 20 iterations.

    A context manager, in every process.
    """

    def __init__(self, folder: Path, start: int, stop: int) -> None:
        """Open the files; what they hold of iterations from ``start`` on is dropped.

        Args:
            folder: the output folder.
            start: the first iteration.
            stop: the one after the last.
        """
        self._next, self._stop = start, stop
        self._waited, self._began = 0.0, time.perf_counter()
        self._bar: Any = None
        if rank() == 0:
            self._events = _event_writer(folder, start)
            self._metrics = folder / layout.METRICS
            _drop_from(self._metrics, start)

    def __enter__(self) -> TrainingLog:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close TensorBoard's events."""
        if rank() == 0:
            self._events.close()

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches; show progress and measure how long each is waited for."""
        self._bar = progress(
            desc="training", unit="it", initial=self._next, total=self._stop, mininterval=1.0
        )
        self._began = asked = time.perf_counter()
        with self._bar:
            for batch in batches:
                self._waited += time.perf_counter() - asked
                yield batch
                self._bar.update()
                asked = time.perf_counter()

    def add(self, done: int, losses: Mapping[str, Tensor], rate: float) -> None:
        """Write an iteration's losses when it is time.

        Args:
            done: how many iterations are done.
            losses: of the last one, by name, ``total_loss`` among them.
            rate: its learning rate.
        """
        if rank() > 0 or (done % _PERIOD and done != self._stop):
            return
        values = {name: float(loss) for name, loss in losses.items()} | {"lr": rate}
        now, iterations = time.perf_counter(), done - self._next
        seconds = (now - self._began) / iterations
        times = {"time": seconds, "data_time": self._waited / iterations}
        for name, value in values.items():
            self._events.add_scalar(name, value, done)
        eta = {"eta_seconds": seconds * (self._stop - done)}
        line = {"iteration": done - 1} | values | times | eta
        _append(self._metrics, json.dumps(line, sort_keys=True))
        left = datetime.timedelta(seconds=round(eta["eta_seconds"]))
        shown = "  ".join(f"{name}: {value:.4g}" for name, value in (values | times).items())
        logger.info("eta: %s  iter: %d  %s", left, done - 1, shown)
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{values['total_loss']:.3f}", refresh=False)
        self._next, self._began, self._waited = done, now, 0.0


def add_metrics(folder: Path, done: int, values: Mapping[str, float | None]) -> None:
    """Write what an evaluation after ``done`` iterations found into metrics.json, in process 0."""
    known = {name: value for name, value in values.items() if value is not None}
    line = json.dumps({"iteration": done - 1} | known, sort_keys=True)
    _append(folder / layout.METRICS, line)


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("tensorboard is not installed: pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=start + 1)


def _append(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8") as f:
        f.write(f"{line}\n")


def _drop_from(path: Path, iteration: int) -> None:
    """Drop the lines of this iteration and later ones, and one that a killed run left half."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["iteration"] < iteration:
                kept.append(f"{line}\n")
    with atomic_write(path) as f:
        f.writelines(kept)
