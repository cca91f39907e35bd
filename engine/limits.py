"""What a model's arithmetic is, and what a machine could do at best: the yardsticks of ``engine.bench``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import openvino
import openvino.opset13 as ops
from numpy.typing import NDArray

from engine.base import Frames
from engine.contract import FRAMES, WINDOW, EngineError, ModelInfo
from engine.openvino_engine import openvino_core
from engine.parts import is_quantised, rebuilds

SIDES = {"f32": 1024, "bf16": 2048, "int8": 2048}  # of the square matrices whose product is the limit


@dataclass(frozen=True)
class Work:
    """What a model's convolutions have to do in one call, as its file has them; an engine may find a shorter way.

    Attributes:
        operations: multiplications and additions.
        bytes_moved: to read every convolution's maps and weights, and to write its answer, in float32.
    """

    operations: int
    bytes_moved: int


def work_of(model: onnx.ModelProto, batch: int, height: int, width: int) -> Work:
    """Count a model's work for a batch of frames of a size."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for tensor in fixed.graph.input:
        sizes = {FRAMES: (batch, 1, height, width), WINDOW: (batch,)}[tensor.name]
        for dim, size in zip(tensor.type.tensor_type.shape.dim, sizes, strict=False):
            dim.dim_value = size
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.input)}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    operations = moved = 0
    for node in graph.node:
        if node.op_type == "Conv":
            maps, weight, made = (int(np.prod(shapes[name])) for name in (*node.input[:2], node.output[0]))
            operations += 2 * made * weight // shapes[node.input[1]][0]
            moved += 4 * (maps + weight + made)
    return Work(operations, moved)


def precision_of(model: onnx.ModelProto, engine: str) -> str:
    """Return what an engine, or the reference, computes most of a model in: one of ``SIDES``, or ``f16``, on a GPU."""
    if engine == Reference.name:
        return "f32"
    if engine in ("tensorrt", "cuda"):
        return "f16"
    if engine.endswith(":bf16"):
        return "bf16"
    return "int8" if is_quantised(model.graph) else "f32"


class Gemm:
    """A product of large matrices, dressed as an engine so that it is timed among them.

    Args:
        threads: of the CPU; None is one a core.
        precision: what is multiplied, of ``SIDES``.
    """

    name = "gemm"

    def __init__(self, threads: int | None, precision: str = "f32") -> None:
        config: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        config |= {"ENABLE_CPU_PINNING": False} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        side = SIDES[precision]
        self.operations = 2 * side**3
        kind = {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16, "int8": openvino.Type.u8}[precision]
        left = ops.parameter([side, side], kind)
        one, other = left, ops.constant(np.full((side, side), 0.5, np.float32))
        if precision == "bf16":
            other = ops.convert(other, "bf16")
        elif precision == "int8":
            one, other = _levels(ops.convert(left, "f32"), 0, 255), _levels(other, -127, 127)
        model = openvino.Model([ops.matmul(one, other, False, False)], [left])
        self._request = openvino_core().compile_model(model, "CPU", config).create_infer_request()
        self._left = openvino.Tensor(kind, openvino.Shape([side, side]))
        self._left.data.view(np.uint8)[:] = 0

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Nothing depends on the frames."""

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:  # noqa: ARG002
        self._request.infer([self._left], share_inputs=True)
        return frames


def _levels(x: Any, low: int, high: int) -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Return what is quantised to whole numbers, which OpenVINO multiplies as such."""
    ends = [ops.constant(np.float32(end)) for end in (low, high)]
    return ops.fake_quantize(x, *ends, *ends, high - low + 1)


class Reference:
    """The network of a model in eager PyTorch, in a process of its own, dressed as an engine.

    Its weights are random, which no time depends on, and its layers those of the published networks, F and M left out
    where the model has none.

    Raises:
        EngineError: if PyTorch is not installed.
    """

    name = "pytorch"
    best_batch = 1

    def __init__(self, model: onnx.ModelProto, info: ModelInfo, threads: int | None) -> None:
        self.info = info
        self._rebuild = rebuilds(model.graph, info.stages)
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None

    def prepare(self, batch: int, height: int, width: int) -> None:
        self.close()
        widths = (self.info.stages, self.info.channels, self.info.bottleneck, int(self._rebuild), self.info.bits)
        words = [str(number) for number in (*widths, batch, height, width, self._threads or 0)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "training.reference", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._run()

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:  # noqa: ARG002
        self._run()
        return frames

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.communicate()
            self._process = None

    def _run(self) -> None:
        """Let the process run the network once."""
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            _, said = self._process.communicate()
            self._process = None
            reason = (said.strip().splitlines() or ["it ended"])[-1]
            raise EngineError(f"--reference: eager PyTorch does not run ({reason}); pip install 'irstream[train]'")
