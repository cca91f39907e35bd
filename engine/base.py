"""What an engine is, and how one is chosen."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.contract import EngineError, ModelInfo, find_model, read_model

Frames = NDArray[np.uint8]
FULL_RANGE = {8: (0.0, 255.0), 16: (0.0, 65535.0)}  # the window that shows every pixel value


class Engine(Protocol):
    """A model ready to run on one device. Not for two threads at once."""

    name: str
    """The backend: ``openvino``, ``onnxruntime``, ``tensorrt``."""
    info: ModelInfo

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Compile for a shape, so that its first ``infer`` is as fast as its last."""
        ...

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the target maps of a batch.

        Args:
            frames: uint8 ``[batch, 1, height, width]``, or ``[batch, 1, height, width, 2]`` for a
                16-bit model (a uint16 array's ``view(np.uint8)``).
            window: float32 ``[batch, 2]``, the pixel values that map to 0 and to 1.

        Returns:
            uint8 ``[batch, 1, height, width]``, round(255 sigmoid(T)); the caller's to keep.
        """
        ...


ENGINES = ("openvino", "onnxruntime")


def load_engine(model: str, device: str = "auto", bits: int = 8, threads: int | None = None) -> Engine:
    """Load a model onto a device.

    Args:
        model: a shipped model's name, or the path of an .onnx file that keeps the contract.
        device: ``auto`` (the fastest that works here), or one of ``ENGINES``.
        bits: the depth of the frames, 8 or 16.
        threads: CPU threads to use; None leaves it to the backend.

    Raises:
        ModelError: if the model cannot be used.
        EngineError: if the device is unknown or does not work here.
    """
    proto, info = read_model(find_model(model, bits))
    if info.bits != bits:
        raise EngineError(f"{model}: a model for {info.bits}-bit frames; one for {bits} bit is needed")
    content = proto.SerializeToString()
    if device in ("auto", "openvino"):
        from engine.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(content, info, threads)
    if device == "onnxruntime":
        from engine.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(content, info, threads)
    raise EngineError(f"{device}: no such engine; there are auto, {', '.join(ENGINES)}")
