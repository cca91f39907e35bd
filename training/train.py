"""Train an RPCANet+: ``python -m training.train RECIPE.yaml --data FOLDER --run FOLDER``, or by ``torchrun``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.asides import tell
from engine.one_line import run_command
from training.data import DataError
from training.distributed import Group, GroupError, join, leave
from training.feed import check_shares, feed, split_samples
from training.log import Log, Meter, note_versions
from training.pool import pool_feed
from training.recipe import Recipe, RecipeError, read_recipe
from training.run import Run
from training.schedule import with_steps
from training.weights import WeightsError

STOPS = (signal.SIGTERM, signal.SIGINT)
REPORT_EVERY = 50  # steps; a report waits for the GPU, and no step in between does
MOST_WORKERS = 8
ERRORS = (RecipeError, DataError, WeightsError, GroupError)

__all__ = ["main", "split_samples", "train"]


def _steps(run: Run, minutes: float | None) -> Iterator[int]:
    """Yield until the recipe's last step, the time budget, SIGTERM or Ctrl-C; processes stop at the same step."""
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        if not stopped and run.group.rank == 0:
            tell("stopping after this step; everything is saved")
        stopped.append(number)
        run.stopped = True

    before = [signal.signal(number, stop) for number in STOPS]
    end = time.monotonic() + (minutes * 60 if minutes is not None else float("inf"))
    try:
        while run.step < run.recipe.steps and not run.group.any(bool(stopped) or time.monotonic() >= end):
            yield run.step
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


def _say_it_goes_on(run: Run, start: Path | None) -> None:
    """Say of a run that was there where it stands, and that ``--start`` has no say in it any more."""
    done = run.step >= run.recipe.steps
    tell(f"{run.folder}: {'done' if done else 'goes on'} at step {run.step} of {run.recipe.steps}")
    if start and str(start) != run.start:
        tell(f"--start {start}: not used, for the run there began with {run.start or 'random weights'}")


def train(
    recipe: Recipe,
    data: Path,
    folder: Path,
    minutes: float | None = None,
    start: Path | None = None,
    workers: int | None = None,
    group: Group | None = None,
) -> Run:
    """Train until the recipe is done or the time is up; call again to go on.

    Args:
        recipe: what to do.
        data: the folder that holds the data sets.
        folder: the run's; a run that is there goes on.
        minutes: the time budget of this call; None for as long as it takes.
        start: a run or weights, of as many stages or fewer, to begin with.
        workers: processes that make batches ahead; None for none on a CPU, which they would compete for.
        group: the processes that share the run; None to be alone.
    """
    group = group or Group(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if workers is None:
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) // group.world) if group.device.type == "cuda" else 0
    torch.backends.cudnn.benchmark = True  # a run sees few shapes
    samples, held_out = split_samples(recipe, data)
    recipe = with_steps(recipe, len(samples))
    run = Run(recipe, folder, group, start)
    check_shares(recipe, group)
    pooled = recipe.pool and group.device.type == "cuda"  # a CPU does not outrun what draws
    batches = (pool_feed if pooled else feed)(samples, recipe, run.step, group, workers)
    log = None
    if group.rank == 0:
        if run.step:
            _say_it_goes_on(run, start)
        note_versions(folder, run.step, group, run.start)
        log = Log(folder, run.step)
    meter = Meter()
    name, rate = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
    columns = (name, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with closing(log) if log else nullcontext(), Progress(*columns, disable=group.rank > 0) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=run.step, rate="")
        for _ in _steps(run, minutes):
            asked = time.monotonic()
            frames, masks = next(batches)  # [batch, 1, size, size] each
            meter.waited += time.monotonic() - asked
            meter.images += len(frames) * group.world
            loss = run.advance(frames, masks)
            progress.update(bar, completed=run.step)
            if run.step % REPORT_EVERY == 0:
                run.check()
            if log and run.step % REPORT_EVERY == 0:
                figures = {"loss": float(loss), "rate": run.progress()["rate"], **meter.read()}
                progress.update(bar, rate=f"{figures['images_per_s']:.1f} images/s")
                log.curve("train", figures, run.step)
            if run.step % recipe.evaluate_every == 0 or run.step == recipe.steps:
                run.check()
                if log:
                    row = run.evaluate(held_out)
                    log.evaluation(row)
                    said = f" held-out IoU {row['iou']:.4f} best {run.best:.4f}" if held_out else ""
                    progress.console.print(f"step {run.step} loss {row['loss']:.4f}{said}")
                run.losses.zero_()
                run.save()
                meter.skip()
                group.wait()
    run.check()
    run.save()
    group.wait()
    return run


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file (see configs/training).")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    run: Annotated[Path, typer.Option(help="The run's folder; a run that is there goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Stop after this time, everything saved.", min=0)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that prepare batches ahead.", min=0)] = None,
    start: Annotated[
        Path | None, typer.Option(help="A run or weights (as many stages or fewer) to begin with.")
    ] = None,
) -> None:
    """Train a network; stopping it (SIGTERM, --minutes) loses nothing."""
    if threads:
        torch.set_num_threads(threads)
    error_said = ""
    group: Group | None = None
    try:
        group = join()
        train(read_recipe(recipe), data, run, minutes, start, workers, group)
    except ERRORS as error:
        error_said = str(error)
    except OSError as error:
        error_said = f"{error.filename}: {error.strerror}"
    finally:
        if group:
            leave(group)
    if error_said:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the other processes would say the same
            print(f"error: {error_said}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    run_command(main)
