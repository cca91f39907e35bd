"""Infer: frames of all streams, in batches, through the engine; one process a device."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.base import STEPS, Engine, LocksPages, TwoAtOnce, load_engine
from stream import beats
from stream.alarm import Alarm
from stream.batcher import Batcher, shape_of
from stream.channel import Channel
from stream.config import BatchConfig
from stream.frame import (
    REPORT_NS,
    Coming,
    DeviceTimes,
    End,
    FrameRef,
    Hello,
    Loaded,
    Message,
    Port,
    Ready,
    Release,
    Sweep,
    receive,
    send,
    try_send,
)
from stream.ring import FrameRing
from stream.sources.base import Pixels

STEP_S = 1.0  # how long the loop may wait before it says that it gets on
COMPUTE = STEPS.index("compute")
SOON_NS = 2_000_000  # an engine that takes longer leaves the tracker time to fall asleep again


@dataclass(frozen=True)
class InferConfig:
    """What the worker runs, and how.

    Attributes:
        model: name or path.
        engine: backend.
        threads: CPU threads of the engine.
        batch: how streams share it.
        hellos: of all streams, where a worker before this one has heard them.
    """

    model: str
    engine: str
    threads: int | None
    batch: BatchConfig
    hellos: tuple[Hello, ...] = ()


@dataclass(frozen=True)
class _Batch:
    """A batch on its way through the engine.

    Attributes:
        frames: its frames.
        taken_ns: when it was taken, monotonic clock.
        paired: whether another may be sent after it before it is done.
        run: what sends it on, and returns what the device took, ms by ``STEPS``, if it tells.
    """

    frames: list[FrameRef]
    taken_ns: int
    paired: bool
    run: Future[list[float] | None]


class _Infer:
    """The loop's state. The engine runs on a thread, so that frames never wait to be superseded.

    An engine that takes two batches at once is sent the second while it computes the first. A live frame that is sent
    too early waits where no fresher one can supersede it. So such a batch follows the one before it after as long as
    that one takes to compute, by what the last one of its shape took: then its copy ends when the other's compute does.
    """

    def __init__(self, config: InferConfig, rings: Sequence[FrameRing], returns: Sequence[Port], out: Port) -> None:
        self.config, self.rings, self.returns, self.out = config, rings, returns, out
        self.engines: dict[int, Engine] = {}  # by bits
        self.pairs: dict[int, TwoAtOnce] = {}  # those of them that take two batches at once
        self.batcher: Batcher | None = None
        self.thread, self.sender = ThreadPoolExecutor(1, "engine"), ThreadPoolExecutor(1, "sender")
        self.done = os.eventfd(0, os.EFD_SEMAPHORE)
        self.running: deque[_Batch] = deque()  # at most two
        self.compute_ns: dict[tuple[int, ...], int] = {}  # of engines that take two at once, by shape and frames
        self.device_ms: list[list[float]] = []  # of it, a row a batch, not yet reported
        self.reported_ns = time.monotonic_ns()
        self.ends: dict[int, End] = {}
        self.sweeps: list[Sweep] = []
        self.took_ns = 0  # the engine, over the last batch

    def engine(self, bits: int) -> Engine:
        if bits not in self.engines:
            made = load_engine(self.config.model, self.config.engine, bits, self.config.threads)
            if isinstance(made, TwoAtOnce):  # asked once: warm, it takes Python 30 us, cold some 100
                self.pairs[bits] = made
            self.engines[bits] = made
        return self.engines[bits]

    def greet(self, hellos: Sequence[Hello]) -> None:
        """Load and compile for the streams as they said they would be."""
        best = {bits: self.engine(bits).best_batch for bits in {hello.bits for hello in hellos}}
        largest = self.config.batch.largest or min(best.values())
        for shape in {(hello.bits, hello.height, hello.width) for hello in hellos}:
            alike = [hello for hello in hellos if (hello.bits, hello.height, hello.width) == shape]
            slots = sum(self.rings[hello.stream].slots for hello in alike)
            most = min(largest, len(alike) if all(hello.live for hello in hellos) else slots)
            for batch in range(1, most + 1):
                self.engine(shape[0]).prepare(batch, *shape[1:])
        for hello in hellos:
            if isinstance(engine := self.engine(hello.bits), LocksPages):
                ring = self.rings[hello.stream]
                for slot in range(ring.slots):
                    engine.lock_pages(ring.frame(slot, hello.height, hello.width, hello.bits))
        self.batcher = Batcher(largest, round(self.config.batch.window_ms * 1e6))

    def take_in(self, message: Message) -> None:
        """Take a descriptor from a capture worker."""
        assert self.batcher is not None
        if isinstance(message, FrameRef):
            if old := self.batcher.add(message):
                send(self.returns[old.stream], Release(old.slot, old.seq))
        elif isinstance(message, End):
            self.ends[message.stream] = message
        elif isinstance(message, Sweep):
            self.sweeps.append(message)
        # else a frame is coming, and awake is all that we were to be

    def next_ns(self) -> int | None:
        """Return from when on the engine may be sent what waits, monotonic clock; None: once it has done something."""
        assert self.batcher is not None
        if not self.running:
            return 0
        if len(self.running) > 1 or not self.running[0].paired:
            return None
        if not self.batcher.freshens():
            return 0
        (one,) = self.running
        compute_ns = self.compute_ns.get((*shape_of(one.frames[0]), len(one.frames)))
        return None if compute_ns is None else one.taken_ns + compute_ns

    def wait_ns(self) -> int | None:
        """Return how long until something is to be sent to the engine; None if only news can tell."""
        assert self.batcher is not None
        now, due = time.monotonic_ns(), self.next_ns()
        wait = None if due is None else self.batcher.wait_ns(now)
        return None if due is None or wait is None else max(wait, due - now)

    def start(self) -> None:
        """Send the engine what waits, if it is time."""
        assert self.batcher is not None
        now, due = time.monotonic_ns(), self.next_ns()
        if due is None or now < due or not (frames := self.batcher.take(now)):
            return
        for frame in frames:
            frame.times["queue"] = now
        # One that is not there yet, of a camera that came back with another depth, is loaded by the run.
        engine = self.pairs.get(frames[0].bits)
        sent = self.sender.submit(self.send, engine, frames) if engine else None
        run = self.thread.submit(self.run, frames, sent)
        self.running.append(_Batch(frames, now, sent is not None, run))
        run.add_done_callback(lambda _: os.eventfd_write(self.done, 1))

    def send(self, engine: TwoAtOnce, batch: list[FrameRef]) -> Any:  # noqa: ANN401
        """Send a batch to the engine and return its ticket; runs on the sender's thread."""
        return engine.submit(*self.arrays(batch))

    def arrays(self, batch: list[FrameRef]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return what the engine takes."""
        frames = [self.rings[f.stream].frame(f.slot, f.height, f.width, f.bits) for f in batch]
        return _pixels(frames, batch[0].bits), _windows(batch)

    def run(self, batch: list[FrameRef], sent: Future[Any] | None) -> list[float] | None:
        """Fill the batch's target maps and send it on; runs on the engine's thread."""
        engine, began, spent = self.engine(batch[0].bits), time.monotonic_ns(), None
        if self.took_ns < SOON_NS:
            send(self.out, Coming())
        if sent:
            two = cast(TwoAtOnce, engine)
            targets = two.collect(sent.result())
            spent = [two.times_ms[step] for step in STEPS]
        else:
            targets = engine.infer(*self.arrays(batch))
        for frame, target in zip(batch, targets, strict=True):
            self.rings[frame.stream].targets(frame.slot, frame.height, frame.width)[:] = target[0]
        now = time.monotonic_ns()
        self.took_ns = now - began
        for frame in batch:
            frame.times["engine"] = now
            send(self.out, frame)  # from here: the loop's thread would take a tenth of a millisecond to wake up
        return spent

    def finish(self) -> None:
        """Send on what the engine has done; a stream's end follows its last frame."""
        assert self.batcher is not None
        while self.running and self.running[0].run.done():
            os.eventfd_read(self.done)
            batch = self.running.popleft()
            if spent := batch.run.result():  # raises what the engine did
                self.compute_ns[*shape_of(batch.frames[0]), len(batch.frames)] = round(spent[COMPUTE] * 1e6)
                self.device_ms.append(spent)
        inside = [(frame.stream, frame.seq) for batch in self.running for frame in batch.frames]
        for sweep in self.sweeps[:]:
            ours = self.batcher.waiting(sweep.stream) + [seq for stream, seq in inside if stream == sweep.stream]
            if all(seq >= sweep.seq for seq in ours):
                self.sweeps.remove(sweep)
                send(self.out, sweep)
        for end in list(self.ends.values()):
            if not self.batcher.holds(end.stream) and all(stream != end.stream for stream, _ in inside):
                for reason, count in self.batcher.leave(end.stream).items():
                    end.dropped[reason] = end.dropped.get(reason, 0) + count
                send(self.out, self.ends.pop(end.stream))

    def report(self, reports: Channel, every_ns: int = REPORT_NS) -> None:
        """Report what the engine's device took, if it tells and it is time, unless the supervisor does not read."""
        now = time.monotonic_ns()
        if self.device_ms and now - self.reported_ns >= every_ns:
            try_send(reports, DeviceTimes(self.device_ms))
            self.device_ms, self.reported_ns = [], now


def _pixels(frames: Sequence[Pixels], bits: int) -> NDArray[np.uint8]:
    """Return the engine's input; one frame goes to it from where capture put it."""
    stacked = frames[0][None, None] if len(frames) == 1 else np.stack(frames)[:, None]
    return stacked.view(np.uint8) if bits == 8 else stacked[..., None].view(np.uint8)


def _windows(batch: Sequence[FrameRef]) -> NDArray[np.float32]:
    return np.array([(frame.low, frame.high) for frame in batch], np.float32)


def main(
    config: InferConfig,
    rings: Sequence[FrameRing],
    frames: Sequence[Port],
    returns: Sequence[Port],
    out: Port,
    reports: Channel,
) -> None:
    """Greet every stream, load the engine, then run it until all streams have ended.

    Args:
        config: what to run.
        rings: one a stream.
        frames: descriptors from the capture workers.
        returns: released slots to them.
        out: descriptors to the track worker.
        reports: to the supervisor.
    """
    infer = _Infer(config, rings, returns, out)
    infer.greet(config.hellos or [hello for port in frames if isinstance(hello := receive(port), Hello)])
    loaded = [(bits, engine.name, engine.info) for bits, engine in infer.engines.items()]
    send(reports, Ready([Loaded(bits, name, info.name, info.weights_sha256) for bits, name, info in loaded]))
    ports = {port.fileno(): port for port in frames}
    news, alarm = select.epoll(), Alarm()
    for fd in [*ports, infer.done, alarm.fileno()]:
        news.register(fd, select.EPOLLIN)
    streams = set(range(len(frames)))
    assert infer.batcher is not None
    while streams or infer.running or infer.ends:
        if wait := infer.wait_ns():
            alarm.set(time.monotonic_ns() + wait)
        for fd, _ in news.poll(0 if wait == 0 else STEP_S):
            if fd == alarm.fileno():
                alarm.hush()
            port = ports.get(fd)
            while port is not None and port.poll():
                message = receive(port)
                infer.take_in(message)
                if isinstance(message, End):
                    streams.discard(message.stream)
        done = not infer.running or infer.running[0].run.done()
        infer.finish()
        infer.start()
        if done:  # an engine that hangs is not excused by a loop that does not
            beats.step()
        infer.report(reports)
    infer.report(reports, 0)
    infer.thread.shutdown()
    infer.sender.shutdown()
    alarm.close()
