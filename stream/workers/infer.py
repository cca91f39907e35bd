"""Infer: frames of all streams, in batches, through the engine; one process a device."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.base import Engine, LocksPages, load_engine
from stream import beats
from stream.batcher import Batcher
from stream.config import BatchConfig
from stream.frame import Coming, End, FrameRef, Hello, Loaded, Message, Port, Ready, Release, Sweep, receive, send
from stream.ring import FrameRing
from stream.sources.base import Pixels

STEP_S = 1.0  # how long the loop may wait before it says that it gets on
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


class _Infer:
    """The loop's state. The engine runs on a thread, so that frames never wait to be superseded."""

    def __init__(self, config: InferConfig, rings: Sequence[FrameRing], returns: Sequence[Port], out: Port) -> None:
        self.config, self.rings, self.returns, self.out = config, rings, returns, out
        self.engines: dict[int, Engine] = {}  # by bits
        self.batcher: Batcher | None = None
        self.thread = ThreadPoolExecutor(1, "engine")
        self.done = os.eventfd(0)
        self.running: Future[list[FrameRef]] | None = None
        self.batch: list[FrameRef] = []  # what runs
        self.ends: dict[int, End] = {}
        self.sweeps: list[Sweep] = []
        self.took_ns = 0  # the engine, over the last batch

    def engine(self, bits: int) -> Engine:
        if bits not in self.engines:
            self.engines[bits] = load_engine(self.config.model, self.config.engine, bits, self.config.threads)
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

    def start(self) -> None:
        """Start the engine on what waits, if it is free."""
        assert self.batcher is not None
        if self.running is None and (batch := self.batcher.take(time.monotonic_ns())):
            now = time.monotonic_ns()
            for frame in batch:
                frame.times["queue"] = now
            self.batch = batch
            self.running = self.thread.submit(self.run, batch)
            self.running.add_done_callback(lambda _: os.eventfd_write(self.done, 1))

    def run(self, batch: list[FrameRef]) -> list[FrameRef]:
        """Fill the batch's target maps and send it on; runs on the engine's thread."""
        first, began = batch[0], time.monotonic_ns()
        if self.took_ns < SOON_NS:
            send(self.out, Coming())
        frames = [self.rings[f.stream].frame(f.slot, f.height, f.width, f.bits) for f in batch]
        targets = self.engine(first.bits).infer(_pixels(frames, first.bits), _windows(batch))
        for frame, target in zip(batch, targets, strict=True):
            self.rings[frame.stream].targets(frame.slot, frame.height, frame.width)[:] = target[0]
        now = time.monotonic_ns()
        self.took_ns = now - began
        for frame in batch:
            frame.times["engine"] = now
            send(self.out, frame)  # from here: the loop's thread would take a tenth of a millisecond to wake up
        return batch

    def finish(self) -> None:
        """Send on what the engine has done; a stream's end follows its last frame."""
        assert self.batcher is not None
        if self.running and self.running.done():
            os.eventfd_read(self.done)
            self.running.result()  # raises what the engine did
            self.running, self.batch = None, []
        for sweep in self.sweeps[:]:
            ours = self.batcher.waiting(sweep.stream) + [f.seq for f in self.batch if f.stream == sweep.stream]
            if all(seq >= sweep.seq for seq in ours):
                self.sweeps.remove(sweep)
                send(self.out, sweep)
        for end in list(self.ends.values()):
            if self.running is None and not self.batcher.holds(end.stream):
                for reason, count in self.batcher.leave(end.stream).items():
                    end.dropped[reason] = end.dropped.get(reason, 0) + count
                send(self.out, self.ends.pop(end.stream))


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
    reports: Port,
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
    news = select.epoll()
    for fd in [*ports, infer.done]:
        news.register(fd, select.EPOLLIN)
    streams = set(range(len(frames)))
    assert infer.batcher is not None
    while streams or infer.running or infer.ends:
        wait = infer.batcher.wait_ns(time.monotonic_ns()) if infer.running is None else None
        for fd, _ in news.poll(STEP_S if wait is None else wait / 1e9):
            port = ports.get(fd)
            while port is not None and port.poll():
                message = receive(port)
                infer.take_in(message)
                if isinstance(message, End):
                    streams.discard(message.stream)
        done = infer.running is None or infer.running.done()
        infer.finish()
        infer.start()
        if done:  # an engine that hangs is not excused by a loop that does not
            beats.step()
    infer.thread.shutdown()
