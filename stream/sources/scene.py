"""A built-in infrared scene: endless frames with targets in them whose places are known."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import fft

from stream.sources import BEHIND_NS, wait_until
from stream.sources.base import EndOfSource, Pixels, Source, SourceFrame, SourceInfo, TruePoint

Image = NDArray[np.float32]

MAX_SIDE = 4096
"""Beyond it a frame takes longer to draw than anybody waits."""
FADE_S = 0.3
"""How long a target takes to appear and to vanish."""
LOWEST_SCR = 3.0
"""A target is at least this many standard deviations of its surroundings above them, in the mean of its half-peak
pixels, unless that takes more than ``HIGHEST_PEAK``."""
PEAK = (55.0, 160.0)
"""The peaks that targets are born with, grey levels of 255 above their surroundings."""
HIGHEST_PEAK = 180.0


class SceneConfig(BaseModel):
    """A scene. The same fields give the same frames, whatever the pace.

    Attributes:
        seed: chooses sky, clouds, ground, sensor and targets.
        width: pixels.
        height: pixels.
        bits: 8, or 16: the same scene, its grey levels times 257 before they are rounded.
        fps: frames per second.
        targets: how many there are at the most at a time.
        frames: after how many it ends; None for never.
        live: True gives frames when they are due, False as fast as they are asked for.
        loop: draws so many frames when it opens and gives them over and over, so that frames cost nothing while
            a load is measured; None draws each frame anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**63)
    width: int = Field(default=320, ge=64, le=MAX_SIDE)
    height: int = Field(default=256, ge=64, le=MAX_SIDE)
    bits: int = Field(default=8, ge=8, le=16, multiple_of=8)
    fps: float = Field(default=30.0, gt=0, le=1000)
    targets: int = Field(default=4, ge=0, le=100)
    frames: int | None = Field(default=None, ge=1)
    live: bool = True
    loop: int | None = Field(default=None, ge=1, le=1000)


class SceneSource(Source):
    """A scene that is open. Its frames know their targets: ``truth`` gives their centres, ``mask`` their pixels.

    A place is in pixels, 0 at the centre of the first. ``camera_ns`` is the scene's own time, from 0.
    """

    def __init__(self, config: SceneConfig) -> None:
        """Draw a scene; takes a tenth of a second at 320x256."""
        self.info = SourceInfo(config.width, config.height, config.bits, config.fps, config.live)
        self._config = config
        self._view = _View(config)
        self._flock = _Flock(config, self._view.skyline)
        self._spots: list[_Spot] = []
        self._index = 0
        self._next: tuple[Pixels, list[_Spot]] | None = None
        self.start_ns = None
        self._closed = False
        self._loop: list[tuple[Pixels, list[_Spot]]] = []
        self._loop = [self._draw_and_skip() for _ in range(config.loop or 0)]
        self._index = 0

    def read(self, timeout: float) -> SourceFrame | None:
        frames = self._config.frames
        if self._closed:
            raise EndOfSource
        if frames is not None and self._index >= frames:
            if self.start_ns is None or wait_until(self._due_ns(self.start_ns), timeout):
                raise EndOfSource
            return None  # a live scene lasts until the next frame would be due
        lost = 0
        if self._config.live:
            now_ns = time.monotonic_ns()
            if self.start_ns is None:
                self.start_ns = now_ns
            late_ns = now_ns - self._due_ns(self.start_ns)
            if late_ns > BEHIND_NS:
                lost = int(late_ns * self._config.fps / 1e9)
                if frames is not None:
                    lost = min(lost, frames - 1 - self._index)
                self._skip(lost)
        # Drawn before it is due: a camera's frame is there when it is due, and no later.
        if self._next is None:
            self._next = self._draw()
        captured_ns = time.monotonic_ns()
        if self.start_ns is not None:
            captured_ns = self._due_ns(self.start_ns)
            if not wait_until(captured_ns, timeout):
                return None
        pixels, self._spots = self._next
        truth = tuple(TruePoint(spot.id, spot.x, spot.y) for spot in self._spots if spot.inside)
        camera_ns = self._due_ns(0)
        self._skip(1)
        return SourceFrame(pixels, captured_ns, camera_ns, lost, truth)

    def mask(self) -> NDArray[np.bool_]:
        """Return which pixels of the last frame a target adds more than half its peak to, ``[height, width]``."""
        mask = np.zeros((self.info.height, self.info.width), np.bool_)
        for spot in self._spots:
            mask[spot.rows, spot.columns] |= spot.pixels > 0.5 * spot.peak
        return mask

    def close(self) -> None:
        self._closed = True

    def _due_ns(self, start_ns: int) -> int:
        return start_ns + round(self._index * 1e9 / self._config.fps)

    def _skip(self, frames: int) -> None:
        for _ in range(0 if self._loop else frames):
            self._flock.step()
        self._index += frames
        self._next = None

    def _draw_and_skip(self) -> tuple[Pixels, list[_Spot]]:
        drawn = self._draw()
        self._skip(1)
        return drawn

    def _draw(self) -> tuple[Pixels, list[_Spot]]:
        if self._loop:
            return self._loop[self._index % len(self._loop)]
        image = self._view.background(self._index / self._config.fps)
        spots = [spot for target in self._flock.targets if (spot := _spot(target, image, self._view.noise))]
        for spot in spots:
            image[spot.rows, spot.columns] += spot.pixels
        self._view.expose(image, self._index)
        if self._config.bits == 8:
            return np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8), spots
        np.multiply(image, 257, out=image)
        return np.clip(np.rint(image, out=image), 0, 65535, out=image).astype(np.uint16), spots


class _View:
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


@dataclass
class _Target:
    """A target on its way: pixels, pixels per second, radians, seconds."""

    id: int
    x: float
    y: float
    speed: float
    heading: float
    turn: float
    age: float
    life: float
    peak: float
    flicker: float
    shape: NDArray[np.float64]
    """The covariance of its image, ``[2, 2]`` over y and x, px^2."""


class _Flock:
    """The targets of a scene: each place is taken by one after another, with pauses."""

    def __init__(self, config: SceneConfig, skyline: int) -> None:
        self._rng = np.random.default_rng([config.seed, 2])
        self._config, self._skyline = config, skyline
        self._born = 0
        self._places: list[_Target | float] = [self._birth() for _ in range(config.targets)]
        for target in self.targets:
            target.age = self._rng.uniform(FADE_S, 0.3 * target.life)

    @property
    def targets(self) -> list[_Target]:
        return [place for place in self._places if isinstance(place, _Target)]

    def step(self) -> None:
        """Go on by one frame."""
        dt = 1 / self._config.fps
        for index, place in enumerate(self._places):
            if isinstance(place, float):
                self._places[index] = self._birth() if place <= dt else place - dt
                continue
            place.turn += -place.turn * dt / 1.5 + 0.35 * math.sqrt(dt) * self._rng.standard_normal()
            place.heading += place.turn * dt
            place.x += place.speed * math.cos(place.heading) * dt
            place.y += place.speed * math.sin(place.heading) * dt
            place.age += dt
            gone = not (-4 < place.x < self._config.width + 3 and -4 < place.y < self._config.height + 3)
            if gone or place.age >= place.life:
                self._places[index] = float(self._rng.exponential(1.5))

    def _birth(self) -> _Target:
        rng, self._born = self._rng, self._born + 1
        lowest = self._config.height if rng.random() < 0.12 else max(self._skyline, 40)
        angle, across = rng.uniform(0, np.pi), rng.uniform(0.5, 3.6)
        axes = np.array([across, across * rng.uniform(0.4, 1)]) / 2.355
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * axes
        optics = rng.uniform(0.5, 0.75)
        return _Target(
            id=self._born,
            x=rng.uniform(0.1, 0.9) * self._config.width,
            y=rng.uniform(12, lowest - 12),
            speed=math.exp(rng.uniform(math.log(6), math.log(60))) * self._config.width / 320,
            heading=rng.choice([0, math.pi]) + rng.normal(0, 0.4),
            turn=rng.normal(0, 0.3),
            age=0.0,
            life=rng.uniform(5, 16),
            peak=math.exp(rng.uniform(math.log(PEAK[0]), math.log(PEAK[1]))),
            flicker=rng.uniform(1, 4),
            shape=turned @ turned.T + (optics**2 + 1 / 12) * np.eye(2),  # 1/12: a pixel's own square
        )


@dataclass(frozen=True)
class _Spot:
    """What a target adds to a frame."""

    id: int
    x: float
    y: float
    inside: bool
    peak: float
    rows: slice
    columns: slice
    pixels: Image


def _spot(target: _Target, image: Image, noise: float) -> _Spot | None:
    """Return what ``target`` adds to the image behind it, None if nothing of it is in the frame."""
    height, width = image.shape
    column, row = round(target.x), round(target.y)
    reach = math.ceil(3.3 * math.sqrt(float(np.trace(target.shape))))
    around = image[max(row - 12, 0) : row + 13, max(column - 12, 0) : column + 13]
    rows = slice(max(row - reach, 0), max(min(row + reach + 1, height), 0))
    columns = slice(max(column - reach, 0), max(min(column + reach + 1, width), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    clutter = math.hypot(float(around.std()), noise)
    lowest = LOWEST_SCR * clutter * math.log(4)  # ln 4: a peak over the mean of its half-peak pixels
    peak = min(max(target.peak, lowest), HIGHEST_PEAK) * (1 + 0.1 * math.sin(target.flicker * target.age))
    fade = min(1.0, target.age / FADE_S, (target.life - target.age) / FADE_S)
    dy = np.arange(rows.start, rows.stop)[:, None] - target.y
    dx = np.arange(columns.start, columns.stop)[None, :] - target.x
    (a, b), (_, c) = np.linalg.inv(target.shape)
    pixels = peak * fade * np.exp(-0.5 * (a * dy * dy + 2 * b * dy * dx + c * dx * dx))
    inside = fade >= 0.5 and -0.5 <= target.x < width - 0.5 and -0.5 <= target.y < height - 0.5
    return _Spot(target.id, target.x, target.y, inside, peak * fade, rows, columns, pixels.astype(np.float32))
