"""How a crop is varied: grey levels, sensor noise and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SCALE_SHARE = 0.5  # of the crops are resampled, where any are: most cameras' pixels are seen as they are
STEEPEST = 4.0  # a stretch of an even sky would else show nothing but noise
POOL = 1 << 21
CLIPPED = (0.02, 0.002)  # at most this share of the pixels turns black or white: targets are few and bright


@dataclass(frozen=True)
class Augmentation:
    """How a crop is varied; by default it is not, but for flips and transposition.

    Every kind of noise comes or stays away by itself, its strength uniform up to the one named.

    Attributes:
        gain: the frame's contrast is multiplied by a factor between 1 / gain and gain.
        bias: its level moves by up to this share of the range.
        noise: it gains Gaussian noise of up to this sigma, in grey levels of 255.
        noise_share: the share of the crops that each kind of noise is on.
        poisson: shot noise, whose variance grows with the level: up to this sigma at white, in grey levels.
        stripes: every column (on a quarter of the crops every row) has an offset: up to this sigma, in grey levels.
        salt_pepper: up to this share of the pixels is black or white.
        agc: the share of crops whose grey levels are mapped anew, as cameras do: gamma, a stretch between
            percentiles, or local histogram equalisation.
        scale: crops are resampled by a factor between 1 / scale and scale, half of them.
        paste: the share of crops that one to three targets of other frames are pasted into.
        away: the share of crops, of those that ``target_share`` does not lay over a target, that are laid beside all
            targets, where there is room.
    """

    gain: float = 1.0
    bias: float = 0.0
    noise: float = 0.0
    noise_share: float = 0.5
    poisson: float = 0.0
    stripes: float = 0.0
    salt_pepper: float = 0.0
    agc: float = 0.0
    scale: float = 1.0
    paste: float = 0.0
    away: float = 0.0


def side_before(size: int, rng: np.random.Generator, augment: Augmentation) -> int:
    """Draw the side of a crop that is resampled to ``size`` pixels."""
    if augment.scale == 1 or rng.random() >= SCALE_SHARE:
        return size
    factor = float(augment.scale ** rng.uniform(-1, 1))
    return max(1, round(size / factor))


def resample(frame: Frame, mask: Mask, size: int) -> tuple[Frame, Mask]:
    """Resample a square crop and its mask to ``[size, size]``.

    A pixel is target where targets cover at least half of it. A target too small to cover half of any pixel keeps the
    one it covers most.
    """
    smaller = size < frame.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    frame = np.asarray(cv2.resize(frame, (size, size), interpolation=method), np.uint8)
    if not mask.any():
        return frame, np.zeros((size, size), np.bool_)
    cover = cv2.resize(mask.astype(np.float32), (size, size), interpolation=method)
    kept = cover >= 0.5
    if smaller:
        most = cv2.dilate(cover, np.ones((3, 3), np.uint8))
        kept |= (cover == most) & (cover > 0) & (most < 0.5)
    return frame, kept


def vary(frame: Frame, rng: np.random.Generator, augment: Augmentation) -> NDArray[np.float32]:
    """Return a crop as another camera might have given it, float32 in [0, 1], ``[height, width]``."""
    if augment.agc > 0 and rng.random() < augment.agc:
        frame = _agc(np.ascontiguousarray(frame), rng)
    shown = frame.astype(np.float32) / np.float32(255)
    if augment.gain > 1 or augment.bias > 0:
        gain = augment.gain ** rng.uniform(-1, 1)
        middle = shown.mean()
        shown = (shown - middle) * gain + middle + rng.uniform(-augment.bias, augment.bias)
    shown = _noisy(shown.astype(np.float32, copy=False), rng, augment)
    return np.asarray(np.clip(shown, 0, 1, out=shown), np.float32)


def _agc(frame: Frame, rng: np.random.Generator) -> Frame:
    """Map the grey levels anew, by a curve or, as detail enhancement does, tile by tile."""
    kind = rng.integers(3)
    if kind == 0:
        tiles = int(rng.integers(3, 9))
        return np.asarray(cv2.createCLAHE(rng.uniform(1, 4), (tiles, tiles)).apply(frame), np.uint8)
    levels = np.arange(256, dtype=np.float64)
    if kind == 1:
        curve = 255 * (levels / 255) ** (2 ** rng.uniform(-0.8, 0.8))
    else:
        counts = np.ravel(cv2.calcHist([frame], [0], None, [256], [0, 256])).cumsum() / frame.size
        low = int(np.searchsorted(counts, rng.uniform(0, CLIPPED[0])))
        high = int(np.searchsorted(counts, 1 - rng.uniform(0, CLIPPED[1])))
        steep = min(255 / max(high - low, 1), STEEPEST)
        middle = (low + high) / 2
        part = rng.random()
        curve = (1 - part) * levels + part * ((levels - middle) * steep + 127.5)
    return np.asarray(cv2.LUT(frame, np.rint(np.clip(curve, 0, 255)).astype(np.uint8)), np.uint8)


def _noisy(frame: NDArray[np.float32], rng: np.random.Generator, augment: Augmentation) -> NDArray[np.float32]:
    read, shot, stripe, impulse = (
        rng.uniform(0, most) if most > 0 and rng.random() < augment.noise_share else 0.0
        for most in (augment.noise, augment.poisson, augment.stripes, augment.salt_pepper)
    )
    if read or shot:
        noise = white_noise(frame.shape, rng)
        if shot:  # drawn as the Gaussian that it is near: a Poisson generator takes ten times as long
            noise *= np.sqrt(np.maximum(frame, 0) * np.float32((shot / 255) ** 2) + np.float32((read / 255) ** 2))
        else:
            noise *= np.float32(read / 255)
        frame = np.add(noise, frame, out=noise)
    if stripe:
        across = rng.random() < 0.25
        offsets = rng.standard_normal((frame.shape[0], 1) if across else (1, frame.shape[1]), np.float32)
        frame = frame + offsets * np.float32(stripe / 255)
    if impulse:
        count = rng.binomial(frame.size, impulse)
        places = rng.integers(0, frame.size, count)
        frame = np.ascontiguousarray(frame)
        frame.reshape(-1)[places] = rng.integers(0, 2, count)
    return frame


def white_noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return Gaussian noise of deviation 1: a run out of a pool that starts anywhere, since drawing it is slow."""
    size = math.prod(shape)
    if size > POOL // 2:
        return rng.standard_normal(shape, np.float32)
    start = int(rng.integers(POOL - size))
    return _pool()[start : start + size].reshape(shape).copy()


@lru_cache(maxsize=1)
def _pool() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(POOL, np.float32)
