"""The compiled part of ``stream.detect``: a target map's lit pixels into a table of detections.

Numba compiles it once a machine and keeps the code beside this file (or in the user's cache): what a frame takes is
then the reading of its map, and not the two hundred calls that the same work takes in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

SPLIT_FROM = 6  # pixels: a smaller component shows no two peaks with a valley between
SPLIT_SAMPLES = 16  # along the line between two peaks
RING_STEPS = 11  # a surround is sampled on a grid of this many by as many pixels
RING_MIN = 8  # samples, fewer say nothing of the surround's spread
QUANTISATION = 12**-0.5  # grey levels: the spread that rounding alone gives a surround
SCR_HALF = 2.0  # the signal-to-clutter ratio that halves a score
COLUMNS = ("x", "y", "area", "peak", "score", "scr")


@compiled
def find(
    targets: Bytes,
    frame: NDArray[Any],
    low: int,
    high: int,
    area: tuple[int, int],
    border: int,
    limit: int,
    depth: float,
) -> tuple[Floats, int]:
    """Return a row for each of ``COLUMNS`` and how many detections were left out.

    Args:
        targets: ``[height, width]``.
        frame: the frame that the map is of, ``[height, width]``.
        low: level above which a pixel is lit.
        high: level that a component's brightest pixel reaches.
        area: the smallest and the largest of a component, pixels.
        border: pixels; what has its centre nearer to the edge is left out.
        limit: of detections; the strongest are kept.
        depth: see ``DetectConfig.split_depth``; 0 splits nothing.
    """
    at, label, count = _label(targets, low)
    kept, left_out = _strongest(targets, at, label, count, high, area, border, limit, False)
    at, label, count = _take(at, label, kept)
    if depth > 0:
        label, count = _split(targets, at, label, count, high, depth)
    # A part of what was split can be too small, too dim or too near the edge, and parts can be too many.
    kept, more = _strongest(targets, at, label, count, high, (area[0], len(at)), border, limit, True)
    at, label, count = _take(at, label, kept)
    return _measure(targets, frame, at, label, count, low), left_out + more


@compiled
def _lit_rows(targets: Bytes, low: int) -> tuple[NDArray[np.bool_], int]:
    """Return which rows have lit pixels, and in how many runs these lie."""
    height, width = targets.shape
    rows = np.zeros(height, np.bool_)
    runs = 0
    for row in range(height):
        line = targets[row]
        brightest = np.uint8(0)
        for column in range(width):  # a loop that becomes vectors: most rows are dark
            brightest = max(brightest, line[column])
        if brightest > low:
            rows[row] = True
            before = False
            for column in range(width):
                lit = line[column] > low
                runs += lit and not before
                before = lit
    return rows, runs


@compiled
def _runs(targets: Bytes, low: int) -> tuple[Ints, Ints, Ints]:
    """Return the first and the last pixel of each run of lit pixels, and a forest that joins those that touch."""
    height, width = targets.shape
    rows, runs = _lit_rows(targets, low)
    first, last, parent = np.empty(runs, np.int64), np.empty(runs, np.int64), np.arange(runs)
    run = above = above_end = 0  # the runs of the row above are those from above to above_end
    for row in range(height):
        begin = run
        if rows[row]:
            line = targets[row]
            before = False
            for column in range(width):
                lit = line[column] > low
                if lit and not before:
                    first[run] = row * width + column
                    run += 1
                if lit:
                    last[run - 1] = row * width + column
                before = lit
            for own in range(begin, run):
                other = above
                while other < above_end and first[other] + width <= last[own] + 1:
                    if last[other] + width >= first[own] - 1:
                        _join(parent, other, own)
                    else:
                        above = other + 1  # it ends before this run begins, and before all that follow
                    other += 1
        above, above_end = begin, run
    return first, last, parent


@compiled
def _label(targets: Bytes, low: int) -> tuple[Ints, Ints, int]:
    """Return the lit pixels, row by row, the component of each, from 0, and how many components there are."""
    first, last, parent = _runs(targets, low)
    runs, pixels = len(first), 0
    for run in range(runs):
        pixels += last[run] - first[run] + 1
    at, label = np.empty(pixels, np.int64), np.empty(pixels, np.int64)
    number = np.full(runs, -1)
    count = place = 0
    for run in range(runs):
        root = _root(parent, run)
        if number[root] < 0:
            number[root] = count
            count += 1
        for pixel in range(first[run], last[run] + 1):
            at[place], label[place] = pixel, number[root]
            place += 1
    return at, label, count


@compiled
def _root(parent: Ints, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled
def _join(parent: Ints, one: int, other: int) -> None:
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)


@compiled
def _strongest(
    targets: Bytes,
    at: Ints,
    label: Ints,
    count: int,
    high: int,
    area: tuple[int, int],
    border: int,
    limit: int,
    weighted: bool,
) -> tuple[Ints, int]:
    """Return the number of each component among those to keep, -1 for the others, and how many were too many.

    Where more than ``limit`` would do, those with the highest peak are kept, then those with the greatest mass. Before
    splitting (``weighted`` false), the border counts only where there are too many: a part may lie further in.
    """
    height, width = targets.shape
    flat = targets.ravel()
    size, peak, mass = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count)
    x, y = np.zeros(count), np.zeros(count)
    for index in range(len(at)):
        own, level = label[index], np.int64(flat[at[index]])
        share = level if weighted else 1
        size[own] += 1
        mass[own] += level
        peak[own] = max(peak[own], level)
        x[own] += share * (at[index] % width)
        y[own] += share * (at[index] // width)
    number = np.full(count, -1)
    good = np.empty(count, np.int64)
    kept = 0
    for own in range(count):
        if peak[own] >= high and area[0] <= size[own] <= area[1]:
            good[kept] = own
            kept += 1
    if weighted or kept > limit:
        edge = border - 0.5
        inside = 0
        for own in good[:kept]:
            weight = mass[own] if weighted else size[own]
            across, down = x[own] / weight, y[own] / weight
            if edge <= across <= width - 1 - edge and edge <= down <= height - 1 - edge:
                good[inside] = own
                inside += 1
        kept = inside
    left_out = max(0, kept - limit)
    weak = np.zeros(count, np.bool_)
    if left_out:
        rank = np.empty(kept)
        for place in range(kept):  # a mass is below 2^33 in the largest frame: this orders by peak, then by mass
            rank[place] = -(peak[good[place]] * 2.0**33 + mass[good[place]])
        order = np.argsort(rank, kind="mergesort")
        for place in order[limit:]:
            weak[good[place]] = True
    new = 0
    for own in good[:kept]:
        if not weak[own]:
            number[own] = new
            new += 1
    return number, left_out


@compiled
def _take(at: Ints, label: Ints, number: Ints) -> tuple[Ints, Ints, int]:
    """Return the pixels of the components that are kept, these by their new numbers, and how many they are."""
    kept = 0
    for index in range(len(at)):
        kept += number[label[index]] >= 0
    at_kept, label_kept = np.empty(kept, np.int64), np.empty(kept, np.int64)
    place = 0
    for index in range(len(at)):
        if number[label[index]] >= 0:
            at_kept[place], label_kept[place] = at[index], number[label[index]]
            place += 1
    count = 0
    for own in range(len(number)):
        count += number[own] >= 0
    return at_kept, label_kept, count


@compiled
def _smooth(targets: Bytes, row: int, column: int) -> int:
    """Return the map blurred by (1, 2, 1) / 4 along both axes, mirrored at the edge, rounded; -1 outside."""
    height, width = targets.shape
    if not (0 <= row < height and 0 <= column < width):
        return -1
    above, below = (abs(row - 1), height - 1 - abs(height - 2 - row)) if height > 1 else (0, 0)
    left, right = (abs(column - 1), width - 1 - abs(width - 2 - column)) if width > 1 else (0, 0)
    total = np.int64(8)
    for line, weight in ((above, 1), (row, 2), (below, 1)):
        total += weight * (
            np.int64(targets[line, left]) + 2 * np.int64(targets[line, column]) + np.int64(targets[line, right])
        )
    return int(total >> 4)


@compiled
def _is_peak(targets: Bytes, row: int, column: int) -> bool:
    own = _smooth(targets, row, column)
    for y in range(row - 1, row + 2):
        for x in range(column - 1, column + 2):
            if _smooth(targets, y, x) > own:
                return False
    return True


@compiled
def _split(targets: Bytes, at: Ints, label: Ints, count: int, high: int, depth: float) -> tuple[Ints, int]:
    """Give the pixels of components with several peaks to the nearest of them; return labels and their number."""
    width = targets.shape[1]
    flat = targets.ravel()
    begin = np.zeros(count + 2, np.int64)  # of the pixels of each component in order
    for own in label:
        begin[own + 2] += 1
    for own in range(count):
        begin[own + 2] += begin[own + 1]
    order = np.empty(len(at), np.int64)
    for index in range(len(at)):
        order[begin[label[index] + 1]] = index
        begin[label[index] + 1] += 1  # at the end, where those of the next component begin
    made = label.copy()
    fresh = count
    for own in range(count):
        mine = order[begin[own] : begin[own + 1]]
        if len(mine) < SPLIT_FROM:
            continue
        peaks = np.empty(len(mine), np.int64)
        found = 0
        for index in mine:
            if flat[at[index]] >= high and _is_peak(targets, at[index] // width, at[index] % width):
                peaks[found] = at[index]
                found += 1
        if found < 2:
            continue
        seeds = _separate_peaks(targets, peaks[:found], depth)
        if len(seeds) < 2:
            continue
        for index in mine:
            row, column = at[index] // width, at[index] % width
            nearest, best = 0, np.int64(1) << 62
            for place in range(len(seeds)):
                distance = (row - seeds[place] // width) ** 2 + (column - seeds[place] % width) ** 2
                if distance < best:
                    nearest, best = place, distance
            made[index] = own if nearest == 0 else fresh + nearest - 1
        fresh += len(seeds) - 1
    return made, fresh


@compiled
def _separate_peaks(targets: Bytes, peaks: Ints, depth: float) -> Ints:
    """Return those peaks, highest first, between which the map falls by ``depth`` on the straight line."""
    width = targets.shape[1]
    left, height = peaks.copy(), np.empty(len(peaks), np.int64)
    for index in range(len(peaks)):
        height[index] = _smooth(targets, peaks[index] // width, peaks[index] % width)
    seeds = np.empty(len(peaks), np.int64)
    found, remain = 0, len(left)
    while remain:
        highest = 0
        for index in range(remain):
            if height[index] > height[highest]:
                highest = index
        seed = seeds[found] = left[highest]
        found += 1
        kept = 0
        row, column = seed // width, seed % width
        for index in range(remain):
            down, across = left[index] // width - row, left[index] % width - column
            valley = height[index]
            for sample in range(SPLIT_SAMPLES):
                share = sample / (SPLIT_SAMPLES - 1)
                y, x = row + int(np.rint(share * down)), column + int(np.rint(share * across))
                valley = min(valley, _smooth(targets, y, x))
            if valley < (1 - depth) * height[index]:
                left[kept], height[kept] = left[index], height[index]
                kept += 1
        remain = kept
    return seeds[:found]


@compiled
def _measure(targets: Bytes, frame: NDArray[Any], at: Ints, label: Ints, count: int, low: int) -> Floats:
    """Return the table of ``COLUMNS``."""
    width = targets.shape[1]
    levels, pixels = targets.ravel(), frame.ravel()
    table = np.zeros((6, count))
    x, y, area, peak, score, scr = table[0], table[1], table[2], table[3], table[4], table[5]
    mass, signal = np.zeros(count), np.zeros(count)
    for index in range(len(at)):
        own, level = label[index], np.float64(levels[at[index]])
        area[own] += 1
        mass[own] += level
        x[own] += level * (at[index] % width)
        y[own] += level * (at[index] // width)
        peak[own] = max(peak[own], level / 255)
        signal[own] += pixels[at[index]]
    for own in range(count):
        x[own] /= mass[own]
        y[own] /= mass[own]
        mean, spread = _surround(targets, frame, x[own], y[own], area[own], low)
        if spread >= 0:
            scr[own] = abs(signal[own] / area[own] - mean) / max(spread, QUANTISATION)
        score[own] = mass[own] / (255 * area[own]) * (scr[own] / (scr[own] + SCR_HALF))
    return table


@compiled
def _surround(targets: Bytes, frame: NDArray[Any], x: float, y: float, area: float, low: int) -> tuple[float, float]:
    """Return mean and standard deviation of the pixels around a detection that nothing lit touches; -1 if too few."""
    height, width = frame.shape
    reach = np.ceil(2 * np.sqrt(area / np.pi)) + 4
    values = np.empty(RING_STEPS * RING_STEPS)
    count = 0
    for down in range(RING_STEPS):
        row = int(np.rint(y)) + int(np.rint((2 * down / (RING_STEPS - 1) - 1) * reach))
        for across in range(RING_STEPS):
            column = int(np.rint(x)) + int(np.rint((2 * across / (RING_STEPS - 1) - 1) * reach))
            if 0 <= row < height and 0 <= column < width and _is_dark(targets, row, column, low):
                values[count] = frame[row, column]
                count += 1
    if count < RING_MIN:
        return 0.0, -1.0
    mean = 0.0
    for value in values[:count]:
        mean += value / count
    variance = 0.0
    for value in values[:count]:
        variance += (value - mean) ** 2 / count
    return mean, np.sqrt(variance)


@compiled
def _is_dark(targets: Bytes, row: int, column: int, low: int) -> bool:
    """Tell whether neither a pixel nor a neighbour of it is lit: a target's blur lights more than its component."""
    height, width = targets.shape
    for y in range(max(row - 1, 0), min(row + 2, height)):
        for x in range(max(column - 1, 0), min(column + 2, width)):
            if targets[y, x] > low:
                return False
    return True
