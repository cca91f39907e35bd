"""Recipes: what a training run is, as one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file and the key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Side = Annotated[int, Field(ge=8)]
Share = Annotated[float, Field(ge=0, le=1)]


class NetworkRecipe(_Strict):
    """The network to train; see training.model.NetworkConfig."""

    stages: Annotated[int, Field(ge=1, le=16)] = 6
    channels: Annotated[int, Field(ge=1)] = 32
    bottleneck: Annotated[int, Field(ge=1)] = 4
    carry_noise: bool = True


class DataRecipe(_Strict):
    """One data set to train on: a folder below the data folder, one of its splits, and its weight in the mix."""

    set: str
    split: str = "train"
    repeat: Annotated[int, Field(ge=1)] = 1
    set_aside: Annotated[int, Field(ge=0)] = 0  # every n-th frame (by CRC of its name) is left out altogether
    clips: list[str] | None = None  # of a set of labelled video; None for all
    every: Annotated[int, Field(ge=1)] = 10  # of its frames, those whose number is a multiple of it


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
    """A training run.

    A tenth of every data set (by CRC of the frames' names) is held out of training; the best
    checkpoint is the one whose EMA weights score the highest IoU there.
    """

    name: str
    seed: int = 0
    network: NetworkRecipe = NetworkRecipe()
    data: Annotated[list[DataRecipe], Field(min_length=1)]
    steps: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)] = 8
    sizes: Annotated[list[Side], Field(min_length=1)] = [256]  # one drawn a step; the batch keeps its pixels
    target_share: Share = 0.0
    augment: AugmentRecipe = AugmentRecipe()
    rate: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["poly", "cosine"] = "poly"
    warm_up: Annotated[int, Field(ge=0)] = 0
    freeze_norm: bool = False  # batch norm keeps the statistics it starts with: right for batches of one
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest gradient norm; 0 leaves gradients alone
    pixel_weight: Annotated[float, Field(ge=0)] = 0.0  # of the pixels' cross-entropy
    target_weight: Annotated[float, Field(ge=0)] = 0.0  # of the target pixels' cross-entropy
    fidelity_weight: Annotated[float, Field(ge=0)] = 0.1
    fidelity_every: Annotated[int, Field(ge=1)] = 1  # steps; the weight is multiplied to make up for it
    deep_supervision: Annotated[float, Field(ge=0)] = 0.0  # weight of the earlier stages' targets
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    evaluate_every: Annotated[int, Field(ge=1)] = 500


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: naming the file and, where it is one, the key.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; a recipe is a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top)"
        raise RecipeError(f"{path}: {key}: {first['msg']}") from None
