"""Runs the CUDA engine's kernels on a CPU, compiled by g++; see simt.h."""

import ctypes
import hashlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from engine.cuda_engine import source_of
from engine.cuda_network import read_network
from engine.cuda_plan import KERNELS, THREADS, Args, plan, room_for
from engine.cuda_weights import pack_weights

FLAGS = ["-O1", "-mavx2", "-mfma", "-mf16c", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"]
# -O1 compiles in half the time of -O2, and runs as fast.
WATCHED = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "--param=asan-stack=0"]


def build(weights, folder, flags=()):
    """Compile the kernels of a model; return the library. Two stages need the same kernels as more."""
    these = weights.defines | {"STAGES": min(weights.defines["STAGES"], 2)}
    defines = [f"-D{name}={value}" for name, value in these.items()]
    text = f'#include "{Path(__file__).with_name("simt.h")}"\n' + source_of()
    name = Path(folder) / hashlib.sha256(" ".join([*flags, *defines, text]).encode()).hexdigest()[:16]
    if not name.with_suffix(".so").exists():
        name.with_suffix(".cpp").write_text(text)
        line = ["g++", *FLAGS, *flags, *defines, "-o", str(name.with_suffix(".so")), str(name.with_suffix(".cpp"))]
        subprocess.run(line, check=True, capture_output=True, text=True)
    library = ctypes.CDLL(str(name.with_suffix(".so")))
    library.simt_run.restype = ctypes.c_char_p
    return library


class Emulated:
    """A model on an emulated GPU."""

    def __init__(self, proto, info, folder, backwards=False, together=1 << 19, flags=()):
        self.info, self.backwards, self.together = info, backwards, together
        self.network = read_network(proto.graph, info)
        self.weights = pack_weights(self.network, info)
        self.code = build(self.weights, folder, flags)
        self.shared = (ctypes.c_int * len(KERNELS)).in_dll(self.code, "shared_bytes")
        self.content = np.frombuffer(self.weights.content, np.uint8)

    def infer(self, frames, window):
        batch, _, height, width = frames.shape[:4]
        room = room_for(self.weights, batch, height, width, self.together)
        memory = np.full(room.size, 0xFF, np.uint8)  # what nobody wrote is NaN
        memory[: room.zeroed] = 0
        return self.launch(frames, window, self.content.ctypes.data, memory.ctypes.data, room)

    def launch(self, frames, window, content, memory, room):
        """Run a batch, with weights, memory and what lies where in it at hand."""
        batch, _, height, width = frames.shape[:4]
        frames = np.ascontiguousarray(frames)
        targets = np.full((batch, 1, height, width), 77, np.uint8)
        addresses = tuple(array.ctypes.data for array in (frames, window, targets))
        launches = plan(self.weights, content, (batch, height, width), self.network, addresses, memory, room)
        for index, launch in enumerate(launches):
            grid = (ctypes.c_uint * 3)(*launch.grid)
            shared = ctypes.c_uint(self.shared[launch.kernel])
            threads = ctypes.c_uint(THREADS[launch.kernel])
            name = KERNELS[launch.kernel]
            said = self.code.simt_run(
                name.encode(), grid, threads, shared, ctypes.byref(launch.args), int(self.backwards)
            )
            assert not said, f"launch {index}, {name}: {said.decode()}"
        return targets


class Driver:
    """Stands in for ``cuda.bindings.driver``: a launch runs the emulated kernel; GPU memory is host memory."""

    class CUresult:
        CUDA_SUCCESS = 0

    class CUlaunchAttributeID:
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6

    CUlaunchConfig = SimpleNamespace

    class CUfunction_attribute:  # noqa: N801
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9

    def __init__(self, runtime):
        self.runtime, self.code, self.fail, self.launched = runtime, None, {}, []

    def CUlaunchAttribute(self):  # noqa: N802
        return SimpleNamespace(value=SimpleNamespace())

    def cuGetErrorString(self, code):  # noqa: N802
        return 0, b"failure %d" % code

    def cuModuleLoadData(self, cubin):  # noqa: N802
        """Take the path of a library that ``build`` made for machine code."""
        self.code = ctypes.CDLL(cubin.decode())
        self.code.simt_run.restype = ctypes.c_char_p
        return self.fail.get("load", 0), 5

    def cuModuleGetGlobal(self, module, name):  # noqa: N802
        shared = (ctypes.c_int * len(KERNELS)).in_dll(self.code, name.decode())
        return 0, ctypes.addressof(shared), ctypes.sizeof(shared)

    def cuMemcpyDtoH(self, to, at, size):  # noqa: N802
        ctypes.memmove(to, at, size)
        return (0,)

    def cuModuleGetFunction(self, module, name):  # noqa: N802
        return 0, name

    def cuFuncSetAttribute(self, kernel, attribute, value):  # noqa: N802
        return (self.fail.get("shared", 0) if attribute == 8 else 0,)

    def cuLaunchKernelEx(self, config, kernel, parameters, extra):  # noqa: N802
        assert config.hStream == 7
        at = ctypes.c_uint64.from_address(parameters).value
        args = Args.from_buffer_copy((ctypes.c_char * ctypes.sizeof(Args)).from_address(at))

        def run():
            self.launched.append(kernel.decode())
            grid = (ctypes.c_uint * 3)(config.gridDimX, config.gridDimY, config.gridDimZ)
            words = (ctypes.c_uint(config.blockDimX), ctypes.c_uint(config.sharedMemBytes), ctypes.byref(args), 0)
            said = self.code.simt_run(kernel, grid, *words)
            assert not said, said.decode()

        self.runtime.run(run)
        return (self.fail.get("launch", 0),)
