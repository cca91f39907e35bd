"""The network in eager PyTorch, a call a line of stdin: what ``engine.bench --reference`` compares engines with."""

from __future__ import annotations

import sys

import torch

from training.export import Deployed
from training.model import NetworkConfig, RPCANetPlus


def main(
    stages: int,
    channels: int,
    bottleneck: int,
    rebuild: int,
    bits: int,
    batch: int,
    height: int,
    width: int,
    threads: int,
) -> None:
    """Run a network of random weights on random frames for every line of stdin, and answer each with a line.

    Args:
        stages: K.
        channels: c.
        bottleneck: b.
        rebuild: 0 leaves out F and M.
        bits: depth of the frames, 8 or 16.
        batch: frames in a call.
        height: of a frame, in pixels.
        width: likewise.
        threads: of PyTorch; 0 leaves it to PyTorch.
    """
    if threads:
        torch.set_num_threads(threads)
    network = Deployed(RPCANetPlus(NetworkConfig(stages, channels, bottleneck, rebuild=bool(rebuild))), bits).eval()
    shape = (batch, 1, height, width) if bits == 8 else (batch, 1, height, width, 2)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    window = torch.tensor([[0.0, 2.0**bits - 1]] * batch)
    with torch.inference_mode():
        for _ in sys.stdin:
            network(frames, window)
            print("done", flush=True)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
