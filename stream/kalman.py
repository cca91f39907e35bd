"""Constant-velocity Kalman filters, all tracks at once.

Both axes share noise and measurement times, so that they share one 2x2 covariance of position and
velocity, and x and y never correlate: three numbers stand for the 4x4 matrix of a track.

Tracks are the columns of a float64 table ``[rows, n]``, whose first rows are named here (numpy takes
and joins the columns of a plain table ten times faster than the records of a structured array).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

X, Y, VX, VY, PP, PV, VV = range(7)
STATE_ROWS = 7
ROUNDING = 1 + 1e-9


def predict(tracks: Floats, step: float, drive: Floats) -> None:
    """Move tracks on by ``step`` seconds, in place; white acceleration of density ``drive`` ``[n]``, px^2/s^3."""
    pv, vv = tracks[PV], tracks[VV]
    tracks[X] += tracks[VX] * step
    tracks[Y] += tracks[VY] * step
    tracks[PP] += step * (2 * pv + step * vv) + drive * step**3 / 3
    tracks[PV] += step * vv + drive * step**2 / 2
    tracks[VV] += drive * step


def correct(tracks: Floats, x: Floats, y: Floats, variance: float) -> Floats:
    """Correct tracks, in place, by a position each, px, of the given variance on each axis, px^2; return them."""
    pp, pv = tracks[PP].copy(), tracks[PV].copy()
    innovation = pp + variance
    right, down = (x - tracks[X]) / innovation, (y - tracks[Y]) / innovation
    tracks[X] += pp * right
    tracks[Y] += pp * down
    tracks[VX] += pv * right
    tracks[VY] += pv * down
    tracks[PP] = pp * variance / innovation
    tracks[PV] = pv * variance / innovation
    # The difference can lose its digits, the Schur complement's sign must not go with them.
    least = tracks[PV] ** 2 / tracks[PP] * ROUNDING
    tracks[VV] = np.maximum(tracks[VV] - pv * pv / innovation, least)
    return tracks


def covariances(tracks: Floats) -> Floats:
    """Return the covariance of (x, y, vx, vy), float64 ``[n, 4, 4]``."""
    cov = np.zeros((tracks.shape[1], 16))
    cov[:, 0::5] = tracks[[PP, PP, VV, VV]].T
    cov[:, [2, 7, 8, 13]] = tracks[PV][:, None]
    return cov.reshape(-1, 4, 4)
