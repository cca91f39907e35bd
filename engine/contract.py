"""The model contract: what an ONNX file must look like for the pipeline to run it.

Input ``frames``: uint8 ``[batch, 1, height, width]``, or for 16-bit cameras uint8
``[batch, 1, height, width, 2]``, the little-endian bytes of each pixel (TensorRT has no uint16).
Input ``window``: float32 ``[batch, 2]``, the pixel values that map to 0 and to 1.
Output ``targets``: uint8 ``[batch, 1, height, width]``, round(255 sigmoid(T)).
Batch, height and width are dynamic; scaling and sigmoid are in the graph.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

CONTRACT = "irstream.model/1"
FRAMES, WINDOW, TARGETS = "frames", "window", "targets"
MODELS = Path(__file__).parent / "models"


class EngineError(RuntimeError):
    """An engine or a model that cannot be used; the message is one line and names which."""


class NoGpuError(EngineError):
    """There is no GPU here, or no driver or library to reach it: ``auto`` goes on without a word."""


class ModelError(EngineError):
    """A model file that does not keep the contract; the message names the file and what would be right."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: the model's name.
        stages: K, the number of unrolled iterations.
        channels: c, the width of the attention maps.
        bottleneck: b, the width of the thin chains.
        bits: 8 or 16, the depth of the frames that the graph takes.
        trained_on: data sets, comma-separated.
        threshold: the probability from which a pixel belongs to a target, in (0, 1).
        metrics: figures measured when the model was exported, by test set.
        weights_sha256: of the weights it was exported from.
        exporter: the program and version that wrote it.
        parameters: of the whole network, the parts that only training needs included; 0 where
            the file does not say.
    """

    name: str
    stages: int
    channels: int
    bottleneck: int
    bits: int
    trained_on: str
    threshold: float
    metrics: dict[str, Any]
    weights_sha256: str
    exporter: str
    parameters: int = 0


def write_info(model: onnx.ModelProto, info: ModelInfo) -> None:
    """Put ``info`` into the model's ``metadata_props``."""
    values = {key: json.dumps(value) if key == "metrics" else str(value) for key, value in asdict(info).items()}
    onnx.helper.set_model_props(model, {"contract": CONTRACT, **values})


def find_model(name_or_path: str, bits: int = 8) -> Path:
    """Return the file of a shipped model's name or of a path.

    A model for 16-bit frames lies beside the one for 8 bit, as ``NAME_16bit.onnx``; where there
    is none, the file that was named is returned: it may itself be one for 16 bit.

    Raises:
        ModelError: if there is no such file; names the shipped models.
    """
    path = Path(name_or_path)
    if path.suffix.lower() != ".onnx":
        path = MODELS / f"{name_or_path}.onnx"
        if path.parent != MODELS or not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in MODELS.glob("*.onnx") if not p.stem.endswith("_16bit")))
            have = f"shipped are {shipped}" if shipped else "none is shipped"
            raise ModelError(f"{name_or_path}: no such model; {have}; or give the path of an .onnx file")
    if path.is_dir():
        raise ModelError(f"{path}: a directory; an .onnx file is expected")
    deep = path.with_name(f"{path.stem}_16bit.onnx")
    if bits == 16 and deep.is_file():
        path = deep
    if not path.is_file():
        raise ModelError(f"{path}: no such file; an .onnx file is expected")
    return path


def read_model(path: Path) -> tuple[onnx.ModelProto, ModelInfo]:
    """Read a model file and check that it keeps the contract.

    Raises:
        ModelError: if it does not; the message names the file and the first thing that is wrong.
    """
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # protobuf's DecodeError is not a public class
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{path}: not an ONNX file ({said})") from None
    props = {prop.key: prop.value for prop in model.metadata_props}
    if (contract := props.get("contract")) != CONTRACT:
        said = f"contract {contract!r}" if contract else "no contract in its metadata"
        raise ModelError(f"{path}: {said}; {CONTRACT!r} is expected: export it with training.export")
    try:
        info = ModelInfo(
            name=props["name"],
            stages=int(props["stages"]),
            channels=int(props["channels"]),
            bottleneck=int(props["bottleneck"]),
            bits=int(props["bits"]),
            trained_on=props["trained_on"],
            threshold=float(props["threshold"]),
            metrics=json.loads(props["metrics"]),
            weights_sha256=props["weights_sha256"],
            exporter=props["exporter"],
            parameters=int(props.get("parameters", 0)),
        )
    except KeyError as error:
        raise ModelError(f"{path}: no {error.args[0]!r} in its metadata; export it with training.export") from None
    except ValueError as error:
        raise ModelError(f"{path}: unreadable metadata ({error})") from None
    if info.bits not in (8, 16) or not 0 < info.threshold < 1:
        raise ModelError(f"{path}: bits {info.bits} and threshold {info.threshold}; 8 or 16 and (0, 1) are expected")
    _check_graph(path, model.graph, info)
    return model, info


# A dimension that the contract fixes, or None where a graph must take any size.
_Shape = tuple[int | None, ...]


def _check_graph(path: Path, graph: onnx.GraphProto, info: ModelInfo) -> None:
    uint8, float32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    frames: _Shape = (None, 1, None, None) if info.bits == 8 else (None, 1, None, None, 2)
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {tensor.name: tensor for tensor in graph.input if tensor.name not in constants}
    outputs = {tensor.name: tensor for tensor in graph.output}
    if inputs.keys() != {FRAMES, WINDOW} or outputs.keys() != {TARGETS}:
        has = f"inputs {', '.join(inputs) or 'none'} and outputs {', '.join(outputs) or 'none'}"
        raise ModelError(f"{path}: {has}; {FRAMES} and {WINDOW}, and {TARGETS} are expected")
    _check_tensor(path, inputs[FRAMES], uint8, frames)
    _check_tensor(path, inputs[WINDOW], float32, (None, 2))
    _check_tensor(path, outputs[TARGETS], uint8, (None, 1, None, None))


def _check_tensor(path: Path, tensor: onnx.ValueInfoProto, dtype: int, shape: _Shape) -> None:
    dims = tensor.type.tensor_type.shape.dim
    has = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    # Output shapes are what inference could find out: a size that is not known may be right.
    fits = len(has) == len(shape) and all(
        mine is None if want is None else mine in (want, None) for mine, want in zip(has, shape, strict=True)
    )
    kind = tensor.type.tensor_type.elem_type
    if kind != dtype or not fits:
        raise ModelError(f"{path}: {tensor.name!r} is {_say(kind, has)}; {_say(dtype, shape)} is expected")


def _say(dtype: int, shape: _Shape) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    return f"{onnx.TensorProto.DataType.Name(dtype).lower()} [{sizes}]"
