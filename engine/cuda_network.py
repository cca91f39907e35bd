"""Read the network out of a model's ONNX graph, and make sure that it is the one that the CUDA kernels compute."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from engine.contract import TARGETS, EngineError, ModelInfo
from engine.parts import Array, Graph, Head, head_of

Conv = tuple[Array, Array]  # weight [out, in, k, k] and bias [out]
_Sum = dict[str, float]  # a map of one channel as a sum of others, each with its factor
_FRAME = "frame"


@dataclass(frozen=True)
class Chain:
    """Convolutions, each followed by a ReLU, and the attention and projection at their end: W, H, F or M.

    Attributes:
        source: the tensor of one channel that it reads.
        first: 1 -> b, or for M 1 -> c.
        layers: 3x3, b -> b, or for M c -> c.
        head: with its ``expand``, but for M.
    """

    source: str
    first: Conv
    layers: tuple[Conv, ...]
    head: Head


@dataclass(frozen=True)
class Stage:
    """One iteration; the last one has neither ``noise`` nor ``merge``, nor has any where D stays the frame."""

    background: Chain
    target: Chain
    noise: Chain | None
    merge: Chain | None
    epsilon: float
    sigma: float


@dataclass(frozen=True)
class Network:
    """A network as its graph shows it.

    Attributes:
        stages: the iterations.
        carry_noise: whether N goes from stage to stage.
        bits: of a pixel, 8 or 16.
    """

    stages: tuple[Stage, ...]
    carry_noise: bool
    bits: int


def read_network(graph: onnx.GraphProto, info: ModelInfo) -> Network:
    """Return the network of a graph.

    Raises:
        EngineError: if it is no RPCANet+ as ``training.export`` writes it; the message says what is different.
    """
    try:
        return _read(graph, info)
    except _OtherError as error:
        raise EngineError(f"{info.name}: not a network that the CUDA engine computes: {error}") from None


class _OtherError(Exception):
    """What is different."""


def _read(graph: onnx.GraphProto, info: ModelInfo) -> Network:
    seen = Graph(graph)
    chains = [_chain(seen, head) for node in graph.node if (head := head_of(seen, node))]
    each = {4 * info.stages - 2: 4, 2 * info.stages: 2}.get(len(chains))
    if each is None:
        raise _OtherError(f"{len(chains)} chains; 4 a stage and 2 of the last, or 2 a stage, are expected")
    sums = _Sums(seen, {chain.head.target for chain in chains})
    stages, frame, target = [], {_FRAME: 1.0}, _Sum()
    noise: _Sum | None = None  # that the stage starts with; None where the second stage has not yet told
    carry_noise = False
    for first in range(0, len(chains), each):
        w, h, *rest = chains[first : first + each]
        last = first + each >= len(chains)
        x = sums.of(w.source)
        if first == each:
            carry_noise = not _same(x, _add(frame, (-1, target)))
        if not carry_noise or noise is None:
            noise = {}
        _expect(x, _add(frame, (-1, target), (-1, noise)), w)
        background = _add(x, (1, {w.head.target: 1.0}))
        y = _add(target, (1, frame), (-1, background), (-1, noise))
        _expect(sums.of(h.source), y, h)
        after = sums.of(_logits(seen) if last else (rest or chains[first + each :])[0].source)
        epsilon = after.get(h.head.target, 0.0) * (-1 if last else 1)
        target = _add(y, (-epsilon, {h.head.target: 1.0}))
        if last and not _same(after, target):
            raise _OtherError("its answer is not T")
        if last or not rest:
            stages.append(Stage(w, h, None, None, epsilon, 0.0))
            continue
        f, m = rest
        z = _add(noise, (1, frame), (-1, background), (-1, target))
        _expect(after, z, f)
        merged = sums.of(m.source)
        sigma = -merged.get(f.head.target, 0.0)
        noise = _add(z, (-sigma, {f.head.target: 1.0}))
        _expect(merged, _add(background, (1, target), (1, noise)), m)
        frame = {m.head.target: 1.0}
        stages.append(Stage(w, h, f, m, epsilon, sigma))
    for stage in stages:
        for chain in (stage.background, stage.target, stage.noise):
            if chain and chain.head.expand is None:
                raise _OtherError(f"{chain.head.target!r} has no 3x3 convolution b -> c before its attention")
        if stage.merge and stage.merge.head.expand:
            raise _OtherError(f"{stage.merge.head.target!r} has a convolution without a ReLU before its attention")
    return Network(tuple(stages), carry_noise, info.bits)


def _chain(seen: Graph, head: Head) -> Chain:
    """Return the chain that ends in a head."""
    convs: list[Conv] = []
    tensor = head.source
    while not convs or convs[-1][0].shape[1] > 1:
        relu = seen.maker.get(tensor)
        node = seen.maker.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        conv = seen.conv(node)
        if node is None or conv is None:
            raise _OtherError(f"{tensor!r} is not a convolution with a ReLU")
        convs.append(conv)
        tensor = node.input[0]
    first, *layers = reversed(convs)
    width = len(first[0])
    if any(layer[0].shape != (width, width, 3, 3) for layer in layers) or first[0].shape[2] not in (1, 3):
        raise _OtherError(f"the chain that makes {head.target!r} has layers that are not {width} channels wide")
    return Chain(tensor, first, tuple(layers), head)


def _logits(seen: Graph) -> str:
    """Return the tensor whose sigmoid is the answer."""
    node = seen.maker.get(TARGETS)
    for kind in ("Cast", "Round", "Mul", "Sigmoid"):
        if node is None or node.op_type != kind:
            raise _OtherError(f"{TARGETS!r} is not made by {kind}")
        before = next(name for name in node.input if name not in seen.constants)
        if kind == "Sigmoid":
            return str(before)
        node = seen.maker.get(before)
    raise AssertionError


class _Sums:
    """The maps of one channel, each as a sum of the frame and of what chains make."""

    def __init__(self, seen: Graph, made: set[str]) -> None:
        self._seen = seen
        self._known: dict[str, _Sum] = {name: {name: 1.0} for name in made}

    def of(self, name: str) -> _Sum:
        if name not in self._known:
            self._known[name] = self._make(name)
        return self._known[name]

    def _make(self, name: str) -> _Sum:
        node = self._seen.maker.get(name)
        kind = node.op_type if node is not None else "nothing"
        constants = self._seen.constants
        if node is not None and kind == "Clip":
            return {_FRAME: 1.0}
        if node is not None and kind == "Expand" and not np.any(constants.get(node.input[0], 1)):
            return {}
        if node is not None and kind in ("Add", "Sub"):
            left, right = node.input
            return _add(self.of(left), (1 if kind == "Add" else -1, self.of(right)))
        if node is not None and kind == "Mul":
            factors = [constants[each] for each in node.input if each in constants]
            maps = [each for each in node.input if each not in constants]
            if len(maps) == 1 and factors[0].size == 1:
                return _add({}, (float(factors[0].ravel()[0]), self.of(maps[0])))
        raise _OtherError(f"{name!r} is made by {kind}")


def _add(start: _Sum, *terms: tuple[float, _Sum]) -> _Sum:
    total = dict(start)
    for factor, term in terms:
        for name, value in term.items():
            total[name] = total.get(name, 0.0) + factor * value
    return total


def _same(one: _Sum, other: _Sum) -> bool:
    return all(
        math.isclose(one.get(name, 0.0), other.get(name, 0.0), abs_tol=1e-6, rel_tol=1e-6) for name in {*one, *other}
    )


def _expect(found: _Sum, expected: _Sum, chain: Chain) -> None:
    if not _same(found, expected):
        raise _OtherError(f"{chain.source!r} is {found}; {expected} is expected")
