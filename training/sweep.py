"""Run a folder of recipes into one table: ``python -m training.sweep FOLDER --data DATA --out OUT --seeds 0,1,2``."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from engine.one_line import one_line_errors, run_command
from training.cost import cost_of
from training.log import write_whole
from training.model import NetworkConfig
from training.recipe import Recipe, RecipeError, read_recipe
from training.train import ERRORS, train
from training.weights import load_network

FIGURES = ("iou", "niou", "pd", "fa")  # on the held-out frames, of the best checkpoint there
SUMMARY = "done.json"


def find_recipes(folder: Path) -> dict[str, Recipe]:
    """Read the recipes of a folder, by the file's stem; a file whose name begins with ``_`` is a base alone.

    Raises:
        RecipeError: if there is none, or one that cannot be used.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder; a sweep runs the .yaml files of a folder")
    paths = [path for path in sorted(folder.glob("*.yaml")) if not path.name.startswith("_")]
    if not paths:
        raise RecipeError(f"{folder}: no recipe in it; a sweep runs the .yaml files of a folder")
    recipes = {path.stem: read_recipe(path) for path in paths}
    for path in paths:
        if recipes[path.stem].held_out == 0:
            raise RecipeError(f"{path}: held_out: 0 leaves nothing to compare recipes on; a sweep needs 2 or more")
    return recipes


def parse_seeds(said: str) -> list[int]:
    """Return the seeds of a list such as ``0,1,2``.

    Raises:
        RecipeError: if it is none.
    """
    try:
        seeds = [int(part) for part in said.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise RecipeError(f"--seeds: {said!r} is not a list of different whole numbers such as 0,1,2")
    return seeds


def run_one(recipe: Recipe, data: Path, folder: Path, minutes: float | None, workers: int | None) -> bool:
    """Train a recipe to its end, from where it stopped; tell whether it got there and no signal came to stop.

    A run that did leaves ``done.json``: recipe and figures. It is not run again, and no data are read for it.
    """
    done = folder / SUMMARY
    if done.exists():
        try:  # a key newer than the run has its default there
            same = Recipe.model_validate(json.loads(done.read_text())["recipe"]) == recipe
        except (KeyError, TypeError, ValueError):
            same = False
        if not same:
            raise RecipeError(f"{done}: this run was of another recipe; choose another --out folder or remove {folder}")
        return True
    run = train(recipe, data, folder, minutes, workers=workers)
    if run.step < run.recipe.steps:
        return False
    _, metadata = load_network(folder / "best.safetensors")
    summary = {"recipe": json.loads(recipe.model_dump_json()), "held_out": json.loads(metadata["held_out"])}
    write_whole(done, json.dumps(summary, indent=2) + "\n")
    return not run.stopped


def row_of(name: str, recipe: Recipe, folders: Sequence[Path]) -> dict[str, Any]:
    """Return the table's row of a recipe: costs, and mean and spread of the figures over the seeds that are done."""
    cost = cost_of(NetworkConfig(**recipe.network.model_dump()))
    done = [json.loads((folder / SUMMARY).read_text())["held_out"] for folder in folders if (folder / SUMMARY).exists()]
    row: dict[str, Any] = {
        "recipe": name,
        "parameters": cost.parameters,
        "at_inference": cost.at_inference,
        "gmac": cost.gmac,
        "seeds": len(done),
    }
    for key in FIGURES:
        values = [figures[key] for figures in done]
        row[key] = float(np.mean(values)) if values else None
        row[f"{key}_spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return row


def write_tables(rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Write ``table.csv`` and ``table.md`` and return the latter's text."""
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        "| recipe | parameters | at inference | GMAC | seeds | IoU % | nIoU % | Pd % | Fa 1e-6 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [row["recipe"], f"{row['parameters']:,}", f"{row['at_inference']:,}", f"{row['gmac']:.2f}"]
        cells.append(str(row["seeds"]))
        cells += [_cell(row[key], row[f"{key}_spread"], 1e6 if key == "fa" else 100) for key in FIGURES]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "At inference: parameters and multiply-accumulates (one 256x256 frame) without what no target depends on: F "
        "and M of the last stage or, without network.rebuild, of all. "
        "Figures: the best checkpoint on the held-out part of the training splits, pixels for IoU and Fa, overlap for "
        "Pd; mean ± standard deviation over the seeds.",
        "",
    ]
    text = "\n".join(lines)
    (out / "table.md").write_text(text)
    return text


def _cell(mean: float | None, spread: float | None, factor: float) -> str:
    if mean is None:
        return "-"
    return f"{factor * mean:.2f}" + (f" ± {factor * spread:.2f}" if spread is not None else "")


def sweep(
    folder: Path, data: Path, out: Path, seeds: Sequence[int], minutes: float | None = None, workers: int | None = None
) -> bool:
    """Run every recipe with every seed, and tell whether all are done; call again to go on.

    Seeds are the outer loop: the table compares all recipes as soon as it can.
    """
    recipes = find_recipes(folder)
    end = time.monotonic() + 60 * minutes if minutes is not None else None
    out.mkdir(parents=True, exist_ok=True)
    done = True
    for seed in seeds:
        for name, recipe in recipes.items():
            left = None if end is None else max(0.0, (end - time.monotonic()) / 60)
            seeded = recipe.model_copy(update={"seed": seed, "name": f"{name} seed {seed}"})
            done = run_one(seeded, data, out / name / f"seed{seed}", left, workers)
            rows = [row_of(n, r, [out / n / f"seed{s}" for s in seeds]) for n, r in recipes.items()]
            text = write_tables(rows, out)
            if not done:
                break
        if not done:
            break
    print(text)
    return done


@one_line_errors(*ERRORS)
def main(
    folder: Annotated[Path, typer.Argument(help="The folder of recipes; files that begin with _ are bases alone.")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    out: Annotated[Path, typer.Option(help="Where runs and tables go; a sweep that is there goes on.")],
    seeds: Annotated[str, typer.Option(help="The seeds that each recipe is run with, in place of its own.")] = "0",
    minutes: Annotated[float | None, typer.Option(help="Stop after this time, everything saved.", min=0)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that prepare batches ahead.", min=0)] = None,
) -> None:
    """Run a folder of recipes and write one table; a recipe that is done is not run again."""
    if threads:
        torch.set_num_threads(threads)
    if not sweep(folder, data, out, parse_seeds(seeds), minutes, workers):
        print("stopped before all recipes were done; the same command goes on", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
