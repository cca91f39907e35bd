"""Constant-velocity Kalman filters, all tracks at once.

Both axes share noise and measurement times, so that they share one 2x2 covariance of position and
velocity, and x and y never correlate: three numbers stand for the 4x4 matrix of a track.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = NDArray[np.void]

STATE = [(name, np.float64) for name in ("x", "y", "vx", "vy", "pp", "pv", "vv")]
ROUNDING = 1 + 1e-9


def predict(tracks: Table, step: float, drive: Floats) -> None:
    """Move tracks on by ``step`` seconds, in place; white acceleration of density ``drive`` ``[n]``, px^2/s^3."""
    pv, vv = tracks["pv"], tracks["vv"]
    tracks["x"] += tracks["vx"] * step
    tracks["y"] += tracks["vy"] * step
    tracks["pp"] += step * (2 * pv + step * vv) + drive * step**3 / 3
    tracks["pv"] += step * vv + drive * step**2 / 2
    tracks["vv"] += drive * step


def correct(tracks: Table, x: Floats, y: Floats, variance: float) -> Table:
    """Correct tracks, in place, by a position each, px, of the given variance on each axis, px^2; return them."""
    pp, pv = tracks["pp"].copy(), tracks["pv"].copy()
    innovation = pp + variance
    right, down = (x - tracks["x"]) / innovation, (y - tracks["y"]) / innovation
    tracks["x"] += pp * right
    tracks["y"] += pp * down
    tracks["vx"] += pv * right
    tracks["vy"] += pv * down
    tracks["pp"] = pp * variance / innovation
    tracks["pv"] = pv * variance / innovation
    # The difference can lose its digits, the Schur complement's sign must not go with them.
    least = tracks["pv"] ** 2 / tracks["pp"] * ROUNDING
    tracks["vv"] = np.maximum(tracks["vv"] - pv * pv / innovation, least)
    return tracks


def covariances(tracks: Table) -> Floats:
    """Return the covariance of (x, y, vx, vy), float64 ``[n, 4, 4]``."""
    cov = np.zeros((len(tracks), 4, 4))
    cov[:, [0, 1], [0, 1]] = tracks["pp"][:, None]
    cov[:, [0, 1, 2, 3], [2, 3, 0, 1]] = tracks["pv"][:, None]
    cov[:, [2, 3], [2, 3]] = tracks["vv"][:, None]
    return cov
