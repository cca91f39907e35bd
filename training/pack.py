"""Pack what a recipe trains on: ``python -m training.pack RECIPE.yaml --data FOLDER --out FOLDER``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from engine.one_line import one_line_errors, run_command
from training.data import read_whole
from training.packed import Packed, write_packed
from training.recipe import DataRecipe, Recipe, RecipeError, read_recipe
from training.sample import DataError
from training.sets import VIDEO, clips_there, is_video


def pack(recipe: Recipe, also: list[tuple[str, str]], data: Path, out: Path) -> list[Path]:
    """Write the splits that a recipe reads, whole, and others as named; return the files.

    Of labelled video the clips and frames that the recipe names are written. What is set aside or held out is
    written too: the program that reads a recipe leaves it out. Scenes are drawn, not read.
    """
    for name, _ in also:
        if name == "scene":
            raise DataError("--also scene: a scene is drawn, not read; an image set is expected")
        if is_video(data / name):
            raise DataError(f"--also {name}: labelled video has no splits; an image set is expected")
    # What was typed comes first: a split that is not there is said before minutes of packing.
    parts = [DataRecipe(set=name, split=split) for name, split in also]
    parts += [part for part in recipe.data if part.set != "scene"]
    paths: list[Path] = []
    done: set[tuple[str, str]] = set()
    for part in parts:
        folder = data / part.set
        split = VIDEO if is_video(folder) else part.split
        if (part.set, split) in done:
            continue
        done.add((part.set, split))
        packed = _gathered([other for other in parts if other.set == part.set], data, split)
        paths += write_packed(out / part.set, split, packed)
    return paths


def _gathered(parts: list[DataRecipe], data: Path, split: str) -> Packed:
    """Read one split for all parts of a recipe that use it, every frame once."""
    if split != VIDEO:
        return Packed(read_whole(DataRecipe(set=parts[0].set, split=split), data))
    there, all_there = clips_there(data / parts[0].set)
    clips = sorted({clip for part in parts for clip in (there if part.clips is None else part.clips)})
    every = math.gcd(*(part.every for part in parts))
    # Boxes are packed as they are: the program that reads a recipe looks for targets in them.
    denser = [part.model_copy(update={"every": every, "box_targets": False}) for part in parts]
    found = {sample.name: sample for part in denser for sample in read_whole(part, data)}
    return Packed([found[name] for name in sorted(found)], every, clips, all_there and clips == there)


@one_line_errors(RecipeError, DataError)
def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file (see configs/training).")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it is given as --data afterwards.")],
    also: Annotated[list[str] | None, typer.Option(help="A split of images to test on, SET:SPLIT; repeatable.")] = None,
) -> None:
    """Write the splits that a recipe needs as files of at most 60 MiB each."""
    named = [(name, split or "test") for name, _, split in (text.partition(":") for text in also or ())]
    for path in pack(read_recipe(recipe), named, data, out):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_command(main)
