"""Imitations of CUDA and TensorRT, for what happens before, after and instead of a run on a GPU.

They keep the order of calls and fail where they are told to. GPU memory is host memory, a run copies the
frames to the targets at once, and streams are in no hurry; nothing here says that a GPU would do the same.
"""

import ctypes
from types import SimpleNamespace

import numpy as np


class Cuda:
    """Stands in for ``cuda.bindings.runtime``."""

    def __init__(self):
        self.cudaStreamNonBlocking = 1
        self.cudaError_t = SimpleNamespace(cudaSuccess=0, cudaErrorInsufficientDriver=35, cudaErrorNoDevice=100)
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        self.texts = {2: b"out of memory", 35: b"driver is insufficient", 100: b"no device", 46: b"device lost"}
        self.calls = []
        self.fail = {}  # the name of a call -> the code it gives from now on
        self.memory = {}
        self.capturing = False
        self.captured = None
        self.recorded = []
        self.devices = 1
        self.driver = 13000

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            if name in self.fail:
                return (self.fail[name], None) if self.values(name, arguments) else (self.fail[name],)
            return (0, *self.values(name, arguments))

        return call

    def run(self, work):
        """Do what a stream is given, or keep it for the graph that is captured."""
        if self.capturing:
            self.recorded.append(work)
        else:
            work()

    def values(self, name, arguments):  # noqa: PLR0911
        if name in ("cudaMalloc", "cudaMallocHost"):
            block = np.zeros(arguments[0], np.uint8)
            self.memory[block.ctypes.data] = block
            return (block.ctypes.data,)
        if name in ("cudaFree", "cudaFreeHost"):
            if name not in self.fail:
                del self.memory[arguments[0]]
            return ()
        if name == "cudaMemcpyAsync":
            if name not in self.fail:
                ctypes.memmove(*arguments[:3])
            return ()
        if name in ("cudaMemcpy", "cudaMemsetAsync"):
            call = ctypes.memmove if name == "cudaMemcpy" else ctypes.memset
            self.run(lambda: call(*arguments[:3]))
            return ()
        if name in ("cudaStreamBeginCapture", "cudaStreamEndCapture"):
            self.capturing = name == "cudaStreamBeginCapture"
            if self.capturing:
                self.recorded = []
                return ()
            return (self.captured or (lambda works=self.recorded: [work() for work in works]),)
        if name == "cudaGraphLaunch":
            arguments[0]()
            return ()
        if name == "cudaGraphInstantiate":
            return (arguments[0],)
        if name == "cudaGetErrorString":
            return (self.texts[arguments[0]],)
        gives = {
            "cudaGetDeviceCount": self.devices,
            "cudaDriverGetVersion": self.driver,
            "cudaGetDeviceProperties": SimpleNamespace(name=b"Imitation\0\0", major=8, minor=9),
            "cudaStreamCreateWithFlags": 7,
            "cudaEventCreate": object(),
            "cudaEventElapsedTime": 0.5,
        }
        return (gives[name],) if name in gives else ()


class Context:
    def __init__(self, cuda, fails):
        self.cuda, self.fails, self.at, self.shapes = cuda, fails, {}, {}

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return self.fails != "shape"

    def update_device_memory_size_for_shapes(self):
        return 1000

    def set_device_memory(self, at, size):
        assert len(self.cuda.memory[at]) >= size

    def set_tensor_address(self, name, at):
        self.at[name] = at
        return True

    def execute_async_v3(self, stream):
        assert stream == 7
        self.cuda.calls.append("enqueue")

        def run():
            ctypes.memmove(self.at["targets"], self.at["frames"], int(np.prod(self.shapes["frames"])))

        if self.cuda.capturing:
            self.cuda.captured = run
        else:
            run()
        return self.fails != "run"


class Trt:
    """Stands in for ``tensorrt``, but for building."""

    __name__ = "tensorrt"
    __version__ = "11.0.0"
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 0

        def __init__(self):
            pass

    def __init__(self, cuda, fails=""):
        self.cuda, self.fails, self.plans = cuda, fails, []

    def Runtime(self, log):  # noqa: N802
        self.log = log
        return None if self.fails == "runtime" else self

    def deserialize_cuda_engine(self, plan):
        self.plans.append(plan)
        if plan == b"bad":
            self.log.log(1, "version tag does not match")
            return None
        return SimpleNamespace(create_execution_context=self.context)

    def context(self, strategy):
        assert strategy == 2
        if self.fails == "context":
            self.log.log(1, "no memory\nfor a context")
            return None
        return Context(self.cuda, self.fails)
