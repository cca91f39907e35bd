"""What the tests of all packages share."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.contract import ModelInfo, write_info

INFO = ModelInfo(
    name="tiny",
    stages=1,
    channels=32,
    bottleneck=4,
    bits=8,
    trained_on="nothing",
    threshold=0.5,
    metrics={"iou": 0.5},
    weights_sha256="0" * 64,
    exporter="tests",
    parameters=35986,
)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data that the project is measured on, which is not a part of it."""
    folder = Path(os.environ.get("IRSTREAM_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no data in {folder}; IRSTREAM_DATA may name another folder")
    return folder


def tiny_graph(
    frames: list[object], window: list[object], targets: list[object], kind: int = TensorProto.UINT8
) -> onnx.GraphProto:
    """A graph that keeps the contract with no network in it: the scaled pixel is the probability."""
    deep = len(frames) == 5
    constants = {
        "low_at": [0],
        "high_at": [1],
        "end": [2],
        "axis": [1],
        "spatial": [2, 3],
        "byte": [0],
        "second": [1],
        "two": [2],
        "last": [4],
    }
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    floats = {"zero": 0.0, "one": 1.0, "white": 255.0, "high_byte": 256.0}
    initializers += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in floats.items()]
    nodes = [
        helper.make_node("Slice", ["window", "low_at", "high_at", "axis"], ["low2"]),
        helper.make_node("Slice", ["window", "high_at", "end", "axis"], ["high2"]),
        helper.make_node("Unsqueeze", ["low2", "spatial"], ["low"]),
        helper.make_node("Unsqueeze", ["high2", "spatial"], ["high"]),
        helper.make_node("Cast", ["frames"], ["bytes" if deep else "pixels"], to=TensorProto.FLOAT),
    ]
    if deep:
        nodes += [
            helper.make_node("Slice", ["bytes", "byte", "second", "last"], ["small5"]),
            helper.make_node("Slice", ["bytes", "second", "two", "last"], ["large5"]),
            helper.make_node("Squeeze", ["small5", "last"], ["small"]),
            helper.make_node("Squeeze", ["large5", "last"], ["large"]),
            helper.make_node("Mul", ["large", "high_byte"], ["larger"]),
            helper.make_node("Add", ["small", "larger"], ["pixels"]),
        ]
    nodes += [
        helper.make_node("Sub", ["pixels", "low"], ["above"]),
        helper.make_node("Sub", ["high", "low"], ["span"]),
        helper.make_node("Div", ["above", "span"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "zero", "one"], ["clipped"]),
        helper.make_node("Mul", ["clipped", "white"], ["levels"]),
        helper.make_node("Round", ["levels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["targets"], to=kind),
    ]
    return helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("frames", TensorProto.UINT8, frames),
            helper.make_tensor_value_info("window", TensorProto.FLOAT, window),
        ],
        [helper.make_tensor_value_info("targets", kind, targets)],
        initializers,
    )


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model that keeps the contract, but for what the caller changes."""

    def write(
        name: str = "tiny.onnx", drop: str = "", change: Callable[[onnx.ModelProto], None] | None = None, **info: object
    ) -> Path:
        said = replace(INFO, **info)
        shape: list[object] = ["batch", 1, "height", "width", 2]
        graph = tiny_graph(shape[: 4 if said.bits != 16 else 5], ["batch", 2], ["batch", 1, "height", "width"])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        write_info(model, said)
        for index, prop in enumerate(model.metadata_props):
            if prop.key == drop:
                del model.metadata_props[index]
                break
        if change:
            change(model)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return write
