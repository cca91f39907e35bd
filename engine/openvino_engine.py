"""OpenVINO: the engine for CPUs."""

from __future__ import annotations

import functools
import os
from typing import Literal

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input, one_line
from engine.contract import FRAMES, WINDOW, EngineError, ModelInfo
from engine.openvino_graph import rewrite
from engine.parts import Head, Thin, Wide, find_parts, find_wide

MAX_SHAPES = 16  # compiled shapes kept; a compiled K=6 takes some 100 MiB
Precision = Literal["f32", "bf16"]


@functools.cache
def openvino_core() -> openvino.Core:
    """Return the core of this process, made once and never let go.

    Each core's CPU plugin gives the main thread a signal stack and frees it when it goes; after several in any other
    order than last in, first out, a freed one is left in place and the next signal that Python handles is a SIGSEGV.
    """
    return openvino.Core()


class OpenVinoEngine:
    """A model rewritten and compiled by OpenVINO for each size of frame it meets.

    One frame is given all cores; of a batch, every core has a frame of its own.

    Args:
        content: an ONNX file's.
        info: what it says of itself.
        threads: CPU threads; None is one a core.
        precision: ``f32`` or, of the wide convolutions alone, ``bf16``.

    Raises:
        EngineError: if OpenVINO does not take the model, or the model or the processor has nothing to do in bf16.
    """

    best_batch = 1

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None, precision: Precision = "f32") -> None:
        self.info = info
        self.name = "openvino" if precision == "f32" else f"openvino:{precision}"
        self._core = openvino_core()
        self._lanes = threads or len(os.sched_getaffinity(0))
        self._config: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": "f32",  # of what the graph itself does not say otherwise
            # A pinned thread waits whenever another process has its core, and the rest wait for it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._content = content
        graph = onnx.load_from_string(content).graph
        self._parts: list[Thin | Wide | Head] = [*find_parts(graph)]
        if precision == "bf16":
            if "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise EngineError("openvino:bf16: this processor has no bf16 (AVX-512 BF16, AMX); openvino is f32")
            if not (wide := find_wide(graph)):
                raise EngineError(f"{info.name}: no float32 convolution is wide enough for bf16; use openvino")
            self._parts += wide
        self._requests: dict[tuple[int, ...], list[openvino.InferRequest]] = {}
        try:
            self._core.read_model(content)
        except Exception as error:
            raise EngineError(f"{info.name}: OpenVINO refuses the model ({one_line(error)})") from None

    def prepare(self, batch: int, height: int, width: int) -> None:
        self.infer(*blank_input(self.info, batch, height, width))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        check_input(self.info, frames, window)
        targets = np.empty((len(frames), *frames.shape[1:4]), np.uint8)
        try:
            requests = self._requests_for(frames.shape[1:], min(len(frames), self._lanes))
            for first in range(0, len(frames), len(requests)):
                running = list(zip(range(first, len(frames)), requests, strict=False))
                for i, request in running:
                    one = {FRAMES: frames[i : i + 1], WINDOW: window[i : i + 1]}
                    request.start_async(
                        {name: np.ascontiguousarray(part) for name, part in one.items()}, share_inputs=True
                    )
                for i, request in running:
                    request.wait()
                    targets[i] = request.get_output_tensor(0).data[0]
            return targets
        except EngineError:
            raise
        except RuntimeError as error:
            said = f"frames of {list(frames.shape)} ({one_line(error)})"
            raise EngineError(f"{self.info.name}: OpenVINO fails on {said}") from None

    def _requests_for(self, shape: tuple[int, ...], lanes: int) -> list[openvino.InferRequest]:
        """Return as many requests for one frame of a shape as run beside one another."""
        key = (lanes, *shape)
        requests = self._requests.pop(key, None)
        if requests is None:
            # A fixed shape compiles to code about twice as fast as a dynamic one.
            model = self._core.read_model(self._content)
            model.reshape({FRAMES: [1, *shape], WINDOW: [1, 2]})
            rewrite(model, self._parts)
            while len(self._requests) >= MAX_SHAPES:
                self._requests.pop(next(iter(self._requests)))
            compiled = self._core.compile_model(model, "CPU", {**self._config, "NUM_STREAMS": lanes})
            requests = [compiled.create_infer_request() for _ in range(lanes)]
        self._requests[key] = requests  # the last used is the last to go
        return requests
