"""Drawn infrared scenes with exact masks: an endless set, a frame from each draw of a generator.

``stream.sources.scene`` draws scenes too, for the live demo: those move, and take a tenth of a second to set up. The
two packages import nothing of each other, and these have to be as fast as a crop is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from training.augment import white_noise

Image = NDArray[np.float32]
Generator = np.random.Generator

TILE = 512  # side of a texture, pixels
SLOPES = (0.9, 1.2, 1.5, 1.8, 2.1, 2.4)
TILES_EACH = 4
AREA = (4.0, 80.0)  # of a target's half-peak pixels: from the 5th to the 95th percentile of NUDT-SIRST and NUAA-SIRST
PEAK = (35.0, 165.0)  # grey levels above the surroundings, likewise
LEAST_CONTRAST = 3.0  # standard deviations of the surroundings that a target's peak has at least
HIGHEST_PEAK = 200.0
MOST_TARGETS = 4
TARGET_FREE = 0.3  # the share of scenes without a target
OVERLAID = 0.35  # the share of scenes with symbols burnt in, where the set has them


@dataclass(frozen=True)
class Scene:
    """An endless set of scenes.

    Attributes:
        backgrounds: the kinds that are drawn, each as likely as any other; ``overlays`` comes on top of the others,
            or of a plain sky where it is alone.
    """

    backgrounds: tuple[str, ...]

    def draw(self, rng: Generator, side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw a frame and its mask, ``[side, side]``.

        A pixel is target where one target's own contribution, after the optics, exceeds half of its peak.
        """
        kinds = [kind for kind in self.backgrounds if kind != "overlays"]
        image = _sky(rng, side)
        if kinds:
            image = BACKGROUNDS[kinds[int(rng.integers(len(kinds)))]](rng, image)
        image = _blurred(image, rng.uniform(0.4, 0.9))
        noise = float(math.exp(rng.uniform(math.log(0.3), math.log(3))))
        mask = np.zeros(image.shape, np.bool_)
        if rng.random() >= TARGET_FREE:
            for _ in range(rng.integers(1, MOST_TARGETS + 1)):
                _add_target(rng, image, mask, noise)
        _expose(rng, image, noise)
        if "overlays" in self.backgrounds and rng.random() < OVERLAID:
            _overlay(rng, image, mask)
        return np.rint(np.clip(image, 0, 255, out=image)).astype(np.uint8), mask


@lru_cache(maxsize=1)
def _tiles() -> list[list[Image]]:
    """Return periodic 1/f^slope noise of mean 0 and deviation 1, some tiles of every slope; takes half a second."""
    rng = np.random.default_rng(0)
    fy, fx = fft.fftfreq(TILE)[:, None], fft.rfftfreq(TILE)[None, :]
    squared = fy**2 + fx**2
    squared[0, 0] = np.inf
    tiles = []
    for slope in SLOPES:
        spectra = rng.standard_normal((TILES_EACH, *squared.shape, 2)).view(np.complex128)[..., 0]
        images = fft.irfft2(spectra * squared ** (-slope / 2), s=(TILE, TILE))
        tiles.append([np.asarray(image / image.std(), np.float32) for image in images])
    return tiles


def _texture(
    rng: Generator, shape: tuple[int, int], rough: float, zoom: float = 1.0, stretch: float = 1.0, level: bool = True
) -> Image:
    """Return a texture of mean 0 and deviation 1: a part of a tile, turned and enlarged by chance.

    Args:
        rng: the source of chance.
        shape: height and width.
        rough: 0 for soft clouds to 1 for leaves.
        zoom: how much a tile is enlarged, at least 1.
        stretch: how much wider than high its grain is.
        level: whether to take mean and deviation to 0 and 1, which they are of a whole tile only.
    """
    slope = len(SLOPES) - 1 - round(rough * (len(SLOPES) - 1))
    tile = _tiles()[slope][int(rng.integers(TILES_EACH))]
    high = max(2, min(TILE, round(shape[0] / zoom)))
    wide = max(2, min(TILE, round(shape[1] / zoom / stretch)))
    top, left = int(rng.integers(TILE - high + 1)), int(rng.integers(TILE - wide + 1))
    part = tile[top : top + high, left : left + wide]
    image = cv2.resize(part, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        image = cv2.flip(image, 1)
    if level:
        mean, deviation = (float(figure[0, 0]) for figure in cv2.meanStdDev(image))
        image = (image - np.float32(mean)) * np.float32(1 / max(deviation, 1e-3))
    return np.asarray(image, np.float32)


def _blurred(image: Image, deviation: float) -> Image:
    size = 2 * math.ceil(2.5 * deviation) + 1
    return np.asarray(cv2.GaussianBlur(image, (size, size), deviation), np.float32)


def _column(values: NDArray[np.float64] | Image) -> Image:
    return np.asarray(values, np.float32)[:, None]


def _sky(rng: Generator, side: int) -> Image:
    """Draw an even sky, brighter or darker towards the ground, mottled a little."""
    y = np.linspace(0, 1, side)
    levels = rng.uniform(15, 120) + rng.uniform(-30, 50) * y ** rng.uniform(1, 3)
    return _column(levels) + np.float32(rng.uniform(0, 3)) * _texture(rng, (side, side), rng.uniform(0, 0.4))


def _clouds(rng: Generator, image: Image) -> Image:
    shape = (image.shape[0], image.shape[1])
    low = _texture(rng, shape, rng.uniform(0, 0.5), rng.uniform(1, 3), rng.uniform(1, 3))
    high = _texture(rng, shape, rng.uniform(0.2, 0.8), rng.uniform(1, 2), rng.uniform(1, 2))
    begin, softness = rng.uniform(-1.2, 1.2), rng.uniform(0.3, 2.5)
    density = np.clip(
        (low + np.float32(rng.uniform(0, 0.5)) * high - np.float32(begin)) * np.float32(1 / softness), 0, 1
    )
    light = np.float32(rng.uniform(15, 140)) * (1 + np.float32(rng.uniform(0.05, 0.25)) * high)
    return np.asarray(image + density * light, np.float32)


def _ridge(rng: Generator, side: int, rough: float, height: float) -> NDArray[np.float64]:
    """Return the row of a skyline at every column."""
    line = _texture(rng, (1, side), 0.1)[0] * rng.uniform(0.01, 0.12) * side
    line = line + _texture(rng, (2, side), rough)[0] * rng.uniform(0, height) * side
    return np.asarray(line + rng.uniform(-0.1, 0.95) * side, np.float64)


def _below(image: Image, ridge: NDArray[np.float64], light: Image) -> Image:
    """Lay ground over the sky, its edge no sharper than a pixel."""
    solid = np.clip(np.arange(image.shape[0], dtype=np.float32)[:, None] - ridge.astype(np.float32) + 0.5, 0, 1)
    return np.asarray(image + solid * (light - image), np.float32)


def _terrain(rng: Generator, image: Image) -> Image:
    side = image.shape[0]
    for _ in range(rng.integers(1, 4)):
        ground = _texture(rng, (side, side), rng.uniform(0.3, 0.9), rng.uniform(1, 2), rng.uniform(1, 4))
        light = np.float32(rng.uniform(40, 190)) + np.float32(rng.uniform(4, 35)) * ground
        image = _below(image, _ridge(rng, side, rng.uniform(0.2, 0.6), 0.02), light)
    return image


def _sea(rng: Generator, image: Image) -> Image:
    """Draw waves up to a level horizon, with the glitter of the sun at times."""
    side = image.shape[0]
    horizon = rng.uniform(-0.3, 0.8) * side
    waves = _texture(rng, (side, side), rng.uniform(0.6, 1), rng.uniform(1, 2), rng.uniform(3, 8))
    depth = np.clip((np.arange(side) - horizon) / side, 0, 1)
    light = np.float32(rng.uniform(20, 120)) + waves * _column(rng.uniform(2, 20) * (0.3 + depth))
    if rng.random() < 0.5:
        middle, width = rng.uniform(0, side), rng.uniform(0.1, 0.5) * side
        band = np.exp(-0.5 * ((np.arange(side) - middle) / width) ** 2).astype(np.float32)
        light += np.float32(rng.uniform(0, 80)) * band
        light += np.clip(waves - np.float32(rng.uniform(1, 2)), 0, 1) * band * np.float32(rng.uniform(40, 160))
    return _below(image, np.full(side, horizon), light)


def _buildings(rng: Generator, image: Image) -> Image:
    """Draw houses from the frame's foot up, with rows of windows, ledges and lit rooms."""
    side = image.shape[0]
    for _ in range(rng.integers(1, 6)):
        wide, top = int(rng.uniform(0.1, 0.8) * side) + 4, int(rng.uniform(-0.1, 0.85) * side)
        left, wall = int(rng.uniform(-0.2, 0.95) * side), rng.uniform(40, 200)
        cv2.rectangle(image, (left, top), (left + wide, side), wall, -1)
        pitch_x, pitch_y = int(rng.uniform(8, 48)), int(rng.uniform(10, 48))
        share_x, share_y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
        bright = wall + rng.uniform(-80, 80)
        for y in range(top + pitch_y // 3, side, pitch_y):
            for x in range(left + pitch_x // 4, min(left + wide - pitch_x // 2, side), pitch_x):
                lit = bright + rng.uniform(-15, 15)
                cv2.rectangle(image, (x, y), (x + int(pitch_x * share_x), y + int(pitch_y * share_y)), lit, -1)
        if rng.random() < 0.5:
            cv2.line(image, (left, top), (left + wide, top), wall + rng.uniform(-60, 60), int(rng.integers(1, 5)))
    soft = _blurred(image, rng.uniform(0.5, 2))
    return soft + np.float32(rng.uniform(0, 6)) * _texture(rng, (side, side), 0.4)


def _trees(rng: Generator, image: Image) -> Image:
    """Draw crowns against the sky, and at times poles and wires before it."""
    side = image.shape[0]
    for _ in range(rng.integers(1, 3)):
        leaves = _texture(rng, (side, side), rng.uniform(0.7, 1), rng.uniform(1, 1.5), rng.uniform(0.4, 1))
        light = np.float32(rng.uniform(50, 210)) + np.float32(rng.uniform(8, 40)) * leaves
        image = _below(image, _ridge(rng, side, rng.uniform(0.6, 1), 0.05), light)
    for _ in range(rng.integers(0, 5)):
        one, two = ((int(rng.integers(side)), int(rng.integers(side))) for _ in range(2))
        if rng.random() < 0.6:  # upright
            two = (one[0] + int(rng.integers(-3, 4)), two[1])
        cv2.line(image, one, two, rng.uniform(20, 220), int(rng.integers(1, 4)), cv2.LINE_AA)
    return image


def _people(rng: Generator, image: Image) -> Image:
    """Draw people on the ground: far larger than targets, but their heads are round and warm."""
    side = image.shape[0]
    image = _terrain(rng, image)
    for _ in range(rng.integers(1, 6)):
        high, warm = rng.uniform(24, 110), rng.uniform(120, 235)
        x, foot = rng.uniform(0, side), rng.uniform(0.4, 1.2) * side
        head = foot - 0.92 * high
        _oval(image, x, foot - 0.65 * high, 0.12 * high, 0.2 * high, 0, warm - rng.uniform(10, 60))
        for way in (-1, 1):
            level, tilt = warm - rng.uniform(20, 70), way * rng.uniform(0, 15)
            _oval(image, x + way * 0.06 * high, foot - 0.23 * high, 0.05 * high, 0.25 * high, -tilt, level)
            _oval(image, x + way * 0.14 * high, foot - 0.62 * high, 0.035 * high, 0.17 * high, -tilt, level)
        _oval(image, x, head, 0.06 * high, 0.08 * high, 0, warm)
    return _blurred(image, rng.uniform(0.5, 1.5))


def _oval(image: Image, cx: float, cy: float, rx: float, ry: float, tilt: float, level: float) -> None:
    axes = (max(1, round(rx)), max(1, round(ry)))
    cv2.ellipse(image, (round(cx), round(cy)), axes, tilt, 0, 360, level, -1, cv2.LINE_AA)


BACKGROUNDS: dict[str, Callable[[Generator, Image], Image]] = {
    "cloud": _clouds,
    "terrain": _terrain,
    "sea": _sea,
    "buildings": _buildings,
    "trees": _trees,
    "people": _people,
}


def _add_target(rng: Generator, image: Image, mask: NDArray[np.bool_], noise: float) -> None:
    """Add a target and its mask, in place, clear of the others: an even or pointed ellipse, or a few in a row."""
    side = image.shape[0]
    blur = rng.uniform(0.5, 0.8)
    shape = _target_shape(rng, blur)
    reach = shape.shape[0] // 2
    if side <= 2 * reach:
        return
    row, column = (int(rng.integers(reach, side - reach)) for _ in range(2))
    window = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
    if mask[window].any():
        return
    there = image[window]
    peak = math.exp(rng.uniform(math.log(PEAK[0]), math.log(PEAK[1])))
    peak = max(peak, LEAST_CONTRAST * math.hypot(float(there.std()), noise))
    if peak > min(HIGHEST_PEAK, 250 - float(there.max())):
        return  # it would not be seen
    there += np.float32(peak) * shape
    mask[window] |= shape > 0.5


def _target_shape(rng: Generator, blur: float) -> Image:
    """Return what a target looks like after the optics, ``[2 r + 1, 2 r + 1]``, its peak 1."""
    area = math.exp(rng.uniform(math.log(AREA[0]), math.log(AREA[1])))
    parts = int(rng.integers(1, 4)) if area > 15 else 1
    aspect, angle = rng.uniform(1, 3), rng.uniform(0, math.pi)
    minor = max(math.sqrt(area / parts / math.pi / aspect), 0.7)
    major, spread = minor * aspect, minor * aspect * rng.uniform(0.8, 1.6)
    reach = math.ceil(2 * major + spread * (parts - 1) / 2 + 3 * blur + 1)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] + rng.uniform(-0.5, 0.5, (2, 1, 1))
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    steep = rng.uniform(1, 2.5)
    shape = np.zeros(y.shape)
    for index in range(parts):
        place, thick = (index - (parts - 1) / 2) * spread, rng.uniform(0.6, 1.2)
        squared = ((along - place) / major) ** 2 + (across / (minor * thick)) ** 2
        shape = np.maximum(shape, rng.uniform(0.7, 1) * np.exp(-math.log(2) * squared**steep))
    seen = _blurred(shape.astype(np.float32), blur)
    return np.asarray(seen / seen.max(), np.float32)


def _expose(rng: Generator, image: Image, noise: float) -> None:
    """Add what a camera adds: noise that neighbours share, columns of their own level, darker corners, dead pixels."""
    side = image.shape[0]
    grain = _blurred(white_noise((side, side), rng), rng.uniform(0.35, 0.8))
    image += grain * np.float32(noise / max(float(grain[:32].std()), 1e-3))
    image += rng.standard_normal((1, side), np.float32) * np.float32(rng.uniform(0, 0.5) * noise)
    if rng.random() < 0.3:
        squared = np.linspace(-1, 1, side, dtype=np.float32) ** 2
        image += np.float32(rng.uniform(-12, 6)) * (squared[:, None] + squared)
    if rng.random() < 0.3:
        dead = int(rng.integers(1, 6))
        image[rng.integers(0, side, dead), rng.integers(0, side, dead)] = rng.uniform(0, 255, dead)


def _overlay(rng: Generator, image: Image, mask: NDArray[np.bool_]) -> None:
    """Burn symbols in, in place: a crosshair, lines of text, a border. What they cover is no target any more."""
    side = image.shape[0]
    drawn = np.zeros(image.shape, np.uint8)
    thick, white = int(rng.integers(1, 3)), rng.uniform(150, 255)
    if rng.random() < 0.5:
        x, y = (
            (int(v) for v in rng.normal(side / 2, side / 12, 2))
            if rng.random() < 0.8
            else rng.integers(0, side, 2).tolist()
        )
        arm, gap = int(rng.uniform(4, 0.4 * side + 4)), int(rng.integers(0, 8))
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            near, far = (x + dx * gap, y + dy * gap), (x + dx * arm, y + dy * arm)
            cv2.line(drawn, near, far, 255, thick)
        if rng.random() < 0.4:
            cv2.rectangle(drawn, (x - arm, y - arm), (x + arm, y + arm), 255, thick)
    for _ in range(rng.integers(0, 5)):
        letters = "".join(chr(int(c)) for c in rng.integers(33, 91, rng.integers(1, 16)))
        place = (int(rng.integers(-8, side)), int(rng.choice([rng.integers(8, 28), side - rng.integers(4, 24)])))
        cv2.putText(drawn, letters, place, int(rng.integers(0, 4)), rng.uniform(0.25, 0.6), 255, 1, cv2.LINE_AA)
    if rng.random() < 0.3:
        edge = int(rng.integers(1, max(2, side // 16)))
        black = np.ones(image.shape, np.bool_)
        black[edge:-edge, edge:-edge] = False
        image[black] = rng.uniform(0, 30)
        mask[black] = False
    share = drawn.astype(np.float32) * np.float32(1 / 255)
    image += share * (np.float32(white) - image)
    mask[drawn > 64] = False
