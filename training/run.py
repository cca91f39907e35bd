"""A training run in its folder: what it has learned, one step more, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from training.data import Sample
from training.distributed import Group, GroupError
from training.losses import loss_of, needs_frame
from training.metrics import Tally
from training.model import Decomposition, NetworkConfig, RPCANetPlus, Stage
from training.recipe import Recipe, RecipeError, differing_keys
from training.schedule import learning_rate
from training.soap import Soap
from training.step_graph import StepGraph
from training.weights import WeightsError, load_network, save_network

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.no_grad()
def score(network: RPCANetPlus, samples: Sequence[Sample], device: torch.device) -> dict[str, float]:
    """Return the figures of a network, in evaluation mode, over whole frames at native size."""
    tally = Tally()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):  # frames of many sizes, each seen once
        for sample in samples:
            frame = torch.from_numpy(sample.frame).to(device).float()[None, None] / 255
            tally.add((network(frame)[0, 0] > 0).cpu().numpy(), sample.mask)
    return tally.report()


class Average:
    """The exponential moving average of a network's weights; early on, it is short."""

    def __init__(self, network: RPCANetPlus, decay: float) -> None:
        self.network = deepcopy(network).eval()
        self.decay = decay
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # weights, then counts: averages, what they follow

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the weights, of the same network every time, after a step."""
        if not self._pairs:  # looking for them takes longer than following them
            values = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
            for floating in (True, False):
                chosen = [pair for pair in values if pair[0].dtype.is_floating_point == floating]
                self._pairs.append(([average for average, _ in chosen], [value for _, value in chosen]))
        (weights, new_weights), (counts, new_counts) = self._pairs
        # one launch each on a GPU, not hundreds
        torch._foreach_lerp_(weights, new_weights, 1 - min(self.decay, (1 + step) / (10 + step)))
        torch._foreach_copy_(counts, new_counts)


class _Stages(nn.Module):
    """A network's stages as a forward, which is what DistributedDataParallel and torch.compile take."""

    def __init__(self, network: RPCANetPlus) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor, whole: bool) -> list[Decomposition]:
        return self.network.decompose(frames, whole)


class Run:
    """A training run: network, average, optimizer and step; it goes on where its folder says it stopped.

    Nothing random is kept: a step's data depend on the seed and the step alone, and the network draws nothing.
    """

    def __init__(self, recipe: Recipe, folder: Path, group: Group, start: Path | None = None) -> None:
        self.recipe, self.folder, self.group = recipe, folder, group
        torch.manual_seed(recipe.seed)
        network = RPCANetPlus(NetworkConfig(**recipe.network.model_dump()))
        checkpoint = folder / "last.pt"
        goes_on = checkpoint.exists()
        self.start = str(start) if start and not goes_on else None  # what it began with
        if start and not goes_on:
            _begin_with(network, start)
        network = network.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(network, recipe.ema)
        self.network = network
        self.stages = self._prepared()
        self.optimizer = _optimizer_of(recipe, self.network)
        half = recipe.precision == "float16" and group.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=half)
        self._graphs: dict[tuple[int | bool, ...], StepGraph] = {}
        self.step = 0
        self.best = -1.0
        self.stopped = False  # by a signal
        self.losses = torch.zeros(2, device=group.device)  # their sum since the last evaluation, and how many
        if goes_on:
            self._restore(checkpoint)
        if group.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "recipe.json").write_text(recipe.model_dump_json(indent=2))

    def _prepared(self) -> nn.Module:
        """Return what a step calls: the network as the recipe and the processes want it."""
        cuda = self.group.device.type == "cuda"
        if self.recipe.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        elif self.group.world > 1 and not cuda:
            said = "several CPU processes cannot share batch norm's statistics; freeze_norm: true does without"
            raise GroupError(f"recipe {self.recipe.name!r}: freeze_norm: {said}")
        elif self.group.world > 1:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        stages: nn.Module = _Stages(self.network)
        if self.recipe.compile and cuda:
            for stage in self.network.stages:  # one by one: all are alike, and compiled once
                assert isinstance(stage, Stage)
                stage.split = torch.compile(stage.split, dynamic=False)  # type: ignore[method-assign]
                stage.rebuild = torch.compile(stage.rebuild, dynamic=False)  # type: ignore[method-assign]
        if self.group.world > 1:
            always = self.recipe.fidelity_weight > 0 and self.recipe.fidelity_every == 1
            stages = DistributedDataParallel(
                stages, [self.group.device] if cuda else None, find_unused_parameters=not always
            )
        return stages

    def _restore(self, path: Path) -> None:
        state, recipe = _read_checkpoint(path, self.group.device)
        if recipe != self.recipe:
            keys = ", ".join(differing_keys(recipe, self.recipe))
            said = f"this run was started with another recipe, which differs in {keys}"
            raise RecipeError(f"{path}: {said}; choose another --run folder")
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        self.losses = state.get("losses", self.losses)
        self.start = state.get("start")

    def check(self) -> None:
        """Refuse to go on where a loss since the last evaluation, or a weight, is not finite.

        It waits for the device. Processes agree: losses and weights are the same in all.

        Raises:
            RecipeError: naming the step that it was seen at.
        """
        what = "" if bool(self.losses.isfinite().all()) else "loss"
        values = [value.isfinite().all() for value in self.network.state_dict().values()]
        if not what and not bool(torch.stack(values).all()):
            what = "network"
        if what:
            raise self._not_finite(what)

    def _not_finite(self, what: str) -> RecipeError:
        said = f"at step {self.step} the {what} is not finite; a lower rate or a clip may keep it so"
        return RecipeError(f"recipe {self.recipe.name!r}: rate: {said}; {self.folder} is as it was last saved")

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        if self.group.rank:
            return
        state = {
            "recipe": self.recipe.model_dump_json(),
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "losses": self.losses,
            "start": self.start,
        }
        torch.save(state, self.folder / "last.pt.new")
        (self.folder / "last.pt.new").replace(self.folder / "last.pt")

    def advance(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Take one step on this process's share of its batch and return its loss, which no one has waited for.

        Args:
            frames: in [0, 1], ``[batch, 1, size, size]``.
            masks: truth, 0 or 1, of the same shape.
        """
        recipe, device = self.recipe, self.group.device
        frames, masks = (part.to(device, non_blocking=True) for part in (frames, masks))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        whole = needs_frame(recipe, self.step)
        if recipe.graph and device.type == "cuda" and self.group.world == 1:
            kind = (*frames.shape, whole)
            if kind not in self._graphs:
                step = partial(self._forward_and_back, whole=whole)
                self._graphs[kind] = StepGraph(self.network, step, frames, masks)
            loss = self._graphs[kind].replay(frames, masks)
        else:
            self.optimizer.zero_grad()
            loss = self._forward_and_back(frames, masks, whole)
        if recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        try:
            self.scaler.step(self.optimizer)
        except LinAlgError:  # SOAP looks for a basis of what its first gradients are
            raise self._not_finite("gradient") from None
        self.scaler.update()
        self.average.update(self.network, self.step)
        self.step += 1
        loss = self.group.mean(loss)
        self.losses += torch.stack([loss, torch.ones_like(loss)])
        return loss

    def _forward_and_back(self, frames: Tensor, masks: Tensor, whole: bool) -> Tensor:
        """Return a batch's loss; its gradients, scaled, are added to what is there."""
        recipe, device = self.recipe, self.group.device
        target_pixels = self.group.mean(masks.sum()).clamp(min=1 / self.group.world) if recipe.target_weight else None
        mixed = recipe.precision == "bfloat16" or (device.type == "cuda" and recipe.precision == "float16")
        with torch.autocast(device.type, PRECISIONS[recipe.precision], enabled=mixed):
            stages = self.stages(frames, whole)
        loss = loss_of(stages, frames, masks, recipe, target_pixels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def evaluate(self, held_out: Sequence[Sample]) -> dict[str, float]:
        """Score the averaged weights on the held-out frames, keep them, also as the best if so, and return a log's row.

        Where nothing is held out, the latest are the best.
        """
        figures = score(self.average.network, held_out, self.group.device) if held_out else {}
        names = ["last"]
        if not held_out or figures["iou"] > self.best:
            self.best = figures.get("iou", -1.0)
            names.append("best")
        said = {"recipe": self.recipe.model_dump_json(), "step": str(self.step), "held_out": json.dumps(figures)}
        for name in names:
            save_network(self.average.network, self.folder / f"{name}.safetensors", **said)
        return {**self.progress(), **figures}

    def progress(self) -> dict[str, float]:
        """Return the step, the mean loss since the last evaluation and the rate of the last step."""
        loss = float(self.losses[0] / self.losses[1].clamp(min=1))
        return {"step": self.step, "loss": loss, "rate": learning_rate(self.recipe, max(self.step - 1, 0))}


def _optimizer_of(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), recipe.rate, fused=True)
    return Soap(network.parameters(), recipe.rate)


def _begin_with(network: RPCANetPlus, start: Path) -> None:
    """Load the first stages of a network from a run's folder or a weights file, of as many stages or fewer."""
    found = _last_network(start) if start.is_dir() else load_network(start)[0]
    if len(found.stages) > len(network.stages):
        raise WeightsError(f"{start}: weights of {len(found.stages)} stages; the recipe has {len(network.stages)}")
    if len(found.stages) > 1 and found.config.rebuild != network.config.rebuild:
        wanted, has = (str(each.config.rebuild).lower() for each in (network, found))
        raise WeightsError(f"{start}: weights of network.rebuild {has}; the recipe has {wanted}")
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
    except FileNotFoundError:
        raise RecipeError(f"{path}: no checkpoint there") from None
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from None
    except torch.cuda.OutOfMemoryError:
        raise RecipeError(f"{path}: the GPU has no room for this checkpoint; another program may use it") from None
    except Exception as error:  # torch.load raises whatever the bytes led it to
        said = " ".join(str(error).split())[:200]
        raise RecipeError(f"{path}: not a checkpoint of this program ({said}); remove it to start anew") from None
