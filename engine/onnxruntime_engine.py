"""ONNX Runtime: a second opinion on a CPU, and the reference for parity."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.base import Frames
from engine.contract import FRAMES, TARGETS, WINDOW, ModelInfo


class OnnxRuntimeEngine:
    """A model in an ONNX Runtime session on the CPU, in float32."""

    name = "onnxruntime"

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None) -> None:
        self.info = info
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def prepare(self, batch: int, height: int, width: int) -> None:
        shape = (batch, 1, height, width) if self.info.bits == 8 else (batch, 1, height, width, 2)
        self.infer(np.zeros(shape, np.uint8), np.tile(np.array([0, 1], np.float32), (batch, 1)))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        (targets,) = self._session.run([TARGETS], {FRAMES: frames, WINDOW: window})
        result: NDArray[np.uint8] = targets
        return result
