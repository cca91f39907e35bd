"""What a network costs: its parameters, and the multiply-accumulates of its convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.model import NetworkConfig, RPCANetPlus, Stage


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        parameters: of the whole network, as published.
        at_inference: of them, those that the targets depend on: without the F and M of the last stage, or of all.
        gmac: 10^9 multiply-accumulates of the convolutions that the targets depend on, for one frame.
    """

    parameters: int
    at_inference: int
    gmac: float


def cost_of(config: NetworkConfig, size: int = 256) -> Cost:
    """Count the cost of one square frame of ``size`` pixels a side, as the network is written, without folding."""
    with torch.device("meta"):  # shapes alone, no arithmetic
        network = RPCANetPlus(config)
        frame = torch.empty(1, 1, size, size)
    macs: list[int] = []

    def count(module: nn.Module, _: tuple[Tensor, ...], made: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        macs.append(made.numel() * module.weight[0].numel())  # a product a tap and input channel

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(frame)
    unused = 0
    for stage in network.stages[-1:] if config.rebuild else network.stages:
        assert isinstance(stage, Stage)
        for value in (*stage.noise.parameters(), *stage.merge.parameters(), stage.sigma):
            unused += value.numel()
    parameters = sum(value.numel() for value in network.parameters())
    return Cost(parameters, parameters - unused, sum(macs) / 1e9)
