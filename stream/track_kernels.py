"""The compiled part of ``stream.track``: constant-velocity Kalman filters, gating and books of all tracks at once.

Both axes share noise and measurement times, so that they share one 2x2 covariance of position and velocity, and x and
y never correlate: three numbers stand for the 4x4 matrix of a track.

Tracks are the columns of a float64 table ``[ROWS, n]``, whose rows are named here. The functions change it in place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stream.compiled import compiled

MATURE = 2.2  # log-odds of existence from which a track's hits and misses tell the detection probability
LARGEST_ODDS = 12.0
SMALLEST = 1e-30  # probability: its logarithm stays a number
HIDDEN = -3.0  # log-odds that a target out of sight is still there: misses come in runs, so that many tell no more
REMEMBERED = 0.1  # a detection: what the last one counts for in the mean score of a track
SURPRISED = 0.15  # a detection: what the last one counts for in how well a track's course fits
EAGER = 100.0  # more than any pair's log-likelihood falls short of a miss
MOVING = 2.0  # standard deviations of a detection's position that a track must be from its mean place
ROUNDING = 1 + 1e-9

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

X, Y, VX, VY, PP, PV, VV = range(7)
ODDS, SURPRISE, AREA, PEAK, SCR, ID, HITS, AGE, RECENT, RECENT_HITS, UNSEEN, QUALITY, CONFIRMED = range(7, 20)
MEAN_X, MEAN_Y, MOVED = range(20, 23)
ROWS = 23


@compiled
def predict(
    tracks: Floats, step: float, motion: tuple[float, float], calm: float, manoeuvre: float, life: float
) -> None:
    """Move tracks on by ``step`` seconds and the scene's motion, pixels; see ``TrackConfig`` for the rest."""
    for t in range(tracks.shape[1]):
        turning = min(max(tracks[SURPRISE, t] - 1, 0.0), 1.0)
        drive = (calm * (manoeuvre / calm) ** turning) ** 2  # density of white acceleration, px^2/s^3
        pv, vv = tracks[PV, t], tracks[VV, t]
        tracks[X, t] += motion[0] + tracks[VX, t] * step
        tracks[Y, t] += motion[1] + tracks[VY, t] * step
        tracks[MEAN_X, t] += motion[0]
        tracks[MEAN_Y, t] += motion[1]
        tracks[PP, t] += step * (2 * pv + step * vv) + drive * step**3 / 3
        tracks[PV, t] += step * vv + drive * step**2 / 2
        tracks[VV, t] += drive * step
        tracks[UNSEEN, t] += step
        real = max(math.exp(-step / life) * _probability(tracks[ODDS, t]), SMALLEST)
        tracks[ODDS, t] = math.log(real / (1 - real))


@compiled
def _probability(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


@compiled
def gated_pairs(
    x: Floats, y: Floats, spread: Floats, at_x: Floats, at_y: Floats, gate: float
) -> tuple[Ints, Ints, Floats]:
    """Return track, detection and squared Mahalanobis distance of every pair within ``gate`` standard deviations.

    Args:
        x: of the tracks, pixels.
        y: the same.
        spread: variance of the innovation of each on each axis.
        at_x: of the detections, pixels.
        at_y: the same.
        gate: in standard deviations.
    """
    count = 0
    for t in range(len(x)):
        for d in range(len(at_x)):
            count += _apart(x[t], y[t], spread[t], at_x[d], at_y[d]) <= gate * gate
    track, detection, distance = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    pair = 0
    for t in range(len(x)):
        for d in range(len(at_x)):
            apart = _apart(x[t], y[t], spread[t], at_x[d], at_y[d])
            if apart <= gate * gate:
                track[pair], detection[pair], distance[pair] = t, d, apart
                pair += 1
    return track, detection, distance


@compiled
def _apart(x: float, y: float, spread: float, at_x: float, at_y: float) -> float:
    return ((at_x - x) ** 2 + (at_y - y) ** 2) / spread


@compiled
def likelihoods(
    tracks: Floats, track: Ints, distance: Floats, spread: Floats, found: float, density: float
) -> tuple[Floats, Floats]:
    """Return of each pair the gain, a log-likelihood ratio of existence, and what it is worth.

    That is how much likelier the pair is than a miss and a false alarm.

    Args:
        tracks: the table.
        track: of each pair.
        distance: of each pair, squared Mahalanobis.
        spread: variance of each track's innovation.
        found: the detection probability.
        density: false detections a pixel.
    """
    gain, worth = np.empty(len(track)), np.empty(len(track))
    for pair in range(len(track)):
        real = _probability(tracks[ODDS, track[pair]])
        gain[pair] = math.log(found / (2 * math.pi * density * spread[track[pair]])) - distance[pair] / 2
        worth[pair] = gain[pair] + math.log(real / (1 - found * real))
    return gain, worth


@compiled
def of_the_strong(tracks: Floats, track: Ints, worth: Floats) -> Floats:
    """Return the worth of the pairs of tracks that are probably real, 0 for the others."""
    strong = np.zeros(len(track))
    for pair in range(len(track)):
        if tracks[ODDS, track[pair]] >= 0:
            strong[pair] = worth[pair]
    return strong


@compiled
def of_the_weak(tracks: Floats, track: Ints, detection: Ints, worth: Floats, free: Flags) -> tuple[Floats, bool]:
    """Return what those that are still to be proved give for what the strong have left, and whether there is any."""
    weak, some = np.zeros(len(track)), False
    for pair in range(len(track)):
        if tracks[ODDS, track[pair]] < 0 and free[detection[pair]]:
            weak[pair] = worth[pair] + (0.0 if tracks[CONFIRMED, track[pair]] > 0 else EAGER)
            some = True
    return weak, some


@compiled
def uncontested(track: Ints, detection: Ints, gain: Floats) -> tuple[Ints, Ints]:
    """Return the pairs with a gain above 0 that no other such pair contests, and those that are contested."""
    last_track = last_detection = 0
    for pair in range(len(track)):
        last_track, last_detection = max(last_track, track[pair]), max(last_detection, detection[pair])
    of_track, of_detection = np.zeros(last_track + 1, np.int64), np.zeros(last_detection + 1, np.int64)
    for pair in range(len(track)):
        if gain[pair] > 0:
            of_track[track[pair]] += 1
            of_detection[detection[pair]] += 1
    clear, fought = np.empty(len(track), np.int64), np.empty(len(track), np.int64)
    clears = fights = 0
    for pair in range(len(track)):
        if gain[pair] > 0:
            if of_track[track[pair]] == 1 and of_detection[detection[pair]] == 1:
                clear[clears] = pair
                clears += 1
            else:
                fought[fights] = pair
                fights += 1
    return clear[:clears], fought[:fights]


@compiled
def hold(
    chosen: Ints,
    track: Ints,
    detection: Ints,
    distance: Floats,
    gain: Floats,
    held: Ints,
    held_distance: Floats,
    held_gain: Floats,
    free: Flags,
) -> None:
    """Enter the chosen pairs into the tracks' and the detections' books."""
    for pair in chosen:
        t = track[pair]
        held[t], held_distance[t], held_gain[t] = detection[pair], distance[pair], gain[pair]
        free[detection[pair]] = False


@compiled
def judge(tracks: Floats, held: Ints, gain: Floats) -> tuple[float, int, int]:
    """Weigh what each track holds, or its lack, into the odds that its target exists.

    Returns:
        How many detections of the frame the tracks explain, how many mature tracks were detected, and how many
        mature tracks there were.
    """
    explained, found, chances = 0.0, 0, 0
    for t in range(len(held)):
        if tracks[ODDS, t] >= MATURE:
            chances += 1
            found += held[t] >= 0
        odds = min(tracks[ODDS, t] + gain[t], LARGEST_ODDS)
        tracks[ODDS, t] = max(odds, HIDDEN) if tracks[CONFIRMED, t] > 0 else odds
        if held[t] >= 0:
            explained += _probability(tracks[ODDS, t])
    return explained, found, chances


@compiled
def correct(
    tracks: Floats,
    held: Ints,
    distance: Floats,
    seen: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
    noise: float,
) -> None:
    """Correct each track by the detection that it holds.

    Args:
        tracks: the table.
        held: the detection of each track, -1 for none.
        distance: squared Mahalanobis distance of each.
        seen: x, y, area, peak, score and signal-to-clutter ratio of the detections.
        noise: standard deviation of a detection's position on each axis, pixels.
    """
    x, y, area, peak, score, scr = seen
    variance = noise**2
    for t in range(len(held)):
        d = held[t]
        tracks[AGE, t] += 1
        if d < 0:
            continue
        pp, pv = tracks[PP, t], tracks[PV, t]
        innovation = pp + variance
        right, down = (x[d] - tracks[X, t]) / innovation, (y[d] - tracks[Y, t]) / innovation
        tracks[X, t] += pp * right
        tracks[Y, t] += pp * down
        tracks[VX, t] += pv * right
        tracks[VY, t] += pv * down
        tracks[PP, t] = pp * variance / innovation
        tracks[PV, t] = pv * variance / innovation
        # The difference can lose its digits, the Schur complement's sign must not go with them.
        least = tracks[PV, t] ** 2 / tracks[PP, t] * ROUNDING
        tracks[VV, t] = max(tracks[VV, t] - pv * pv / innovation, least)
        tracks[AREA, t], tracks[PEAK, t], tracks[SCR, t] = area[d], peak[d], scr[d]
        tracks[SURPRISE, t] += SURPRISED * (distance[t] / 2 - tracks[SURPRISE, t])
        tracks[HITS, t] += 1
        tracks[QUALITY, t] += max(REMEMBERED, 1 / tracks[HITS, t]) * (score[d] - tracks[QUALITY, t])
        tracks[UNSEEN, t] = 0
        tracks[MEAN_X, t] += (tracks[X, t] - tracks[MEAN_X, t]) / tracks[HITS, t]
        tracks[MEAN_Y, t] += (tracks[Y, t] - tracks[MEAN_Y, t]) / tracks[HITS, t]
        away = (tracks[X, t] - tracks[MEAN_X, t]) ** 2 + (tracks[Y, t] - tracks[MEAN_Y, t]) ** 2
        if away > (MOVING * noise) ** 2:
            tracks[MOVED, t] = 1


@compiled
def confirm(tracks: Floats, held: Ints, hits: int, frames: int, odds: float, score: float, standing: float) -> int:
    """Note who was seen; confirm the tracks with so many hits in so many frames, odds and a mean score; count them.

    Args:
        tracks: the table.
        held: the detection of each track, -1 for none.
        hits: M.
        frames: N.
        odds: log-odds.
        score: of a track that has moved.
        standing: of one that has not.
    """
    new = 0
    for t in range(len(held)):
        recent = (int(tracks[RECENT, t]) << 1 | int(held[t] >= 0)) & ((1 << frames) - 1)
        tracks[RECENT, t] = recent
        count = 0
        while recent:
            count += recent & 1
            recent >>= 1
        tracks[RECENT_HITS, t] = count
        good = count >= hits and tracks[ODDS, t] >= odds and _looks_good(tracks, t, score, standing)
        if good and tracks[CONFIRMED, t] == 0:
            tracks[CONFIRMED, t] = 1
            new += 1
    return new


@compiled
def _looks_good(tracks: Floats, t: int, score: float, standing: float) -> bool:
    return bool(tracks[QUALITY, t] >= (score if tracks[MOVED, t] > 0 else standing))


@compiled
def who_stays(
    tracks: Floats, held: Ints, size: tuple[int, int], hits: int, frames: int, memory: float
) -> tuple[Flags, bool]:
    """Return which tracks stay, and whether all do.

    Those go that cannot be confirmed any more, that are long gone, or that have left the frame of ``size``, width and
    height, unseen.
    """
    stays, everyone = np.ones(len(held), np.bool_), True
    for t in range(len(held)):
        if tracks[CONFIRMED, t] > 0:
            gone = tracks[UNSEEN, t] > memory
        else:
            gone = min(tracks[AGE, t], frames) - tracks[RECENT_HITS, t] > frames - hits
        x, y = tracks[X, t], tracks[Y, t]
        inside = -0.5 <= x <= size[0] - 0.5 and -0.5 <= y <= size[1] - 0.5
        if gone or (held[t] < 0 and not inside):
            stays[t] = everyone = False
    return stays, everyone


@compiled
def report(tracks: Floats, odds: float, score: float, standing: float, drift: tuple[float, float]) -> Floats:
    """Return the tracks to report, a row each.

    Id, number of the state, x, y, vx, vy, odds, area, peak, scr, hits, age, and 16 numbers: the covariance of (x, y,
    vx, vy).
    """
    rows = np.zeros((tracks.shape[1], 28))
    count = 0
    for t in range(tracks.shape[1]):
        confirmed = tracks[CONFIRMED, t] > 0
        if confirmed and not (tracks[ODDS, t] >= odds and _looks_good(tracks, t, score, standing)):
            continue
        row = rows[count]
        count += 1
        row[0], row[1] = tracks[ID, t], confirmed * (1 + (tracks[UNSEEN, t] == 0))
        row[2], row[3] = tracks[X, t], tracks[Y, t]
        row[4], row[5] = tracks[VX, t] + drift[0], tracks[VY, t] + drift[1]
        row[6], row[7], row[8], row[9] = tracks[ODDS, t], tracks[AREA, t], tracks[PEAK, t], tracks[SCR, t]
        row[10], row[11] = tracks[HITS, t], tracks[AGE, t]
        row[12] = row[17] = tracks[PP, t]
        row[22] = row[27] = tracks[VV, t]
        row[14] = row[19] = row[20] = row[25] = tracks[PV, t]
    return rows[:count]
