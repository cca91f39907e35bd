"""Crops drawn once and kept on the device: a fast GPU takes more crops a second than processors can make."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data import Augmentation, Sample, Scene, make_batch
from training.distributed import Group
from training.feed import batch_of, leave_signals_alone
from training.recipe import Recipe
from training.shared import SharedSamples

CHUNK = 16  # crops that are drawn together, by one process; a few of them at once must fit into shared memory


class _Chunks(Dataset[Any]):
    """A pool's crops of one size, ``CHUNK`` at a time; they depend on the seed alone."""

    def __init__(self, samples: Sequence[Sample | Scene], recipe: Recipe, size: int) -> None:
        self.samples, self.recipe, self.size = samples, recipe, size

    def __len__(self) -> int:
        return math.ceil(self.recipe.pool / CHUNK)

    def __getitem__(self, chunk: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.size, chunk])
        count = min(CHUNK, recipe.pool - chunk * CHUNK)
        augment = Augmentation(**recipe.augment.model_dump())
        frames, masks = make_batch(self.samples, rng, count, self.size, recipe.target_share, augment)
        levels: NDArray[np.uint8] = np.rint(frames * 255).astype(np.uint8)
        return torch.from_numpy(levels), torch.from_numpy(masks.astype(np.uint8))


def draw_pool(
    samples: Sequence[Sample | Scene], recipe: Recipe, size: int, device: torch.device, workers: int
) -> tuple[Tensor, Tensor]:
    """Draw a recipe's pool of crops of one size.

    Args:
        samples: the frames to draw from.
        recipe: says how, and how many (``pool``).
        size: side of a crop in pixels.
        device: where they are kept.
        workers: processes that draw; 0 draws here.

    Returns:
        Grey levels and masks 0 or 1, uint8 ``[pool, 1, size, size]``.
    """
    shape = (recipe.pool, 1, size, size)
    frames, masks = (torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2))
    loader = DataLoader(
        _Chunks(SharedSamples(samples) if workers else samples, recipe, size),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_alone,
        multiprocessing_context="forkserver" if workers else None,
    )
    start = 0
    for levels, truth in loader:
        frames[start : start + len(levels)] = levels.to(device)
        masks[start : start + len(truth)] = truth.to(device)
        start += len(levels)
    return frames, masks


def turned(crops: Tensor, ways: Tensor) -> Tensor:
    """Return square crops, each in one of its eight turns and reflections.

    Args:
        crops: ``[batch, 1, size, size]``.
        ways: int64 ``[batch]``, 0 to 7; 0 leaves a crop as it is.
    """
    ways = ways[:, None, None, None]
    crops = torch.where((ways & 4) > 0, crops.transpose(2, 3), crops)
    crops = torch.where((ways & 2) > 0, crops.flip(2), crops)
    return torch.where((ways & 1) > 0, crops.flip(3), crops)


def pool_feed(
    samples: Sequence[Sample | Scene], recipe: Recipe, first: int, group: Group, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw a pool and return what yields a share of every step's batch, from step ``first`` on, out of it.

    It yields what ``training.feed.feed`` does. Which crops a step takes, and how they are turned, depends on the seed
    and the step alone.
    """
    sizes = sorted(set(recipe.sizes))
    if group.rank == 0:
        print(f"drawing {recipe.pool} crops of {', '.join(map(str, sizes))} px ...", file=sys.stderr)
    pools = {size: draw_pool(samples, recipe, size, group.device, workers) for size in sizes}
    return _from_pools(pools, recipe, first, group)


def _from_pools(
    pools: dict[int, tuple[Tensor, Tensor]], recipe: Recipe, first: int, group: Group
) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(first, recipe.steps):
        rng = np.random.default_rng([recipe.seed, step])
        size = int(rng.choice(recipe.sizes))
        drawn = rng.integers(0, (recipe.pool, 8), (batch_of(recipe, size), 2))[group.rank :: group.world]
        chosen, ways = torch.from_numpy(drawn).to(group.device, non_blocking=True).unbind(1)
        frames, masks = pools[size]
        yield turned(frames[chosen], ways).float() / 255, turned(masks[chosen], ways).float()
