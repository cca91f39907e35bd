"""Export weights as ONNX that keeps the model contract: ``python -m training.export WEIGHTS OUT.onnx``."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from pathlib import Path
from typing import Annotated, Any

import onnx
import torch
import typer
from torch import Tensor, nn

from engine.contract import FRAMES, TARGETS, WINDOW, ModelInfo, write_info
from engine.one_line import one_line_errors, run_command
from training.model import RPCANetPlus
from training.weights import WeightsError, first_stages, load_network


class Deployed(nn.Module):
    """The network as the contract wants it: pixels in, grey levels out.

    The last stage's N and D reach no output, so the exporter leaves them out.
    """

    def __init__(self, network: RPCANetPlus, bits: int) -> None:
        super().__init__()
        self.network = network
        self.bits = bits

    def forward(self, frames: Tensor, window: Tensor) -> Tensor:
        pixels = frames.float()
        if self.bits == 16:
            pixels = pixels[..., 0] + 256.0 * pixels[..., 1]
        low, high = window[:, 0:1, None, None], window[:, 1:2, None, None]
        scaled = ((pixels - low) / (high - low)).clamp(0.0, 1.0)
        targets: Tensor = self.network(scaled).sigmoid()
        return (targets * 255.0).round().to(torch.uint8)


def export(network: RPCANetPlus, path: Path, info: ModelInfo) -> None:
    """Write ``network`` to ``path`` as ONNX that keeps the model contract, with ``info`` in its metadata.

    Raises:
        OSError: if the file cannot be written.
    """
    shape = (2, 1, 48, 64) if info.bits == 8 else (2, 1, 48, 64, 2)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    spatial: dict[int, Any] = {0: batch, 2: height, 3: width}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of torch
        program = torch.onnx.export(
            Deployed(network, info.bits).eval(),
            (torch.zeros(shape, dtype=torch.uint8), torch.tensor([[0.0, 255.0]] * 2)),
            input_names=[FRAMES, WINDOW],
            output_names=[TARGETS],
            dynamic_shapes={"frames": spatial, "window": {0: batch}},
            opset_version=20,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # Where torch saw each node, with paths of the exporting machine, and what each tensor was called.
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    write_info(model, info)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe(
    network: RPCANetPlus,
    weights: Path,
    name: str,
    trained_on: str,
    bits: int = 8,
    threshold: float = 0.5,
    metrics: dict[str, Any] | None = None,
) -> ModelInfo:
    """Return what an exported file of ``network`` says of itself; see ``ModelInfo``.

    Args:
        network: the network.
        weights: the file that it was loaded from.
        name: the model's name.
        trained_on: data sets, comma-separated.
        bits: depth of the frames that it will take.
        threshold: the probability from which a pixel is target.
        metrics: what training.evaluate found.
    """
    config = network.config
    return ModelInfo(
        name=name,
        stages=config.stages,
        channels=config.channels,
        bottleneck=config.bottleneck,
        bits=bits,
        trained_on=trained_on,
        threshold=threshold,
        metrics=metrics or {},
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        exporter=f"irstream, torch {torch.__version__}",
        parameters=sum(value.numel() for value in network.parameters()),
    )


@one_line_errors(WeightsError)
def main(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file, or an authors' .pkl checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write; its stem becomes the model's name.")],
    trained_on: Annotated[str, typer.Option(help="The data it was trained on, comma-separated.", metavar="DATA")],
    bits: Annotated[int, typer.Option(help="Depth of the frames it takes: 8 or 16.")] = 8,
    threshold: Annotated[float, typer.Option(help="Probability from which a pixel is target.")] = 0.5,
    metrics: Annotated[Path | None, typer.Option(help="A JSON file of training.evaluate to put in.")] = None,
    stages: Annotated[int | None, typer.Option(help="The first so many stages alone; by default all.", min=1)] = None,
) -> None:
    """Export weights as ONNX; one file takes 8-bit frames, another (NAME_16bit.onnx) 16-bit ones."""
    if bits not in (8, 16):
        raise WeightsError(f"--bits {bits}: 8 or 16 is expected")
    if not 0 < threshold < 1:
        raise WeightsError(f"--threshold {threshold}: a probability between 0 and 1 is expected")
    if out.suffix != ".onnx":
        raise WeightsError(f"{out}: a name that ends in .onnx is expected")
    figures = _read_figures(metrics) if metrics else None
    network, _ = load_network(weights)
    if stages:
        network = first_stages(network, stages, weights)
    name = out.stem.removesuffix("_16bit")
    export(network, out, describe(network, weights, name, trained_on, bits, threshold, figures))


def _read_figures(path: Path) -> dict[str, Any]:
    try:
        figures = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from None
    if not isinstance(figures, dict):
        raise WeightsError(f"{path}: an object of figures is expected, as training.evaluate writes it")
    return figures


if __name__ == "__main__":
    run_command(main)
