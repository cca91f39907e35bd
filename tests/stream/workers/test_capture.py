"""Capture: every frame of a source is sent on or accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import pytest

from stream.config import StreamConfig
from stream.frame import Coming, End, FrameRef, Go, Hello, Release, Stop, Sweep, receive, send
from stream.ring import FrameRing
from stream.sources.base import EndOfSource, Source, SourceError, SourceFrame, SourceInfo
from stream.workers import capture


class Counted(Source):
    """Gives frames whose pixels are all their number; fails or ends after the last."""

    def __init__(self, frames: int, live: bool, lost: dict[int, int], fault: str | None) -> None:
        self.info = SourceInfo(width=48, height=32, bits=16, fps=30.0, live=live)
        self.frames, self.lost, self.fault = frames, lost, fault
        self.given = 0
        self.closed = False

    def read(self, timeout: float) -> SourceFrame | None:
        if self.given == self.frames:
            if self.fault:
                raise SourceError(self.fault)
            raise EndOfSource
        self.given += 1
        pixels = np.full((32, 48), 1000 + self.given - 1, np.uint16)
        return SourceFrame(pixels, time.monotonic_ns(), lost=self.lost.get(self.given - 1, 0))

    def close(self) -> None:
        self.closed = True


class Bench:
    """A capture worker on a thread, and the ends of its pipes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Counted, slots: int) -> None:
        self.source = source
        self.ring = FrameRing(slots)
        self.frames, frames = Pipe(duplex=False)
        returns, self.returns = Pipe(duplex=False)
        self.reports, reports = Pipe(duplex=False)
        monkeypatch.setattr(capture, "open_source", lambda uri, live: source)
        config = StreamConfig(name="c", source="counted")
        self.thread = threading.Thread(target=capture.main, args=(3, config, self.ring, frames, returns, None, reports))
        self.thread.start()
        assert isinstance(self.next(self.reports), Hello)
        assert isinstance(self.next(self.frames), Hello)

    def next(self, connection: Connection) -> object:
        assert connection.poll(10), "nothing came"
        return receive(connection)

    def rest(self) -> tuple[list[FrameRef], End]:
        frames = []
        while isinstance(message := self.next(self.frames), FrameRef):
            frames.append(message)
        assert isinstance(message, End)
        self.thread.join(timeout=10)
        assert self.source.closed
        return frames, message


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    made: list[Bench] = []

    def make(
        frames: int,
        live: bool,
        slots: int = 4,
        lost: dict[int, int] | None = None,
        fault: str | None = None,
        source: type[Counted] = Counted,
    ) -> Bench:
        made.append(Bench(monkeypatch, source(frames, live, lost or {}, fault), slots))
        return made[-1]

    yield make
    for one in made:
        send(one.returns, Stop())
        one.thread.join(timeout=10)
        one.ring.close()


def test_nothing_is_read_before_the_go(bench) -> None:
    one = bench(frames=2, live=False)
    assert not one.frames.poll(0.3)
    assert one.source.given == 0
    send(one.returns, Go())
    frames, end = one.rest()
    assert [f.seq for f in frames] == [0, 1]
    assert (end.stream, end.dropped, end.fault) == (3, {}, None)


def test_a_live_source_without_a_free_slot_drops_and_says_so(bench) -> None:
    one = bench(frames=10, live=True, slots=4)
    send(one.returns, Go())
    frames, end = one.rest()
    assert [f.seq for f in frames] == [0, 1, 2, 3]
    assert end.dropped == {capture.NO_SLOT: 6}


def test_a_source_that_waits_goes_on_when_a_slot_comes_back(bench) -> None:
    one = bench(frames=9, live=False, slots=2)
    send(one.returns, Go())
    seqs = []
    while isinstance(message := one.next(one.frames), FrameRef):
        pixels = one.ring.frame(message.slot, message.height, message.width, message.bits)
        assert (pixels == 1000 + message.seq).all()
        seqs.append(message.seq)
        send(one.returns, Release(message.slot, message.seq))
    assert seqs == list(range(9))
    assert message.dropped == {}


def test_frames_that_the_camera_lost_are_gaps_and_drops(bench) -> None:
    one = bench(frames=4, live=True, slots=8, lost={2: 5})
    send(one.returns, Go())
    frames, end = one.rest()
    assert [f.seq for f in frames] == [0, 1, 7, 8]
    assert [f.dropped for f in frames] == [{}, {}, {capture.LOST: 5}, {}]
    assert end.dropped == {}


def test_a_stop_ends_the_stream_in_the_middle(bench) -> None:
    one = bench(frames=10**9, live=True, slots=2)
    send(one.returns, Go())
    one.next(one.frames)
    send(one.returns, Stop())
    _, end = one.rest()
    assert end.fault is None


def test_a_source_that_fails_ends_its_stream_with_the_reason_after_its_last_frame(bench) -> None:
    one = bench(frames=3, live=False, slots=8, fault="x.mp4: damaged after frame 3")
    send(one.returns, Go())
    frames, end = one.rest()
    assert len(frames) == 3
    assert end.fault == "x.mp4: damaged after frame 3"


class Paced(Counted):
    """Has its frames early: they go where the worker says, as a scene's do that is not yet due."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.placed: dict[int, np.ndarray] = {}

    def read(self, timeout: float) -> SourceFrame | None:
        frame = super().read(timeout)
        assert frame is not None
        self.placed[self.given - 1] = self.place(frame.pixels)
        return SourceFrame(self.placed[self.given - 1], frame.captured_ns)


def test_a_source_writes_straight_into_the_ring_and_no_frame_is_there_twice(bench) -> None:
    """The memory that a source is lent is the slot that is sent on; while that is out, it is lent another."""
    one = bench(frames=9, live=False, slots=3, source=Paced)
    send(one.returns, Go())
    out, seqs = [], []
    while isinstance(message := one.next(one.frames), FrameRef):
        seqs.append(message.seq)
        out.append(message)
        for held in out:
            pixels = one.ring.frame(held.slot, held.height, held.width, held.bits)
            assert (pixels == 1000 + held.seq).all()
        assert np.shares_memory(one.source.placed[message.seq], pixels)
        if len(out) == 2:
            first = out.pop(0)
            send(one.returns, Release(first.slot, first.seq))
    assert seqs == list(range(9))


def test_a_frame_of_another_size_finds_room_too(bench) -> None:
    """What was lent by the size of the last frame does not fit: the frame is copied, and the next is lent its size."""
    one = bench(frames=3, live=False, slots=3, source=Growing)
    send(one.returns, Go())
    for seq in range(3):
        message = one.next(one.frames)
        assert (message.seq, message.height, message.width) == (seq, 32 + seq, 48)
        assert (one.ring.frame(message.slot, message.height, 48, 16) == 1000 + seq).all()
        send(one.returns, Release(message.slot, message.seq))


class Growing(Counted):
    """Gives frames each of which is a row higher than the one before."""

    def read(self, timeout: float) -> SourceFrame | None:
        frame = super().read(timeout)
        assert frame is not None
        pixels = np.full((31 + self.given, 48), 999 + self.given, np.uint16)
        return SourceFrame(self.place(pixels), frame.captured_ns)


class Regular(Counted):
    """Gives a frame when asked to wait for long, each a tenth of a second after the one before."""

    def read(self, timeout: float) -> SourceFrame | None:
        if timeout < capture.READ_S:
            time.sleep(timeout)
            return None
        frame = super().read(timeout)
        assert frame is not None
        self.start = frame.captured_ns if self.given == 1 else self.start
        return SourceFrame(frame.pixels, self.start + (self.given - 1) * 100_000_000)


class Hasty(Regular):
    """The same, but the clock goes with its frames: each is foreseen."""

    def read(self, timeout: float) -> SourceFrame | None:
        frame = super().read(timeout)
        return frame and SourceFrame(frame.pixels, time.monotonic_ns() + self.given * 1_000_000)


def test_a_moment_before_a_frame_is_likely_to_come_the_next_worker_is_told(bench) -> None:
    """After two frames the third is foreseen, and is announced before it is there; once, whatever becomes of it."""
    one = bench(frames=3, live=True, source=Regular)
    send(one.returns, Go())
    said = [type(one.next(one.frames)) for _ in range(6)]
    assert said == [FrameRef, FrameRef, Coming, FrameRef, Coming, End]


def test_nothing_piles_up_before_a_worker_that_is_away(bench) -> None:
    """Without a free slot frames are dropped, and of none of them it is said that it comes."""
    one = bench(frames=40, live=True, slots=2, source=Hasty)
    send(one.returns, Go())
    said = [type(one.next(one.frames)) for _ in range(4)]
    assert said == [FrameRef, FrameRef, Coming, End]


def test_a_sweep_that_a_dead_worker_asked_for_frees_no_slot_of_the_frames_it_sent_since() -> None:
    """It was asked for at frame 100, when the infer worker had died; frames 100 to 107 are in flight."""
    ring = FrameRing(8)
    ring.ledger["next_seq"] = 108
    frames, sent = Pipe(duplex=False)
    returns, answers = Pipe(duplex=False)
    config = StreamConfig(name="c", source="counted")
    ours = capture._Capture(0, config, ring, sent, returns, SourceInfo(48, 32, 8, 30.0, True))
    send(answers, Sweep(0, 100, []))
    ours.listen(0)
    assert list(ours.free) == []
    ours.sweep()
    send(answers, receive(frames))
    ours.listen(0)
    assert sorted(ours.free) == list(range(8))
    ring.close()
