"""Which detection belongs to which track: gating and global nearest neighbour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

FEW = 256  # pairs of which all can be looked at in less time than it takes to sort


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of track and detection that the gate leaves.

    Attributes:
        track: ``[n]``.
        detection: ``[n]``.
        distance: squared Mahalanobis distance, ``[n]``.
    """

    track: Ints
    detection: Ints
    distance: Floats


def gated_pairs(centres: Floats, variance: Floats, points: Floats, gate: float) -> Pairs:
    """Find the pairs within a gate; where there are many, looking only at points of about the right x.

    Args:
        centres: predicted positions, ``[2, tracks]``.
        variance: of the innovation on each axis, ``[tracks]``.
        points: detections, ``[2, detections]``.
        gate: in standard deviations.
    """
    if centres.shape[1] * points.shape[1] <= FEW:
        apart = points[:, None, :] - centres[:, :, None]
        distance = (apart * apart).sum(0) / variance[:, None]
        track, detection = np.nonzero(distance <= gate * gate)
        return Pairs(track, detection, distance[track, detection])
    order = np.argsort(points[0], kind="stable")
    reach = gate * np.sqrt(variance)
    x = points[0][order]
    first = np.searchsorted(x, centres[0] - reach)
    count = np.searchsorted(x, centres[0] + reach, side="right") - first
    track = np.repeat(np.arange(len(count)), count)
    starts = np.cumsum(count) - count
    detection = order[np.arange(len(track)) + (first - starts)[track]]
    apart = points[:, detection] - centres[:, track]
    distance = (apart * apart).sum(0) / variance[track]
    near = distance <= gate * gate
    return Pairs(track[near], detection[near], distance[near])


def assign(track: Ints, detection: Ints, gain: Floats) -> Ints:
    """Choose among pairs so that no track and no detection is in two and the gains' sum is the largest.

    Pairs with a gain of 0 or less are never chosen. A pair that no other contests needs no search.

    Args:
        track: ``[n]``.
        detection: ``[n]``.
        gain: ``[n]``.

    Returns:
        Indices of the chosen pairs.
    """
    worth = np.flatnonzero(gain > 0)
    if not len(worth):
        return worth
    rows, columns = track[worth], detection[worth]
    contested = (np.bincount(rows)[rows] > 1) | (np.bincount(columns)[columns] > 1)
    if not contested.any():
        return worth
    fought = worth[contested]
    row_ids, rows = np.unique(track[fought], return_inverse=True)
    column_ids, columns = np.unique(detection[fought], return_inverse=True)
    table = np.zeros((len(row_ids), len(column_ids)))
    table[rows, columns] = gain[fought]
    won_row, won_column = linear_sum_assignment(table, maximize=True)
    matched = np.full(len(row_ids), -1)
    matched[won_row] = won_column
    return np.concatenate([worth[~contested], fought[matched[rows] == columns]])
