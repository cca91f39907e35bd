"""The confirmed tracks of a stream, summed up for the report of a run."""

from __future__ import annotations

from collections.abc import Sequence

from stream.frame import TrackSummary
from stream.track import Track

MOST_TRACKS = 200  # the longest ones
MOST_POINTS = 64  # of a path


class TrackLog:
    """Sums up the tracks that are not tentative, frame by frame, in bounded memory."""

    def __init__(self) -> None:
        self._tracks: dict[int, TrackSummary] = {}
        self._strides: dict[int, int] = {}
        self._start_ns: int | None = None

    def add(self, tracks: Sequence[Track], time_ns: int) -> None:
        """Enter a frame's tracks; ``time_ns`` is the time that the tracker goes by."""
        if self._start_ns is None:
            self._start_ns = time_ns
        at_s = (time_ns - self._start_ns) / 1e9
        for track in tracks:
            if track.state == "tentative":
                continue
            summary = self._tracks.get(track.id)
            if summary is None:
                summary = self._tracks[track.id] = TrackSummary(track.id, at_s, at_s, 0, 0, [])
                self._strides[track.id] = 1
            if summary.frames % self._strides[track.id] == 0:
                summary.path.append((round(track.x, 1), round(track.y, 1)))
                if len(summary.path) > MOST_POINTS:
                    summary.path = summary.path[::2]
                    self._strides[track.id] *= 2
            summary.end_s = at_s
            summary.frames += 1
            summary.coasted += track.state == "coasting"
        if len(self._tracks) > 2 * MOST_TRACKS:
            self._tracks = {summary.id: summary for summary in self.longest()}
            self._strides = {id_: self._strides[id_] for id_ in self._tracks}

    def longest(self) -> list[TrackSummary]:
        """Return the longest tracks, longest first."""
        return sorted(self._tracks.values(), key=lambda summary: -summary.frames)[:MOST_TRACKS]
