"""What FP16 costs a model's answers: ``python -m training.precision --model M --data FOLDER``.

ONNX Runtime computes in float32 and the result of every operation that would be FP16 is rounded to it,
as a GPU with float32 accumulators does. Kernels that fuse operations round less often, kernels that
accumulate in FP16 more often.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engine.base import FULL_RANGE
from engine.contract import FRAMES, WINDOW, EngineError, find_model, read_model
from engine.one_line import check_output, one_line_errors, run_command
from engine.precision import GROUPS, KEPT, groups_of, to_half
from training.data import DataError, Sample
from training.metrics import Tally
from training.sets import read_split

SHARE = 0.9999  # of the pixels, whose probability may change by so much
LIMIT_IOU, LIMIT_DELTA = 0.001, 0.02


@dataclass(frozen=True)
class Loss:
    """What rounding did to the answers.

    Attributes:
        kept: the groups that stayed float32, with commas.
        iou: with rounding, a share of 1.
        iou_float32: without.
        delta: the change of the probability that 99.99 % of the pixels stay within.
        delta_max: the largest change of any pixel.
        fine: both are within their limits.
    """

    kept: str
    iou: float
    iou_float32: float
    delta: float
    delta_max: float
    fine: bool


def emulated(half: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model that answers as an FP16 one would: every FP16 result is rounded to FP16."""
    model = onnx.ModelProto()
    model.CopyFrom(half)
    graph = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    halves = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = []
    for node in model.graph.node:
        names = [name for name in node.output if name in halves]
        if node.op_type == "Cast" and names:
            node.attribute[0].i = TensorProto.FLOAT
        node.output[:] = [f"{name}_exact" if name in halves else name for name in node.output]
        nodes.append(node)
        for name in names:
            nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_rounded"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_logits(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return a model that also gives T, and T's name in it.

    Raises:
        EngineError: if the graph does not end in a sigmoid.
    """
    ends = [n for n, g in zip(model.graph.node, groups_of(model), strict=True) if g == "levels"]
    sigmoid = next((node for node in ends if node.op_type == "Sigmoid"), None)
    if sigmoid is None:
        raise EngineError("the graph does not end in a sigmoid; export the model with training.export")
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.graph.output.append(helper.make_tensor_value_info(sigmoid.input[0], TensorProto.FLOAT, None))
    return out, sigmoid.input[0]


def run_exactly(model: onnx.ModelProto, outputs: list[str], frame: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return outputs for one frame, uint8 ``[height, width]``, of a model whose nodes run as they are written."""
    return _answer(_session(model), outputs, frame)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Any optimisation might take the casts for nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _answer(
    session: onnxruntime.InferenceSession, outputs: list[str], frame: NDArray[np.uint8]
) -> list[NDArray[np.float32]]:
    window = np.array([FULL_RANGE[8]], np.float32)
    found: list[NDArray[np.float32]] = session.run(outputs, {FRAMES: frame[None, None], WINDOW: window})
    return found


def measure(model: onnx.ModelProto, choices: list[tuple[str, ...]], samples: list[Sample], cut: float) -> list[Loss]:
    """Measure what FP16 costs for each choice of groups that stay float32.

    Args:
        model: the float32 model, for 8-bit frames.
        choices: groups of ``GROUPS`` to keep, a choice each.
        samples: frames with their truth.
        cut: the probability from which a pixel is target.
    """
    whole, name = with_logits(model)
    plain = _session(whole)
    sessions = []
    for kept in choices:
        half = emulated(to_half(model, kept))
        half.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        sessions.append(_session(half))
    exact, rounded = Tally(), [Tally() for _ in choices]
    changes: list[list[NDArray[np.float32]]] = [[] for _ in choices]
    for sample in track(samples, "frames", console=Console(stderr=True), transient=True):
        truth = _probability(_answer(plain, [name], sample.frame)[0])
        exact.add(truth >= cut, sample.mask)
        for session, tally, change in zip(sessions, rounded, changes, strict=True):
            found = _probability(_answer(session, [name], sample.frame)[0])
            tally.add(found >= cut, sample.mask)
            change.append(np.abs(found - truth).ravel())
    losses = []
    iou = exact.report()["iou"]
    for kept, tally, change in zip(choices, rounded, changes, strict=True):
        every = np.concatenate(change)
        delta, now = float(np.quantile(every, SHARE)), tally.report()["iou"]
        fine = iou - now <= LIMIT_IOU and delta <= LIMIT_DELTA
        losses.append(Loss(",".join(kept), now, iou, delta, float(every.max()), bool(fine)))
    return losses


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        share: NDArray[np.float32] = 1 / (1 + np.exp(-logits[0, 0]))
    return share


@one_line_errors(DataError, EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file for 8-bit frames.")],
    data: Annotated[Path, typer.Option(help="A data set's folder.")],
    split: Annotated[str, typer.Option(help="The split to measure on; test frames decide nothing.")] = "train",
    keep: Annotated[
        list[str] | None, typer.Option(help=f"Groups to keep in FP32, comma-separated; repeatable: {', '.join(GROUPS)}")
    ] = None,
    every: Annotated[int, typer.Option(help="Every n-th frame.", min=1)] = 1,
    json_path: Annotated[str | None, typer.Option("--json", help="Write the figures here; - is stdout.")] = None,
) -> None:
    """Emulate FP16 and tell what it costs; without --keep, for each group kept alone and for what is used."""
    check_output("--json", json_path)
    choices = [tuple(text.split(",")) for text in keep or []]
    for group in (group for choice in choices for group in choice):
        if group not in GROUPS:
            raise EngineError(f"--keep {group}: no such group; there are {', '.join(GROUPS)}")
    alone = [("scale", group) for group in GROUPS if group not in ("scale", "layers")]
    choices = choices or [("scale",), *alone, KEPT]
    proto, info = read_model(find_model(model))
    if info.bits != 8:
        raise EngineError(f"{model}: a model for {info.bits}-bit frames; data sets have 8 bit")
    losses = measure(proto, choices, read_split(data, split)[::every], info.threshold)
    text = json.dumps({"model": info.name, "results": [asdict(loss) for loss in losses]}, indent=2)
    if json_path and json_path != "-":
        Path(json_path).write_text(text + "\n")
    if json_path == "-":
        print(text)
        return
    table = Table("kept in FP32", "IoU %", "lost", "99.99 % of pixels within", "largest change", "fine")
    for loss in losses:
        lost = f"{100 * (loss.iou_float32 - loss.iou):.3f}"
        figures = (f"{100 * loss.iou:.3f}", lost, f"{loss.delta:.5f}", f"{loss.delta_max:.4f}")
        table.add_row(loss.kept, *figures, "yes" if loss.fine else "no")
    Console().print(table)


if __name__ == "__main__":
    run_command(main)
