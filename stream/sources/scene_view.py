"""A built-in scene's sky, clouds, ground and camera: everything but its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

if TYPE_CHECKING:
    from stream.sources.scene import SceneConfig

Image = NDArray[np.float32]
"""``[height, width]``, grey levels of 255."""


class View:
    """Everything of a scene but its targets: sky, clouds, ground and the camera."""

    def __init__(self, config: SceneConfig) -> None:
        rng = np.random.default_rng([config.seed, 0])
        self._seed, self._height, self._width = config.seed, config.height, config.width
        self._clouds = [
            _wrapped(_texture(rng, _tile(config), slope, stretch), config.height, config.width)
            for slope, stretch in ((rng.uniform(1.7, 2.2), rng.uniform(1.5, 3)), (rng.uniform(1.4, 1.8), 2.0))
        ]
        heading = rng.choice([-1, 1]) * config.width / 320
        self._winds = [(heading * rng.uniform(4, 14), rng.uniform(-2, 2)) for _ in self._clouds]
        self._pan = float(rng.uniform(-7, 7)) * config.width / 320
        self._cover = (float(rng.uniform(-0.8, 1.4)), float(rng.uniform(0.5, 2.5)))  # where clouds begin, how softly
        self._cloud_level = float(rng.uniform(15, 110))
        self._haze = float(rng.uniform(0.5, 3))
        y = np.linspace(0, 1, config.height, dtype=np.float32)[:, None]
        self._sky = (rng.uniform(25, 105) + rng.uniform(-25, 35) * y**2).astype(np.float32)
        self._ground = _ground(rng, config) if rng.random() < 0.7 else None
        self.skyline = self._ground.ridge if self._ground else config.height
        self.noise = float(rng.uniform(0.4, 1.3))
        # Optics and the camera's own filters leave noise that neighbours share, not white noise.
        pool = _blurred(
            rng.standard_normal((2 * config.height, 2 * config.width), dtype=np.float32), rng.uniform(0.45, 0.8)
        )
        self._pool = pool * np.float32(self.noise / pool.std())
        self._pattern = _fixed_pattern(rng, config)
        dead = max(2, round(5e-5 * config.height * config.width))
        self._dead = (rng.integers(0, config.height, dead), rng.integers(0, config.width, dead))
        self._stuck = np.where(rng.random(dead) < 0.75, rng.uniform(0, 10, dead), rng.uniform(120, 220, dead))

    def background(self, seconds: float) -> Image:
        """Return what is behind the targets, grey levels of 255, a new array."""
        size = (self._width, self._height)
        low, high = (
            _crop(cloud, size, vx * seconds, vy * seconds)
            for cloud, (vx, vy) in zip(self._clouds, self._winds, strict=True)
        )
        begin, softness = self._cover
        density = np.clip((low + 0.5 * high - np.float32(begin)) / np.float32(softness), 0, 1)
        density *= density * (3 - 2 * density)
        image: Image = density * (self._cloud_level * (1 + 0.15 * high))
        image += self._sky
        image += np.float32(self._haze) * low
        if self._ground:
            rows = slice(self._ground.top, self._height)
            part = (self._width, self._height - self._ground.top)
            image[rows] *= _crop(self._ground.sky_share, part, self._pan * seconds, 0)
            image[rows] += _crop(self._ground.light, part, self._pan * seconds, 0)
        return image

    def expose(self, image: Image, index: int) -> None:
        """Add what the camera adds to its frame ``index``, in place."""
        rng = np.random.default_rng([self._seed, 1, index])
        row, column = rng.integers(0, self._height), rng.integers(0, self._width)
        image += self._pool[row : row + self._height, column : column + self._width]
        image += rng.standard_normal((self._height, 1), dtype=np.float32) * np.float32(0.2 * self.noise)
        image += self._pattern
        image[self._dead] = self._stuck


@dataclass(frozen=True)
class _Ground:
    """Ground for the rows from ``top``, wider than the frame and periodic: what it shines and what it lets through."""

    top: int
    ridge: int
    light: Image
    sky_share: Image


def _tile(config: SceneConfig) -> tuple[int, int]:
    return fft.next_fast_len(int(1.4 * config.height)), fft.next_fast_len(int(1.6 * config.width), real=True)


def _texture(rng: np.random.Generator, shape: tuple[int, int], slope: float, stretch: float) -> Image:
    """Return periodic 1/f^slope noise of mean 0 and deviation 1, ``stretch`` times wider than high."""
    height, width = shape
    fy = fft.fftfreq(height, 1 / height).astype(np.float32)[:, None]
    fx = fft.rfftfreq(width, 1 / width).astype(np.float32)[None, :]
    squared = (fy / height) ** 2 + (fx * np.float32(stretch) / width) ** 2
    squared[0, 0] = np.inf
    parts = rng.standard_normal((*squared.shape, 2), dtype=np.float32) * (squared ** np.float32(-slope / 2))[..., None]
    image = fft.irfft2(parts.view(np.complex64)[..., 0], s=shape)
    return np.asarray(image / image.std(), np.float32)


def _wrapped(tile: Image, rows: int, columns: int) -> Image:
    """Return a periodic tile with its own beginning after its end, so that any crop of that size lies within."""
    return np.pad(tile, ((0, rows + 2 if rows else 0), (0, columns + 2)), mode="wrap")


def _crop(wrapped: Image, size: tuple[int, int], x: float, y: float) -> Image:
    """Return the part that begins at a sub-pixel place, which wraps around."""
    width, height = size
    period_x, period_y = wrapped.shape[1] - width - 2, max(wrapped.shape[0] - height - 2, 1)
    centre = (x % period_x + (width - 1) / 2, y % period_y + (height - 1) / 2)
    return np.asarray(cv2.getRectSubPix(wrapped, size, centre), np.float32)


def _blurred(image: Image, deviation: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation), np.float32)


def _ground(rng: np.random.Generator, config: SceneConfig) -> _Ground:
    """Draw a treeline, a field before it, and at times houses and poles."""
    scale, width = config.height / 256, fft.next_fast_len(2 * config.width, real=True)
    hills = _texture(rng, (1, width), 1.4, 1)[0] * rng.uniform(2, 8) * scale
    crowns = np.abs(_texture(rng, (1, width), rng.uniform(0.5, 1), 1)[0]) * rng.uniform(0.5, 7) * scale
    ridge = hills - crowns
    ridge += rng.uniform(0.55, 0.9) * config.height - ridge.mean()
    top = max(int(ridge.min() - 60 * scale), 0)
    ridge_row = int(ridge.min())
    ridge -= top
    rows = config.height - top
    y = np.arange(rows, dtype=np.float32)[:, None]
    trees = rng.uniform(120, 215) + rng.uniform(12, 32) * _texture(rng, (rows, width), 0.8, rng.uniform(0.2, 0.5))
    field = rng.uniform(60, 150) + rng.uniform(4, 14) * _texture(rng, (rows, width), 0.8, rng.uniform(2, 6))
    field += rng.uniform(-0.3, 0.3) * y
    foot = ridge + crowns + rng.uniform(6, 34) * scale
    light = np.where(y < foot, trees, field)
    solid = np.clip(y - ridge + 0.5, 0, 1)
    for _ in range(rng.integers(0, 6)):
        wide, high = rng.uniform(1, 3) * scale, rng.uniform(10, 50) * scale
        if rng.random() < 0.4:
            wide, high = rng.uniform(20, 80) * scale, rng.uniform(8, 30) * scale
        left = int(rng.integers(0, width - int(wide) - 1))
        base = int(foot[left])
        box = slice(max(base - int(high), 0), base), slice(left, left + int(wide) + 1)
        light[box] = rng.uniform(50, 200) + 0.2 * light[box]
        solid[box] = 1
    # Detail enhancement, which such cameras do, leaves the sky dark above bright ground.
    shade = 1 - rng.uniform(0, 0.9) * _blurred(solid, rng.uniform(6, 15) * scale)
    parts = (light * solid, (1 - solid) * shade)
    light, share = (_blurred(_wrapped(part.astype(np.float32), 0, config.width), 0.7) for part in parts)
    return _Ground(top, ridge_row, light, share)


def _fixed_pattern(rng: np.random.Generator, config: SceneConfig) -> Image:
    shape = (config.height, config.width)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    pixels = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(0.1, 0.5))
    columns = rng.standard_normal(shape[1], dtype=np.float32) * np.float32(rng.uniform(0.1, 0.5))
    corners = np.float32(rng.uniform(-5, 3)) * (y[:, None] ** 2 + x**2)
    return np.asarray(_blurred(pixels + columns, 0.5) + corners, np.float32)
