"""The training loss: soft IoU and cross-entropy of the targets, and how well the parts make up the frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.model import Decomposition
from training.recipe import Recipe

SMOOTH = 1.0


def soft_iou_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean over images of 1 - IoU with soft sets.

    Args:
        logits: T, ``[batch, 1, h, w]``.
        masks: truth, 0 or 1, of the same shape.
    """
    found = logits.float().sigmoid()
    overlap = (found * masks).sum((1, 2, 3))
    union = (found + masks - found * masks).sum((1, 2, 3))
    return (1 - (overlap + SMOOTH) / (union + SMOOTH)).mean()


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean cross-entropy of the pixels.

    Soft IoU hardly moves once an image is full of false targets (its slope falls with the square
    of their area), and on an image without a target it knows nothing else; this does not tire.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), masks)


def target_loss(logits: Tensor, masks: Tensor, target_pixels: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of the target pixels of a batch; 0 where it has none.

    One pixel in two thousand is a target: without this a network begins by learning that there are none.

    Args:
        logits: T, ``[batch, 1, h, w]``.
        masks: truth, 0 or 1, of the same shape.
        target_pixels: how many to divide by; None for those of ``masks``. Processes that share a batch divide by the
            mean of theirs, so that the mean of their losses is that of the batch.
    """
    count = masks.sum().clamp(min=1) if target_pixels is None else target_pixels
    return (F.softplus(-logits.float()) * masks).sum() / count


def fidelity_loss(rebuilt: Tensor, frame: Tensor) -> Tensor:
    """Return the mean squared error of the rebuilt frame, ``D^K``, against the frame itself."""
    return F.mse_loss(rebuilt.float(), frame)


def needs_frame(recipe: Recipe, step: int) -> bool:
    """Tell whether a step's loss has a part for D, which the last stage makes for the loss alone."""
    return recipe.fidelity_weight > 0 and step % recipe.fidelity_every == 0


def loss_of(
    stages: Sequence[Decomposition], frames: Tensor, masks: Tensor, recipe: Recipe, target_pixels: Tensor | None = None
) -> Tensor:
    """Return a step's loss: soft IoU and cross-entropies of the last T, soft IoU of the earlier ones, fidelity of D.

    Args:
        stages: what the network made of ``frames``, the last stage's D included where it is to count.
        frames: in [0, 1], ``[batch, 1, h, w]``.
        masks: truth, 0 or 1, of the same shape.
        recipe: gives the weights of the parts.
        target_pixels: see ``target_loss``.
    """
    last = stages[-1]
    loss = soft_iou_loss(last.target, masks)
    if recipe.pixel_weight:
        loss = loss + recipe.pixel_weight * pixel_loss(last.target, masks)
    if recipe.target_weight:
        loss = loss + recipe.target_weight * target_loss(last.target, masks, target_pixels)
    if recipe.deep_supervision and len(stages) > 1:
        earlier = [soft_iou_loss(stage.target, masks) for stage in stages[:-1]]
        loss = loss + recipe.deep_supervision * torch.stack(earlier).mean()
    if last.frame is not None:
        loss = loss + recipe.fidelity_weight * recipe.fidelity_every * fidelity_loss(last.frame, frames)
    return loss
