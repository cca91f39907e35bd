"""Sensor noise at a stated level, for measuring how a network bears it; the same for every run and every network."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.finder import EvaluateError

KINDS = {
    "gaussian": "SIGMA in grey levels of 255, such as gaussian:10",
    "poisson": "PHOTONS that a white pixel collects, such as poisson:200",
    "salt-pepper": "DENSITY as a share of the pixels, such as salt-pepper:0.01",
}


@dataclass(frozen=True)
class Noise:
    """A kind of noise and its level.

    Attributes:
        kind: one of ``KINDS``.
        level: Gaussian: sigma, grey levels of 255. Poisson: photons that a white pixel collects (fewer
            are noisier). Salt and pepper: the share of pixels that turn black or white, half of them each.
    """

    kind: str
    level: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.level:g}"


def parse_noise(text: str) -> Noise:
    """Return the noise that ``--noise KIND:LEVEL`` asks for.

    Raises:
        EvaluateError: if there is no such kind or no such level.
    """
    kind, _, number = text.partition(":")
    if kind not in KINDS:
        raise EvaluateError(f"--noise {text}: no such kind; there are {', '.join(f'{k}:LEVEL' for k in KINDS)}")
    try:
        level = float(number)
    except ValueError:
        level = math.nan
    if not (0 < level < math.inf) or (kind == "salt-pepper" and level > 1):
        raise EvaluateError(f"--noise {text}: {kind} takes a {KINDS[kind]}")
    return Noise(kind, level)


def add_noise(frame: NDArray[np.uint8], noise: Noise, name: str) -> NDArray[np.uint8]:
    """Return a frame with noise on it.

    Args:
        frame: ``[height, width]``.
        noise: what to add.
        name: the frame's name, the only seed: every network, run and machine sees the same noise, and
            two levels of one kind see the same pattern.

    Returns:
        ``[height, width]``, rounded to grey levels and clipped to 0 to 255.
    """
    noisy: NDArray[np.floating]
    rng = np.random.default_rng(zlib.crc32(f"{noise.kind} {name}".encode()))
    if noise.kind == "gaussian":
        noisy = frame + noise.level * rng.standard_normal(frame.shape)
    elif noise.kind == "poisson":
        noisy = rng.poisson(frame * (noise.level / 255)) * (255 / noise.level)
    else:
        draw = rng.random(frame.shape)
        noisy = np.where(draw < noise.level / 2, 0.0, np.where(draw > 1 - noise.level / 2, 255.0, frame))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
