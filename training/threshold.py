"""Choose a threshold: ``python -m training.threshold RUN --data FOLDER`` tries them on the run's held-out frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from engine.one_line import one_line_errors, run_command
from training.data import DataError, Sample
from training.feed import split_samples
from training.metrics import Tally
from training.model import RPCANetPlus
from training.recipe import Recipe, RecipeError
from training.weights import WeightsError, first_stages, load_network

THRESHOLDS = tuple(round(float(p), 2) for p in np.arange(0.5, 1.0, 0.05))


@torch.no_grad()
def try_thresholds(network: RPCANetPlus, samples: Sequence[Sample]) -> dict[float, Tally]:
    """Return what each of ``THRESHOLDS``, a probability, finds in whole frames."""
    tallies = {threshold: Tally() for threshold in THRESHOLDS}
    for sample in samples:
        frame = torch.from_numpy(sample.frame).float()[None, None] / 255
        found = network(frame)[0, 0].sigmoid().numpy()
        for threshold, tally in tallies.items():
            tally.add(found > threshold, sample.mask)
    return tallies


@one_line_errors(WeightsError, DataError, RecipeError)
def main(
    run: Annotated[Path, typer.Argument(help="The folder of a run; its best weights are tried.")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets of its recipe.")],
    stages: Annotated[int | None, typer.Option(help="The first so many stages alone; by default all.", min=1)] = None,
) -> None:
    """Print the figures of thresholds on the frames that the run held out of training, never on test frames."""
    network, metadata = load_network(run / "best.safetensors")
    if "recipe" not in metadata:
        raise WeightsError(f"{run / 'best.safetensors'}: does not say its recipe; weights of a run are needed")
    if stages:
        network = first_stages(network, stages, run / "best.safetensors")
    _, held_out = split_samples(Recipe.model_validate_json(metadata["recipe"]), data)
    if not held_out:
        raise RecipeError(f"{run}: held_out: 0 leaves nothing to try thresholds on")
    columns = ("IoU", "precision", "recall", "Pd (overlap)", "Fa (overlap)", "false a frame")  # that 80 columns hold
    table = Table("threshold", *columns, title=f"{len(held_out)} held-out frames")
    for threshold, tally in try_thresholds(network, held_out).items():
        figures = tally.report()
        shares = (f"{figures[key]:.4f}" for key in ("iou", "precision", "recall", "pd"))
        false = figures["false_components"] / len(held_out)
        table.add_row(f"{threshold:.2f}", *shares, f"{figures['fa']:.2e}", f"{false:.3f}")
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
