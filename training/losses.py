"""The training loss: soft IoU of the targets, and how well the parts make up the frame."""

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


def fidelity_loss(rebuilt: Tensor, frame: Tensor) -> Tensor:
    """Return the mean squared error of the rebuilt frame, ``D^K``, against the frame itself."""
    return F.mse_loss(rebuilt.float(), frame)
