"""The infer worker: one batch at a time on a CPU, two on a device that copies one while it computes the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.base import STEPS
from engine.contract import EngineError
from stream.batcher import Batcher
from stream.channel import Channel, channel
from stream.config import BatchConfig
from stream.frame import DeviceTimes, End, FrameRef, Hello, Message, Ready, Release, receive, send
from stream.ring import FrameRing
from stream.workers import infer
from tests.conftest import INFO
from tests.pipeline import wait_until

WIDTH, HEIGHT, SLOTS, S = 16, 8, 8, 20


class Plain:
    """An engine that answers a frame with itself once it may, or fails."""

    name = "plain"
    info = INFO
    best_batch = 1

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.log: list[tuple[str, int]] = []
        self.may: dict[int, threading.Event] = {}
        self.fails = ""

    def prepare(self, batch: int, height: int, width: int) -> None:
        pass

    def infer(self, frames: NDArray[np.uint8], _window: NDArray[np.float32]) -> NDArray[np.uint8]:
        return self.note("infer", frames)

    def note(self, what: str, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Note what is done to a frame, of which every pixel is its number, and wait until it may."""
        number = int(frames.reshape(len(frames), -1)[0, 0])
        self.asked.append(number)
        if what != "submit":
            assert self.may.get(number, SET).wait(S)
        self.log.append((what, number))
        if self.fails == what:
            raise EngineError(f"tiny: {what} fails")
        return frames[..., 0].copy() if frames.ndim == 5 else frames.copy()


class Two(Plain):
    """The same for two batches at once."""

    def __init__(self, compute_ms: float = 1e6) -> None:
        super().__init__()
        self.times_ms = dict(zip(STEPS, (0.25, compute_ms, 0.5), strict=True))

    def submit(self, frames: NDArray[np.uint8], _window: NDArray[np.float32]) -> Any:
        return self.note("submit", frames)

    def collect(self, ticket: Any) -> NDArray[np.uint8]:
        return self.note("collect", ticket)


SET = threading.Event()
SET.set()


class Worker:
    """The worker on a thread, and the channels that the others have."""

    def __init__(self, streams: int, live: bool) -> None:
        self.live = live
        self.rings = [FrameRing(SLOTS) for _ in range(streams)]
        self.frames = [channel() for _ in range(streams)]
        self.returns = [channel() for _ in range(streams)]
        self.out, self.reports = channel(), channel()
        hellos = tuple(Hello(n, WIDTH, HEIGHT, 8, None, live) for n in range(streams))
        self.config = infer.InferConfig("tiny", "any", None, BatchConfig(window_ms=0), hellos)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        try:
            infer.main(
                self.config,
                self.rings,
                [receiver for receiver, _ in self.frames],
                [sender for _, sender in self.returns],
                self.out[1],
                self.reports[1],
            )
        except EngineError as error:
            self.error = error

    def give(self, *numbers: int, stream: int = 0, bits: int = 8) -> None:
        """Give frames of these numbers."""
        for number in numbers:
            self.rings[stream].frame(number % SLOTS, HEIGHT, WIDTH, bits)[:] = number
            about = {"capture": 0}
            ref = FrameRef(
                stream, number % SLOTS, number, WIDTH, HEIGHT, bits, self.live, 0, 255, 0, 0, None, {}, about, None
            )
            send(self.frames[stream][1], ref)

    def end(self, stream: int = 0) -> None:
        send(self.frames[stream][1], End(stream, 99, {}, None))

    def hear(self, port: Channel, kind: type[Message]) -> Any:
        """Return the next message of a kind."""
        while True:
            assert port.poll(S), f"no {kind.__name__}"
            if isinstance(message := receive(port), kind):
                return message


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a worker with an engine for a while, and see that it ends."""

    @contextmanager
    def run(engine: Plain, streams: int = 1, live: bool = False) -> Iterator[Worker]:
        monkeypatch.setattr(infer, "load_engine", lambda *_: engine)
        made = Worker(streams, live)
        made.thread.start()
        made.hear(made.reports[0], Ready)
        yield made
        for stream in range(streams):
            made.end(stream)
        made.thread.join(S)
        assert not made.thread.is_alive()
        for ring in made.rings:
            ring.close()

    return run


def hold(engine: Plain, *numbers: int) -> None:
    engine.may = {number: threading.Event() for number in numbers}


def seen(engine: Plain, *what: tuple[str, int]) -> None:
    """Wait until the engine has been asked this, and see that it was nothing else."""
    wait_until(lambda: len(engine.log) >= len(what), S, str(what))
    assert engine.log == list(what)


def test_a_cpu_has_one_batch_at_a_time(worker) -> None:
    """While it has one, the freshest frame waits and the one it supersedes is released; nothing is told of a device."""
    engine = Plain()
    hold(engine, 0)
    with worker(engine, live=True) as made:
        made.give(0)
        wait_until(lambda: engine.asked, S, "the first frame")
        made.give(1, 2)
        assert made.hear(made.returns[0][0], Release).seq == 1
        engine.may[0].set()
        assert [made.hear(made.out[0], FrameRef).seq for _ in range(2)] == [0, 2]
    assert engine.log == [("infer", 0), ("infer", 2)]
    assert not made.reports[0].poll()


def test_a_device_is_sent_the_next_frame_of_a_file_while_it_computes_one(worker) -> None:
    """Two are on their way, never three, and each is answered with its own map, in order."""
    engine = Two()
    hold(engine, 0, 1)
    with worker(engine) as made:
        made.give(0, 1, 2)
        seen(engine, ("submit", 0), ("submit", 1))
        engine.may[0].set()
        seen(engine, ("submit", 0), ("submit", 1), ("collect", 0), ("submit", 2))
        engine.may[1].set()
        for number in range(3):
            frame = made.hear(made.out[0], FrameRef)
            assert frame.seq == number
            assert (made.rings[0].targets(frame.slot, HEIGHT, WIDTH) == number).all()
            assert 0 < frame.times["queue"] <= frame.times["engine"]


def test_a_live_frame_is_not_sent_where_it_would_wait(worker) -> None:
    """The device is busy for long, so the freshest frame waits here, and the one it supersedes is released."""
    engine = Two(compute_ms=1e6)
    hold(engine, 1)
    with worker(engine, live=True) as made:
        made.give(0)
        made.hear(made.out[0], FrameRef)  # from here on it is known how long the device computes
        made.give(1)
        seen(engine, ("submit", 0), ("collect", 0), ("submit", 1))
        made.give(2)
        made.give(3)
        assert made.hear(made.returns[0][0], Release).seq == 2
        engine.may[1].set()
        made.hear(made.out[0], FrameRef)
        assert made.hear(made.out[0], FrameRef).seq == 3
    assert engine.log[3:] == [("collect", 1), ("submit", 3), ("collect", 3)]


def test_a_live_frame_is_sent_when_the_device_is_about_to_be_free(worker) -> None:
    """By what the last batch took it has computed the one before, though that is not back yet."""
    engine = Two(compute_ms=1.0)
    hold(engine, 1)
    with worker(engine, live=True) as made:
        made.give(0)
        made.hear(made.out[0], FrameRef)
        made.give(1)
        seen(engine, ("submit", 0), ("collect", 0), ("submit", 1))
        made.give(2)
        seen(engine, ("submit", 0), ("collect", 0), ("submit", 1), ("submit", 2))
        engine.may[1].set()
        assert [made.hear(made.out[0], FrameRef).seq for _ in range(2)] == [1, 2]


def test_a_live_frame_is_due_when_the_one_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the nanosecond, by the clock: not before it is, at once when it is, and never a third."""
    clock = [5_000_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock[0])
    inside = infer._Infer(infer.InferConfig("tiny", "any", None, BatchConfig()), [], [], channel()[1])
    inside.batcher = Batcher(1, 0)

    def frame(seq: int) -> FrameRef:
        return FrameRef(0, seq, seq, WIDTH, HEIGHT, 8, True, 0, 255, 0, 0, None, {}, {"capture": 0}, None)

    inside.batcher.add(frame(1))
    inside.running.append(infer._Batch([frame(0)], clock[0], True, Future()))
    assert inside.wait_ns() is None  # nobody knows yet how long it computes
    inside.compute_ns[HEIGHT, WIDTH, 8, 1] = 700_000
    assert inside.wait_ns() == 700_000
    clock[0] += 600_000
    assert inside.wait_ns() == 100_000
    clock[0] += 100_000
    assert inside.wait_ns() == 0
    inside.running.append(infer._Batch([frame(1)], clock[0], True, Future()))
    assert inside.wait_ns() is None


@pytest.mark.parametrize("kinds", [(Two, Two), (Two, Plain), (Plain, Two)], ids=str)
def test_an_engine_that_is_first_needed_in_the_run_is_loaded_once(kinds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera comes back with another depth: whatever kind of engine it needs, every frame is answered in order."""
    engines = {8: kinds[0](), 16: kinds[1]()}
    loads: list[int] = []

    def load(_model: str, _engine: str, bits: int, _threads: int | None) -> Plain:
        loads.append(bits)
        return engines[bits]

    monkeypatch.setattr(infer, "load_engine", load)
    made = Worker(1, live=False)
    made.thread.start()
    made.hear(made.reports[0], Ready)
    made.give(0, 1)
    made.give(2, 3, 4, bits=16)
    made.give(5)
    for number in range(6):
        found = made.hear(made.out[0], FrameRef)
        assert found.seq == number
        assert (made.rings[0].targets(found.slot, HEIGHT, WIDTH) == number).all()
    made.end()
    made.thread.join(S)
    assert made.error is None
    assert loads == [8, 16]
    made.rings[0].close()


def test_a_stream_ends_while_the_device_is_busy_with_others(worker) -> None:
    """The end follows the stream's own last frame, whatever else is on its way."""
    engine = Two()
    hold(engine, 5, 6)
    with worker(engine, streams=2) as made:
        made.give(0)
        made.hear(made.out[0], FrameRef)
        made.give(5, 6, stream=1)
        seen(engine, ("submit", 0), ("collect", 0), ("submit", 5), ("submit", 6))
        made.end(0)
        assert made.hear(made.out[0], End).stream == 0
        engine.may[5].set()
        engine.may[6].set()


def test_what_the_device_took_is_reported(worker) -> None:
    """Every batch's upload, compute and download reach the supervisor, the last ones when all is over."""
    engine = Two(compute_ms=3.0)
    with worker(engine) as made:
        made.give(0, 1, 2)
    rows: list[list[float]] = []
    while len(rows) < 3:
        rows += made.hear(made.reports[0], DeviceTimes).rows
    assert rows == [[0.25, 3.0, 0.5]] * 3


@pytest.mark.parametrize(
    ("engine", "what"), [(Plain(), "infer"), (Two(), "submit"), (Two(), "collect")], ids=["infer", "submit", "collect"]
)
def test_an_engine_that_fails_ends_the_worker(worker, engine: Plain, what: str) -> None:
    """Whichever call it is: the worker ends with the engine's own line, for the supervisor to see."""
    engine.fails = what
    with worker(engine) as made:
        made.give(0, 1)
        made.thread.join(S)
    assert str(made.error) == f"tiny: {what} fails"
