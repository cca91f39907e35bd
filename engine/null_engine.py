"""No engine: what all the rest costs, and what it does when the engine is too slow."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input
from engine.contract import EngineError, ModelInfo

LONGEST_MS = 60_000.0
TARGET_PX = 3


class NullEngine:
    """Answers every frame with the same four targets, so that what comes after it has its usual work to do.

    Args:
        info: of the model whose place it takes.
        frame_ms: how long it takes over a frame, asleep, as a device of its own leaves the CPU alone.
    """

    name = "null"
    best_batch = 1

    def __init__(self, info: ModelInfo, frame_ms: float = 0.0) -> None:
        self.info, self._frame_s = info, frame_ms / 1e3
        self._maps: dict[tuple[int, ...], NDArray[np.uint8]] = {}

    def prepare(self, batch: int, height: int, width: int) -> None:
        self.infer(*blank_input(self.info, batch, height, width))

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        check_input(self.info, frames, window)
        if self._frame_s:
            time.sleep(self._frame_s * len(frames))
        shape = frames.shape[:4]
        if shape not in self._maps:
            self._maps[shape] = _four_targets(shape)
        return self._maps[shape].copy()


def null_engine(device: str, info: ModelInfo) -> NullEngine:
    """Return the engine that ``null``, or ``null:MS`` with milliseconds a frame, names.

    Raises:
        EngineError: if MS is no such number.
    """
    _, colon, said = device.partition(":")
    try:
        frame_ms = float(said) if colon else 0.0
    except ValueError:
        frame_ms = -1.0
    if not 0 <= frame_ms <= LONGEST_MS:
        raise EngineError(f"{device}: null, or null:MS with the milliseconds that a frame takes, is expected")
    return NullEngine(info, frame_ms)


def _four_targets(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    maps = np.zeros(shape, np.uint8)
    height, width = shape[2:]
    for row in (height // 4, 3 * height // 4):
        for column in (width // 4, 3 * width // 4):
            maps[..., row : row + TARGET_PX, column : column + TARGET_PX] = 255
    return maps
