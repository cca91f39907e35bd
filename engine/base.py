"""What an engine is, and how one is chosen."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engine.asides import warn
from engine.contract import EngineError, ModelInfo, NoGpuError, find_model, read_model
from engine.parts import is_quantised

Frames = NDArray[np.uint8]
FULL_RANGE = {8: (0.0, 255.0), 16: (0.0, 65535.0)}  # the window that shows every pixel value


class Engine(Protocol):
    """A model ready to run on one device. Not for two threads at once."""

    name: str
    """The backend, of ``ENGINES``, or ``openvino:bf16``; ``null`` is none."""
    info: ModelInfo
    best_batch: int
    """The frames in a batch beyond which more save no time; on a CPU, one."""

    def prepare(self, batch: int, height: int, width: int) -> None:
        """Compile for a shape and run it once, so that its first ``infer`` is as fast as its last.

        Raises:
            EngineError: if the model cannot run at that shape.
        """
        ...

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the target maps of a batch.

        Args:
            frames: uint8 ``[batch, 1, height, width]``, or ``[batch, 1, height, width, 2]`` for a
                16-bit model (a uint16 array's ``view(np.uint8)``).
            window: float32 ``[batch, 2]``, the pixel values that map to 0 and to 1, the second
                above the first.

        Returns:
            uint8 ``[batch, 1, height, width]``, round(255 sigmoid(T)); the caller's to keep.

        Raises:
            EngineError: if the arrays are not of these types and shapes, or the backend fails.
        """
        ...


@runtime_checkable
class LocksPages(Protocol):
    """An engine that reads frames straight from memory whose pages are locked."""

    def lock_pages(self, memory: NDArray[Any]) -> bool:
        """Lock the pages of what frames will be in; tell whether that worked. Without, frames are copied once more."""
        ...


STEPS = ("upload", "compute", "download")  # of a batch on a device with memory of its own


@runtime_checkable
class TwoAtOnce(Protocol):
    """An engine that copies one batch while it computes another. One thread may submit while another collects."""

    times_ms: dict[str, float]
    """Of the batch collected last, by ``STEPS``."""

    def submit(self, frames: Frames, window: NDArray[np.float32]) -> Any:  # noqa: ANN401
        """Send a batch on its way; see ``Engine.infer``. Two may be, whose ``frames`` stay as they are meanwhile."""
        ...

    def collect(self, ticket: Any) -> NDArray[np.uint8]:  # noqa: ANN401
        """Wait for the batch that ``submit`` gave the ticket of, and return its target maps."""
        ...


CPU_ENGINES = ("openvino", "onnxruntime")
GPU_ENGINES = ("tensorrt", "cuda", "onnxruntime-gpu")  # the fastest first
ENGINES = (*CPU_ENGINES, *GPU_ENGINES)


def check_device(device: str) -> None:
    """Refuse a device that is none; whether one works here is seen when it is loaded.

    Raises:
        EngineError: naming those that there are.
    """
    if device not in ("auto", *ENGINES, "openvino:bf16") and device.partition(":")[0] != "null":
        raise EngineError(f"{device}: no such engine; there are auto, {', '.join(ENGINES)}, openvino:bf16, null")


def load_engine(model: str, device: str = "auto", bits: int = 8, threads: int | None = None) -> Engine:
    """Load a model onto a device.

    Args:
        model: a shipped model's name, or the path of an .onnx file that keeps the contract.
        device: ``auto`` (the fastest that works here), one of ``ENGINES``, or ``openvino:bf16``; ``null`` runs no
            model and answers with targets that are not there, to measure the rest: see ``engine/null_engine.py``.
        bits: the depth of the frames, 8 or 16.
        threads: CPU threads to use; None leaves it to the backend.

    Raises:
        ModelError: if the model cannot be used.
        EngineError: if the device is unknown or does not work here.
    """
    check_device(device)
    null = device.partition(":")[0] == "null"
    if threads is not None and threads < 1:
        raise EngineError(f"{threads} threads: at least 1 is expected")
    path = find_model(model, bits)
    proto, info = read_model(path)
    if info.bits != bits:
        raise EngineError(f"{path}: a model for {info.bits}-bit frames; one for {bits} bit is needed")
    if null:
        from engine.null_engine import null_engine

        return null_engine(device, info)
    content = proto.SerializeToString()
    gpus = GPU_ENGINES if device == "auto" else (device,) if device in GPU_ENGINES else ()
    if is_quantised(proto.graph):
        if device in gpus:
            raise EngineError(f"{info.name}: its INT8 is for CPUs; {device} takes the float32 model")
        gpus = ()
    for name in gpus:
        try:
            return _gpu_engine(name, content, info)
        except NoGpuError:
            if device == "auto":
                continue  # as on most machines
            raise
        except EngineError as error:
            if device != "auto":
                raise
            warn(f"{one_line(error)}; {name} is not used")
    if device == "onnxruntime":
        from engine.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(content, info, threads)
    from engine.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(content, info, threads, "bf16" if device == "openvino:bf16" else "f32")


def _gpu_engine(name: str, content: bytes, info: ModelInfo) -> Engine:
    if name == "tensorrt":
        from engine.cuda import find_gpu

        find_gpu()  # TensorRT takes long to import, and without CUDA its runtime looks valid and crashes later
        from engine.tensorrt_engine import TensorRtEngine

        return TensorRtEngine(content, info)
    if name == "cuda":
        from engine.cuda_engine import CudaEngine

        return CudaEngine(content, info)
    from engine.onnxruntime_engine import OnnxRuntimeGpuEngine

    return OnnxRuntimeGpuEngine(content, info)


def check_input(info: ModelInfo, frames: Frames, window: NDArray[np.float32]) -> None:
    """Refuse arrays that ``info``'s model does not take; see ``Engine.infer``.

    Backends answer some of them with numbers that mean nothing.

    Raises:
        EngineError: naming the model, the array and what would be right.
    """
    shape = frames.shape
    rank = 4 if info.bits == 8 else 5
    if frames.dtype != np.uint8 or len(shape) != rank or shape[1] != 1 or shape[4:] not in ((), (2,)) or 0 in shape:
        right = "uint8 [batch, 1, height, width" + ("]" if info.bits == 8 else ", 2]")
        raise EngineError(f"{info.name}: frames are {frames.dtype} {list(shape)}; {right} is expected")
    if window.dtype != np.float32 or window.shape != (shape[0], 2):
        right = f"float32 [{shape[0]}, 2]"
        raise EngineError(f"{info.name}: the window is {window.dtype} {list(window.shape)}; {right} is expected")
    if not (window[:, 1] > window[:, 0]).all():
        raise EngineError(f"{info.name}: the window is {window.tolist()}; each must rise")


def blank_input(info: ModelInfo, batch: int, height: int, width: int) -> tuple[Frames, NDArray[np.float32]]:
    """Return black frames of a shape, and their window, that ``info``'s model takes."""
    shape = (batch, 1, height, width) if info.bits == 8 else (batch, 1, height, width, 2)
    return np.zeros(shape, np.uint8), np.array([FULL_RANGE[info.bits]] * batch, np.float32)


def one_line(error: Exception) -> str:
    """Return what a backend said, which may be many lines or none, as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
