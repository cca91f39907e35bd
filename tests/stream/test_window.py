"""The window of 16-bit frames follows the range they fill."""

from __future__ import annotations

import numpy as np
import pytest

from stream.window import SMALLEST_SPAN, WindowFollower

SECOND = 1_000_000_000


def scene(level: int, spread: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(level - spread, level + spread, (256, 320)).astype(np.uint16)


def test_the_first_frame_sets_it_with_room_on_both_sides() -> None:
    low, high = WindowFollower().update(scene(20_000, 1_000), 0)
    assert low < 19_000
    assert high > 22_000


def test_it_moves_with_a_time_constant_of_a_second() -> None:
    follower = WindowFollower()
    before, _ = follower.update(scene(10_000, 500), 0)
    target, _ = WindowFollower().update(scene(20_000, 500), 0)
    after, _ = follower.update(scene(20_000, 500), SECOND)
    assert (after - before) / (target - before) == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_a_few_hot_pixels_do_not_move_it() -> None:
    calm, hot = scene(10_000, 500), scene(10_000, 500)
    hot[100:103, 100:103] = 65_535
    assert WindowFollower().update(hot, 0) == pytest.approx(WindowFollower().update(calm, 0), rel=1e-3)


def test_a_flat_frame_is_not_stretched_into_noise() -> None:
    low, high = WindowFollower().update(np.full((64, 64), 5_000, np.uint16), 0)
    assert high - low >= SMALLEST_SPAN


def test_time_that_stands_still_changes_nothing() -> None:
    follower = WindowFollower()
    first = follower.update(scene(10_000, 500), SECOND)
    assert follower.update(scene(30_000, 500), SECOND) == first
