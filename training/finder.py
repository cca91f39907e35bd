"""What training.evaluate measures: weights in PyTorch or an ONNX model in an engine, behind one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.base import FULL_RANGE, load_engine

if TYPE_CHECKING:
    from training.model import RPCANetPlus

WEIGHTS = (".safetensors", ".pkl")

Scores = NDArray[np.float32]


class EvaluateError(ValueError):
    """Something that cannot be measured; the message is one line and says what would be right."""


@dataclass(frozen=True)
class Finder:
    """A network ready to be measured.

    Attributes:
        name: what tables and pictures call it: the run's folder, the file or the model.
        score: takes a frame, uint8 ``[height, width]``, and returns its target logits, float32 of
            that shape. An engine's have 256 levels.
        cut: a pixel belongs to a target where its logit is above this.
        parameters: of the whole network.
        network: the network itself; None where an engine runs it.
    """

    name: str
    score: Callable[[NDArray[np.uint8]], Scores]
    cut: float
    parameters: int
    network: RPCANetPlus | None = None

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell which pixels of a frame, ``[height, width]``, belong to targets."""
        return self.score(frame) > self.cut


def load_finder(model: str, engine: str | None = None) -> Finder:
    """Load what is to be measured.

    Args:
        model: a run's folder (its best weights), a .safetensors file of ours, a .pkl of the
            RPCANet+ authors, a shipped model's name or an .onnx file.
        engine: for the last two, the engine to run it with; None for the default one.

    Raises:
        EvaluateError: if the weights cannot be used, or an engine was asked to run them.
        EngineError: if the model or the engine cannot be used.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "best.safetensors"
    if path.suffix not in WEIGHTS:
        return _engine_finder(model, engine or "auto")
    if engine:
        raise EvaluateError(f"{path}: weights run in PyTorch; --engine {engine} takes a model name or an .onnx file")
    return _torch_finder(path)


def level_logits() -> Scores:
    """Return the logit of each of the 256 levels of a target map, infinite at both ends."""
    share = np.arange(256) / 255
    with np.errstate(divide="ignore"):
        logits: Scores = np.log(share / (1 - share)).astype(np.float32)
    return logits


def _engine_finder(model: str, name: str) -> Finder:
    engine = load_engine(model, name)
    window = np.array([FULL_RANGE[8]], np.float32)
    logits = level_logits()
    least = max(1, int(np.ceil(255 * engine.info.threshold)))  # the lowest level that is target

    def score(frame: NDArray[np.uint8]) -> Scores:
        scores: Scores = logits[engine.infer(frame[None, None], window)[0, 0]]
        return scores

    cut = float(logits[least - 1])  # and whatever is above that
    return Finder(engine.info.name, score, cut, engine.info.parameters)


def _torch_finder(path: Path) -> Finder:
    try:
        import torch

        from training.weights import WeightsError, load_network
    except ImportError as error:
        raise EvaluateError(f"{path}: weights need PyTorch: pip install 'irstream[train]' ({error})") from None
    try:
        network, _ = load_network(path)
    except WeightsError as error:
        raise EvaluateError(str(error)) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)

    def score(frame: NDArray[np.uint8]) -> Scores:
        with torch.inference_mode():
            logits = network(torch.from_numpy(frame).to(device).float()[None, None] / 255)
        scores: Scores = logits[0, 0].cpu().numpy()
        return scores

    name = path.resolve().parent.name if path.stem == "best" else path.stem
    return Finder(name, score, 0.0, sum(value.numel() for value in network.parameters()), network)
