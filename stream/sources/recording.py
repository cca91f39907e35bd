"""Frames from a recording that ``--record`` made."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

from stream.record import FrameRecord, RecordingError, find_streams, read_frames, read_records, segments
from stream.sources import BEHIND_NS
from stream.sources.base import EndOfSource, Pixels, Source, SourceError, SourceFrame, SourceInfo, TruePoint


class RecordingSource(Source):
    """One stream of a recording, frame by frame as the pipeline had it.

    Frames keep their numbers (those that are missing count as lost), ``camera_ns`` is the time that
    the stream's tracker went by, and ``window`` what the network saw: a run on a recording gives the
    same tracks. A recording that a kill cut off ends with its last whole frame.
    """

    def __init__(self, folder: Path, live: bool) -> None:
        """Open a stream's folder.

        Args:
            folder: of a recorded stream, or of a recording with one stream.
            live: True gives frames at the pace at which they were captured, and ``captured_ns`` is when
                a frame was due; False gives them as fast as they are asked for.

        Raises:
            SourceError: if it is no such folder or has no frame.
        """
        self._folder = find_stream(folder)
        self._frames = self._read()
        self._held = next(self._frames, None)
        if self._held is None:
            raise SourceError(f"{self._folder}: no frame in it")
        first, pixels = self._held
        height, width = pixels.shape
        self.info = SourceInfo(width, height, first.bits, _rate(self._folder), live)
        self._next_seq = 0
        self.start_ns = None

    def read(self, timeout: float) -> SourceFrame | None:
        held = self._held = self._held or next(self._frames, None)
        if held is None:
            raise EndOfSource
        captured_ns = time.monotonic_ns()
        if self.info.live:
            if self.start_ns is None:
                self.start_ns = captured_ns - held[0].time_ns
            while captured_ns - (self.start_ns + held[0].time_ns) > BEHIND_NS:
                if (following := next(self._frames, None)) is None:
                    break
                held = self._held = following
            captured_ns = self.start_ns + held[0].time_ns
            held = self._held = held[0], self.place(held[1])
            if not self.wait_until(captured_ns, timeout):
                return None
        record, pixels = held
        lost, self._next_seq, self._held = max(0, record.seq - self._next_seq), record.seq + 1, None
        return SourceFrame(
            pixels,
            captured_ns,
            camera_ns=record.time_ns,
            lost=lost,
            truth=None if record.truth is None else tuple(TruePoint(*point) for point in record.truth),
            camera_utc_ns=record.camera_utc_ns,
            window=(record.low, record.high),
        )

    def close(self) -> None:
        self._held = None
        self._frames.close()

    def _read(self) -> Generator[tuple[FrameRecord, Pixels], None, None]:
        try:
            for stem in segments(self._folder):
                yield from read_frames(stem)
        except RecordingError as error:
            raise SourceError(str(error)) from None


def find_stream(folder: Path) -> Path:
    """Return the folder of the one recorded stream that ``folder`` names.

    Raises:
        SourceError: if there is none or several; it says what would be right.
    """
    try:
        found = find_streams(folder)
    except RecordingError as error:
        raise SourceError(str(error)) from None
    if len(found) > 1:
        names = ", ".join(f"recording:{path}" for path in found.values())
        raise SourceError(f"recording:{folder}: {len(found)} streams in it; name one: {names}")
    return next(iter(found.values()))


def _rate(folder: Path) -> float | None:
    """Return the frames a second that the source gave, over the first segment."""
    records = list(read_records(segments(folder)[0]))
    if len(records) < 2 or records[-1].time_ns <= records[0].time_ns:
        return None
    return (records[-1].seq - records[0].seq) * 1e9 / (records[-1].time_ns - records[0].time_ns)
