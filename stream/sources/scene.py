"""A built-in infrared scene: endless frames with targets in them whose places are known."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stream.sources import BEHIND_NS
from stream.sources.base import EndOfSource, Pixels, Source, SourceFrame, SourceInfo, TruePoint
from stream.sources.scene_view import Image, View

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
        self._view = View(config)
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
            if self.start_ns is None or self.wait_until(self._due_ns(self.start_ns), timeout):
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
            drawn, spots = self._draw()
            self._next = self.place(drawn), spots
        pixels, spots = self._next
        truth = tuple(TruePoint(spot.id, spot.x, spot.y) for spot in spots if spot.inside)
        camera_ns = self._due_ns(0)
        captured_ns = time.monotonic_ns()
        if self.start_ns is not None:
            captured_ns = self._due_ns(self.start_ns)
            if not self.wait_until(captured_ns, timeout):
                return None
        self._spots = spots
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
