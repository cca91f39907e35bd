"""The shipped INT8 model is the shipped float32 model, quantised."""

import numpy as np
import pytest

from engine import base
from engine.base import GPU_ENGINES, load_engine
from engine.build import Recipe, onnx_for
from engine.contract import MODELS, EngineError, read_model
from engine.limits import precision_of
from training.quantise import shown
from training.sets import read_split

NAME = "rpcanet_plus_k6"


@pytest.mark.parametrize("suffix", ["", "_16bit"])
def test_it_is_of_the_same_weights(suffix):
    """Who ships other weights has to quantise them anew; all fifteen wide convolutions of M are in INT8."""
    plain, about = read_model(MODELS / f"{NAME}{suffix}.onnx")
    small, said = read_model(MODELS / f"{NAME}_int8{suffix}.onnx")
    assert said.name == f"{NAME}_int8"
    assert (said.weights_sha256, said.threshold, said.bits) == (about.weights_sha256, about.threshold, about.bits)
    assert sum(node.op_type == "QuantizeLinear" for node in small.graph.node) == 15
    assert precision_of(plain, "openvino") == "f32"
    assert precision_of(small, "openvino") == "int8"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bits", [8, 16])
def test_it_answers_like_the_float32_model(bits, data):
    """On frames with targets the pixels that either finds are nearly the same."""
    samples = read_split(data / "nudt-sirst", "test")[:4]
    window = np.array([[0, 2**bits - 1]], np.float32)
    found = []
    for name in (NAME, f"{NAME}_int8"):
        engine = load_engine(name, "openvino", bits)
        maps = [engine.infer(shown(sample.frame, bits), window)[0, 0] for sample in samples]
        found.append(np.stack(maps) >= 255 * engine.info.threshold)
    assert found[0].any(axis=(1, 2)).sum() >= 3
    assert (found[0] & found[1]).sum() >= 0.95 * (found[0] | found[1]).sum()


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_a_gpu_engine_refuses_it_in_one_line(engine):
    """Whichever it is, and before it looks for a GPU."""
    with pytest.raises(EngineError, match=f"^{NAME}_int8: its INT8 is for CPUs; {engine} takes the float32 model$"):
        load_engine(f"{NAME}_int8", engine)


def test_auto_runs_it_on_the_cpu(capsys, monkeypatch):
    """No GPU engine is so much as tried, and nothing is said."""
    monkeypatch.setattr(base, "_gpu_engine", None)
    assert load_engine(f"{NAME}_int8").name == "openvino"
    assert capsys.readouterr().err == ""


def test_no_plan_is_made_of_it():
    """``engine.build`` says what it would take."""
    model, info = read_model(MODELS / f"{NAME}_int8.onnx")
    with pytest.raises(EngineError, match=f"^{NAME}_int8: its INT8 is for CPUs; a plan is made of the float32 model$"):
        onnx_for(model, info, Recipe())
