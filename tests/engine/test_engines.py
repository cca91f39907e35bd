"""Every engine answers alike, and refuses in one line what it cannot run."""

import subprocess
import sys

import numpy as np
import pytest

from engine.base import CPU_ENGINES, load_engine
from engine.contract import EngineError
from engine.openvino_engine import MAX_SHAPES


def expected(pixels, window):
    """What the tiny model answers: the scaled pixel in grey levels."""
    low, high = window[:, 0, None, None, None], window[:, 1, None, None, None]
    return np.round(255 * np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)).astype(np.uint8)


SHAPES = [
    ("one small frame", 1, 32, 48),
    ("an odd size", 1, 37, 51),
    ("a batch", 3, 24, 40),
    ("one pixel", 1, 1, 1),
]


@pytest.mark.parametrize("name", CPU_ENGINES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("why", "batch", "height", "width"), SHAPES, ids=[c[0] for c in SHAPES])
def test_every_shape_is_answered(why, batch, height, width, bits, name, tiny_model):
    """Any size, batch and depth has its answer, each frame by its own window."""
    engine = load_engine(str(tiny_model(bits=bits)), name, bits)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1 << bits, (batch, 1, height, width), np.uint8 if bits == 8 else np.uint16)
    top = (1 << bits) - 1
    window = np.array([(0, top), (top // 4, top // 2), (10, 11)][:batch], np.float32)
    engine.prepare(batch, height, width)
    frames = pixels if bits == 8 else pixels[..., None].view(np.uint8)
    found = engine.infer(frames, window)
    assert found.dtype == np.uint8
    assert found.shape == (batch, 1, height, width)
    assert np.abs(found.astype(int) - expected(pixels, window)).max() <= 1


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_an_answer_is_the_callers_to_keep(name, tiny_model):
    """The next call does not change what the last one returned."""
    engine = load_engine(str(tiny_model()), name)
    window = np.array([[0, 255]], np.float32)
    first = engine.infer(np.full((1, 1, 8, 8), 10, np.uint8), window)
    engine.infer(np.full((1, 1, 8, 8), 200, np.uint8), window)
    assert (first == 10).all()


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_strided_view_is_read_as_it_looks(name, tiny_model):
    """A part of a larger frame, flipped, is answered like a copy of it."""
    engine = load_engine(str(tiny_model()), name)
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, 40, 60), np.uint8)[..., ::-2, 3:50]
    window = np.array([[0, 255, 7]], np.float32)[:, :2]
    assert np.array_equal(engine.infer(frame, window), frame)


def test_forgotten_shapes_are_compiled_again(tiny_model):
    """More shapes than OpenVINO keeps are answered all the same."""
    engine = load_engine(str(tiny_model()), "openvino")
    window = np.array([[0, 255]], np.float32)
    for side in [*range(1, MAX_SHAPES + 3), 1]:
        assert engine.infer(np.full((1, 1, side, side), 7, np.uint8), window).shape == (1, 1, side, side)
    assert len(engine._requests) == MAX_SHAPES


COME_AND_GONE = """
import gc, signal, sys
from engine.limits import Gemm
from engine.base import load_engine
held = [load_engine(sys.argv[1], "openvino"), Gemm(None), load_engine(sys.argv[1], "openvino")]
for engine in held:
    engine.prepare(1, 8, 8)
del engine
while held:
    del held[0]
    gc.collect()
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
signal.raise_signal(signal.SIGTERM)
print(*heard)
"""


def test_a_signal_is_heard_after_engines_have_come_and_gone(tiny_model):
    """Engines that are dropped in the order they came leave a stack for Python's signal handlers, not a freed one."""
    line = [sys.executable, "-c", COME_AND_GONE, str(tiny_model())]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "15\n"), done.stderr


U8, F32 = np.uint8, np.float32
BAD_INPUT = [
    ("no channel", np.zeros((1, 8, 8), U8), np.array([[0, 1]], F32), r"uint8 \[1, 8, 8\]; uint8 \[batch, 1,"),
    ("three channels", np.zeros((1, 3, 8, 8), U8), np.array([[0, 1]], F32), r"frames are uint8 \[1, 3, 8, 8\]"),
    ("floats", np.zeros((1, 1, 8, 8), F32), np.array([[0, 1]], F32), r"frames are float32"),
    ("16-bit frames for a model of 8", np.zeros((1, 1, 8, 8, 2), U8), np.array([[0, 1]], F32), r"\[1, 1, 8, 8, 2\]"),
    ("no frame", np.zeros((0, 1, 8, 8), U8), np.zeros((0, 2), F32), r"frames are uint8 \[0, 1, 8, 8\]"),
    ("frames without pixels", np.zeros((1, 1, 0, 8), U8), np.array([[0, 1]], F32), r"\[1, 1, 0, 8\]"),
    ("a window of doubles", np.zeros((1, 1, 8, 8), U8), np.array([[0.0, 1.0]]), r"window is float64 \[1, 2\]; float32"),
    ("one window for two frames", np.zeros((2, 1, 8, 8), U8), np.array([[0, 1]], F32), r"float32 \[2, 2\] is expected"),
    ("a window of no width", np.zeros((1, 1, 8, 8), U8), np.array([[5, 5]], F32), r"each must rise"),
    ("a window that is not a number", np.zeros((1, 1, 8, 8), U8), np.array([[0, np.nan]], F32), r"each must rise"),
]


@pytest.mark.parametrize("name", CPU_ENGINES)
@pytest.mark.parametrize(("why", "frames", "window", "said"), BAD_INPUT, ids=[c[0] for c in BAD_INPUT])
def test_arrays_of_another_kind_are_refused(why, frames, window, said, name, tiny_model):
    """Arrays that the model does not take are refused in one line that names it."""
    engine = load_engine(str(tiny_model()), name)
    with pytest.raises(EngineError, match=said) as caught:
        engine.infer(frames, window)
    assert str(caught.value).startswith("tiny: ")


def unknown_operator(model):
    model.graph.node[-2].op_type = "RoundAndRound"


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_model_that_the_backend_refuses(name, tiny_model):
    """An operator that a backend does not know is one line that names the model."""
    path = tiny_model(change=unknown_operator)
    with pytest.raises(EngineError, match=r"^tiny: .* refuses the model") as caught:
        load_engine(str(path), name)
    assert "\n" not in str(caught.value)


REFUSED = [
    ("an unknown engine", {"device": "quantum"}, r"^quantum: no such engine; there are auto, openvino, onnxruntime"),
    ("no thread", {"threads": 0}, r"^0 threads: at least 1"),
    ("frames of another depth", {"bits": 16}, r"tiny.onnx: a model for 8-bit frames; one for 16 bit is needed"),
]


@pytest.mark.parametrize(("why", "wanted", "said"), REFUSED, ids=[c[0] for c in REFUSED])
def test_what_cannot_be_loaded_is_said(why, wanted, said, tiny_model):
    """A wish that cannot be met is refused with what could be."""
    with pytest.raises(EngineError, match=said):
        load_engine(str(tiny_model()), **wanted)


def test_auto_is_the_fastest_on_a_cpu(tiny_model):
    """Without a GPU, auto is OpenVINO."""
    assert load_engine(str(tiny_model())).name == "openvino"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_is_shared_out_in_its_order(threads, tiny_model):
    """Each frame of a batch has its own answer, however many run beside one another."""
    engine = load_engine(str(tiny_model()), "openvino", threads=threads)
    frames = np.arange(7, dtype=np.uint8)[:, None, None, None] + np.zeros((7, 1, 6, 8), np.uint8)
    window = np.array([[0, 255]] * 7, np.float32)
    assert np.array_equal(engine.infer(frames, window), frames)


def test_bf16_where_the_processor_has_it(tiny_model):
    """Without bf16 in the processor it is refused; with it, a model that has no wide convolution is."""
    with pytest.raises(EngineError, match=r"this processor has no bf16|tiny: no float32 convolution is wide enough"):
        load_engine(str(tiny_model()), "openvino:bf16")


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_threads_are_a_wish(name, tiny_model):
    """One thread answers like many."""
    engine = load_engine(str(tiny_model()), name, threads=1)
    frame = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    assert np.array_equal(engine.infer(frame, np.array([[0, 255]], np.float32)), frame)
