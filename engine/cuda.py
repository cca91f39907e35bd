"""CUDA, asked politely: every failure is one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.contract import EngineError, NoGpuError


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: the product and its compute capability, such as ``NVIDIA L4 sm_89``.
        arch: the latter's digits.
        driver: the version of CUDA that the driver has, such as 13000.
    """

    name: str
    arch: str
    driver: int


def cuda_runtime() -> Any:  # noqa: ANN401 (a module without types)
    """Return ``cuda.bindings.runtime``.

    Raises:
        NoGpuError: if it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        extras = "pip install 'irstream[cuda]' or pip install 'irstream[tensorrt]'"
        raise NoGpuError(f"CUDA's Python bindings do not load ({said}); {extras}") from None
    return runtime


def ask(cuda: Any, doing: str, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """Return what a CUDA call gave.

    Args:
        cuda: the runtime's module.
        doing: what was tried, for the message.
        answer: the call's: its error code, then values.

    Raises:
        EngineError: if the code is not success.
    """
    code, *values = answer
    if code != cuda.cudaError_t.cudaSuccess:
        text = cuda.cudaGetErrorString(code)[1]
        raise EngineError(f"CUDA: {doing}: {text.decode() if isinstance(text, bytes) else text}")
    return values[0] if len(values) == 1 else tuple(values) or None


def find_gpu() -> Gpu:
    """Return the first GPU that CUDA shows; ``CUDA_VISIBLE_DEVICES`` picks it.

    Raises:
        NoGpuError: if there is none, or no driver.
        EngineError: if it does not answer.
    """
    cuda = cuda_runtime()
    code, count = cuda.cudaGetDeviceCount()
    errors = cuda.cudaError_t
    if code in (errors.cudaErrorInsufficientDriver, errors.cudaErrorNoDevice) or (
        code == errors.cudaSuccess and not count
    ):
        driver = ask(cuda, "asking for the driver", cuda.cudaDriverGetVersion())
        raise NoGpuError("no GPU here" if driver else "no NVIDIA driver here")
    ask(cuda, "counting GPUs", (code, count))
    found = ask(cuda, "asking the GPU", cuda.cudaGetDeviceProperties(0))
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    arch = f"{found.major}{found.minor}"
    return Gpu(
        f"{name.rstrip(chr(0))} sm_{arch}", arch, ask(cuda, "asking for the driver", cuda.cudaDriverGetVersion())
    )
