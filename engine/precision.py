"""An FP16 model out of the FP32 one: TensorRT 11 takes a network's types as the ONNX file has them.

What stays FP32 was decided with ``python -m training.precision``, which emulates FP16 rounding after
every operation; docs/engines.md has its figures. The converters that others keep are no use here: they
hand every input to the nodes that stay FP32 by way of FP16, where a 16-bit camera's window overflows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.contract import TARGETS

Precision = Literal["fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")

GROUPS = {
    "scale": "pixels to [0, 1], and whatever else comes before the first convolution",
    "pool": "the averages over the frame",
    "gate": "the sigmoids of the attention",
    "maps": "the sums and differences that make B, T, N and D",
    "levels": "the last sigmoid and the grey levels made of it",
    "layers": "convolutions, their ReLUs, the weighing of the channels",
}
KEPT = ("scale", "pool", "levels")
"""The groups that stay FP32."""


def groups_of(model: onnx.ModelProto) -> list[str]:
    """Return the group, of ``GROUPS``, of every node of a graph, in its order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    last, levels = makers.get(TARGETS), []
    while last is not None and (last.op_type in ("Cast", "Round", "Sigmoid") or _by_constant(last, constants)):
        levels.append(last)
        last = makers.get(next((name for name in last.input if name not in constants), ""))
    learned: set[str] = set()  # tensors that come out of a convolution, sooner or later
    groups = []
    for node in model.graph.node:
        if node.op_type == "Conv" or learned.intersection(node.input):
            learned.update(node.output)
            before = False
        else:
            before = True
        groups.append("levels" if any(node is level for level in levels) else _group(node, before, constants))
    return groups


def _group(node: onnx.NodeProto, before: bool, constants: Collection[str]) -> str:
    if before:
        return "scale"
    if node.op_type in ("ReduceMean", "GlobalAveragePool"):
        return "pool"
    if node.op_type == "Sigmoid":
        return "gate"
    return "maps" if node.op_type in ("Add", "Sub") or _by_constant(node, constants) else "layers"


def _by_constant(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    return node.op_type == "Mul" and any(name in constants for name in node.input)


def to_half(model: onnx.ModelProto, kept: Collection[str] = KEPT) -> onnx.ModelProto:
    """Return a model in FP16 but for the groups that are kept in FP32; inputs and outputs stay what they are.

    Weights above FP16's range become infinite, which the parity check of ``engine.gpu_check`` would show.

    Args:
        model: float32, of a graph without subgraphs; it is left as it is.
        kept: groups of ``GROUPS``; ``scale`` is always kept: a 16-bit pixel is above FP16's largest number.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # would contradict what becomes of it
    graph = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {tensor.name: tensor for tensor in bare.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    kind = dict.fromkeys(floats | weights.keys(), TensorProto.FLOAT)  # of each float tensor, by name
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}  # what a tensor is called in the other type

    def in_type(name: str, wanted: int) -> str:
        if kind.get(name, wanted) == wanted:
            return name
        if (name, wanted) not in made:
            made[name, wanted] = other = f"{name}_{'half' if wanted == TensorProto.FLOAT16 else 'float'}"
            if name in weights:
                half = numpy_helper.to_array(weights[name]).astype("float16")
                bare.graph.initializer.append(numpy_helper.from_array(half, other))
            else:
                nodes.append(helper.make_node("Cast", [name], [other], f"cast_{other}", to=wanted))
        return made[name, wanted]

    for node, group in zip(list(bare.graph.node), groups_of(bare), strict=True):
        makes_floats = any(name in floats for name in node.output) and node.op_type != "Constant"
        half = makes_floats and group != "scale" and group not in kept
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if makes_floats:  # a node that makes none, such as Shape, takes either
            changed.input[:] = [in_type(name, wanted) for name in node.input]
            kind.update((name, wanted) for name in node.output if name in floats)
        nodes.append(changed)
    del bare.graph.node[:]
    bare.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    left = [tensor for tensor in bare.graph.initializer if tensor.name in used]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(left)
    onnx.checker.check_model(bare, full_check=True)
    return bare
