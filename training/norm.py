"""What batch norm remembers, however it is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def keep_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move a layer's running statistics towards a batch's, as PyTorch does.

    Args:
        norm: the layer, in training.
        mean: of the batch, a channel each.
        variance: the same, biased.
        count: pixels of a channel.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    norm.num_batches_tracked += 1
