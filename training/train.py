"""Train an RPCANet+: ``python -m training.train RECIPE.yaml --data FOLDER --run FOLDER``."""

from __future__ import annotations

import csv
import json
import signal
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from training.data import Augmentation, DataError, Sample, make_batch, part_of, read_split
from training.losses import fidelity_loss, pixel_loss, soft_iou_loss, target_loss
from training.metrics import Tally
from training.model import NetworkConfig, RPCANetPlus
from training.recipe import Recipe, RecipeError, read_recipe
from training.weights import WeightsError, load_network, save_network

HELD_OUT_PARTS = 10
STOPS = (signal.SIGTERM, signal.SIGINT)


def split_samples(recipe: Recipe, data: Path) -> tuple[list[Sample], list[Sample]]:
    """Return the frames to train on and the held-out tenth that the checkpoint is chosen on."""
    train: list[Sample] = []
    held_out: list[Sample] = []
    for part in recipe.data:
        samples = read_split(data / part.set, part.split)
        if part.set_aside:
            samples = [s for s in samples if part_of(s.name, part.set_aside) != 0]
        train += [s for s in samples if part_of(s.name, HELD_OUT_PARTS) != 0] * part.repeat
        held_out += [s for s in samples if part_of(s.name, HELD_OUT_PARTS) == 0]
    if not train or not held_out:
        counts = f"{len(train)} frames to train on and {len(held_out)} held out"
        raise DataError(f"{data}: {counts} after recipe {recipe.name!r} chose; there must be some of both")
    return train, held_out


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate of a step: linear warm-up, then poly 0.9 (the authors') or cosine down to zero."""
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    left = 1 - step / recipe.steps
    shape = left**0.9 if recipe.schedule == "poly" else 0.5 * (1 + np.cos(np.pi * (1 - left)))
    return float(recipe.rate * shape)


def loss_of(network: RPCANetPlus, frames: Tensor, masks: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return a step's loss: soft IoU and cross-entropy of the last T, soft IoU of the earlier ones, fidelity of D."""
    whole = recipe.fidelity_weight > 0 and step % recipe.fidelity_every == 0
    stages = network.decompose(frames, whole=whole)
    loss = soft_iou_loss(stages[-1].target, masks)
    if recipe.pixel_weight:
        loss = loss + recipe.pixel_weight * pixel_loss(stages[-1].target, masks)
    if recipe.target_weight:
        loss = loss + recipe.target_weight * target_loss(stages[-1].target, masks)
    if recipe.deep_supervision and len(stages) > 1:
        earlier = [soft_iou_loss(stage.target, masks) for stage in stages[:-1]]
        loss = loss + recipe.deep_supervision * torch.stack(earlier).mean()
    if whole:
        assert stages[-1].frame is not None
        loss = loss + recipe.fidelity_weight * recipe.fidelity_every * fidelity_loss(stages[-1].frame, frames)
    return loss


@torch.no_grad()
def score(network: RPCANetPlus, samples: list[Sample], device: torch.device) -> dict[str, float]:
    """Return the figures of a network over whole frames at native size."""
    tally = Tally()
    network.eval()
    for sample in samples:
        frame = torch.from_numpy(sample.frame).to(device).float()[None, None] / 255
        tally.add((network(frame)[0, 0] > 0).cpu().numpy(), sample.mask)
    network.train()
    return tally.report()


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the network's; early on, the average is short."""
    decay = min(decay, (1 + step) / (10 + step))
    for mine, its in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(its, 1 - decay)
        else:
            mine.copy_(its)


def _begin_with(network: RPCANetPlus, start: Path) -> None:
    """Load the first stages of a network from a run's folder or a weights file, of as many stages or fewer."""
    found = _last_network(start) if start.is_dir() else load_network(start)[0]
    if len(found.stages) > len(network.stages):
        raise WeightsError(f"{start}: weights of {len(found.stages)} stages; the recipe has {len(network.stages)}")
    try:
        for mine, its in zip(network.stages, found.stages, strict=False):
            mine.load_state_dict(its.state_dict())
    except RuntimeError:
        raise WeightsError(f"{start}: weights of other widths or depths than the recipe's") from None


def _last_network(folder: Path) -> RPCANetPlus:
    """Return the network that a run was training when it was last saved."""
    state, recipe = _read_checkpoint(folder / "last.pt", torch.device("cpu"))
    network = RPCANetPlus(NetworkConfig(**recipe.network.model_dump()))
    network.load_state_dict(state["network"])
    return network


def _read_checkpoint(path: Path, device: torch.device) -> tuple[dict[str, Any], Recipe]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return state, Recipe.model_validate_json(state["recipe"])  # a key newer than the run has its default there
    except Exception as error:  # torch.load raises whatever the bytes led it to
        said = " ".join(str(error).split())[:200]
        raise RecipeError(f"{path}: not a checkpoint of this program ({said}); remove it to start anew") from None


class Run:
    """A training run in its folder: recipe, log, checkpoint, best weights; it goes on where it stopped."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device, start: Path | None = None) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        torch.manual_seed(recipe.seed)
        network = RPCANetPlus(NetworkConfig(**recipe.network.model_dump()))
        if start:
            _begin_with(network, start)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network)
        if recipe.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), recipe.rate, fused=True)
        self.step = 0
        self.best = -1.0
        folder.mkdir(parents=True, exist_ok=True)
        if (checkpoint := folder / "last.pt").exists():
            self._restore(checkpoint)
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2))

    def _restore(self, path: Path) -> None:
        state, recipe = _read_checkpoint(path, self.device)
        if recipe != self.recipe:
            raise RecipeError(f"{path}: this run was started with another recipe; choose another --run folder")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self._forget_log()

    def _forget_log(self) -> None:
        """Drop the log's rows that a killed run wrote after its last checkpoint: they will come again."""
        log = self.folder / "log.csv"
        if log.exists():
            rows = log.read_text().splitlines(keepends=True)
            log.write_text("".join([*rows[:1], *(row for row in rows[1:] if int(row.split(",")[0]) <= self.step)]))

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        state = {
            "recipe": self.recipe.model_dump_json(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
        }
        torch.save(state, self.folder / "last.pt.new")
        (self.folder / "last.pt.new").replace(self.folder / "last.pt")

    def advance(self, samples: list[Sample]) -> float:
        """Take one step and return its loss. A step's data depend on seed and step alone."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, self.step])
        size = int(rng.choice(recipe.sizes))
        batch = max(1, round(recipe.batch * (max(recipe.sizes) / size) ** 2)) if len(recipe.sizes) > 1 else recipe.batch
        augment = Augmentation(**recipe.augment.model_dump())
        crops = make_batch(samples, rng, batch, size, recipe.target_share, augment)
        frames, masks = (torch.from_numpy(array).to(self.device) for array in crops)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        loss = loss_of(self.network, frames, masks, recipe, self.step)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.optimizer.step()
        update_ema(self.average, self.network, recipe.ema, self.step)
        self.step += 1
        return float(loss.detach())

    def evaluate(self, held_out: list[Sample], loss: float) -> dict[str, float]:
        """Score the averaged weights on the held-out frames, keep them if they are the best, and log."""
        figures = score(self.average, held_out, self.device)
        if figures["iou"] > self.best:
            self.best = figures["iou"]
            save_network(
                self.average,
                self.folder / "best.safetensors",
                recipe=self.recipe.model_dump_json(),
                step=str(self.step),
                held_out=json.dumps(figures),
            )
        row = {"step": self.step, "loss": loss, "rate": learning_rate(self.recipe, self.step - 1), **figures}
        log = self.folder / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        return figures


def _steps(run: Run, minutes: float | None) -> Iterator[int]:
    """Yield until the recipe's last step, the time budget, SIGTERM or Ctrl-C."""
    stopped: list[int] = []
    before = [signal.signal(number, lambda number, _: stopped.append(number)) for number in STOPS]
    end = time.monotonic() + (minutes * 60 if minutes is not None else float("inf"))
    try:
        while run.step < run.recipe.steps and not stopped and time.monotonic() < end:
            yield run.step
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


def train(recipe: Recipe, data: Path, folder: Path, minutes: float | None, start: Path | None = None) -> Run:
    """Train until the recipe is done or the time is up; call again to go on."""
    samples, held_out = split_samples(recipe, data)
    run = Run(recipe, folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"), start)
    name, say = TextColumn("{task.description}"), TextColumn("{task.fields[say]}")
    with Progress(name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), say) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=run.step, say="")
        losses: list[float] = []
        for _ in _steps(run, minutes):
            losses.append(run.advance(samples))
            progress.update(bar, completed=run.step)
            if run.step % recipe.evaluate_every == 0 or run.step == recipe.steps:
                loss = float(np.mean(losses))
                iou = run.evaluate(held_out, loss)["iou"]
                said = f"loss {loss:.4f} held-out IoU {iou:.4f} best {run.best:.4f}"
                progress.update(bar, say=said)
                progress.console.print(f"step {run.step} {said}")
                losses.clear()
                run.save()
    run.save()
    return run


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file (see configs/training).")],
    data: Annotated[Path, typer.Option(help="The folder that holds the data sets.")],
    run: Annotated[Path, typer.Option(help="The run's folder; a run that is there goes on.")],
    minutes: Annotated[float | None, typer.Option(help="Stop after this time, everything saved.", min=0)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    start: Annotated[
        Path | None, typer.Option(help="A run or weights (as many stages or fewer) to begin with.")
    ] = None,
) -> None:
    """Train a network; stopping it (SIGTERM, --minutes) loses nothing."""
    if threads:
        torch.set_num_threads(threads)
    try:
        train(read_recipe(recipe), data, run, minutes, start)
    except (RecipeError, DataError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
