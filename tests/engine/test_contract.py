"""A model file keeps the contract, or is refused in one line that names it."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import contract
from engine.contract import ModelError, find_model, read_model


def set_prop(model, key, value):
    next(prop for prop in model.metadata_props if prop.key == key).value = value


def test_what_was_written_is_read(tiny_model):
    """A file says of itself what was written into it."""
    _, info = read_model(tiny_model(threshold=0.25, metrics={"iou": 0.75}, trained_on="a, b"))
    assert (info.name, info.threshold, info.metrics, info.trained_on) == ("tiny", 0.25, {"iou": 0.75}, "a, b")
    assert (info.stages, info.bits, info.parameters) == (1, 8, 35986)


def test_parameters_may_be_missing(tiny_model):
    """A file from before the parameters were counted is still a model."""
    assert read_model(tiny_model(drop="parameters"))[1].parameters == 0


def rename_output(model):
    model.graph.output[0].name = "levels"


def swap_input_and_output(model):
    """Both names are there, but `targets` is an input."""
    model.graph.input.append(
        helper.make_tensor_value_info("targets", TensorProto.UINT8, ["batch", 1, "height", "width"])
    )
    model.graph.output[0].name = "levels"


def add_input(model):
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [1]))


def freeze_height(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256


def colour(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3


def float_frames(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def flat_window(model):
    del model.graph.input[1].type.tensor_type.shape.dim[1]


CHANGES = [
    ("the output has another name", rename_output, r"outputs levels; .*targets are expected"),
    ("an input is called what the output should be", swap_input_and_output, r"inputs frames, window, targets"),
    ("it wants an input that nobody gives", add_input, r"inputs frames, window, gain"),
    ("it takes one height only", freeze_height, r"'frames' is uint8 \[any, 1, 256, any\]; uint8 \[any, 1, any, any\]"),
    ("it takes colour", colour, r"'frames' is uint8 \[any, 3, any, any\]"),
    ("it takes floats", float_frames, r"'frames' is float \["),
    ("its window has no two ends", flat_window, r"'window' is float \[any\]; float \[any, 2\]"),
    ("another contract", lambda m: set_prop(m, "contract", "other/9"), r"contract 'other/9'; 'irstream.model/1'"),
    ("no metadata at all", lambda m: m.metadata_props.__delitem__(slice(None)), r"no contract in its metadata"),
    ("a number that is none", lambda m: set_prop(m, "stages", "six"), r"unreadable metadata"),
    ("figures that are no JSON", lambda m: set_prop(m, "metrics", "{"), r"unreadable metadata"),
    ("a threshold that is none", lambda m: set_prop(m, "threshold", "nan"), r"threshold nan; 8 or 16 and \(0, 1\)"),
    ("a depth no camera has", lambda m: set_prop(m, "bits", "12"), r"bits 12"),
    ("16 bit said of a graph for 8", lambda m: set_prop(m, "bits", "16"), r"uint8 \[any, 1, any, any, 2\] is expected"),
]


@pytest.mark.parametrize(("why", "change", "said"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_file_that_breaks_the_contract_is_refused(why, change, said, tiny_model):
    """Every way of breaking the contract is told apart, in one line that begins with the file."""
    path = tiny_model(change=change)
    with pytest.raises(ModelError, match=said) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


KEYS = "name stages channels bottleneck bits trained_on threshold metrics weights_sha256 exporter"


@pytest.mark.parametrize("key", KEYS.split())
def test_every_key_is_wanted(key, tiny_model):
    """A file without one of the keys is refused by the key's name."""
    with pytest.raises(ModelError, match=f"no '{key}' in its metadata"):
        read_model(tiny_model(drop=key))


BYTES = {
    "garbage is no ONNX file": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "an empty file has no contract": b"",
    "text is no ONNX file": b"frames, window and targets\n",
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES.keys())
def test_a_file_of_something_else_is_refused(content, tmp_path):
    """A file that is no model is refused in one line."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"not an ONNX file|no contract") as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tiny_model):
    """Half a model is none."""
    path = tiny_model()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelError):
        read_model(path)


def test_weights_left_elsewhere_are_refused(tiny_model):
    """A model whose weights are in a file of their own, which is gone, is refused."""

    def lose(model):
        tensor = numpy_helper.from_array(np.ones(4, np.float32), "lost")
        onnx.external_data_helper.set_external_data(tensor, "lost.bin")
        tensor.ClearField("raw_data")
        model.graph.initializer.append(tensor)

    with pytest.raises(ModelError):
        read_model(tiny_model(change=lose))


@pytest.fixture
def shipped(tiny_model, tmp_path, monkeypatch):
    """A folder of shipped models with one in both depths, and one for 8 bit alone."""
    tiny_model("both.onnx")
    tiny_model("both_16bit.onnx", bits=16)
    tiny_model("one.onnx")
    monkeypatch.setattr(contract, "MODELS", tmp_path)
    return tmp_path


FOUND = [
    ("a name is a shipped model", "both", 8, "both.onnx"),
    ("for 16 bit it is the file beside it", "both", 16, "both_16bit.onnx"),
    ("a path is a path", "{}/one.onnx", 8, "one.onnx"),
    ("a path for 16 bit is the file beside it", "{}/both.onnx", 16, "both_16bit.onnx"),
    ("a 16-bit file may be named itself", "{}/both_16bit.onnx", 16, "both_16bit.onnx"),
    ("without a file beside it the named one may be it", "{}/one.onnx", 16, "one.onnx"),
]


@pytest.mark.parametrize(("why", "name", "bits", "file"), FOUND, ids=[c[0] for c in FOUND])
def test_a_model_is_found(why, name, bits, file, shipped):
    """A name or a path, and a depth, lead to a file."""
    assert find_model(name.format(shipped), bits) == shipped / file


LOST = [
    (
        "an unknown name lists the shipped ones",
        "nope",
        r"^nope: no such model; shipped are both, one; or give the path",
    ),
    ("no name is no model", "", r"no such model"),
    ("a name does not lead out of the folder", "../models/one", r"no such model"),
    ("a path to nothing", "/nowhere/x.onnx", r"^/nowhere/x.onnx: no such file; an .onnx file is expected"),
    ("a directory is no model", "{}/dir.onnx", r"dir.onnx: a directory; an .onnx file is expected"),
    ("weights are no model", "best.safetensors", r"no such model"),
]


@pytest.mark.parametrize(("why", "name", "said"), LOST, ids=[c[0] for c in LOST])
def test_a_model_that_is_not_there_is_named(why, name, said, shipped):
    """What is not there is named, with what there is."""
    if "dir.onnx" in name:
        (shipped / "dir.onnx").mkdir()
    with pytest.raises(ModelError, match=said):
        find_model(name.format(shipped))


def test_no_model_is_shipped(tmp_path, monkeypatch):
    """A copy without models says so."""
    monkeypatch.setattr(contract, "MODELS", tmp_path)
    with pytest.raises(ModelError, match=re.escape("x: no such model; none is shipped; or give")):
        find_model("x")
