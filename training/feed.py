"""The data of a run: which frames are trained on, and a step's batch, made ahead by processes of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data import Augmentation, DataError, Sample, Scene, make_batch, read_parts
from training.distributed import Group
from training.recipe import Recipe, RecipeError
from training.shared import SharedSamples

AHEAD = 4  # batches that each process may be ahead of the device
NOT_HELD_OUT = 1 << 32  # a CRC-32 is less, and 0 once in so many names


def split_samples(recipe: Recipe, data: Path) -> tuple[list[Sample | Scene], list[Sample]]:
    """Return the frames to train on and the held-out part that the checkpoint is chosen on.

    Raises:
        DataError: if there are not some of both.
    """
    train, held_out = read_parts(recipe.data, data, recipe.held_out or NOT_HELD_OUT)
    if not train or (recipe.held_out and not held_out):
        counts = f"{len(train)} frames to train on and {len(held_out)} held out"
        raise DataError(f"{data}: {counts} after recipe {recipe.name!r} chose; there must be some of both")
    return train, held_out


def batch_of(recipe: Recipe, size: int) -> int:
    """Return the number of crops of a size in a batch: as many pixels as a batch of the largest size."""
    if len(recipe.sizes) == 1:
        return recipe.batch
    return max(1, round(recipe.batch * (max(recipe.sizes) / size) ** 2))


def step_batch(
    samples: Sequence[Sample | Scene], recipe: Recipe, step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a step's frames and masks, ``[batch, 1, size, size]``; they depend on seed and step alone."""
    rng = np.random.default_rng([recipe.seed, step])
    size = int(rng.choice(recipe.sizes))
    augment = Augmentation(**recipe.augment.model_dump())
    return make_batch(samples, rng, batch_of(recipe, size), size, recipe.target_share, augment)


class _Steps(Dataset[Any]):
    """This process's share of every step's batch, by the step's number."""

    def __init__(self, samples: Sequence[Sample | Scene], recipe: Recipe, group: Group) -> None:
        self.samples, self.recipe, self.group = samples, recipe, group

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        # All of the batch is made, and the share cut from it: so no number of processes changes the run.
        frames, masks = step_batch(self.samples, self.recipe, step)
        mine = slice(self.group.rank, None, self.group.world)
        return torch.from_numpy(frames[mine]), torch.from_numpy(masks[mine])


def leave_signals_alone(_: int) -> None:
    """A worker ends with its run, which saves first when the whole process group is told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)


def check_shares(recipe: Recipe, group: Group) -> None:
    """Refuse batches that the processes cannot share evenly.

    Raises:
        RecipeError: naming the size.
    """
    for size in sorted(set(recipe.sizes)):
        if (count := batch_of(recipe, size)) % group.world:
            share = f"{count} crops of {size} px cannot be shared evenly by {group.world} processes"
            raise RecipeError(f"recipe {recipe.name!r}: batch: {share}; a multiple of {group.world} can")


def feed(
    samples: Sequence[Sample | Scene], recipe: Recipe, first: int, group: Group, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the frames and masks of step ``first`` and those after it, a share of each step's batch.

    Args:
        samples: the frames to draw from.
        recipe: says how.
        first: the first step.
        group: the processes that the batches are shared by.
        workers: processes that make batches ahead; 0 makes each when it is asked for.
    """
    loader = DataLoader(
        _Steps(SharedSamples(samples) if workers else samples, recipe, group),
        batch_size=None,
        sampler=range(first, recipe.steps),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        worker_init_fn=leave_signals_alone,
        # not fork: a copy of a process whose threads (OpenMP's, OpenCV's) it lacks waits for them for ever
        multiprocessing_context="forkserver" if workers else None,
        pin_memory=group.device.type == "cuda",
    )
    return iter(loader)
