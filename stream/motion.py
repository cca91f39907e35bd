"""How far the whole scene moved between two frames: a camera that pans or shakes moves every target alike."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from stream.sources.base import Pixels

SIDE = 320  # frames are shrunk to about this many columns
CORNERS = 64  # that are followed, the strongest
APART = 10  # px of the shrunk frame between two of them: a target has one
STRONG = 0.02  # of the strongest corner's strength; weaker ones are noise
LEAST = 8  # corners that must agree, and half of those that are seen
AGREE = 1.0  # px of the shrunk frame from their median
WINDOW = (15, 15)  # px of the shrunk frame that are compared, on each level of the pyramid
LEVELS = 3  # of the pyramid, each of half the size: a step of 40 px is found

Bytes = NDArray[np.uint8]
Corners = NDArray[np.float32]


class SceneMotion:
    """Sparse optical flow (Lucas and Kanade 1981, Bouguet 2000) of the corners of one stream's scene.

    Corners are followed from a key frame and not from frame to frame, so that errors do not add up: a scene that
    stands still is found to stand still for as long as it is looked at. Where fewer than half of them agree any more
    (the camera has turned away, the gain has changed), the next key frame is taken.
    """

    def __init__(self) -> None:
        self._key: Bytes = np.zeros((0, 0), np.uint8)
        self._range = 0.0, 255.0  # the pixel values that are black and white in the key frame
        self._corners: Corners = np.zeros((0, 1, 2), np.float32)
        self._offset = np.zeros(2)  # of the scene since the key frame, px of the shrunk frame

    def update(self, frame: Pixels) -> tuple[float, float]:
        """Return how far the scene moved since the last frame, pixels to the right and down.

        Args:
            frame: uint8 or uint16 ``[height, width]``.

        Returns:
            ``(0, 0)`` for the first frame, after a change of size, and where the frames do not agree.
        """
        factor = max(1, round(frame.shape[1] / SIDE))
        size = (max(1, frame.shape[1] // factor), max(1, frame.shape[0] // factor))
        small = cast(Pixels, cv2.resize(frame, size, interpolation=cv2.INTER_AREA)) if factor > 1 else frame
        before = self._offset
        offset, agreeing = self._follow(small)
        if offset is None:
            self._begin(small)
            return 0.0, 0.0
        self._offset = offset
        dx, dy = (factor * (offset - before)).tolist()
        if 2 * agreeing < len(self._corners):
            self._begin(small)
        return dx, dy

    def _follow(self, small: Pixels) -> tuple[NDArray[np.float64] | None, int]:
        """Return the offset of the scene since the key frame, None without one, and how many corners agree on it."""
        if len(self._corners) < LEAST or small.shape != self._key.shape:
            return None, 0
        guess = self._corners + self._offset.astype(np.float32)
        found, seen, _ = cv2.calcOpticalFlowPyrLK(
            self._key, self._bytes(small), self._corners, guess,
            winSize=WINDOW, maxLevel=LEVELS, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )  # fmt: skip
        moved = (found - self._corners)[seen.ravel() == 1, 0].astype(np.float64)
        if len(moved) < LEAST:
            return None, 0
        agree = np.abs(moved - np.median(moved, 0)).max(1) < AGREE
        agreeing = int(np.count_nonzero(agree))
        if agreeing < max(LEAST, len(moved) / 2):
            return None, 0
        return moved[agree].mean(0), agreeing

    def _begin(self, small: Pixels) -> None:
        """Take a key frame."""
        self._range = (0.0, 255.0) if small.dtype == np.uint8 else (float(small.min()), float(small.max()))
        self._key = self._bytes(small).copy()  # the frame's own memory is another frame's soon
        corners = cv2.goodFeaturesToTrack(self._key, CORNERS, STRONG, APART)
        self._corners = np.zeros((0, 1, 2), np.float32) if corners is None else np.asarray(corners, np.float32)
        self._offset = np.zeros(2)

    def _bytes(self, small: Pixels) -> Bytes:
        if small.dtype == np.uint8:
            return np.ascontiguousarray(small, np.uint8)
        low, high = self._range
        scaled: Bytes = np.clip((small - low) * (255 / max(1.0, high - low)), 0, 255).astype(np.uint8)
        return scaled
