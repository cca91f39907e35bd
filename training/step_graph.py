"""A step's forward and backward as one CUDA graph: hundreds of launches, each dearer than its work, become one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3  # runs that choose algorithms and make what a recording may not


class StepGraph:
    """Forward and backward of one shape of batch, recorded once and replayed.

    Attributes:
        loss: that of the last replay; the next one overwrites it.
    """

    def __init__(
        self, network: nn.Module, step: Callable[[Tensor, Tensor], Tensor], frames: Tensor, masks: Tensor
    ) -> None:
        """Record a step.

        Args:
            network: what is trained; its statistics are left as they are.
            step: takes frames and masks, goes forward and backward and returns the loss; it waits for nothing.
            frames: of the shape that is recorded.
            masks: of that shape too.
        """
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._frames, self._masks = frames.clone(), masks.clone()
        before = [buffer.clone() for buffer in network.buffers()]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._forget()
                step(self._frames, self._masks)
        torch.cuda.current_stream().wait_stream(aside)
        for buffer, kept in zip(network.buffers(), before, strict=True):
            buffer.copy_(kept)
        self._forget()
        self._graph = torch.cuda.CUDAGraph()
        # a thread that pins batches in memory meanwhile calls what this one may not
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.loss = step(self._frames, self._masks)
        self._gradients = [parameter.grad for parameter in self._parameters]

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def replay(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Go forward and backward with a batch; gradients are where an optimizer looks for them."""
        self._frames.copy_(frames)
        self._masks.copy_(masks)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        self._graph.replay()
        return self.loss
