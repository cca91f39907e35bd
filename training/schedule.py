"""How long a run is and how fast it learns, step by step."""

from __future__ import annotations

import math

from training.recipe import Recipe, RecipeError


def with_steps(recipe: Recipe, frames: int) -> Recipe:
    """Return the recipe with its epochs, if it has them, as steps: an epoch draws as many crops as there are frames.

    Raises:
        RecipeError: where the warm-up takes them all.
    """
    if recipe.epochs:
        steps = math.ceil(recipe.epochs * frames / recipe.batch)
        recipe = recipe.model_copy(update={"steps": steps, "epochs": 0})
    if recipe.warm_up >= recipe.steps:
        raise RecipeError(f"{recipe.name}: warm_up: {recipe.warm_up} of {recipe.steps} steps; fewer are expected")
    return recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate of a step: linear warm-up, then poly 0.9 (the authors') or cosine down to zero."""
    if step < recipe.warm_up:
        return recipe.rate * (step + 1) / recipe.warm_up
    left = 1 - step / recipe.steps
    shape = left**0.9 if recipe.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * (1 - left)))
    return recipe.rate * shape
