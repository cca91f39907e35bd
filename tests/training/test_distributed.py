"""Processes that share a run follow the loss of one that runs alone."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from training.distributed import Group, GroupError, join
from training.feed import check_shares
from training.recipe import Recipe, RecipeError
from training.run import Run
from training.train import train

ROOT = Path(__file__).parents[2]
SHARED = {
    "name": "shared",
    "seed": 3,
    "network": {"stages": 2, "channels": 16, "bottleneck": 2},
    "data": [{"set": "dots"}],
    "steps": 12,
    "batch": 4,
    "sizes": [16],
    "target_share": 0.5,
    "rate": 0.01,
    "freeze_norm": True,
    "clip": 1.0,
    "pixel_weight": 1,
    "target_weight": 0.1,
    "fidelity_every": 3,
    "deep_supervision": 0.5,
    "ema": 0.9,
    "evaluate_every": 4,
}


def two_processes(folder, data, *more):
    """Start torchrun on the recipe in a folder."""
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "--",
        "training.train",
    ]
    asked = [*run, str(folder / "recipe.yaml"), "--data", str(data), "--run", str(folder / "two"), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(asked, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_two_processes_follow_the_loss_of_one(tiny_set, tmp_path):
    """The same global batch, split between two, gives the same losses, held-out figures and weights up to rounding."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SHARED))
    process = two_processes(tmp_path, tiny_set.parent)
    one = train(Recipe.model_validate(SHARED), tiny_set.parent, tmp_path / "one")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    logs = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("one", "two")]
    for key in ("step", "loss", "rate", "iou"):
        alone, shared = ([float(row[key]) for row in log] for log in logs)
        assert len(alone) == 3
        np.testing.assert_allclose(shared, alone, rtol=1e-4)
    shared_weights = torch.load(tmp_path / "two" / "last.pt", weights_only=True)["network"]
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(shared_weights[name], value, rtol=1e-2, atol=1e-4)


UNSHARED = [
    ("an odd batch", {"batch": 3}, RecipeError, "batch: 3 crops of 16 px cannot be shared evenly by 2 processes"),
    ("a size whose batch is odd", {"batch": 2, "sizes": [16, 13]}, RecipeError, "batch: 3 crops of 13 px"),
]


@pytest.mark.parametrize(("why", "said", "kind", "error"), UNSHARED, ids=[c[0] for c in UNSHARED])
def test_batches_that_cannot_be_shared(why, said, kind, error):
    """A batch that leaves a rest is refused with the key that would be right."""
    with pytest.raises(kind, match=error):
        check_shares(Recipe.model_validate({**SHARED, **said}), Group(torch.device("cpu"), 0, 2))


def test_batch_norm_is_not_shared_on_cpus(tmp_path):
    """Batch norm over a part of the batch would be another network's."""
    recipe = Recipe.model_validate({**SHARED, "freeze_norm": False})
    with pytest.raises(GroupError, match="freeze_norm: several CPU processes cannot share"):
        Run(recipe, tmp_path, Group(torch.device("cpu"), 0, 2))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_more_processes_than_gpus_are_refused_by_each(rank, monkeypatch):
    """By the first as well, which alone prints."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(GroupError, match="torchrun: 3 processes for 2 GPUs; start one for each"):
        join()
