"""The network in PyTorch on a GPU, and the GPU's own limits: what ``engine.gpu_bench --reference`` compares with.

A process of its own: ``python -m training.gpu_reference JSON`` with the fields of ``Wanted`` prints a line of JSON for
every result as it comes. Its weights are random, which no time depends on, and its layers those of the published
networks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.model import NetworkConfig, RPCANetPlus, WeighAndProject

LARGEST = 1 << 23  # pixels in a batch: beyond, PyTorch's maps take tens of gigabytes and seconds a call
COPIED = 1 << 30  # bytes
SIDE = 8192  # of the square matrices


@dataclass(frozen=True)
class Wanted:
    """What to time.

    Attributes:
        stages: K.
        channels: c.
        bottleneck: b.
        sizes: ``[width, height]`` each.
        batches: frames in a call.
        seconds: to time each.
        rebuild: False leaves out F and M.
        compiled: only torch.compile, at the first size; else all that needs no compiling, and the limits.
        after: a file that is waited for between compiling and timing, so that nothing else is timed meanwhile.
    """

    stages: int
    channels: int
    bottleneck: int
    sizes: list[tuple[int, int]]
    batches: list[int]
    seconds: float
    rebuild: bool = True
    compiled: bool = False
    after: str = ""


class _Plain(nn.Module):
    """The attention and projection as the authors write it, one convolution c -> 1."""

    def __init__(self, head: WeighAndProject) -> None:
        super().__init__()
        self.excitation, self.project = head.excitation, head.project

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(x * self.excitation(x.mean((2, 3), keepdim=True)))
        return out


def network_of(wanted: Wanted) -> RPCANetPlus:
    """Return a network on the GPU."""
    widths = wanted.stages, wanted.channels, wanted.bottleneck
    network = RPCANetPlus(NetworkConfig(*widths, carry_noise=False, rebuild=wanted.rebuild)).eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, WeighAndProject):
                setattr(module, name, _Plain(child))
    return network.cuda()


def time_calls(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Time a call that puts work on the GPU, from the call to when the GPU is done."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 5:
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return {"median_ms": 1e3 * float(np.median(taken)), "p99_ms": 1e3 * float(np.quantile(taken, 0.99))}


def graph_of(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def limits() -> dict[str, float]:
    """Return what the GPU copies, in bytes read and written a second, and its float16 products, in FLOP a second."""
    one, two = (torch.randint(0, 256, (COPIED,), dtype=torch.uint8, device="cuda") for _ in range(2))
    copied = time_calls(lambda: one.copy_(two), 0.2)["median_ms"]
    left, right = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.float16) for _ in range(2))
    product = time_calls(lambda: left @ right, 0.2)["median_ms"]
    return {"copy_bytes_per_s": 2e3 * COPIED / copied, "matmul_flop_per_s": 2e3 * SIDE**3 / product}


@torch.inference_mode()
def main(wanted: Wanted) -> None:
    """Time everything that is wanted and print it."""
    if not wanted.compiled:
        print(json.dumps({"limits": limits(), "gpu": torch.cuda.get_device_name()}), flush=True)
    network = network_of(wanted)
    half = network_of(wanted).half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled: list[tuple[str, str, int, Callable[[], object]]] = []
    for width, height in wanted.sizes[: 1 if wanted.compiled else None]:
        for batch in wanted.batches:
            if batch * width * height > LARGEST:
                continue
            size = f"{width}x{height}"
            frames = torch.rand(batch, 1, height, width, device="cuda")
            small = frames.half().to(memory_format=torch.channels_last)
            if wanted.compiled:
                torch.compiler.reset()
                fast = torch.compile(half, dynamic=False)
                compiled.append(("pytorch fp16, compiled, graph", size, batch, graph_of(partial(fast, small))))
                continue
            report(("pytorch fp32, eager", size, batch, partial(network.decompose, frames)), wanted.seconds)
            report(("pytorch fp16, graph", size, batch, graph_of(partial(half, small))), wanted.seconds)
            torch.cuda.empty_cache()
    while wanted.after and not Path(wanted.after).exists():
        time.sleep(0.1)
    for case in compiled:
        report(case, wanted.seconds)


def report(case: tuple[str, str, int, Callable[[], object]], seconds: float) -> None:
    """Time a case and print it."""
    name, size, batch, call = case
    times = time_calls(call, seconds)
    figures = {"engine": name, "size": size, "batch": batch, **times, "frames_per_s": 1e3 * batch / times["median_ms"]}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    try:
        given = Wanted(**json.loads(sys.argv[1]))
    except (IndexError, TypeError, ValueError) as error:
        raise SystemExit(f"error: one argument is expected, a JSON object as in docs/engines.md ({error})") from None
    main(given)
