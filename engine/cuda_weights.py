"""Repack a network's weights as the CUDA kernels read them; see ``engine/kernels``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.contract import EngineError, ModelInfo
from engine.cuda_network import Chain, Conv, Network
from engine.parts import Array, Head

MERGED = 32  # channels of M's maps in the kernels; fewer are filled up with zeros
MOST_LAYERS = 12  # of a chain: each makes the tile that a block computes larger by a pixel on each side
ALIGNED = 256


@dataclass(frozen=True)
class Packed:
    """Where a chain's weights lie in ``Weights.content``, in bytes.

    Attributes:
        first: the first convolution.
        first_bias: its bias, float32.
        layers: of each 3x3 layer.
        layer_bias: of each layer, float32.
        head: expand, squeeze, excite and project, float32.
        bias: of the projection.
    """

    first: int
    first_bias: int
    layers: tuple[int, ...]
    layer_bias: tuple[int, ...]
    head: int
    bias: float


@dataclass
class Weights:
    """A network's weights, and what the kernels have to be compiled for.

    Attributes:
        defines: the numbers that the kernels' source names.
        content: the bytes for the GPU.
        stages: of each stage, where W's, H's, F's and M's lie; the last one has the first two, as has every one where
            D stays the frame.
    """

    defines: dict[str, int]
    content: bytearray = field(default_factory=bytearray)
    stages: list[tuple[Packed, ...]] = field(default_factory=list)

    @property
    def rebuilds(self) -> bool:
        """Whether the stages but the last have F and M."""
        return bool(self.defines["REBUILDS"])

    def put(self, values: NDArray[Any]) -> int:
        """Append an array; return where it lies."""
        self.content += bytes(-len(self.content) % ALIGNED)
        at = len(self.content)
        self.content += np.ascontiguousarray(values).tobytes()
        return at


def pack_weights(network: Network, info: ModelInfo) -> Weights:
    """Return the weights of a network.

    Raises:
        EngineError: if the kernels cannot have its widths or depths.
    """
    kinds = {"W": 0, "H": 1, "F": 2, "M": 3}
    chains = [
        [c for c in (s.background, s.target, s.noise, s.merge) if c is not None] for s in network.stages
    ]  # of each stage, in the order of `kinds`

    def one(what: str, values: set[int], most: int, least: int = 0) -> int:
        """Return the one value that all stages share."""
        if len(values) != 1 or not least <= max(values) <= most:
            said = ", ".join(map(str, sorted(values)))
            raise EngineError(f"{info.name}: {what}: {said}; the CUDA engine has one number from {least} to {most}")
        return values.pop()

    thin = one("b, channels of W, H and F", {len(c.first[0]) for stage in chains for c in stage[:3]}, 16, 1)
    wide = one("c, channels of the attention", {len(c.head.project) for stage in chains for c in stage}, MERGED, 1)
    squeezed = one("channels of the squeeze", {len(c.head.squeeze[1]) for stage in chains for c in stage}, 8, 1)
    one("channels of M", {len(c.first[0]) for stage in chains for c in stage[3:]} or {wide}, wide, wide)
    merged = one("3x3 layers of M", {len(c.layers) for stage in chains for c in stage[3:]} or {1}, MOST_LAYERS, 1)
    one("the side of M's first convolution", {c.first[0].shape[2] for stage in chains for c in stage[3:]} or {3}, 3, 3)
    b = 4 if thin <= 4 else 16
    defines = {"B": b, "C": MERGED, "HC": wide, "SQ": squeezed, "STAGES": len(chains), "LAYERS_M": merged}
    for name, kind in list(kinds.items())[:3]:
        these = [stage[kind] for stage in chains if len(stage) > kind]
        defines[f"LAYERS_{name}"] = one(f"3x3 layers of {name}", {len(c.layers) for c in these} or {0}, MOST_LAYERS)
        defines[f"FIRST_{name}"] = one(
            f"the side of {name}'s first convolution", {c.first[0].shape[2] for c in these} or {1}, 3, 1
        )
    defines["REBUILDS"] = int(len(chains[0]) == 4)
    weights = Weights(defines)
    for stage in chains:
        weights.stages.append(tuple(_pack(weights, c, MERGED if kind == 3 else b) for kind, c in enumerate(stage)))
    return weights


def _pack(weights: Weights, chain: Chain, width: int) -> Packed:
    side = chain.first[0].shape[2]
    first = _wider(chain.first, width, 1)
    layers = [_wider(layer, width, width) for layer in chain.layers]
    packed = [_thin4(w) if width == 4 else _fragments(_by_tap(w), width // 8) for w, _ in layers]
    taps = np.zeros((16, width), np.float32)
    taps[: side * side] = first[0].reshape(width, -1).T
    head = chain.head
    sheet = [weights.put(values) for values in packed]
    biases = [weights.put(bias.astype(np.float32)) for _, bias in layers]
    if width <= 16 and layers:  # the chains' kernels want all layers side by side
        sheet = [weights.put(np.concatenate(packed))] * len(layers)
        biases = [weights.put(np.concatenate([bias for _, bias in layers]).astype(np.float32))] * len(layers)
    return Packed(
        first=weights.put(first[0].ravel().astype(np.float32) if side == 1 else _fragments(taps, max(width // 8, 1))),
        first_bias=weights.put(first[1].astype(np.float32)),
        layers=tuple(sheet),
        layer_bias=tuple(biases),
        head=weights.put(_head(head, width)),
        bias=float(head.bias[0]),
    )


def _wider(conv: Conv, outputs: int, inputs: int) -> Conv:
    """Return a convolution with channels of zeros added."""
    weight, bias = conv
    more = [(0, outputs - weight.shape[0]), (0, inputs - weight.shape[1]), (0, 0), (0, 0)]
    return np.pad(weight, more), np.pad(bias, (0, outputs - len(bias)))


def _by_tap(weight: Array) -> Array:
    """Return ``[9 * in, out]`` of ``[out, in, 3, 3]``."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(-1, len(weight))


def _thin4(weight: Array) -> NDArray[np.float16]:
    """Return the weights of a layer 4 -> 4: of each row, 4 pixels of 4 channels by 2 pixels of 4 channels."""
    pairs = np.zeros((3, 4, 4, 2, 4), np.float32)  # row, pixel and channel of what is seen; pixel and channel made
    for made in range(2):
        for dx in range(3):
            pairs[:, made + dx, :, made, :] = weight[:, :, :, dx].transpose(2, 1, 0)
    return _fragments(pairs.reshape(48, 8), 1)


def _fragments(matrix: Array, tiles: int) -> NDArray[np.float16]:
    """Return a right operand ``[16 steps, channels]`` as the lanes of a warp hold it; see ``multiply`` in warp.cuh.

    Column g of tile j is channel ``2 tiles (g // 2) + 2 j + g % 2``, as ``Columns`` in maps.cuh says.
    """
    steps = len(matrix) // 16
    columns = np.zeros((len(matrix), max(8 * tiles, matrix.shape[1])), np.float32)
    columns[:, : matrix.shape[1]] = matrix.clip(-65504, 65504)
    lane, part = np.arange(32)[:, None], np.arange(4)[None]
    rows = lane % 4 * 2 + part % 2 + part // 2 * 8  # [lane, part]
    g = lane // 4
    made = np.zeros((steps, tiles, 32, 4), np.float16)
    for j in range(tiles):
        channel = 2 * tiles * (g // 2) + 2 * j + g % 2
        for step in range(steps):
            made[step, j] = columns[16 * step + rows, channel + 0 * part]
    if tiles > 1:  # two tiles side by side for a lane
        made = made.reshape(steps, tiles // 2, 2, 32, 4).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(made).reshape(-1)


def _head(head: Head, b: int) -> Array:
    """Return what attention.cuh reads."""
    parts = [head.squeeze[0].T, head.squeeze[1], head.excite[0].T, head.excite[1], head.project]
    if head.expand:
        weight, bias = head.expand
        parts += [np.pad(weight, [(0, 0), (0, b - weight.shape[1]), (0, 0), (0, 0)]), bias]
    return np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])
