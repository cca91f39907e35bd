"""How far the whole scene moved between two frames: a camera that pans or shakes moves every target alike."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.sources.base import Pixels

SIDE = 160  # frames are shrunk to about this many columns: a shift is found to a tenth of a pixel of those
LEAST_RESPONSE = 0.1  # of the correlation's peak; below it the two frames have too little in common
BLUR = 8.0  # px of the shrunk frame: slow shading, which stays with the camera, is taken out


class SceneMotion:
    """Phase correlation (Kuglin and Hines 1975) of each frame of one stream with the one before."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None
        self._window: NDArray[np.float32] | None = None

    def update(self, frame: Pixels) -> tuple[float, float]:
        """Return how far the scene moved since the last frame, pixels to the right and down.

        Args:
            frame: uint8 or uint16 ``[height, width]``.

        Returns:
            ``(0, 0)`` for the first frame, after a change of size, and where the frames do not agree.
        """
        factor = max(1, round(frame.shape[1] / SIDE))
        size = (max(1, frame.shape[1] // factor), max(1, frame.shape[0] // factor))
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= cv2.GaussianBlur(small, (0, 0), BLUR)
        before, self._before = self._before, small
        if before is None or before.shape != small.shape:
            self._window = np.asarray(cv2.createHanningWindow(size, cv2.CV_32F), np.float32)
            return 0.0, 0.0
        (dx, dy), response = cv2.phaseCorrelate(before, small, self._window)
        if response < LEAST_RESPONSE:
            return 0.0, 0.0
        return dx * factor, dy * factor
