"""ONNX Runtime: a second opinion on a CPU, the reference for parity, and a fallback on a GPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input, one_line
from engine.contract import FRAMES, TARGETS, WINDOW, EngineError, ModelInfo, NoGpuError


class OnnxRuntimeEngine:
    """A model in an ONNX Runtime session on the CPU, in float32.

    Raises:
        EngineError: if ONNX Runtime does not take the model.
    """

    name = "onnxruntime"
    best_batch = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(self, content: bytes, info: ModelInfo, threads: int | None = None) -> None:
        self.info = info
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its failures come as exceptions
        # Its threads would spin between frames, on cores that capture and tracking need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=self.providers)
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


class OnnxRuntimeGpuEngine(OnnxRuntimeEngine):
    """A model in an ONNX Runtime session on a GPU, by its TensorRT or CUDA provider; it has never run on one.

    What the GPU's provider does not take, ONNX Runtime runs on the CPU.

    Raises:
        NoGpuError: if this ONNX Runtime has neither provider.
        EngineError: if neither works here, or ONNX Runtime does not take the model.
    """

    name = "onnxruntime-gpu"
    best_batch = 8

    def __init__(self, content: bytes, info: ModelInfo) -> None:
        there = onnxruntime.get_available_providers()
        wanted = tuple(each for each in ("TensorrtExecutionProvider", "CUDAExecutionProvider") if each in there)
        if not wanted:
            raise NoGpuError("onnxruntime-gpu: this ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu")
        self.providers = (*wanted, *OnnxRuntimeEngine.providers)
        super().__init__(content, info)
        # A provider whose libraries or driver are missing is left out without an exception.
        if not set(wanted) & set(self._session.get_providers()):
            raise EngineError(f"{info.name}: ONNX Runtime's {' and '.join(wanted)} do not work here")
