"""One scene in 8 and in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from stream.sources.scene import SceneConfig, SceneSource

FILLS = [(0, 257), (9_000, 12), (0x2300, 1)]  # all of the range, a part of it, and no more than one high byte's values


def scene_pixels(seed: int, count: int) -> list[np.ndarray]:
    """Return the 8-bit pixels of the first frames of a scene."""
    source = SceneSource(SceneConfig(seed=seed, live=False, frames=count))
    return [source.read(1.0).pixels for _ in range(count)]


def deepened(pixels: np.ndarray, fill: tuple[int, int]) -> np.ndarray:
    return (fill[0] + fill[1] * pixels.astype(np.int64)).astype(np.uint16)


def write_video(path: Path, frames: Sequence[np.ndarray]) -> Path:
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.height, video.width = frames[0].shape
        video.pix_fmt = "gray" if frames[0].dtype == np.uint8 else "gray16le"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format=video.pix_fmt)
            frame.pts = number
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path
