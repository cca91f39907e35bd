"""Pictures of frames, for browsers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 92
WIDTH_STEP = 64  # widths are rounded up to it, so that browsers of about the same size share pictures

Layer = Literal["frame", "targets"]


@dataclass
class Picture:
    """A copy of one frame, or of its target map, and what was encoded of it so far.

    Attributes:
        pixels: uint8 or uint16 ``[height, width]``.
        low: the value to be shown as black.
        high: the value to be shown as white.
        layer: what it shows.
    """

    pixels: NDArray[Any]
    low: float
    high: float
    layer: Layer
    _encoded: dict[int, bytes] = field(default_factory=dict)

    def encode(self, width: int) -> bytes:
        """Return it at least ``width`` pixels wide if it is as wide as that: a frame as JPEG, a target map as PNG."""
        height, full = self.pixels.shape
        width = min(-(-max(width, 1) // WIDTH_STEP) * WIDTH_STEP, full)
        if width not in self._encoded:
            size = (width, max(1, round(height * width / full)))
            # The brightest pixel of a target map must survive: a target is a few pixels wide.
            shown = self._levels()
            if self.layer == "targets":
                shown = _shrink_brightest(shown, full // width)
            if shown.shape[::-1] != size:
                shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), np.uint8)
            kind, quality = (
                (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                if self.layer == "frame"
                else (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])
            )
            self._encoded[width] = cv2.imencode(kind, shown, quality)[1].tobytes()
        return self._encoded[width]

    def _levels(self) -> NDArray[np.uint8]:
        if self.pixels.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            return self.pixels
        gain = 255.0 / (self.high - self.low)
        return np.asarray(np.clip((self.pixels.astype(np.float32) - self.low) * gain, 0, 255), np.uint8)


def _shrink_brightest(levels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return the brightest of each square of ``factor`` pixels, as far as whole squares fit."""
    if factor < 2:
        return levels
    height, width = (side // factor * factor for side in levels.shape)
    squares = levels[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return np.asarray(squares.max((1, 3)), np.uint8)
