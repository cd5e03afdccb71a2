"""The endless stream of training images, from any iteration on: an exact resume needs no more.

Detectron2's own loader draws its augmentation from the state of its worker processes and groups
images by aspect ratio after they were decoded. Here indices are grouped, in the main process, and
each carries its position in the stream as the seed of its augmentation. So what iteration i trains
on depends on the seed, i and the process alone, whatever was fetched in advance.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, build_detection_train_loader
from detectron2.utils import comm
from PIL.Image import DecompressionBombError
from torch.utils.data import DataLoader, Dataset, Sampler

from iif.data.annotation_file import forget_annotation_files
from iif.errors import InputError

logger = logging.getLogger(__name__)

Image = dict[str, Any]
# Position of an image in the stream of all processes, and its index in the data set.
Place = tuple[int, int]

# What Detectron2's mapper raises where a file, its size or its masks are not as annotated.
_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, DecompressionBombError)


def seed_random(*key: int, position: int | None = None) -> None:
    """Seed Python, NumPy and torch (its CPU and, where in use, GPUs) with non-negative integers.

    Args:
        key: up to four integers.
        position: another one, for a sequence of its own.
    """
    sequence = np.random.SeedSequence(key, spawn_key=() if position is None else (position,))
    seed = int(sequence.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # never in a worker process
        torch.cuda.manual_seed_all(seed)


class CheckedMapper:
    """Calls Detectron2's mapper; an image that cannot be used is an error that names it."""

    def __init__(self, mapper: Callable[[Image], Any]) -> None:
        """Take the mapper."""
        self._mapper = mapper

    def __call__(self, image: Image) -> Any:
        """Return what the mapper does.

        Raises:
            InputError: file, size or masks are not as annotated.
        """
        try:
            return self._mapper(image)
        except InputError:
            raise
        except _UNREADABLE as error:
            raise InputError(
                f"{image.get('file_name')}: cannot be used ({type(error).__name__}: {error}); mend "
                f"it, or take image {image.get('image_id')} out of the annotations"
            ) from None


class BatchSampler(Sampler[list[Place]]):
    """Batches of the indices of one of Detectron2's samplers, from a batch on.

    With ``groups`` a batch is of one group, as Detectron2's ``AspectRatioGroupedDataset`` fills
    them: equal to its batches without worker processes or with one.
    """

    def __init__(
        self,
        sampler: Iterable[int],
        batch_size: int,
        groups: Sequence[int] | None = None,
        *,
        start: int = 0,
    ) -> None:
        """Take the stream.

        Args:
            sampler: indices of this process without end, every W-th of the W processes' stream.
            batch_size: images of this process in a batch.
            groups: of each image of the data set, 0 or 1.
            start: how many batches to leave out.
        """
        self._sampler, self._batch_size, self._start = sampler, batch_size, start
        self._groups = groups

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield batches without end."""
        positions = itertools.count(comm.get_rank(), comm.get_world_size())
        waiting: tuple[list[Place], ...] = ([], [])
        full = 0
        for position, index in zip(positions, self._sampler, strict=False):
            batch = waiting[self._groups[index] if self._groups is not None else 0]
            batch.append((position, index))
            if len(batch) == self._batch_size:
                full += 1
                if full > self._start:
                    yield batch.copy()
                batch.clear()


class _SeededImages(Dataset[Any]):
    """Mapped images; the augmentation of each is seeded by its position in the stream."""

    def __init__(self, images: list[Image], mapper: CheckedMapper, seed: int) -> None:
        self._images = DatasetFromList(images, copy=False)
        self._mapper, self._seed = mapper, seed

    def __getitem__(self, place: Place) -> Any:
        position, index = place
        seed_random(self._seed, position=position)
        return self._mapper(self._images[index])


class TrainingLoader:
    """Batches of a process from iteration ``start`` on, without end.

    Each batch is handed out with the process's random numbers seeded by SEED, the iteration and the
    rank, so that what the model draws depends on these three alone.

    Attributes:
        start: the first iteration; to be set before iteration begins.
    """

    def __init__(self, cfg: CfgNode, images: list[Image] | None = None) -> None:
        """Build Detectron2's sampler and mapper.

        Args:
            cfg: the configuration; a negative SEED counts as 0.
            images: Detectron2's dicts; by default those of DATASETS.TRAIN.

        Raises:
            InputError: an image has no size, which aspect-ratio grouping needs.
        """
        self.start = 0
        named = (MetadataCatalog.get(name).get("json_file") for name in cfg.DATASETS.TRAIN)
        self._files = [path for path in named if path]
        self._seed = max(cfg.SEED, 0)
        np.random.seed(self._seed)  # where some of Detectron2's samplers take their seeds from
        arguments = build_detection_train_loader.from_config(cfg, dataset=images)
        images, self._sampler = arguments["dataset"], arguments["sampler"]
        self._batch_size = arguments["total_batch_size"] // comm.get_world_size()
        self._workers = arguments["num_workers"]
        self._groups = _orientations(images) if arguments["aspect_ratio_grouping"] else None
        self._conditions = {
            "SEED": self._seed,
            "number of processes": comm.get_world_size(),
            "number of training images": len(images),
            "SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH,
            "DATALOADER.SAMPLER_TRAIN": cfg.DATALOADER.SAMPLER_TRAIN,
            "DATALOADER.ASPECT_RATIO_GROUPING": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        }
        mapper = CheckedMapper(arguments["mapper"])
        self._images = _SeededImages(images, mapper, self._seed)

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield what the mapper returns for the images of each batch."""
        if self._files:  # of LVIS a gigabyte here and in each worker process
            forget_annotation_files(*self._files)
        if self.start:
            logger.info("Going on in the stream of training images at iteration %d", self.start)
        batches: Iterable[list[Any]] = DataLoader(
            self._images,
            batch_sampler=BatchSampler(
                self._sampler, self._batch_size, self._groups, start=self.start
            ),
            num_workers=self._workers,
            collate_fn=list,
        )
        for iteration, batch in enumerate(batches, self.start):
            seed_random(self._seed, iteration, comm.get_rank())
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return, as plain values for a checkpoint, what the stream depends on."""
        return dict(self._conditions)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn where a checkpoint was trained on another stream than this one."""
        for name, now in self._conditions.items():
            if state.get(name) != now:
                logger.warning(
                    "%s is %s, and was %s when the checkpoint was saved: the resumed training sees "
                    "other images than the uninterrupted one would have seen",
                    name,
                    now,
                    state.get(name),
                )


def _orientations(images: Sequence[Image]) -> list[int]:
    """Return the group of each image: 0 where it is wider than high, 1 elsewhere."""
    try:
        return [int(image["width"] <= image["height"]) for image in images]
    except KeyError as error:
        raise InputError(
            f"an image of DATASETS.TRAIN has no {error}: set DATALOADER.ASPECT_RATIO_GROUPING False"
        ) from None
