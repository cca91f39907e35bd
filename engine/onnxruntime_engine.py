"""ONNX Runtime: a second opinion on a CPU, and the reference for parity."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input, one_line
from engine.contract import FRAMES, TARGETS, WINDOW, EngineError, ModelInfo


class OnnxRuntimeEngine:
    """A model in an ONNX Runtime session on the CPU, in float32.

    Raises:
        EngineError: if ONNX Runtime does not take the model.
    """

    name = "onnxruntime"
    best_batch = 1

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None) -> None:
        self.info = info
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its failures come as exceptions
        # Its threads would spin between frames, on cores that capture and tracking need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"{info.name}: ONNX Runtime refuses the model ({one_line(error)})") from None

    def prepare(self, batch: int, height: int, width: int) -> None:
        self.infer(*blank_input(self.info, batch, height, width))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        check_input(self.info, frames, window)
        try:
            (targets,) = self._session.run([TARGETS], {FRAMES: frames, WINDOW: window})
        except Exception as error:  # its exceptions share no class but this
            said = f"frames of {list(frames.shape)} ({one_line(error)})"
            raise EngineError(f"{self.info.name}: ONNX Runtime fails on {said}") from None
        result: NDArray[np.uint8] = targets
        return result
