"""The FP16 model answers as the FP32 one but for rounding, and what must stay FP32 does."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from engine.contract import EngineError, find_model, read_model
from engine.precision import KEPT, groups_of, to_half


@pytest.fixture(scope="module", params=[8, 16])
def shipped(request):
    path = find_model("rpcanet_plus_k1", request.param)
    return read_model(path)[0]


def types_of(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: v.type.tensor_type.elem_type for v in values} | {t.name: t.data_type for t in graph.initializer}


def run(model, frames, window):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames, "window": window})[0]


def test_every_convolution_is_half(shipped):
    """Inputs, weights and output of every convolution are FP16."""
    half = to_half(shipped)
    types = types_of(half)
    convolutions = [node for node in half.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 21
    for node in convolutions:
        assert {types[name] for name in [*node.input, *node.output]} == {TensorProto.FLOAT16}


def test_inputs_and_outputs_stay(shipped):
    """The contract is kept: the same names, types and shapes at both ends, and the same metadata."""
    half = to_half(shipped)
    assert list(half.graph.input) == list(shipped.graph.input)
    assert list(half.graph.output) == list(shipped.graph.output)
    assert list(half.metadata_props) == list(shipped.metadata_props)


@pytest.mark.parametrize("kept", [KEPT, ("scale",), ("scale", "maps", "gate")], ids=",".join)
def test_the_groups_kept_are_float(shipped, kept):
    """Every operation on floats is of the type that its group has."""
    half = to_half(shipped, kept)
    types = types_of(half)
    group = {name: g for n, g in zip(shipped.graph.node, groups_of(shipped), strict=True) for name in n.output}
    floats = [n for n in half.graph.node if types.get(n.output[0]) in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    ours = [node for node in floats if node.output[0] in group]  # not the casts put in
    assert len(ours) > 50
    for node in ours:
        wanted = TensorProto.FLOAT if group[node.output[0]] in kept else TensorProto.FLOAT16
        assert types[node.output[0]] == wanted, node.name


def test_the_model_given_is_left_as_it_is(shipped):
    """Conversion changes a copy, and the same model gives the same bytes."""
    before = shipped.SerializeToString(deterministic=True)
    first, second = (to_half(shipped).SerializeToString(deterministic=True) for _ in range(2))
    assert shipped.SerializeToString(deterministic=True) == before
    assert first == second


def test_a_window_above_halfs_range_is_not_lost(tiny_model):
    """A 16-bit pixel and window above 65,504, FP16's largest number, are scaled in FP32."""
    model = read_model(tiny_model(bits=16))[0]
    pixels = np.array([65000, 65250, 65535], np.uint16).reshape(1, 1, 1, 3)
    window = np.array([[65000, 65535]], np.float32)
    found = run(to_half(model), pixels[..., None].view(np.uint8), window)
    assert found.tolist() == run(model, pixels[..., None].view(np.uint8), window).tolist() == [[[[0, 119, 255]]]]


def test_the_half_model_answers_alike(shipped):
    """With weights of FP16, the answer on a frame differs by a grey level or two."""
    deep = len(shipped.graph.input[0].type.tensor_type.shape.dim) == 5
    rng = np.random.default_rng(0)
    frame = rng.normal(90, 6, (1, 1, 64, 64)).clip(0, 255)
    frame[0, 0, 30:33, 30:33] = 250
    frames = (frame * 257).astype(np.uint16)[..., None].view(np.uint8) if deep else frame.astype(np.uint8)
    window = np.array([[0, 65535 if deep else 255]], np.float32)
    exact, half = (run(model, frames, window).astype(int) for model in (shipped, to_half(shipped)))
    assert exact.max() > 128
    assert np.abs(exact - half).max() <= 3


def test_rounding_is_emulated(shipped):
    """Every FP16 tensor of the emulated model holds numbers that FP16 has, and those that stay FP32 do not."""
    precision = pytest.importorskip("training.precision", reason="training's extra is not installed")
    if len(shipped.graph.input[0].type.tensor_type.shape.dim) == 5:
        pytest.skip("one depth is enough")
    half = to_half(shipped)
    types = types_of(half)
    model = precision.emulated(half)
    names = [n.output[0] for n in half.graph.node if types.get(n.output[0]) in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    frame = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    found = dict(zip(names, precision.run_exactly(model, names, frame), strict=True))
    coarse = {name for name in names if np.array_equal(found[name], found[name].astype(np.float16).astype(np.float32))}
    assert {name for name in names if types[name] == TensorProto.FLOAT16} <= coarse
    assert {"div", "mean", "mul_247"}.isdisjoint(coarse)


def test_what_rounding_costs_is_measured(shipped):
    """The command's figures: no rounding costs nothing, and FP16 costs the shipped model a little."""
    precision = pytest.importorskip("training.precision", reason="training's extra is not installed")
    from training.data import Sample

    if len(shipped.graph.input[0].type.tensor_type.shape.dim) == 5:
        pytest.skip("data sets have 8 bit")
    frame = np.random.default_rng(0).normal(90, 6, (48, 48)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[20:23, 20:23] = True
    frame[mask] = 250
    everything = ("scale", "pool", "gate", "maps", "levels", "layers")
    exact, half = precision.measure(shipped, [everything, KEPT], [Sample("one", frame, mask)], 0.5)
    assert exact.delta_max == 0
    assert exact.iou == exact.iou_float32
    assert 0 < half.delta_max < 0.05
    assert half.fine


def test_a_graph_without_a_sigmoid_is_refused(tiny_model):
    """The measurement compares logits; a graph that has none is said in a line."""
    precision = pytest.importorskip("training.precision", reason="training's extra is not installed")
    with pytest.raises(EngineError, match="does not end in a sigmoid"):
        precision.with_logits(read_model(tiny_model())[0])
