"""The window: which pixel values the network sees as 0 and as 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FULL_8_BIT = (0.0, 255.0)
SAMPLE_STEP = 8  # every 8th row and column is plenty for a percentile
PERCENTILES = (1.0, 99.0)
HEADROOM = 1.0  # spans above the 99th percentile: point targets live there and must not be clipped
FOOTROOM = 0.25
SMALLEST_SPAN = 32.0  # pixel values; a flat frame is not stretched into noise
SETTLING_S = 1.0


class WindowFollower:
    """Follows the range of a 16-bit stream, which fills a small and moving part of its 65,536 values.

    The window spans the 1st to the 99th percentile with room for what is darker and brighter, and
    moves with a time constant of one second, so that one bright object does not make it jump.
    """

    def __init__(self) -> None:
        self._window: NDArray[np.float64] | None = None
        self._time_ns = 0

    def before(self, time_ns: int) -> tuple[float, float] | None:
        """Return the window that earlier frames gave, if there are any and the last is no older than a second.

        A frame that goes by it need not wait for its own percentiles: they count from the next frame on.
        """
        if self._window is None or abs(time_ns - self._time_ns) > SETTLING_S * 1e9:
            return None
        return float(self._window[0]), float(self._window[1])

    def update(self, pixels: NDArray[np.uint16], time_ns: int) -> tuple[float, float]:
        """Return the window for a frame, ``[height, width]``, captured at ``time_ns``."""
        low, high = np.percentile(pixels[::SAMPLE_STEP, ::SAMPLE_STEP], PERCENTILES)
        span = max(high - low, SMALLEST_SPAN)
        wanted = np.array([low - FOOTROOM * span, high + HEADROOM * span])
        if self._window is None:
            self._window = wanted
        else:
            share = 1 - np.exp(-max(0, time_ns - self._time_ns) / 1e9 / SETTLING_S)
            self._window = self._window + share * (wanted - self._window)
        self._time_ns = time_ns
        return float(self._window[0]), float(self._window[1])
