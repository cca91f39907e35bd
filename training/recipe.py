"""Recipes: what a training run is, as one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from engine.keys import first_fault, no_such_key, read_yaml


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file and the key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Side = Annotated[int, Field(ge=8)]
Share = Annotated[float, Field(ge=0, le=1)]


Background = Literal["cloud", "terrain", "sea", "buildings", "trees", "people", "overlays"]


class NetworkRecipe(_Strict):
    """The network to train; see training.model.NetworkConfig."""

    stages: Annotated[int, Field(ge=1, le=16)] = 6
    channels: Annotated[int, Field(ge=1)] = 32
    bottleneck: Annotated[int, Field(ge=1)] = 4
    carry_noise: bool = True
    rebuild: bool = True  # False leaves out F and M: every stage is given the frame itself


class DataRecipe(_Strict):
    """One data set to train on: a folder below the data folder, one of its splits, and its weight in the mix."""

    set: str
    split: str = "train"
    repeat: Annotated[int, Field(ge=1)] = 1
    set_aside: Annotated[int, Field(ge=0)] = 0  # every n-th frame (by CRC of its name) is left out altogether
    clips: list[str] | None = None  # of a set of labelled video; None for all
    box_targets: bool = False  # of labelled video: masks made of the targets that stand clearly out of their boxes
    every: Annotated[int, Field(ge=1)] = 10  # of its frames, those whose number is a multiple of it
    frames: Annotated[int, Field(ge=1)] = 1000  # of the set "scene", which is drawn: as likely as so many frames
    backgrounds: Annotated[list[Background], Field(min_length=1)] = list(get_args(Background))

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        scene, of_scenes = self.set == "scene", ("frames", "backgrounds")
        why = "a scene is drawn; frames says how often" if scene else "of the set scene alone"
        for key, field in type(self).model_fields.items():
            if key != "set" and (key in of_scenes) != scene and getattr(self, key) != field.default:
                raise ValueError(f"{key}: {why}")
        return self


class AugmentRecipe(_Strict):
    """How crops are varied; see training.data.Augmentation."""

    gain: Annotated[float, Field(ge=1)] = 1.0
    bias: Share = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    noise_share: Share = 0.5
    poisson: Annotated[float, Field(ge=0)] = 0.0
    stripes: Annotated[float, Field(ge=0)] = 0.0
    salt_pepper: Share = 0.0
    agc: Share = 0.0
    scale: Annotated[float, Field(ge=1)] = 1.0
    paste: Share = 0.0
    away: Share = 0.0


class Recipe(_Strict):
    """A training run; its length is either ``steps`` or ``epochs``.

    A part of every data set (by CRC of the frames' names) is held out of training; the best checkpoint is the one
    whose EMA weights score the highest IoU there. With ``held_out: 0`` every frame is trained on and the last EMA
    weights are the best.
    """

    name: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0  # what NumPy and PyTorch both take
    network: NetworkRecipe = NetworkRecipe()
    data: Annotated[list[DataRecipe], Field(min_length=1)]
    held_out: Literal[0] | Annotated[int, Field(ge=2)] = 10  # one frame in so many
    steps: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[int, Field(ge=0)] = 0  # of as many crops as there are frames
    batch: Annotated[int, Field(ge=1)] = 8  # over all processes
    sizes: Annotated[list[Side], Field(min_length=1)] = [256]  # one drawn a step; the batch keeps its pixels
    target_share: Share = 0.0
    augment: AugmentRecipe = AugmentRecipe()
    optimizer: Literal["adam", "soap"] = "adam"  # soap: Adam in the eigenbasis of Shampoo's preconditioner
    rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["poly", "cosine"] = "poly"
    warm_up: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of M's convolutions; on a CPU float16 is float32
    compile: bool = False  # torch.compile, on a GPU
    graph: bool = True  # forward and backward as one CUDA graph, on one GPU
    pool: Annotated[int, Field(ge=0)] = 0  # crops of each size, drawn once and kept on a GPU; 0 draws anew
    freeze_norm: bool = False  # batch norm keeps the statistics it starts with: right for batches of one
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest gradient norm; 0 leaves gradients alone
    pixel_weight: Annotated[float, Field(ge=0)] = 0.0  # of the pixels' cross-entropy
    target_weight: Annotated[float, Field(ge=0)] = 0.0  # of the target pixels' cross-entropy
    fidelity_weight: Annotated[float, Field(ge=0)] = 0.1
    fidelity_every: Annotated[int, Field(ge=1)] = 1  # steps; the weight is multiplied to make up for it
    deep_supervision: Annotated[float, Field(ge=0)] = 0.0  # weight of the earlier stages' targets
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    evaluate_every: Annotated[int, Field(ge=1)] = 500

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if (self.steps > 0) == (self.epochs > 0):
            raise ValueError("give either steps or epochs, greater than 0")
        if self.steps and self.warm_up >= self.steps:
            raise ValueError(f"warm_up: {self.warm_up} of {self.steps} steps; fewer are expected")
        if self.fidelity_weight and not self.network.rebuild:
            raise ValueError("fidelity_weight: without network.rebuild nothing rebuilds the frame; 0 is expected")
        return self


BELOW: dict[str, type[BaseModel]] = {"network": NetworkRecipe, "data": DataRecipe, "augment": AugmentRecipe}
ALL_KEYS = ("base", *Recipe.model_fields)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    A recipe may say ``base: FILE.yaml``, beside it, and then only what differs: its keys replace the base's, those
    of ``network`` and ``augment`` one by one.

    Raises:
        RecipeError: naming the file and, where it is one, the key.
    """
    try:
        return Recipe.model_validate(_read_yaml(path, ()))
    except ValidationError as error:
        first = first_fault(error)
        key = ".".join(str(part) for part in first["loc"]) or "(top)"
        raise RecipeError(f"{path}: {key}: {_explain(first)}") from None


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Return the keys whose values differ between two recipes, those of ``network`` and ``augment`` one by one."""
    return _differing(one.model_dump(), other.model_dump(), "")


def _differing(one: dict[str, Any], other: dict[str, Any], above: str) -> list[str]:
    keys: list[str] = []
    for key, value in one.items():
        if isinstance(value, dict):
            keys += _differing(value, other[key], f"{above}{key}.")
        elif value != other[key]:
            keys.append(above + key)
    return keys


def _explain(fault: ErrorDetails) -> str:
    """Say what is wrong with a key, and what would be right."""
    if fault["type"] == "extra_forbidden":
        known = list(BELOW.get(str(fault["loc"][0]), Recipe).model_fields if len(fault["loc"]) > 1 else ALL_KEYS)
        return no_such_key(fault["loc"][-1], known)
    if fault["type"] == "missing":
        return "this key is needed"
    if fault["type"] == "model_type":
        return "a map of keys is expected" + ("" if fault["loc"] else ", such as 'name: mine'")
    return fault["msg"].removeprefix("Value error, ")


def _read_yaml(path: Path, above: tuple[Path, ...]) -> object:
    """Return a file's content over its base's; ``above`` are the files that led here."""
    try:
        raw: object = read_yaml(path.read_text())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; a recipe is a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict) or "base" not in raw:
        return raw
    name = raw.pop("base")
    if not isinstance(name, str) or not (base := path.parent / name).is_file():
        raise RecipeError(f"{path}: base: {name!r} is no file beside it; it names the recipe that this one changes")
    if base.resolve() in above:
        raise RecipeError(f"{path}: base: {name} leads back to itself")
    found = _read_yaml(base, (*above, path.resolve(), base.resolve()))
    return _over(found, raw) if isinstance(found, dict) else raw


def _over(base: dict[Any, Any], keys: dict[Any, Any]) -> dict[Any, Any]:
    """Return ``base`` with ``keys`` in place of its own, those of mappings one by one."""
    merged = dict(base)
    for key, value in keys.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
