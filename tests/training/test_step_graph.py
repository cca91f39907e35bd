"""A recorded step is the step that was recorded."""

import pytest
import torch

from training.distributed import Group
from training.recipe import Recipe
from training.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

RECIPE = {
    "name": "graphed",
    "network": {"stages": 2},
    "data": [{"set": "none"}],
    "steps": 100,
    "batch": 2,
    "sizes": [64],
    "rate": 1e-3,
    "clip": 1.0,
    "target_weight": 0.02,
    "fidelity_every": 3,
    "deep_supervision": 0.5,
    "ema": 0.9,
}


def weights_after(tmp_path, steps, **changes):
    """Return the weights and statistics after some steps on noise, and the last loss."""
    run = Run(Recipe.model_validate(RECIPE | changes), tmp_path / str(changes), Group(torch.device("cuda")))
    noise = torch.Generator().manual_seed(0)
    for _ in range(steps):
        frames = torch.rand(2, 1, 64, 64, generator=noise)
        loss = float(run.advance(frames, (frames > 0.99).float()))
    return torch.cat([value.flatten().float() for value in run.network.state_dict().values()]), loss


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_replayed_step_is_the_step(tmp_path, precision):
    """With and without the loss that needs D, statistics of batch norm among it."""
    torch.backends.cudnn.benchmark = False
    eager, eager_loss = weights_after(tmp_path, 8, precision=precision, graph=False)
    replayed, loss = weights_after(tmp_path, 8, precision=precision, graph=True)
    assert loss == pytest.approx(eager_loss, rel=0.02)
    assert float((eager - replayed).norm() / eager.norm()) < 2e-3
