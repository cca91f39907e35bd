"""OpenVINO: the engine for CPUs."""

from __future__ import annotations

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input, one_line
from engine.contract import FRAMES, WINDOW, EngineError, ModelInfo
from engine.openvino_graph import find_parts, rewrite

MAX_SHAPES = 16  # compiled shapes kept; a compiled K=6 takes some 100 MiB


class OpenVinoEngine:
    """A model rewritten and compiled by OpenVINO for each size of frame it meets, in float32; frames run one by one.

    Raises:
        EngineError: if OpenVINO does not take the model.
    """

    name = "openvino"
    best_batch = 1

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None) -> None:
        self.info = info
        self._core = openvino.Core()
        self._config: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            # A pinned thread waits whenever another process has its core, and the rest wait for it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._content = content
        self._parts = find_parts(onnx.load_from_string(content).graph)
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
        try:
            self._core.read_model(content)
        except Exception as error:
            raise EngineError(f"{info.name}: OpenVINO refuses the model ({one_line(error)})") from None

    def prepare(self, batch: int, height: int, width: int) -> None:
        self.infer(*blank_input(self.info, batch, height, width))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        check_input(self.info, frames, window)
        try:
            request = self._request((1, *frames.shape[1:]))
            targets = np.empty((len(frames), *frames.shape[1:4]), np.uint8)
            for i in range(len(frames)):
                one = {FRAMES: np.ascontiguousarray(frames[i : i + 1]), WINDOW: np.ascontiguousarray(window[i : i + 1])}
                request.infer(one, share_inputs=True)
                targets[i] = request.get_output_tensor(0).data[0]
            return targets
        except RuntimeError as error:
            said = f"frames of {list(frames.shape)} ({one_line(error)})"
            raise EngineError(f"{self.info.name}: OpenVINO fails on {said}") from None

    def _request(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        # A fixed shape compiles to code about twice as fast as a dynamic one.
        request = self._requests.pop(shape, None)
        if request is None:
            model = self._core.read_model(self._content)
            model.reshape({FRAMES: list(shape), WINDOW: [1, 2]})
            rewrite(model, self._parts)
            while len(self._requests) >= MAX_SHAPES:
                self._requests.pop(next(iter(self._requests)))
            request = self._core.compile_model(model, "CPU", self._config).create_infer_request()
        self._requests[shape] = request  # the last used is the last to go
        return request
