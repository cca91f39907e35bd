"""What the CUDA engine launches for a batch of one shape, and where its maps lie."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from engine.cuda_network import Network
from engine.cuda_weights import ALIGNED, Packed, Weights

KERNELS = (
    "chain_frame", "chain_background", "chain_target", "chain_noise", "answer",
    "merge_only", "merge_first", "merge_next", "merge_last",
)  # fmt: skip
TILE_WIDTH, TILE_HEIGHT = 32, 16  # as in warp.cuh
THREADS = (512,) * 5 + (256,) * 4  # of each kernel
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
    if len(weights.stages) > 1:
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
        take(f"merged{side}", 2 * c * pixels if stages > 1 else 0)
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
    launches: list[Launch] = []
    at = {name: memory + place for name, place in room.places.items()}
    tiles = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    b, c = weights.defines["B"], weights.defines["C"]
    sums, done = at["sums"], at["done"]
    for start in range(0, batch, room.together):
        count = min(room.together, batch - start)
        pixels = start * height * width
        common = {
            "frames": addresses[0] + pixels * network.bits // 8,
            "window": addresses[1] + 8 * start,
            "targets": addresses[2] + pixels,
            "height": height,
            "width": width,
            "bits": network.bits,
        }

        def launch(kernel: str, packed: Packed | None, channels: int, **arguments: Any) -> None:
            nonlocal sums, done
            if packed:
                arguments |= {"first": content + packed.first, "first_bias": content + packed.first_bias}
                arguments["head"] = content + packed.head
            if channels:  # the kernel sums this many numbers a frame
                arguments |= {"sums": sums, "done": done}
                sums += 8 * channels * count
                done += 4 * count
            launches.append(Launch(KERNELS.index(kernel), (*tiles, count), Args(**common, **arguments)))  # noqa: B023

        for index, packs in enumerate(weights.stages):
            epsilon, sigma = network.stages[index].epsilon, network.stages[index].sigma
            last, w, h = index == len(weights.stages) - 1, packs[0], packs[1]
            t = at["t"] if index else None
            n = at["n"] if index and network.carry_noise else None
            ahead: dict[str, Any] = {"maps_in": at["merged1"], "tail_in": at["merged_tail"], "t": t, "n": n}
            if index:
                ahead["bias"] = weights.stages[index - 1][3].bias
            launch(
                "chain_background" if index else "chain_frame", w, 9 * b,
                **(ahead if index else {}), **_chain(content, w), x=at["x"], **_made(at, 0),
            )  # fmt: skip
            launch(
                "chain_target", h, 9 * b, **_chain(content, h), **_seen(at, 0, w.bias), **_made(at, 1), x=at["x"],
                t=t, n=n, y=at["y"], q=None if last else at["q"], back=None if last else at["back"],
            )  # fmt: skip
            if last:
                launch("answer", None, 0, **_seen(at, 1, h.bias), y=at["y"], t=at["t"], gain=epsilon)
                break
            f, m = packs[2], packs[3]
            launch(
                "chain_noise", f, 9 * b, **_chain(content, f), **_seen(at, 1, h.bias), **_made(at, 0), gain=epsilon,
                y=at["y"], q=at["q"], back=at["back"], t=at["t"], z=at["z"], r=at["r"],
            )  # fmt: skip
            depth = len(m.layers)
            for layer in range(depth):
                ends = layer == depth - 1
                name = "merge_only" if depth == 1 else "merge_last" if ends else "merge_next" if layer else "merge_first"
                side = (depth - layer) % 2  # the last one writes merged1
                arguments: dict[str, Any] = {"maps_in": at[f"merged{1 - side}"], "maps_out": at[f"merged{side}"]}
                if not layer:
                    arguments |= _seen(at, 0, f.bias)
                    arguments |= {"z": at["z"], "r": at["r"], "n": at["n"] if network.carry_noise else None, "gain": sigma}
                if ends:
                    arguments["tail_out"] = at["merged_tail"]
                arguments |= {"layers": content + m.layers[layer], "layer_bias": content + m.layer_bias[layer]}
                launch(name, m, c if ends else 0, **arguments)
    return launches


def _chain(content: int, packed: Packed) -> dict[str, int | None]:
    """Return the layers of a chain."""
    if not packed.layers:
        return {}
    return {"layers": content + packed.layers[0], "layer_bias": content + packed.layer_bias[0]}


def _seen(at: dict[str, int], side: int, bias: float) -> dict[str, Any]:
    """Return what a kernel needs that starts with the tail of a chain."""
    return {"maps_in": at[f"thin{side}"], "tail_in": at[f"tail{side}"], "rim_in": at[f"rim{side}"], "bias": bias}


def _made(at: dict[str, int], side: int) -> dict[str, int]:
    """Return what a chain makes."""
    return {"maps_out": at[f"thin{side}"], "tail_out": at[f"tail{side}"], "rim_out": at[f"rim{side}"]}
