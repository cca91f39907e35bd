"""The rewritten graph answers like the one it was made from, and what is not known is left alone."""

import numpy as np
import onnx
import openvino
import pytest

from engine import openvino_graph
from engine.base import load_engine
from engine.contract import MODELS, read_model
from engine.openvino_engine import openvino_core
from engine.openvino_graph import rewrite
from engine.parts import Head, Thin, find_parts, find_wide

SHIPPED = MODELS / "rpcanet_plus_k1.onnx"


def soften(name, folder):
    """Write a shipped model with its logits scaled down: answers of many grey levels, not of black alone."""
    model, _ = read_model(MODELS / f"{name}.onnx")
    last = next(node for node in reversed(model.graph.node) if node.op_type == "Sigmoid")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.05), "less"))
    softer = onnx.helper.make_node("Mul", [last.input[0], "less"], ["softer"])
    model.graph.node.insert(list(model.graph.node).index(last), softer)
    last.input[0] = "softer"
    onnx.save(model, folder / f"{name}.onnx")
    return str(folder / f"{name}.onnx")


@pytest.fixture(scope="session")
def lively(tmp_path_factory):
    """One stage, softened."""
    return soften("rpcanet_plus_k1", tmp_path_factory.mktemp("lively"))


def frames_of(seed, batch, height, width):
    """Noise on slopes, whose attention differs from frame to frame and whose answers have every grey level."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width)[None] * rng.uniform(0.2, 1, (batch, 1, 1, 1))
    return np.clip(slope + rng.normal(0, 20, (batch, 1, height, width)), 0, 255).astype(np.uint8)


def test_both_chains_of_a_stage_are_found():
    """W and H are each their thin layers and a head with the expansion in it."""
    parts = find_parts(read_model(SHIPPED)[0].graph)
    heads = [part for part in parts if isinstance(part, Head)]
    assert len(heads) == 2
    assert all(head.expand is not None for head in heads)
    thin = [part for part in parts if isinstance(part, Thin) and part.relu and part.weight.shape[0] == 4]
    assert len(thin) == (1 + 3) + (1 + 6)


SHAPES = [
    ("widths and heights of whole tiles", 1, 48, 64),
    ("rows that fill no tile", 1, 45, 64),
    ("an odd width", 1, 48, 63),
    ("both odd", 1, 37, 51),
    ("a batch, each with its own attention", 3, 24, 40),
    ("a frame that is all rim", 1, 2, 6),
    ("a frame of one inner pixel", 1, 3, 3),
    ("a row", 1, 1, 9),
    ("one pixel", 1, 1, 1),
]


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(("why", "batch", "height", "width"), SHAPES, ids=[c[0] for c in SHAPES])
def test_the_shipped_model_is_answered_alike(why, batch, height, width, lanes, lively, monkeypatch):
    """ONNX Runtime, which runs the file as it is, and OpenVINO, which runs it rewritten, are within one grey level."""
    monkeypatch.setattr(openvino_graph, "LANES", lanes)
    frames, window = frames_of(0, batch, height, width), np.array([[20, 180]] * batch, np.float32)
    want, found = (load_engine(lively, name).infer(frames, window) for name in ("onnxruntime", "openvino"))
    assert found.shape == want.shape
    assert np.abs(found.astype(int) - want).max() <= 1
    if width > 40:
        assert want.std() > 5  # a flat answer would match anything


def test_the_rim_is_exact(lively):
    """On a frame's border and beside it, where a 5x5 convolution would be wrong, the answers are those of the whole."""
    frames, window = frames_of(1, 1, 40, 44), np.array([[0, 255]], np.float32)
    want = load_engine(lively, "onnxruntime").infer(frames, window).astype(int)
    found = load_engine(lively, "openvino").infer(frames, window)
    inner = np.zeros(want.shape, bool)
    inner[..., 2:-2, 2:-2] = True
    assert want[~inner].std() > 5
    assert np.abs(found - want)[~inner].max() <= 1


CHANGES = [
    ("a stride", "strides", [2, 2]),
    ("no padding", "pads", [0, 0, 0, 0]),
    ("groups", "group", 2),
    ("dilation", "dilations", [2, 2]),
]


@pytest.mark.parametrize(("why", "name", "value"), CHANGES, ids=[c[0] for c in CHANGES])
def test_other_convolutions_are_not_taken_for_thin(why, name, value):
    """Whatever a convolution does besides keeping the size leaves it as it is."""
    graph = read_model(SHIPPED)[0].graph
    before = find_parts(graph)
    node = next(node for node in graph.node if node.op_type == "Conv" and "layers.3" in node.input[1])
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    after = find_parts(graph)
    assert len(after) == len(before) - 1


def test_a_head_that_someone_else_reads_is_left():
    """The c maps are not folded away where another node needs them."""
    graph = read_model(SHIPPED)[0].graph
    head = next(part for part in find_parts(graph) if isinstance(part, Head))
    maps = next(node.output[0] for node in graph.node if node.op_type == "Conv" and node.input[0] == head.source)
    graph.node.append(onnx.helper.make_node("Relu", [maps], ["more"]))
    again = next(part for part in find_parts(graph) if isinstance(part, Head))
    assert again.expand is None
    assert again.source == maps


def test_a_model_of_no_known_part_runs_as_it_is(tiny_model):
    """A model that has nothing to rewrite is compiled all the same."""
    engine = load_engine(str(tiny_model()), "openvino")
    assert engine._parts == []
    assert engine.infer(np.full((1, 1, 4, 4), 9, np.uint8), np.array([[0, 255]], np.float32)).max() == 9


def test_one_stage_has_nothing_wide():
    """At K = 1 no convolution has 16 channels both in and out: there is no bf16 to be had."""
    assert find_wide(read_model(SHIPPED)[0].graph) == []


@pytest.fixture(scope="module")
def k3():
    """Three stages: M, the wide part, twice."""
    return read_model(MODELS / "rpcanet_plus_k3.onnx")[0]


def test_only_the_wide_convolutions_are_bf16(k3):
    """What the graph computes in bf16 is M's wide convolutions with bias and ReLU; every other type stays."""
    model = openvino_core().read_model(k3.SerializeToString())
    model.reshape({"frames": [1, 1, 32, 48], "window": [1, 2]})
    wide = find_wide(k3.graph)
    assert len(wide) == 2 * 3
    rewrite(model, [*find_parts(k3.graph), *wide])
    made = [node for node in model.get_ordered_ops() if node.get_output_element_type(0) == openvino.Type.bf16]
    assert {node.get_type_name() for node in made} == {"Convert", "Convolution", "Add", "Relu"}
    assert [node.get_friendly_name() for node in made if node.get_type_name() == "Convolution"] == [
        w.name for w in wide
    ]
    maps = [
        n for n in made if n.get_type_name() == "Convert" and n.input_value(0).get_node().get_type_name() != "Constant"
    ]
    assert len(maps) == 2  # each M rounds what it reads once: from layer to layer the maps stay bf16


needs_bf16 = pytest.mark.skipif(
    "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="no bf16 in this processor"
)


@needs_bf16
def test_bf16_is_computed_where_the_graph_says_so():
    """Of what is compiled, the wide convolutions compute in bf16, and all else that computes, in float32."""
    engine = load_engine("rpcanet_plus_k3", "openvino:bf16")
    engine.prepare(1, 64, 64)
    (request,) = next(iter(engine._requests.values()))
    computed = {"Convolution": [], "FullyConnected": [], "Eltwise": [], "Reduce": []}
    for node in request.get_compiled_model().get_runtime_model().get_ordered_ops():
        said = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        if said["layerType"] in computed:
            computed[said["layerType"]].append((said["runtimePrecision"], said["originalLayersNames"].split(",")[0]))
    names = {part.name for part in find_wide(read_model(MODELS / "rpcanet_plus_k3.onnx")[0].graph)}
    assert {name for precision, name in computed.pop("Convolution") if precision == "bf16"} == names
    assert {precision for steps in computed.values() for precision, _ in steps} == {"f32"}


@needs_bf16
def test_bf16_answers_nearly_alike(tmp_path):
    """Rounding the wide convolutions moves most grey levels by one or none, and none by many."""
    frames, window = frames_of(2, 1, 96, 96), np.array([[0, 255]], np.float32)
    path = soften("rpcanet_plus_k3", tmp_path)
    want, found = (load_engine(path, name).infer(frames, window) for name in ("openvino", "openvino:bf16"))
    off = np.abs(found.astype(int) - want)
    assert want.std() > 5
    assert 0 < (off > 0).mean() < 0.1
    assert off.max() <= 3
