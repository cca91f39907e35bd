"""Record: frames and messages onto the disk, in a process of its own behind a tap."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av

from engine.asides import warn
from stream.channel import Channel
from stream.frame import RESTART, FrameRef, Publish, Ready, Recorded, Returned, Stop, TapEnd, Tapped, receive, send
from stream.record import MCAP, VIDEO, FrameRecord, SegmentWriter, record_of, segments
from stream.ring import FrameRing
from stream.sources.base import Pixels
from stream.tap import SKIPPED

SEGMENT_NS = 60_000_000_000
SHARE = 4  # the segments that are being written have at most this part of the room, one in four
WAITING_FRAMES, WAITING_BYTES, WAITING_ENTRIES = 32, 1 << 26, 4096  # that a stream may have to be written
TOO_SLOW = "recorder too slow"
NICE = 5  # of the threads that write
REPORT_S = 0.25


@dataclass(frozen=True)
class RecordWorkerConfig:
    """What the worker does.

    Attributes:
        streams: their names.
        room: the folder of all recordings.
        run: the folder of this one, in it.
        max_bytes: of all recordings in the room.
        utc_offset_ns: what to add to a monotonic time to get UTC, as it was when the run began.
    """

    streams: tuple[str, ...]
    room: Path
    run: Path
    max_bytes: int
    utc_offset_ns: int


@dataclass
class _Entry:
    """What is to be written: a frame or a message; ``tapped`` while its pixels are still in the ring."""

    record: FrameRecord | None
    pixels: Pixels | None
    messages: list[Publish]
    tapped: Tapped | None = None


class _Room:
    """The folder of all recordings, kept within its bound by taking away the oldest segments."""

    def __init__(self, config: RecordWorkerConfig) -> None:
        self.config = config
        self.segment_bytes = config.max_bytes // (SHARE * len(config.streams))
        self._lock = threading.Lock()
        self._open: dict[str, Path] = {}
        self._begun: list[Path] = []  # by us, in their order: the clock may be set back at any time

    def new_segment(self, stream: str) -> SegmentWriter:
        """Make room for a stream's next segment and return it."""
        folder = self.config.run / stream
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            self._open.pop(stream, None)
            self._make_room(self.config.max_bytes - self.segment_bytes * len(self.config.streams))
            last = max((int(stem.name) for stem in segments(folder) if stem.name.isdecimal()), default=0)
            stem = self._open[stream] = folder / f"{last + 1:06d}"
        self._begun.append(stem)
        return SegmentWriter(stem, stream, self.config.utc_offset_ns)

    def _make_room(self, most: int) -> None:
        found = []
        self._begun = [stem for stem in self._begun if stem.with_suffix(MCAP).exists()]
        begun = {stem: number for number, stem in enumerate(self._begun)}
        for path in self.config.room.glob(f"*/*/*{MCAP}"):
            stem = path.with_suffix("")
            if stem not in self._open.values():
                with suppress(OSError):  # someone took it away meanwhile
                    video = stem.with_suffix(VIDEO)
                    size = path.stat().st_size + (video.stat().st_size if video.exists() else 0)
                    found.append((begun.get(stem, -1), path.stat().st_mtime_ns, stem, size))
        found.sort()
        total = sum(size for *_, size in found)
        for *_, stem, size in found:
            if total <= most:
                break
            total -= size
            for suffix in (VIDEO, MCAP):
                stem.with_suffix(suffix).unlink(missing_ok=True)
            for folder in (stem.parent, stem.parent.parent):
                if self.config.run not in (folder, folder.parent):
                    with suppress(OSError):  # not empty yet
                        folder.rmdir()


class _StreamRecorder:
    """Writes one stream's segments on a thread of its own, so that streams are encoded side by side."""

    def __init__(self, index: int, room: _Room, ring: FrameRing, back: _Back) -> None:
        self.index, self.room, self.ring, self.back = index, room, ring, back
        self.name = room.config.streams[index]
        self.lock = threading.Lock()
        self.said = Recorded(index, 0, 0, {})
        self.fault: str | None = None
        self.segment: SegmentWriter | None = None
        self.entries: queue.Queue[_Entry | None] = queue.Queue()
        self.waiting = 0  # frames whose copies wait to be written
        self.thread = threading.Thread(target=self._run, name=f"record {self.name}", daemon=True)
        self.thread.start()

    def take_in(self, tapped: Tapped) -> None:
        """Take a frame: of a live stream a copy if there is room, so that its slot is free; a file's waits in its."""
        frame = tapped.frame
        self.drop(SKIPPED, tapped.skipped)
        if not frame.live:
            self.entries.put(_Entry(record_of(frame, tapped.time_ns, True), None, tapped.messages, tapped))
            return
        nbytes = frame.width * frame.height * frame.bits // 8
        room = self.waiting < max(2, min(WAITING_FRAMES, WAITING_BYTES // nbytes))
        kept = room and not self.fault and self.entries.qsize() < WAITING_ENTRIES
        pixels = self._copy(frame) if kept else None
        self.back.give(frame)
        if not kept:
            self.drop(self.fault or TOO_SLOW)
        elif pixels is None:
            self.drop(RESTART)
            kept = False
        with self.lock:
            self.waiting += kept
        if self.entries.qsize() < WAITING_ENTRIES:
            self.entries.put(_Entry(record_of(frame, tapped.time_ns, kept), pixels, tapped.messages))

    def say(self, message: Publish) -> None:
        """Take a message of no frame."""
        if self.entries.qsize() < WAITING_ENTRIES:
            self.entries.put(_Entry(None, None, [message]))

    def drop(self, reason: str, count: int = 1) -> None:
        """Count frames that are not recorded."""
        if count:
            with self.lock:
                self.said.dropped[reason] = self.said.dropped.get(reason, 0) + count

    def news(self) -> Recorded:
        """Return what was recorded since the last time."""
        with self.lock:
            said, self.said = self.said, Recorded(self.index, 0, 0, {})
        return said

    def close(self) -> None:
        """Write what waits and finish."""
        self.entries.put(None)
        self.thread.join()

    def _copy(self, frame: FrameRef) -> Pixels | None:
        """Return a frame's pixels; None if its slot has another's: the tracker that lent it to us has died."""
        pixels: Pixels = self.ring.frame(frame.slot, frame.height, frame.width, frame.bits).copy()
        return pixels if self.ring.holds(frame.slot, frame.seq) else None

    def _run(self) -> None:
        # What is recorded may come later; what is tracked may not. Only this thread waits: the one that empties the
        # ring's slots must have its turn.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while entry := self.entries.get():
            try:
                if not self.fault:
                    self._write(entry)
                elif entry.record and entry.record.kept:
                    self.drop(self.fault)
            except (OSError, av.FFmpegError) as error:
                self._give_up(error, entry)
            finally:
                if entry.tapped:
                    self.back.give(entry.tapped.frame)
                elif entry.pixels is not None:
                    with self.lock:
                        self.waiting -= 1
        if self.segment:
            with suppress(OSError, av.FFmpegError):
                self.segment.close()

    def _write(self, entry: _Entry) -> None:
        if entry.tapped and (pixels := self._copy(entry.tapped.frame)) is not None:
            entry.pixels = pixels
        elif entry.tapped:
            entry.record = record_of(entry.tapped.frame, entry.tapped.time_ns, False)
            self.drop(RESTART)
        segment = self._segment_for(entry.record)
        before = segment.size
        if entry.record is None:
            for message in entry.messages:
                segment.say(message, time.monotonic_ns())
        else:
            segment.add(entry.record, entry.pixels, entry.messages)
        with self.lock:
            self.said.frames += bool(entry.record and entry.record.kept)
            self.said.bytes += segment.size - before

    def _segment_for(self, record: FrameRecord | None) -> SegmentWriter:
        """Return the segment that goes on, or the next."""
        old = self.segment
        if old and record:
            long = old.start_ns is not None and not 0 <= record.time_ns - old.start_ns < SEGMENT_NS
            if long or old.size >= self.room.segment_bytes or not old.fits(record):
                self.segment = None
                old.close()
        if self.segment is None:
            self.segment = self.room.new_segment(self.name)
        return self.segment

    def _give_up(self, error: Exception, entry: _Entry) -> None:
        """Record no more of the stream; the pipeline goes on, and every frame is counted with the reason."""
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        if entry.record and entry.record.kept:
            self.drop(reason)
        self.fault = reason
        warn(f"{self.room.config.run / self.name}: {reason}; it is not recorded any more")


class _Back:
    """The answers to the tap, from any thread."""

    def __init__(self, back: Channel) -> None:
        self._back, self._lock = back, threading.Lock()

    def give(self, frame: FrameRef) -> None:
        with self._lock:
            send(self._back, Returned(frame.stream, frame.slot, frame.seq))


def main(
    config: RecordWorkerConfig,
    rings: Sequence[FrameRing],
    tapped: Channel,
    back: Channel,
    reports: Channel,
) -> None:
    """Record what comes out of the tap until it is closed.

    A recorder that is started again goes on with new segments in the same folder.

    Args:
        config: what to do.
        rings: one a stream.
        tapped: from the track worker; see ``stream/tap.py``.
        back: the slots that were read, to it.
        reports: to the supervisor.
    """
    room, answers = _Room(config), _Back(back)
    recorders = [_StreamRecorder(index, room, ring, answers) for index, ring in enumerate(rings)]
    names = dict(zip(config.streams, recorders, strict=True))
    send(reports, Ready())
    due = 0.0
    while True:
        if tapped.poll(REPORT_S):
            match receive(tapped):
                case Tapped() as frame:
                    recorders[frame.frame.stream].take_in(frame)
                case Publish() as message:
                    names[message.topic.partition("/")[2]].say(message)
                case TapEnd(stream, skipped):
                    recorders[stream].drop(SKIPPED, skipped)
                case Stop():
                    break
        if time.monotonic() >= due:
            due = time.monotonic() + REPORT_S
            _report(recorders, reports)
    for recorder in recorders:
        recorder.close()
    _report(recorders, reports)


def _report(recorders: Sequence[_StreamRecorder], reports: Channel) -> None:
    for recorder in recorders:
        said = recorder.news()
        if said.frames or said.dropped:
            send(reports, said)
