"""Capture: one camera's frames into its ring, one process a camera."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import replace

import numpy as np

from stream import beats
from stream.config import StreamConfig
from stream.frame import (
    RESTART,
    Coming,
    End,
    FrameRef,
    Go,
    Hello,
    Port,
    Release,
    Restarted,
    Stop,
    Sweep,
    own_time_ns,
    receive,
    send,
)
from stream.publish import monotonic_to_utc_ns
from stream.ring import MAX_PIXELS, FrameRing
from stream.sources import is_camera, open_source
from stream.sources.base import EndOfSource, Source, SourceError, SourceFrame, SourceInfo
from stream.sources.lasting import LastingSource
from stream.window import FULL_8_BIT, WindowFollower

LOST = "lost by the camera"
NO_SLOT = "no free slot"
AHEAD_NS = 800_000  # how long before a frame is likely to come the infer worker is told
READ_S = 0.25  # how long a read may wait before we look whether to stop


class _Stopped(Exception):  # noqa: N818 (an ending, not an error)
    """Someone asked for the stream's end."""


class _Capture:
    """The state of one stream's capture. What the ring's ledger says, a worker before this one has done."""

    def __init__(
        self, stream: int, config: StreamConfig, ring: FrameRing, frames: Port, returns: Port, info: SourceInfo
    ) -> None:
        self.shape = info.height, info.width, info.bits  # of the next frame, most likely
        self.stream, self.config, self.ring = stream, config, ring
        self.frames, self.returns = frames, returns
        self.ledger = ring.ledger
        self.seq = int(self.ledger["next_seq"][0])
        self.resumes = self.seq > 0
        self.unknown = self.seq - 1  # the newest frame that a worker before this one can have sent
        self.free = deque(() if self.resumes else range(ring.slots))
        # The slots that are out, and the number of the frame in each, ``unknown`` if a worker before this one sent it:
        # a sweep that was asked for while that one sent says nothing of the frames it sent since.
        self.out = dict.fromkeys(range(ring.slots), self.unknown) if self.resumes else {}
        self.lent: int | None = None  # the slot that the source may write its next frame into
        self.last_ns = self.likely_ns = 0  # when the last frame was captured, and when the next is likely to be
        self.told = False  # that a frame is likely to come
        self.dropped: Counter[str] = Counter()
        self.follower = WindowFollower()

    def listen(self, timeout: float) -> bool:
        """Take back what slots were released, waiting up to ``timeout`` for the first; tell whether to go.

        Raises:
            _Stopped: if the stream is to end.
        """
        while self.returns.poll(timeout):
            match receive(self.returns):
                case Release(slot, seq):
                    if self.out.get(slot) in (self.unknown, seq):
                        self.take_back(slot)
                case Sweep(_, seq, held):
                    for slot in [slot for slot, its in self.out.items() if its < seq and slot not in held]:
                        self.take_back(slot)
                case Restarted():
                    self.sweep()
                case Stop():
                    raise _Stopped
                case Go():
                    return True
            timeout = 0
        return False

    def take_back(self, slot: int) -> None:
        del self.out[slot]
        self.free.append(slot)

    def sweep(self) -> None:
        """Find the slots of frames that are lost."""
        send(self.frames, Sweep(self.stream, self.seq, []))

    def resume(self, source: Source) -> SourceFrame | None:
        """Bring a source that was opened anew to where the worker before this one was; return its first frame.

        Files and scenes are read up to that place, or, where they pace themselves, to where they would be by now.
        A camera gives what it sees now; what it may have seen meanwhile is estimated by its rate.
        """
        if self.ledger["origin_ns"][0]:
            source.start_ns = int(self.ledger["origin_ns"][0])
        place = 0
        while True:
            self.listen(0)
            beats.step()
            frame = source.read(READ_S)
            if frame is None:
                continue
            if source.info.live and source.start_ns is None:
                missed = (frame.captured_ns - int(self.ledger["captured_ns"][0])) / 1e9 * (source.info.fps or 0)
                place = self.seq + max(0, round(missed) - 1)
            else:
                place += frame.lost
            if place >= self.seq:
                self.dropped[RESTART] += place - self.seq
                self.seq = place
                return replace(frame, lost=0)
            place += 1

    def run(self, source: Source) -> None:
        """Read frames until the source ends or someone stops it."""
        live = source.info.live
        frame = None
        if self.resumes:
            self.sweep()
            frame = self.resume(source)
        while True:
            beats.step()
            self.listen(0)
            if not self.lend(source) and not live:
                self.listen(READ_S)
                continue
            frame = frame or self.read(source, live)
            if frame is None:
                continue
            if frame.lost:
                self.seq += frame.lost
                self.dropped[LOST] += frame.lost
            if self.lent is None:
                self.listen(0)
                self.lend(source)
            # First the number, then the frame: whenever this process is killed, no number is given twice.
            self.ledger["origin_ns"], self.ledger["captured_ns"] = source.start_ns or 0, frame.captured_ns
            self.ledger["next_seq"] = self.seq + 1
            if self.lent is not None:
                self.keep(frame, live, self.lent, frame.pixels is source.room)
                self.lent = source.room = None
            else:
                self.dropped[NO_SLOT] += 1
            self.seq += 1
            frame = None

    def read(self, source: Source, live: bool) -> SourceFrame | None:
        """Read a frame; a moment before a live one is likely to come, say so.

        A camera is regular: its next frame comes as long after its last as that one after the one before. It is
        said once a frame that is sent, so that nothing piles up in front of a worker that is away.
        """
        soon_s = (self.likely_ns - AHEAD_NS - time.monotonic_ns()) / 1e9
        waits = live and not self.told and 0 < soon_s < READ_S
        frame = source.read(soon_s if waits else READ_S)
        if frame is None and waits:
            send(self.frames, Coming())
            self.told = True
        elif frame:
            self.likely_ns = 2 * frame.captured_ns - self.last_ns
            self.last_ns = frame.captured_ns
        return frame

    def lend(self, source: Source) -> bool:
        """See that the source has a free slot for its next frame, if there is one; tell whether it has."""
        if self.lent is None and self.free:
            self.lent = self.free.popleft()
            self.ring.unmark(self.lent)
            source.room = self.ring.frame(self.lent, *self.shape)
        return self.lent is not None

    def keep(self, frame: SourceFrame, live: bool, slot: int, there: bool) -> None:
        """Copy a frame into a slot, unless it is there, and send its descriptor on."""
        height, width = frame.pixels.shape
        _check_size(self.config, width, height)
        bits = 8 * frame.pixels.itemsize
        self.out[slot] = self.seq
        self.shape = height, width, bits
        if not there:
            np.copyto(self.ring.frame(slot, height, width, bits), frame.pixels)
        time_ns = own_time_ns(frame.captured_ns, frame.camera_ns, live)
        low, high = self.window(frame, bits, time_ns)
        self.ring.mark(slot, self.seq, bits, low, high)
        send(
            self.frames,
            FrameRef(
                stream=self.stream,
                slot=slot,
                seq=self.seq,
                width=width,
                height=height,
                bits=bits,
                live=live,
                low=low,
                high=high,
                captured_ns=frame.captured_ns,
                captured_utc_ns=frame.captured_ns + monotonic_to_utc_ns(),
                camera_ns=frame.camera_ns,
                dropped=dict(self.dropped),
                times={"capture": time.monotonic_ns()},
                truth=None if frame.truth is None else [(point.id, point.x, point.y) for point in frame.truth],
                camera_utc_ns=frame.camera_utc_ns,
            ),
        )
        self.dropped.clear()
        self.told = False
        if self.follower.before(time_ns) == (low, high):  # now that it is on its way; its percentiles take a while
            self.follower.update(frame.pixels.view(np.uint16), time_ns)

    def window(self, frame: SourceFrame, bits: int, time_ns: int) -> tuple[float, float]:
        """Return the pixel values that the network is to see as 0 and 1."""
        fixed = self.config.window or frame.window or (FULL_8_BIT if bits == 8 else None)
        return fixed or self.follower.before(time_ns) or self.follower.update(frame.pixels.view(np.uint16), time_ns)


def _check_size(config: StreamConfig, width: int, height: int) -> None:
    if height * width > MAX_PIXELS:
        raise SourceError(f"{config.name}: frames of {width}x{height}; {MAX_PIXELS} pixels (4096x4096) are the most")


def _open(config: StreamConfig, ring: FrameRing, before: Hello | None) -> Source:
    """Open a stream's source; a camera that has given frames in this run need not be there."""
    if not is_camera(config.source):
        return open_source(config.source, config.live)
    if before and ring.ledger["next_seq"][0]:
        info = SourceInfo(before.width, before.height, before.bits, before.fps, before.live)
        return LastingSource(config.source, None, info)
    source = open_source(config.source, config.live)
    return LastingSource(config.source, source, source.info)


def main(
    stream: int,
    config: StreamConfig,
    ring: FrameRing,
    frames: Port,
    returns: Port,
    before: Hello | None,
    reports: Port,
) -> None:
    """Open a source, say hello, wait for the go, and capture until the end.

    Args:
        stream: index of the stream.
        config: the stream's.
        ring: where its frames go.
        frames: descriptors to the infer worker.
        returns: released slots, the go and the stop; see ``_Capture.listen``.
        before: what the worker said of its source whose place this one takes; None of the first.
        reports: to the supervisor.
    """
    source = _open(config, ring, before)
    info = source.info
    _check_size(config, info.width, info.height)
    hello = Hello(stream, info.width, info.height, info.bits, info.fps, info.live)
    capture = _Capture(stream, config, ring, frames, returns, info)
    if not capture.resumes:
        ring.touch(info.height, info.width, info.bits)
    send(frames, hello)
    send(reports, hello)
    fault = None
    try:
        while not capture.listen(READ_S):
            pass
        capture.run(source)
    except (EndOfSource, _Stopped):
        pass
    except SourceError as error:
        fault = str(error)
    finally:
        source.close()
    end = End(stream, capture.seq, dict(capture.dropped), fault)
    send(frames, end)
    send(reports, end)
