"""A pool holds crops as they were drawn, and a step takes the same of them whenever it is made."""

import numpy as np
import pytest
import torch

from training.distributed import Group
from training.feed import batch_of, split_samples
from training.pool import draw_pool, pool_feed, turned
from training.recipe import Recipe
from training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def recipe():
    return Recipe.model_validate(
        {
            "name": "pooled",
            "network": {"stages": 1, "channels": 16, "bottleneck": 2},
            "data": [{"set": "dots"}],
            "steps": 5,
            "batch": 4,
            "sizes": [16, 24],
            "pool": 70,
            "target_share": 1.0,
            "rate": 0.01,
            "evaluate_every": 3,
        }
    )


def test_a_pool_is_drawn_the_same_here_and_by_processes(recipe, tiny_set):
    """Chunks are seeded by their numbers; the last is what is left over, and frames keep their targets."""
    samples, _ = split_samples(recipe, tiny_set.parent)
    here, aside = (draw_pool(samples, recipe, 24, CPU, workers) for workers in (0, 2))
    for one, other in zip(here, aside, strict=True):
        assert one.shape == (70, 1, 24, 24)
        assert one.dtype == torch.uint8
        assert torch.equal(one, other)
    assert here[1].flatten(1).any(1).float().mean() > 0.5
    assert int(here[1].max()) == 1


def test_a_step_does_not_depend_on_those_before_it(recipe, tiny_set):
    """A run that goes on takes the crops that it would have taken; two processes share a batch."""
    samples, _ = split_samples(recipe, tiny_set.parent)
    alone = list(pool_feed(samples, recipe, 0, Group(CPU), 0))
    later = list(pool_feed(samples, recipe, 2, Group(CPU), 0))
    for one, other in zip(alone[2:], later, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    shares = [next(iter(pool_feed(samples, recipe, 0, Group(CPU, rank, 2), 0)))[0] for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), alone[0][0])
    assert 0 <= float(alone[0][0].min()) < float(alone[0][0].max()) <= 1


def test_the_eight_turns_are_eight_and_the_first_is_none():
    """Turned crops are those of NumPy's transposition and flips."""
    crop = torch.arange(9.0).reshape(1, 1, 3, 3)
    found = turned(crop.expand(8, 1, 3, 3), torch.arange(8))[:, 0].numpy()
    assert np.array_equal(found[0], crop[0, 0])
    assert len({each.tobytes() for each in found}) == 8
    assert np.array_equal(found[4], crop[0, 0].numpy().T)
    assert np.array_equal(found[5], crop[0, 0].numpy().T[:, ::-1])


def test_a_cpu_needs_no_pool(recipe, tiny_set, tmp_path):
    """A recipe made for a GPU trains on a CPU as if it named no pool: nothing is drawn that it does not use."""
    without = recipe.model_copy(update={"pool": 0})
    runs = [train(each, tiny_set.parent, tmp_path / str(each.pool)) for each in (recipe, without)]
    for one, other in zip(*(run.network.state_dict().values() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_a_pool_smaller_than_a_batch(recipe, tiny_set):
    """Its crops are taken more than once."""
    samples, _ = split_samples(recipe, tiny_set.parent)
    frames, _ = next(pool_feed(samples, recipe.model_copy(update={"pool": 3}), 0, Group(CPU), 0))
    assert len(frames) == batch_of(recipe, frames.shape[2]) > 3
