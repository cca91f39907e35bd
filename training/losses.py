"""The training loss: soft IoU and cross-entropy of the targets, and how well the parts make up the frame."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

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


def target_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean cross-entropy of the target pixels of a batch; 0 where it has none.

    One pixel in two thousand is a target: without this a network begins by learning that there are none.
    """
    return (F.softplus(-logits.float()) * masks).sum() / masks.sum().clamp(min=1)


def fidelity_loss(rebuilt: Tensor, frame: Tensor) -> Tensor:
    """Return the mean squared error of the rebuilt frame, ``D^K``, against the frame itself."""
    return F.mse_loss(rebuilt.float(), frame)
