"""The confirmed tracks of a stream, summed up for the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.frame import TrackSummary
from stream.track import Track

MOST_TRACKS = 200  # the longest ones
MOST_POINTS = 64  # of a path


@dataclass(slots=True)
class _Entry:
    """A track's sum so far; its path is in a row of the log's paths."""

    summary: TrackSummary
    row: int
    stride: int = 1
    points: int = 0


class TrackLog:
    """Sums up the tracks that are not tentative, frame by frame, in memory that is taken at the start."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._paths = np.full((2 * MOST_TRACKS, MOST_POINTS + 1, 2), 0, np.float32)
        self._free = [_Entry(TrackSummary(0, 0, 0, 0, 0, []), row) for row in range(len(self._paths))]
        self._start_ns: int | None = None

    def add(self, tracks: Sequence[Track], time_ns: int) -> None:
        """Enter a frame's tracks; ``time_ns`` is the time that the tracker goes by."""
        if self._start_ns is None:
            self._start_ns = time_ns
        at_s = (time_ns - self._start_ns) / 1e9
        for track in tracks:
            if track.state == "tentative":
                continue
            entry = self._entries.get(track.id) or self._begin(track.id, at_s)
            summary = entry.summary
            if summary.frames % entry.stride == 0:
                self._extend(entry, track.x, track.y)
            summary.end_s = at_s
            summary.frames += 1
            summary.coasted += track.state == "coasting"

    def _extend(self, entry: _Entry, x: float, y: float) -> None:
        path = self._paths[entry.row]
        path[entry.points] = x, y
        entry.points += 1
        if entry.points > MOST_POINTS:
            thinned = path[::2].copy()
            path[: len(thinned)] = thinned
            entry.points, entry.stride = len(thinned), 2 * entry.stride

    def _begin(self, id_: int, at_s: float) -> _Entry:
        """Enter a track; where there is no room, the longer half of those that are there stays."""
        if not self._free:
            kept = {entry.summary.id: entry for entry in self._longest()}
            self._free = [entry for key, entry in self._entries.items() if key not in kept]
            self._entries = kept
        entry = self._entries[id_] = self._free.pop()
        entry.stride, entry.points, summary = 1, 0, entry.summary
        summary.id, summary.start_s, summary.end_s, summary.frames, summary.coasted = id_, at_s, at_s, 0, 0
        return entry

    def _longest(self) -> list[_Entry]:
        return sorted(self._entries.values(), key=lambda entry: -entry.summary.frames)[:MOST_TRACKS]

    def longest(self) -> list[TrackSummary]:
        """Return the longest tracks, longest first."""
        for entry in (found := self._longest()):
            path = self._paths[entry.row, : entry.points].tolist()
            entry.summary.path = [(round(x, 1), round(y, 1)) for x, y in path]
        return [entry.summary for entry in found]
