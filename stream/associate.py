"""Which detection belongs to which track: global nearest neighbour."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from stream.track_kernels import Floats, Ints, uncontested


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
    clear, fought = uncontested(track, detection, gain)
    if not len(fought):
        return clear
    row_ids, rows = np.unique(track[fought], return_inverse=True)
    column_ids, columns = np.unique(detection[fought], return_inverse=True)
    table = np.zeros((len(row_ids), len(column_ids)))
    table[rows, columns] = gain[fought]
    won_row, won_column = linear_sum_assignment(table, maximize=True)
    matched = np.full(len(row_ids), -1)
    matched[won_row] = won_column
    return np.concatenate([clear, fought[matched[rows] == columns]])
