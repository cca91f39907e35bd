"""OpenVINO: the engine for CPUs."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from engine.base import Frames
from engine.contract import FRAMES, WINDOW, ModelInfo

MAX_SHAPES = 16  # compiled shapes kept; a compiled K=6 takes some 100 MiB


class OpenVinoEngine:
    """A model compiled by OpenVINO for each shape it meets, in float32."""

    name = "openvino"

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None) -> None:
        self.info = info
        self._core = openvino.Core()
        self._config: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._content = content
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}

    def prepare(self, batch: int, height: int, width: int) -> None:
        self._request((batch, 1, height, width) if self.info.bits == 8 else (batch, 1, height, width, 2))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        request = self._request(frames.shape)
        request.infer({FRAMES: frames, WINDOW: window}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    def _request(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        # A fixed shape compiles to code about twice as fast as a dynamic one.
        request = self._requests.pop(shape, None)
        if request is None:
            model = self._core.read_model(self._content)
            model.reshape({FRAMES: list(shape), WINDOW: [shape[0], 2]})
            request = self._core.compile_model(model, "CPU", self._config).create_infer_request()
            while len(self._requests) >= MAX_SHAPES:
                self._requests.pop(next(iter(self._requests)))
        self._requests[shape] = request  # the last used is the last to go
        return request
