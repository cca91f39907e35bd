"""The tracker's arithmetic against textbook matrices and exhaustive searches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.associate import assign
from stream.track_kernels import PP, PV, ROWS, SURPRISE, VV, VX, VY, X, Y, correct, gated_pairs, predict


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 12))
def test_assignment_is_the_best(seed: int, tracks: int, detections: int) -> None:
    """Taking uncontested pairs without a search loses nothing against the search over all."""
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    table = np.where(rng.random((tracks, detections)) < 0.3, rng.normal(1, 2, (tracks, detections)), 0.0)
    rows, columns = np.nonzero(table)
    gain = table[rows, columns]
    chosen = assign(rows, columns, gain)
    assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
    best = np.maximum(table, 0)
    assert gain[chosen].sum() == pytest.approx(best[linear_sum_assignment(best, maximize=True)].sum())


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 30))
def test_gate_finds_what_all_pairs_find(seed: int, tracks: int, detections: int) -> None:
    rng = np.random.default_rng(seed)
    centres, points = rng.uniform(0, 30, (2, tracks)), rng.uniform(0, 30, (2, detections))
    variance = rng.uniform(0.1, 10, tracks)
    track, detection, apart = gated_pairs(centres[0], centres[1], variance, points[0], points[1], 3.0)
    distance = ((centres[:, :, None] - points[:, None, :]) ** 2).sum(0) / variance[:, None]
    assert set(zip(track.tolist(), detection.tolist(), strict=True)) == set(
        zip(*(index.tolist() for index in np.nonzero(distance <= 9.0)), strict=True)
    )
    assert apart == pytest.approx(distance[track, detection])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.001, 0.5))
def test_the_filter_is_the_textbook_one(seed: int, step: float) -> None:
    """Three numbers a track do what the 4x4 matrices of a constant-velocity Kalman filter do."""
    rng = np.random.default_rng(seed)
    noise, calm = 0.5, 20.0
    state = rng.normal(50, 20, 4)  # x, y, vx, vy
    root = rng.normal(0, 5, (2, 2))
    one = root @ root.T + np.eye(2)  # of position and velocity on each axis
    tracks = np.zeros((ROWS, 1))
    tracks[[X, Y, VX, VY], 0], tracks[[PP, PV, VV], 0] = state, (one[0, 0], one[0, 1], one[1, 1])
    tracks[SURPRISE] = 1  # a course that fits: the drive is the calm one
    cov = np.kron(one, np.eye(2))
    at = rng.normal(50, 20, 2)

    move = np.kron(np.array([[1, step], [0, 1]]), np.eye(2))
    drive = calm**2 * np.kron(np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]]), np.eye(2))
    look = np.eye(2, 4)
    state, cov = move @ state, move @ cov @ move.T + drive
    gain = cov @ look.T @ np.linalg.inv(look @ cov @ look.T + noise**2 * np.eye(2))
    state, cov = state + gain @ (at - look @ state), (np.eye(4) - gain @ look) @ cov

    predict(tracks, step, (0.0, 0.0), calm, 120.0, 8.0)
    ones = np.ones(1)
    correct(tracks, np.zeros(1, np.int64), np.zeros(1), (at[:1].copy(), at[1:].copy(), ones, ones, ones, ones), noise)
    assert tracks[[X, Y, VX, VY], 0] == pytest.approx(state, rel=1e-6, abs=1e-6)
    assert tracks[[PP, PV, VV], 0] == pytest.approx((cov[0, 0], cov[0, 2], cov[2, 2]), rel=1e-6)
