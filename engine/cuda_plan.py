"""What the CUDA engine launches for a batch of one shape, and where its maps lie."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.cuda_network import Network
from engine.cuda_weights import ALIGNED, Packed, Weights

KERNELS = (
    "chain_frame", "chain_background", "chain_again", "chain_target", "chain_noise", "answer",
    "merge_only", "merge_first", "merge_next", "merge_last",
)  # fmt: skip
TILE_WIDTH, TILE_HEIGHT = 32, 16  # as in warp.cuh
THREADS = (512,) * 6 + (256,) * 4  # of each kernel
# Frames of a batch go through the network together up to this many pixels: their maps of 32 channels then stay in the
# second-level cache from one kernel to the next.
TOGETHER = 1 << 19
MAPS = ("x", "t", "n", "y", "q", "back", "z", "r")  # of one channel, float32


class Args(ctypes.Structure):
    """What a kernel gets; see ``Args`` in warp.cuh."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("frames", "window", "targets", *MAPS)],
        *[(name, ctypes.c_void_p) for name in ("maps_in", "maps_out", "tail_in", "rim_in", "tail_out", "rim_out")],
        *[(name, ctypes.c_void_p) for name in ("sums", "done")],
        *[(name, ctypes.c_void_p) for name in ("first", "first_bias", "layers", "layer_bias", "head")],
        *[(name, ctypes.c_float) for name in ("gain", "bias")],
        *[(name, ctypes.c_int) for name in ("height", "width", "bits")],
    )


@dataclass(frozen=True)
class Launch:
    """A kernel and what it gets.

    Attributes:
        kernel: its index in ``KERNELS``.
        grid: tiles across, tiles down, frames.
        args: pointers and numbers.
    """

    kernel: int
    grid: tuple[int, int, int]
    args: Args


@dataclass(frozen=True)
class Room:
    """Where things lie in the memory that a shape needs, in bytes from its start.

    Attributes:
        places: by name.
        zeroed: bytes at the start that are zero before the first launch.
        size: of all of it.
        together: frames that go through the network together.
    """

    places: dict[str, int]
    zeroed: int
    size: int
    together: int


def kernels_of(weights: Weights) -> list[int]:
    """Return the indices in ``KERNELS`` of those that a model needs; the others are not compiled."""
    names = {"chain_frame", "chain_target", "answer"}
    if len(weights.stages) > 1 and not weights.rebuilds:
        names |= {"chain_again"}
    if weights.rebuilds:
        depth = weights.defines["LAYERS_M"]
        names |= {"chain_background", "chain_noise"}
        names |= {"merge_only"} if depth == 1 else {"merge_first", "merge_last"}
        names |= {"merge_next"} if depth > 2 else set()
    return [index for index, name in enumerate(KERNELS) if name in names]


def room_for(weights: Weights, batch: int, height: int, width: int, together: int = TOGETHER) -> Room:
    """Return the memory for a batch of frames of a size."""
    b, c = weights.defines["B"], weights.defines["C"]
    count = max(1, min(batch, together // (height * width)))
    pixels = count * height * width
    stages = len(weights.stages)
    places: dict[str, int] = {}
    size = 0

    def take(name: str, amount: int) -> None:
        nonlocal size
        places[name] = size
        size += amount + -amount % ALIGNED

    take("sums", 8 * batch * stages * (3 * 9 * b + c))
    take("done", 4 * batch * stages * 4)
    zeroed = size
    for name in MAPS:
        take(name, 4 * pixels)
    for side in (0, 1):
        take(f"thin{side}", 2 * b * pixels)
        take(f"merged{side}", 2 * c * pixels if weights.rebuilds else 0)
        take(f"tail{side}", 8 * 32 * (12 if b == 4 else 48) * count)
        take(f"rim{side}", 4 * 16 * (25 * b + 1) * count)
    take("merged_tail", 8 * 32 * 6 * c // 4 * count)
    return Room(places, zeroed, size, count)


def plan(
    weights: Weights,
    content: int,
    shape: tuple[int, int, int],
    network: Network,
    addresses: tuple[int, int, int],
    memory: int,
    room: Room,
) -> list[Launch]:
    """Return the launches for a batch, in order.

    Args:
        weights: packed.
        content: the address of ``weights.content`` on the device.
        shape: batch, height, width.
        network: what they are the weights of.
        addresses: of frames, window and targets.
        memory: the address of the memory that ``room`` describes.
        room: where things lie in it.
    """
    batch, height, width = shape
    at = {name: memory + place for name, place in room.places.items()}
    grid = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    launches: list[Launch] = []
    for start in range(0, batch, room.together):
        count, pixels = min(room.together, batch - start), start * height * width
        common = {
            "frames": addresses[0] + pixels * network.bits // 8,
            "window": addresses[1] + 8 * start,
            "targets": addresses[2] + pixels,
            "height": height,
            "width": width,
            "bits": network.bits,
        }
        for kernel, channels, arguments in _steps(weights, content, network, at):
            if channels:  # it sums this many numbers a frame
                arguments |= {"sums": at["sums"], "done": at["done"]}
                at["sums"] += 8 * channels * count
                at["done"] += 4 * count
            launches.append(Launch(KERNELS.index(kernel), (*grid, count), Args(**common, **arguments)))
    return launches


_Step = tuple[str, int, dict[str, Any]]  # kernel, numbers that it sums of a frame, arguments


def _steps(weights: Weights, content: int, network: Network, at: dict[str, int]) -> Iterator[_Step]:
    """Give what is launched for some frames, in order."""
    nine, carry = 9 * weights.defines["B"], network.carry_noise
    for index, (packs, stage) in enumerate(zip(weights.stages, network.stages, strict=True)):
        last, w, h = index == len(weights.stages) - 1, packs[0], packs[1]
        before = {"t": at["t"], "n": at["n"] if carry else None} if index else {}
        x = {} if stage.noise is None else {"x": at["x"]}  # read again for M's input alone
        kernel, ahead = "chain_frame", dict[str, Any]()
        if index and not weights.rebuilds:
            kernel, ended = "chain_again", network.stages[index - 1]
            ahead = {**_seen(at, 1, weights.stages[index - 1][1].bias), "y": at["y"], "gain": ended.epsilon}
        elif index:
            kernel = "chain_background"
            ahead = {"maps_in": at["merged1"], "tail_in": at["merged_tail"], "bias": weights.stages[index - 1][3].bias}
        yield kernel, nine, {**_weights(content, w), **_made(at, 0), **ahead, **before, **x}
        mine: dict[str, Any] = {name: at[name] for name in (("y",) if stage.noise is None else ("y", "q", "back"))} | x
        yield "chain_target", nine, {**_weights(content, h), **_seen(at, 0, w.bias), **_made(at, 1), **before, **mine}
        if last:
            yield "answer", 0, {**_seen(at, 1, h.bias), "y": at["y"], "gain": stage.epsilon}
            return
        if not weights.rebuilds:
            continue
        f, m = packs[2], packs[3]
        mine = {name: at[name] for name in ("y", "q", "back", "t", "z", "r")} | {"gain": stage.epsilon}
        yield "chain_noise", nine, {**_weights(content, f), **_seen(at, 1, h.bias), **_made(at, 0), **mine}
        depth = len(m.layers)
        for layer in range(depth):
            ends, side = layer == depth - 1, (depth - layer) % 2  # the last one writes merged1
            kernel = "merge_only" if depth == 1 else "merge_last" if ends else "merge_next" if layer else "merge_first"
            mine = {"maps_in": at[f"merged{1 - side}"], "maps_out": at[f"merged{side}"]}
            if not layer:
                mine |= {**_seen(at, 0, f.bias), "z": at["z"], "r": at["r"], "gain": stage.sigma}
                mine["n"] = at["n"] if carry else None
            if ends:
                mine["tail_out"] = at["merged_tail"]
            yield kernel, weights.defines["C"] if ends else 0, {**_weights(content, m, layer), **mine}


def _weights(content: int, packed: Packed, layer: int = 0) -> dict[str, int]:
    """Return a chain's weights, from a layer on."""
    where = {"first": packed.first, "first_bias": packed.first_bias, "head": packed.head}
    if packed.layers:
        where |= {"layers": packed.layers[layer], "layer_bias": packed.layer_bias[layer]}
    return {name: content + place for name, place in where.items()}


def _seen(at: dict[str, int], side: int, bias: float) -> dict[str, Any]:
    """Return what a kernel needs that starts with the tail of a chain."""
    return {"maps_in": at[f"thin{side}"], "tail_in": at[f"tail{side}"], "rim_in": at[f"rim{side}"], "bias": bias}


def _made(at: dict[str, int], side: int) -> dict[str, int]:
    """Return what a chain makes."""
    return {"maps_out": at[f"thin{side}"], "tail_out": at[f"tail{side}"], "rim_out": at[f"rim{side}"]}


@dataclass(frozen=True)
class PlannedWork:
    """What the kernels do for a batch.

    Attributes:
        operations: multiplications and additions of the convolutions that are computed, each pixel once.
        bytes_moved: of the maps that the kernels read and write in device memory, each pixel once.
    """

    operations: int
    bytes_moved: int


def work_of_plan(weights: Weights, batch: int, height: int, width: int) -> PlannedWork:
    """Count what the kernels do; what they compute and read again around their tiles is not in it."""
    sizes = weights.defines
    b, c, stages = sizes["B"], sizes["C"], sizes["STAGES"]
    ends = (25 * b, 9 * c)  # of the tails, multiplications a pixel
    w, h, f = (b * (sizes[f"FIRST_{n}"] ** 2 + 9 * b * sizes[f"LAYERS_{n}"]) for n in "WHF")
    m = 9 * c + 9 * c * c * sizes["LAYERS_M"]
    more = stages - 1 if weights.rebuilds else 0  # stages with F and M
    multiplied = stages * (w + h + 2 * ends[0]) + more * (f + ends[0] + m + ends[1])
    thin, merged = 2 * b, 2 * c  # bytes a pixel
    first = 1 + thin  # frame in; map out
    target = thin + 4 + thin  # map; y, map
    answer = thin + 4 + 1
    later = merged + 4 + thin  # merged map, t; map
    again = thin + 4 + 1 + 4 + thin + 4  # map, y, frame; t, map; and t of the kernel after
    noise = thin + 3 * 4 + 3 * 4 + thin + 2 * 4 + 4 + 2 * 4  # with q and back of the kernel before, its t, and x
    merge = thin + 2 * 4 + merged * (2 * sizes["LAYERS_M"] - 1)
    moved = first + target * stages + answer + more * (later + noise + merge) + (stages - 1 - more) * again
    pixels = batch * height * width
    return PlannedWork(2 * multiplied * pixels, moved * pixels)
