"""What of a network an ONNX graph shows: thin convolutions, and the attention with its projection to one map.

What is not built as ``training.export`` builds it is not found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[np.float32]
LANES = 8  # of the narrowest vectors; a convolution to fewer channels is thin


@dataclass(frozen=True)
class Thin:
    """A convolution to few channels, and its ReLU.

    Attributes:
        source: the tensor it reads.
        target: the tensor it makes.
        weight: ``[out, in, k, k]``, k odd.
        bias: ``[out]``.
        relu: whether a ReLU follows.
    """

    source: str
    target: str
    weight: Array
    bias: Array
    relu: bool


@dataclass(frozen=True)
class Wide(Thin):
    """A 3x3 convolution of 16 channels and more, in and out, and its ReLU.

    Attributes:
        name: the convolution's, in the file.
    """

    name: str


@dataclass(frozen=True)
class Head:
    """Attention over c maps and their projection to one map.

    Attributes:
        source: the tensor of the c maps or, with ``expand``, that of the thin maps they are made from.
        target: the tensor it makes.
        expand: weight ``[c, b, 3, 3]`` and bias ``[c]`` of the convolution from thin maps, if one is folded in.
        squeeze: matrix ``[c, c / 16]`` and bias, from means.
        excite: matrix ``[c / 16, c]`` and bias, to the logits of the attention.
        project: ``[c, 3, 3]``.
        bias: ``[1]``, of the projection.
    """

    source: str
    target: str
    expand: tuple[Array, Array] | None
    squeeze: tuple[Array, Array]
    excite: tuple[Array, Array]
    project: Array
    bias: Array


class Graph:
    """An ONNX graph to look around in."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = graph.node
        self.constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def after(self, node: onnx.NodeProto | None, kind: str) -> onnx.NodeProto | None:
        """Return the only node that reads ``node``'s answer, if it is of a kind."""
        users = self.users.get(node.output[0], []) if node else []
        return users[0] if len(users) == 1 and users[0].op_type == kind else None

    def conv(self, node: onnx.NodeProto | None) -> tuple[Array, Array] | None:
        """Return weight and bias of a plain convolution that keeps the size, or None if it is no such one."""
        if node is None or node.op_type != "Conv" or any(name not in self.constants for name in node.input[1:]):
            return None
        weight = self.constants[node.input[1]]
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        said = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        side = weight.shape[-1]
        plain = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
        kept = all(said.get(name, value) == value for name, value in plain.items())
        if not kept or weight.ndim != 4 or weight.shape[2] != side or side % 2 == 0:
            return None
        return (weight, bias) if said.get("pads", [0] * 4) == [side // 2] * 4 else None


def find_parts(graph: onnx.GraphProto) -> list[Thin | Head]:
    """Return what of an ONNX graph can be rewritten, in the graph's order."""
    seen = Graph(graph)
    heads = {head.target: head for node in graph.node if (head := head_of(seen, node))}
    parts: list[Thin | Head] = []
    for node in graph.node:
        if node.output[0] in heads:
            parts.append(heads[node.output[0]])
        elif (conv := seen.conv(node)) and conv[0].shape[0] < LANES:
            relu = seen.after(node, "Relu")
            parts.append(Thin(node.input[0], (relu or node).output[0], *conv, relu is not None))
    return parts


def find_wide(graph: onnx.GraphProto) -> list[Wide]:
    """Return the convolutions wide enough for bf16 and INT8, in the graph's order."""
    seen = Graph(graph)
    wide = []
    for node in graph.node:
        if (conv := seen.conv(node)) and min(conv[0].shape[:2]) >= 2 * LANES and conv[0].shape[2] == 3:
            relu = seen.after(node, "Relu")
            wide.append(Wide(node.input[0], (relu or node).output[0], *conv, relu is not None, node.name))
    return wide


def is_quantised(graph: onnx.GraphProto) -> bool:
    """Tell whether a graph computes in INT8."""
    return any(node.op_type == "QuantizeLinear" for node in graph.node)


def rebuilds(graph: onnx.GraphProto, stages: int) -> bool:
    """Tell whether a network's stages have F and M: four heads a stage and two of the last, or else two a stage."""
    seen = Graph(graph)
    return stages == 1 or sum(head_of(seen, node) is not None for node in graph.node) != 2 * stages


def head_of(seen: Graph, node: onnx.NodeProto) -> Head | None:
    """Return the head whose attention begins with ``node``, a mean over the frame."""
    if node.op_type != "ReduceMean" or len(node.input) != 2:
        return None
    maps = node.input[0]
    squeeze = seen.after(node, "Conv")
    excite = seen.after(seen.after(squeeze, "Relu"), "Conv")
    scaled = seen.after(seen.after(excite, "Sigmoid"), "Mul")
    taps = seen.after(scaled, "Conv")
    shifts = seen.after(taps, "Conv")
    one, two, nine, sums = (seen.conv(part) for part in (squeeze, excite, taps, shifts))
    if scaled is None or shifts is None or not (one and two and nine and sums):
        return None
    c = nine[0].shape[1]
    shapes = (one[0].shape[1:], two[0].shape[::2], nine[0].shape, sums[0].shape)
    fits = shapes == ((c, 1, 1), (c, 1), (9, c, 1, 1), (1, 9, 3, 3)) and not nine[1].any()
    axes = sorted(axis % 4 for axis in seen.constants.get(node.input[1], np.zeros(0)).ravel().tolist())
    if not fits or axes != [2, 3] or maps not in scaled.input or (sums[0][0] != np.eye(9).reshape(9, 3, 3)).any():
        return None
    maker = seen.maker.get(maps)
    expand = seen.conv(maker)
    if expand and (expand[0].shape[2] != 3 or len(seen.users[maps]) != 2):
        expand = None
    return Head(
        source=maker.input[0] if expand and maker else maps,
        target=shifts.output[0],
        expand=expand,
        squeeze=(one[0][:, :, 0, 0].T, one[1]),
        excite=(two[0][:, :, 0, 0].T, two[1]),
        project=nine[0][:, :, 0, 0].T.reshape(c, 3, 3),
        bias=sums[1],
    )
