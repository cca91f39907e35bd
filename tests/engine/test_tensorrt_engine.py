"""What the TensorRT engine asks of CUDA and TensorRT, in which order, and what it says when they fail.

The two are imitated: no test here has seen a GPU.
"""

import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engine import base, cuda, lanes, plan_cache, tensorrt_engine
from engine.base import CPU_ENGINES, STEPS, TwoAtOnce, load_engine
from engine.contract import EngineError, NoGpuError
from stream.config import BatchConfig
from stream.frame import Hello
from stream.ring import FrameRing
from stream.workers import infer

specification = importlib.util.spec_from_file_location("imitation", Path(__file__).with_name("imitation.py"))
imitation = importlib.util.module_from_spec(specification)
specification.loader.exec_module(imitation)

WINDOW = np.array([[0, 255]], np.float32)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine with an imitated GPU; a plan is its recipe as text."""
    runtime = imitation.Cuda()
    trt = imitation.Trt(runtime)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    monkeypatch.setattr(tensorrt_engine, "cuda_runtime", lambda: runtime)
    monkeypatch.setattr(tensorrt_engine, "find_library", lambda: trt)
    runtime.trt = trt
    runtime.built = []

    def build_timed(folder, key, content, info, recipe, *_):
        runtime.built.append(recipe)
        return imitation.SimpleNamespace(plan=repr(recipe).encode())

    monkeypatch.setattr(tensorrt_engine, "build_timed", build_timed)
    return runtime


def test_an_answer_goes_there_and_back(gpu, tiny_model):
    """What went up comes down, through every run: the first, the one that is captured, and the graph's."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    for value in range(8):
        frames = np.full((1, 1, 40, 50), value, np.uint8)
        assert (engine.infer(frames, WINDOW) == value).all()
    assert engine.times_ms == {"upload": 0.5, "compute": 0.5, "download": 0.5}
    assert gpu.calls.count("cudaStreamBeginCapture") == 4  # a lane and shape: two at load, two here
    assert gpu.calls.count("enqueue") == 8


def test_the_order_of_calls(gpu, tiny_model):
    """A batch is an upload of frames and window, the graph, and a download, each between two events."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    engine.prepare(1, 40, 50)
    gpu.calls.clear()
    ticket = engine.submit(np.zeros((1, 1, 40, 50), np.uint8), WINDOW)
    upload, event = "cudaMemcpyAsync", "cudaEventRecord"
    assert gpu.calls == [event, upload, upload, event, "cudaGraphLaunch", event, upload, event]
    gpu.calls.clear()
    engine.collect(ticket)
    assert gpu.calls == ["cudaEventSynchronize", *["cudaEventElapsedTime"] * 3]


def test_two_batches_are_on_their_way(gpu, tiny_model):
    """Two tickets at once keep their own answers; a third is refused, and so is collecting twice."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    first = engine.submit(np.full((1, 1, 4, 5), 1, np.uint8), WINDOW)
    second = engine.submit(np.full((1, 1, 4, 5), 2, np.uint8), WINDOW)
    with pytest.raises(EngineError, match=r"^tiny: 2 batches are on their way; collect the first"):
        engine.submit(np.full((1, 1, 4, 5), 3, np.uint8), WINDOW)
    answers = [engine.collect(first), engine.collect(second)]
    assert [answer.max() for answer in answers] == [1, 2]
    with pytest.raises(EngineError, match=r"^tiny: this batch was collected before"):
        engine.collect(first)
    engine.infer(np.full((1, 1, 4, 5), 9, np.uint8), WINDOW)
    assert answers[0].max() == 1  # the caller's to keep


def test_one_thread_sends_while_another_collects(gpu, tiny_model):
    """As the infer worker does: each batch is sent while the one before it is waited for, and has its own answer."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    assert isinstance(engine, TwoAtOnce)
    waiting, sent = threading.Event(), threading.Event()

    def wait(_event):  # goes on once the next batch was sent meanwhile
        waiting.set()
        assert sent.wait(20)
        sent.clear()
        return (0,)

    def send(number):
        if number:
            assert waiting.wait(20)
            waiting.clear()
        ticket = engine.submit(np.full((1, 1, 4, 5), number, np.uint8), WINDOW)
        if number:
            sent.set()
        return ticket

    gpu.cudaEventSynchronize = wait
    with ThreadPoolExecutor(1) as sender:
        tickets = [sender.submit(send, number) for number in range(30)]
        for number, ticket in enumerate(tickets[:-1]):
            assert (engine.collect(ticket.result()) == number).all()
            assert engine.times_ms == dict.fromkeys(STEPS, 0.5)


def test_engines_of_a_cpu_take_one_batch(tiny_model):
    """They compute where the frames are: there is nothing to copy meanwhile."""
    assert not any(isinstance(load_engine(str(tiny_model()), name), TwoAtOnce) for name in CPU_ENGINES)


def test_a_plan_is_built_once_and_said(gpu, tiny_model, capfd):
    """The first use builds and says so; the next engine finds the plan; a size beyond it has its own."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    assert "building a plan of tiny (tensorrt 11.0.0, Imitation sm_89, fp16)" in capfd.readouterr().err
    engine.prepare(4, 1024, 1280)
    assert len(gpu.built) == 1
    engine.prepare(2, 2048, 2560)
    assert [recipe.height for recipe in gpu.built] == [(32, 512, 1024), (2048, 2048, 2048)]
    load_engine(str(tiny_model()), "tensorrt")
    assert len(gpu.built) == 2


def test_forgotten_shapes_give_their_memory_back(gpu, tiny_model):
    """More shapes than are kept cost no more memory."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    for width in range(32, 32 + 3 * lanes.MAX_SHAPES):
        engine.infer(np.zeros((1, 1, 32, width), np.uint8), WINDOW)
    assert len(gpu.memory) <= 6 * 2 * lanes.MAX_SHAPES


def test_a_refused_plan_is_built_anew(gpu, tiny_model, monkeypatch, capfd):
    """A plan in the cache that TensorRT does not deserialise goes, with its reason."""
    load_engine(str(tiny_model()), "tensorrt")
    monkeypatch.setattr(plan_cache, "read", lambda *_: b"bad")
    load_engine(str(tiny_model()), "tensorrt")
    assert "tensorrt refuses the plan (version tag does not match); it is not used" in capfd.readouterr().err
    assert len(gpu.built) == 2


def test_a_graph_that_cannot_be_captured(gpu, tiny_model):
    """Where capture fails the engine runs without a graph."""
    gpu.fail["cudaStreamEndCapture"] = 46
    engine = load_engine(str(tiny_model()), "tensorrt")
    for value in (1, 2, 3, 4, 5):
        assert (engine.infer(np.full((1, 1, 4, 5), value, np.uint8), WINDOW) == value).all()
    assert "cudaGraphLaunch" not in gpu.calls


def test_pages_that_cannot_be_locked(gpu, tiny_model):
    """Locking pages is a wish."""
    engine = load_engine(str(tiny_model()), "tensorrt")
    assert engine.lock_pages(np.zeros(100, np.uint8))
    gpu.fail["cudaHostRegister"] = 2
    assert not engine.lock_pages(np.zeros(100, np.uint8))


def test_the_rings_pages_are_locked(gpu, tiny_model):
    """The infer worker locks every slot's frame of every stream, and nothing more of the ring."""
    locked = []

    def register(at, size, flags):
        locked.append((at, size))
        return (0,)

    gpu.cudaHostRegister = register
    rings = [FrameRing(3), FrameRing(2)]
    config = infer.InferConfig(str(tiny_model()), "tensorrt", None, BatchConfig(largest=1))
    worker = infer._Infer(config, rings, [], None)
    worker.greet([Hello(0, 64, 48, 8, 30.0, True), Hello(1, 32, 16, 8, 30.0, True)])
    assert [size for _, size in locked] == [64 * 48] * 3 + [32 * 16] * 2
    assert locked[1][0] == rings[0].frame(1, 48, 64, 8).ctypes.data
    for ring in rings:
        ring.close()


FAILURES = [
    ("no memory", {"cudaMalloc": 2}, "", r"^tiny: CUDA: \d+ MB of GPU memory: out of memory$"),
    ("no page-locked memory", {"cudaMallocHost": 2}, "", r"^tiny: CUDA: page-locked memory: out of memory$"),
    ("a lost device", {"cudaEventSynchronize": 46}, "", r"^tiny: CUDA: waiting for a batch: device lost$"),
    ("a failing upload", {"cudaMemcpyAsync": 46}, "", r"^tiny: CUDA: upload: device lost$"),
    ("a failing launch", {"cudaGraphLaunch": 46}, "", r"^tiny: CUDA: running: device lost$"),
    ("no runtime", {}, "runtime", r"^tiny: tensorrt has no runtime here"),
    ("no context", {}, "context", r"^tiny: no context for frames of \[1, 1, 512, 640\] \(no memory for a context\)$"),
    ("a refused shape", {}, "shape", r"^tiny: TensorRT refuses frames of \[1, 1, 512, 640\]"),
    ("a failing run", {}, "run", r"^tiny: TensorRT fails to run"),
]


@pytest.mark.parametrize(("why", "codes", "fails", "said"), FAILURES, ids=[c[0] for c in FAILURES])
def test_a_failure_is_one_line_and_auto_goes_on(why, codes, fails, said, gpu, tiny_model, capfd):
    """Asked for by name, the engine says what failed; ``auto`` says it too and takes the next engine."""
    gpu.fail.update(codes)
    gpu.trt.fails = fails
    with pytest.raises(EngineError, match=said) as caught:
        load_engine(str(tiny_model()), "tensorrt")
    assert "\n" not in str(caught.value)
    capfd.readouterr()
    assert load_engine(str(tiny_model())).name == "openvino"
    assert f"warning: {caught.value}; tensorrt is not used\n" in capfd.readouterr().err


def test_memory_taken_before_a_failure_is_given_back(gpu, tiny_model):
    """An engine that runs out of page-locked memory keeps none of the GPU's."""
    gpu.fail["cudaMallocHost"] = 2
    with pytest.raises(EngineError):
        load_engine(str(tiny_model()), "tensorrt")
    assert not [block for block in gpu.memory.values() if len(block) > 8 * 8 * 2048]


NO_GPU = [
    ("no driver", {"driver": 0}, {"cudaGetDeviceCount": 35}, r"^no NVIDIA driver here"),
    ("a driver without a GPU", {}, {"cudaGetDeviceCount": 100}, r"^no GPU here"),
    ("no visible GPU", {"devices": 0}, {}, r"^no GPU here"),
]


@pytest.mark.parametrize(("why", "state", "codes", "said"), NO_GPU, ids=[c[0] for c in NO_GPU])
def test_without_a_gpu(why, state, codes, said, gpu, tiny_model, capfd):
    """Asked for by name it is an error; ``auto`` goes on without a word; TensorRT is not touched."""
    vars(gpu).update(state)
    gpu.fail.update(codes)
    with pytest.raises(NoGpuError, match=said):
        load_engine(str(tiny_model()), "tensorrt")
    assert load_engine(str(tiny_model())).name == "openvino"
    assert capfd.readouterr().err == ""
    assert gpu.trt.plans == []


def test_without_bindings(monkeypatch, tiny_model):
    """Without CUDA's bindings the line says what to install."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(NoGpuError, match=r"bindings do not load .*pip install 'irstream\[tensorrt\]'"):
        load_engine(str(tiny_model()), "tensorrt")


def test_onnx_runtime_on_a_gpu_that_is_not_there(tiny_model, monkeypatch):
    """Without a provider it is said; a provider that does not load is an error and not a silent CPU."""
    with pytest.raises(NoGpuError, match="has no CUDA provider; pip install onnxruntime-gpu"):
        load_engine(str(tiny_model()), "onnxruntime-gpu")
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with (
        pytest.warns(UserWarning, match="not in available"),
        pytest.raises(EngineError, match=r"^tiny: ONNX Runtime's CUDAExecutionProvider do"),
    ):
        load_engine(str(tiny_model()), "onnxruntime-gpu")


def test_the_names_that_are_used_exist():
    """Every call of CUDA's that the engine makes is one of the real bindings."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    import re

    text = "".join(Path(module.__file__).read_text() for module in (lanes, tensorrt_engine, cuda, base))
    names = set(re.findall(r"cuda\.(cuda\w+)", text))
    assert len(names) > 20
    assert [name for name in sorted(names) if not hasattr(runtime, name)] == []
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyDefault")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")


def test_the_methods_that_are_used_exist():
    """Every method of TensorRT's that the engine calls is one of TensorRT for RTX too."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install '.[rtx]'")
    used = {
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: ["create_execution_context"],
        trt.IExecutionContext: [
            "set_input_shape", "set_tensor_address", "execute_async_v3", "set_device_memory",
            "update_device_memory_size_for_shapes",
        ],
        trt.ExecutionContextAllocationStrategy: ["USER_MANAGED"],
    }  # fmt: skip
    assert [name for kind, names in used.items() for name in names if not hasattr(kind, name)] == []
