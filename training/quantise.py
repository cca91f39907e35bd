"""Quantise a model to INT8 after its training: ``python -m training.quantise --model M --data FOLDER --out Q.onnx``.

NNCF calibrates on training frames. Only convolutions of 16 channels and more are quantised: the thin chains, the
running T, D and N, and the attention stay float32. A tenth of the training frames is held out of the calibration; a
model that loses too much on them is not written. Test frames decide nothing.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.progress import track

from engine.base import FULL_RANGE, Engine, Frames
from engine.contract import FRAMES, WINDOW, EngineError, ModelInfo, find_model, read_model, write_info
from engine.one_line import check_output, one_line_errors, run_command
from engine.openvino_engine import OpenVinoEngine
from engine.parts import find_wide
from training.data import DataError, Sample, part_of
from training.metrics import Tally
from training.sets import read_split

MOST_LOST = 0.005  # of IoU
HELD_OUT_PARTS = 10  # one training frame in so many is measured on


def chosen(model: onnx.ModelProto, name: str, keep: list[str]) -> set[str]:
    """Return the nodes to quantise: the wide convolutions, but for those whose weights a pattern of ``keep`` finds.

    Raises:
        EngineError: if a pattern is none or finds nothing, or nothing is left.
    """
    wide = {part.name for part in find_wide(model.graph)}
    weights = {node.name: node.input[1] for node in model.graph.node if node.name in wide}
    kept: set[str] = set()
    for pattern in keep:
        try:
            found = {node for node, weight in weights.items() if re.search(pattern, weight)}
        except re.error as error:
            raise EngineError(f"--keep {pattern}: a regular expression is expected ({error})") from None
        if not found:
            raise EngineError(f"--keep {pattern}: no wide convolution's weights have such a name")
        kept |= found
    if not weights.keys() - kept:
        raise EngineError(f"{name}: no convolution is wide enough (16 channels in and out) for INT8 to save time")
    return weights.keys() - kept


def quantise(model: onnx.ModelProto, nodes: set[str], frames: list[Frames], bits: int = 8) -> onnx.ModelProto:
    """Return the model with some convolutions in INT8.

    Args:
        model: what to quantise.
        nodes: the convolutions, by name.
        frames: to calibrate on, uint8 ``[height, width]``.
        bits: of the frames that the model takes.

    Raises:
        EngineError: if NNCF is not installed.
    """
    os.environ["CI"] = "true"  # or NNCF tells its makers of every use
    try:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    except ImportError as error:
        raise EngineError(f"INT8 needs NNCF: pip install 'irstream[int8]' ({error})") from None
    others = [node.name for node in model.graph.node if node.name not in nodes]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    window = np.array([FULL_RANGE[bits]], np.float32)
    made: onnx.ModelProto = nncf.quantize(
        model,
        nncf.Dataset([{FRAMES: shown(frame, bits), WINDOW: window} for frame in frames]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(frames),
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        # Without VNNI a processor adds pairs of products in 16 bits, which full 8-bit weights overflow.
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )
    return made


def shown(frame: Frames, bits: int) -> Frames:
    """Return an 8-bit frame of a data set as a model for 8 or for 16 bit takes it, a batch of one."""
    return frame[None, None] if bits == 8 else (frame.astype("<u2") * 257)[None, None, ..., None].view(np.uint8)


def measure(engines: list[Engine], samples: list[Sample], threshold: float) -> list[float]:
    """Return each engine's IoU."""
    tallies, bits = [Tally() for _ in engines], engines[0].info.bits
    window = np.array([FULL_RANGE[bits]], np.float32)
    for sample in track(samples, "measuring", console=Console(stderr=True), transient=True):
        for engine, tally in zip(engines, tallies, strict=True):
            tally.add(engine.infer(shown(sample.frame, bits), window)[0, 0] >= 255 * threshold, sample.mask)
    return [float(tally.report()["iou"]) for tally in tallies]


@one_line_errors(DataError, EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")],
    data: Annotated[Path, typer.Option(help="A data set's folder; of its train split, a tenth is measured on.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    frames: Annotated[int, typer.Option(help="Training frames to calibrate on.", min=1)] = 32,
    keep: Annotated[list[str] | None, typer.Option(help="Weights whose convolutions stay float32; repeatable.")] = None,
    every: Annotated[int, typer.Option(help="Measure on every n-th held-out frame.", min=1)] = 1,
) -> None:
    """Quantise a model to INT8, and write it if it loses no more than half a point of IoU."""
    check_output("--out", out, ".onnx")
    proto, info = read_model(find_model(model))
    nodes = chosen(proto, info.name, keep or [])
    samples = read_split(data, "train")
    held_out = [sample for sample in samples if part_of(sample.name, HELD_OUT_PARTS) == 0][::every]
    others = [sample for sample in samples if part_of(sample.name, HELD_OUT_PARTS) != 0]
    if not held_out or not others:
        raise DataError(
            f"{data}: {len(samples)} training frames are too few to calibrate on some and measure on others"
        )
    some = [sample.frame for sample in others[:: max(len(others) // frames, 1)][:frames]]
    small = quantise(proto, nodes, some, info.bits)
    write_info(small, replace(info, name=f"{info.name}_int8", metrics={}))  # those it had are the float32 network's
    engines: list[Engine] = [_engine(proto, info), _engine(small, info)]
    before, after = measure(engines, held_out, info.threshold)
    said = f"IoU {100 * before:.2f} in float32, {100 * after:.2f} with {len(nodes)} convolutions in INT8"
    said += f", on {len(held_out)} training frames held out"
    if before - after > MOST_LOST:
        raise EngineError(f"{out}: not written, for it loses more than {100 * MOST_LOST} points: {said}")
    out.write_bytes(small.SerializeToString(deterministic=True))
    print(f"{out}: {said}")


def _engine(model: onnx.ModelProto, info: ModelInfo) -> Engine:
    return OpenVinoEngine(model.SerializeToString(), info, None)


if __name__ == "__main__":
    run_command(main)
