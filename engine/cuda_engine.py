"""CUDA: kernels written for this one network, compiled by NVRTC for the GPU that is there.

What a launch computes stands in ``engine/kernels``; which launches a batch takes, in ``engine/cuda_plan.py``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.contract import EngineError, ModelInfo, NoGpuError
from engine.cuda import cuda_runtime, find_gpu
from engine.cuda_network import read_network
from engine.cuda_plan import KERNELS, THREADS, Launch, kernels_of, plan, room_for
from engine.cuda_weights import Weights, pack_weights
from engine.lanes import LaneEngine, Program

SOURCES = ("warp.cuh", "maps.cuh", "attention.cuh", "chain.cuh", "merge.cuh")
OVERLAP = True  # start a kernel while the one before it ends; compute capability 9.0
SHARED_PERCENT = 100  # of a multiprocessor's cache; kernels that divide it differently do not run side by side
LEAST_ARCH = 80  # the tensor cores' 16x8x16 products of float16 begin there
USUAL_HEIGHT, USUAL_WIDTH = 512, 640


def source_of() -> str:
    """Return the kernels' source."""
    folder = Path(__file__).parent / "kernels"
    return "\n".join((folder / name).read_text() for name in SOURCES)


class CudaEngine(LaneEngine):
    """A model on the first GPU that CUDA shows: maps of several channels in FP16, everything else in FP32.

    Attributes:
        times_ms: of the batch collected last, by CUDA events: ``upload``, ``compute``, ``download``.
        weights: what the kernels are compiled for.

    Raises:
        NoGpuError: if there is no GPU, or CUDA's bindings are not installed.
        EngineError: if the model is no network that the kernels compute, or the GPU cannot run them.
    """

    name = "cuda"
    best_batch = 8

    def __init__(self, content: bytes, info: ModelInfo) -> None:
        gpu = find_gpu()
        if int(gpu.arch) < LEAST_ARCH:
            raise EngineError(f"{gpu.name}: the CUDA engine needs compute capability 8.0 or later")
        self._network = read_network(onnx.load_from_string(content).graph, info)
        self.weights = pack_weights(self._network, info)
        super().__init__(info, cuda_runtime())
        self._module = _Module(info, compile_kernels(info, self.weights, gpu.arch), self.weights)
        size = len(self.weights.content)
        self._content = self._ask("memory for the weights", self._cuda.cudaMalloc(size))
        host = np.frombuffer(self.weights.content, np.uint8)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._ask("copying the weights", self._cuda.cudaMemcpy(self._content, host.ctypes.data, size, kind))
        self.prepare(1, USUAL_HEIGHT, USUAL_WIDTH)  # what does not work is known here, where auto goes on

    def _make(self, shape: tuple[int, ...]) -> Program:
        batch, _, height, width = shape[:4]
        room = room_for(self.weights, batch, height, width)
        buffers = self._buffers(shape, room.size)
        frames, window, targets, memory = buffers.device
        launches = plan(
            self.weights,
            self._content,
            (batch, height, width),
            self._network,
            (frames, window, targets),
            memory,
            room,
        )
        return Program((launches, memory, room.zeroed), buffers)

    def _enqueue(self, program: Program, stream: Any) -> None:  # noqa: ANN401
        launches, memory, zeroed = program.work
        self._ask("clearing sums", self._cuda.cudaMemsetAsync(memory, 0, zeroed, stream))
        for index, launch in enumerate(launches):
            self._module.launch(launch, stream, OVERLAP and index > 0)  # the first one follows no kernel


def cuda_driver() -> Any:  # noqa: ANN401 (a module without types)
    """Return ``cuda.bindings.driver``, which is where ``cuda.bindings.runtime`` is."""
    from cuda.bindings import driver

    return driver


def compile_kernels(info: ModelInfo, weights: Weights, arch: str) -> bytes:
    """Compile the kernels for a model's widths and depths.

    Args:
        info: of the model, for messages.
        weights: whose ``defines`` the source needs.
        arch: the digits of a GPU's compute capability.

    Returns:
        Machine code, a cubin.

    Raises:
        NoGpuError: if CUDA's bindings are not installed.
        EngineError: if NVRTC is not installed, or refuses the source.
    """
    try:
        from cuda.bindings import nvrtc
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise NoGpuError(f"CUDA's Python bindings do not load ({said}); pip install 'irstream[cuda]'") from None
    fine = nvrtc.nvrtcResult.NVRTC_SUCCESS
    try:
        code, program = nvrtc.nvrtcCreateProgram(source_of().encode(), b"irstream.cu", 0, [], [])
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise EngineError(f"{info.name}: NVRTC does not load ({said}); pip install 'irstream[cuda]'") from None
    if code != fine:
        raise EngineError(f"{info.name}: NVRTC: {code}")
    options = [f"-arch=sm_{arch}", "-std=c++17", *(f"-D{name}={value}" for name, value in weights.defines.items())]
    (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if code != fine:
        log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, log)
        said = next((line for line in log.decode(errors="replace").splitlines() if "error" in line), str(code))
        raise EngineError(f"{info.name}: NVRTC refuses the kernels for sm_{arch} ({said})")
    cubin = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
    (code,) = nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(program)
    if code != fine:
        raise EngineError(f"{info.name}: NVRTC: {code}")
    return bytes(cubin)


class _Module:
    """The compiled kernels, loaded."""

    def __init__(self, info: ModelInfo, cubin: bytes, weights: Weights) -> None:
        driver = cuda_driver()
        self._info, self._driver = info, driver
        self._module = self._ask("loading the kernels", driver.cuModuleLoadData(cubin))
        at, size = self._ask("loading the kernels", driver.cuModuleGetGlobal(self._module, b"shared_bytes"))
        shared: NDArray[np.int32] = np.zeros(size // 4, np.int32)
        self._ask("loading the kernels", driver.cuMemcpyDtoH(shared.ctypes.data, at, size))
        self._shared = [int(each) for each in shared]
        self._kernels: dict[int, Any] = {}
        self._overlap = driver.CUlaunchAttribute()
        self._overlap.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        self._overlap.value.programmaticStreamSerializationAllowed = 1
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        share = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        for index in kernels_of(weights):
            kernel = self._ask("loading the kernels", driver.cuModuleGetFunction(self._module, KERNELS[index].encode()))
            doing = f"{self._shared[index] / 1e3:.0f} kB of shared memory for {KERNELS[index]}"
            self._ask(doing, driver.cuFuncSetAttribute(kernel, most, self._shared[index]))
            self._ask("dividing the cache", driver.cuFuncSetAttribute(kernel, share, SHARED_PERCENT))
            self._kernels[index] = kernel

    def launch(self, launch: Launch, stream: Any, overlap: bool) -> None:  # noqa: ANN401
        """Put a launch into a stream; with ``overlap`` it may start before the one before it has ended."""
        parameters = np.array([ctypes.addressof(launch.args)], np.uint64)
        driver, config = self._driver, self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = THREADS[launch.kernel], 1, 1
        config.sharedMemBytes, config.hStream = self._shared[launch.kernel], int(stream)
        config.attrs, config.numAttrs = ([self._overlap], 1) if overlap else ([], 0)
        answer = driver.cuLaunchKernelEx(config, self._kernels[launch.kernel], parameters.ctypes.data, 0)
        self._ask(f"launching {KERNELS[launch.kernel]}", answer)

    def _ask(self, doing: str, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
        code, *values = answer
        if code != self._driver.CUresult.CUDA_SUCCESS:
            text = self._driver.cuGetErrorString(code)[1]
            said = text.decode() if isinstance(text, bytes) else str(text)
            raise EngineError(f"{self._info.name}: CUDA: {doing}: {said}")
        return values[0] if len(values) == 1 else tuple(values) or None
