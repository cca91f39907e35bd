"""The shipped INT8 model is the shipped float32 model, quantised."""

import numpy as np
import pytest

from engine.base import load_engine
from engine.contract import MODELS, EngineError, read_model
from engine.cuda_network import read_network
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


def test_a_gpu_engine_refuses_it_in_one_line():
    """Its kernels are for float32 weights; where the engine is chosen by ``auto``, the CPU's follows."""
    model, info = read_model(MODELS / f"{NAME}_int8.onnx")
    with pytest.raises(EngineError, match=r"^rpcanet_plus_k6_int8: not a network that the CUDA engine computes"):
        read_network(model.graph, info)
