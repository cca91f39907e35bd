"""The supervisor: the whole system as one table of processes; starts it, watches it, stops it."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from engine.contract import find_model, read_model
from stream import StreamError
from stream.books import StreamBook
from stream.config import Config
from stream.frame import Failed, Go, Hello, Message, Passed, Publish, Ready, Recorded, Stop, receive, send
from stream.messages import encode
from stream.record import new_run
from stream.ring import FrameRing
from stream.sources import check_source, is_live, masked
from stream.tap import HOLDS
from stream.workers import capture, infer, record, track, work

SLOTS = 8  # a stream's: one being captured, one waiting, one in the engine, one being tracked, and as many to spare
STOPS = (signal.SIGINT, signal.SIGTERM)
START_S = 120.0
STOP_S = 15.0
TICK_S = 0.25
STATUS_S = 1.0

_context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork


class PipelineError(RuntimeError):
    """The pipeline itself failed; the message is one line."""


@dataclass(frozen=True)
class WorkerSpec:
    """One process of the system.

    Attributes:
        name: what it is called.
        main: where it starts.
        arguments: what it is given, before the pipe it reports on.
    """

    name: str
    main: Callable[..., None]
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class _Wiring:
    """The pipes between the workers, as (receiving end, sending end)."""

    rings: tuple[FrameRing, ...]
    frames: tuple[tuple[Connection, Connection], ...]  # capture -> infer, a stream each
    returns: tuple[tuple[Connection, Connection], ...]  # released slots, go and stop -> capture
    maps: tuple[Connection, Connection]  # infer -> track
    outbox: tuple[Connection, Connection]  # supervisor -> track
    tap: tuple[Connection, Connection]  # track -> record
    tapped: tuple[Connection, Connection]  # slots that were read: record -> track


def _wire(streams: int, record: bool = False) -> _Wiring:
    return _Wiring(
        tuple(FrameRing(SLOTS + HOLDS * record) for _ in range(streams)),
        tuple(_context.Pipe(duplex=False) for _ in range(streams)),
        tuple(_context.Pipe(duplex=False) for _ in range(streams)),
        _context.Pipe(duplex=False),
        _context.Pipe(duplex=False),
        _context.Pipe(duplex=False),
        _context.Pipe(duplex=False),
    )


def process_table(config: Config, wiring: _Wiring, threshold: float) -> list[WorkerSpec]:
    """Return every process of a run: one a camera, one a device, one tracker, and a recorder if wanted."""
    names = tuple(stream.name for stream in config.streams)
    lossless = not any(is_live(stream.source, stream.live) for stream in config.streams)
    to_capture = tuple(sender for _, sender in wiring.returns)
    captures = [
        WorkerSpec(
            f"capture {stream.name}",
            capture.main,
            (index, stream, wiring.rings[index], wiring.frames[index][1], wiring.returns[index][0]),
        )
        for index, stream in enumerate(config.streams)
    ]
    recorders = []
    if config.record.folder:
        room = Path(config.record.folder)
        arguments = record.RecordWorkerConfig(names, room, new_run(room), round(config.record.max_gb * 1e9))
        recorders = [
            WorkerSpec("record", record.main, (arguments, wiring.rings, wiring.tap[0], wiring.tapped[1])),
        ]
    return [
        *recorders,
        WorkerSpec(
            "track",
            track.main,
            (
                track.TrackWorkerConfig(names, threshold, config.detect, config.track, config.publish, lossless),
                wiring.rings,
                to_capture,
                wiring.maps[0],
                wiring.outbox[0],
                (wiring.tap[1], wiring.tapped[0]) if recorders else None,
            ),
        ),
        WorkerSpec(
            "infer",
            infer.main,
            (
                infer.InferConfig(config.model, config.engine, config.threads, config.batch),
                wiring.rings,
                tuple(receiver for receiver, _ in wiring.frames),
                to_capture,
                wiring.maps[1],
            ),
        ),
        *captures,
    ]


class Supervisor:
    """Runs the pipeline that a configuration describes, once.

    Args:
        config: what to run.
        show: called some four times a second with the streams' books, and once they are final.

    Raises:
        StreamError, EngineError: if a source or the model cannot be used.
    """

    def __init__(self, config: Config, show: Callable[[Sequence[StreamBook]], None]) -> None:
        self.config, self.show = config, show
        for stream in config.streams:
            check_source(stream.source)
        _, model = read_model(find_model(config.model))
        self._wiring = _wire(len(config.streams), record=config.record.folder is not None)
        self.books = [
            StreamBook(stream.name, masked(stream.source), ring=ring.path)
            for stream, ring in zip(config.streams, self._wiring.rings, strict=True)
        ]
        self._table = process_table(config, self._wiring, model.threshold)
        self._processes: dict[str, BaseProcess] = {}
        self._reports: dict[Connection, str] = {}
        self._ready: set[str] = set()
        self._failure: Failed | None = None
        self._signals = 0

    @property
    def interrupted(self) -> bool:
        """Whether SIGINT or SIGTERM asked for the end."""
        return self._signals > 0

    def run(self) -> None:
        """Run until the sources end, the time is up, or SIGINT or SIGTERM asks for the end.

        Raises:
            StreamError: if a user's mistake ended it.
            PipelineError: if the pipeline failed.
        """
        handlers = {number: signal.signal(number, self._on_signal) for number in STOPS}
        finished = False
        try:
            self._start()
            finished = self._watch()
        finally:
            self._end(STOP_S if finished else 0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.show(self.books)
        if self._failure:
            raise (StreamError if self._failure.bad_input else PipelineError)(self._failure.reason)
        if faults := [book.fault for book in self.books if book.fault]:
            raise StreamError(faults[0])

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _start(self) -> None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when a worker imports numpy
        # A terminal and a service manager signal the whole group; workers never hear it, we decide.
        resource_tracker.ensure_running()  # starting it would unblock the signals again
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        for spec in self._table:
            receiver, sender = _context.Pipe(duplex=False)
            process = _context.Process(
                target=work,
                args=(spec.main, spec.name, sender, os.getpid(), spec.arguments),
                name=spec.name,
                daemon=True,
            )
            process.start()
            sender.close()
            self._processes[spec.name] = process
            self._reports[receiver] = spec.name
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _watch(self) -> bool:
        """Watch until the streams have ended; return whether they have, so that the workers end by themselves."""
        deadline = time.monotonic() + START_S
        end = status = shown = float("inf")
        started = stopping = False
        while not all(book.ended for book in self.books):
            self._hear(TICK_S)
            now = time.monotonic()
            if self._failure or self._signals > 1 or (self._signals and not started):
                return False
            if not started and len(self._ready) == len(self._table):
                started = True
                self._tell_captures(Go())
                status = shown = now
                if self.config.duration:
                    end = now + self.config.duration
                for book in self.books:
                    book.started = now
            if started and not stopping and (self._signals or now > end):
                stopping = True
                deadline = now + STOP_S
                self._tell_captures(Stop())
            if now > deadline and (stopping or not started):
                waiting = [b.name for b in self.books if not b.ended] if started else set(self._processes) - self._ready
                raise PipelineError(f"{', '.join(sorted(waiting))}: no answer; gave up waiting")
            if now >= status:
                status = now + STATUS_S
                for book in self.books:
                    self._publish_status(book)
            if now >= shown:
                shown = now + TICK_S
                self.show(self.books)
        for book in self.books:
            self._publish_status(book)
        return True

    def _hear(self, timeout: float) -> None:
        sentinels = {process.sentinel: name for name, process in self._processes.items()}
        for heard in wait([*self._reports, *sentinels], timeout):
            if isinstance(heard, Connection):
                self._enter(heard)
            else:
                self._bury(sentinels[heard])  # type: ignore[index]

    def _enter(self, reports: Connection) -> None:
        """Enter a worker's report."""
        name = self._reports[reports]
        try:
            message: Message = receive(reports)
        except EOFError:
            del self._reports[reports]
            return
        match message:
            case Passed():
                self.books[message.stream].add(message)
            case Recorded():
                self.books[message.stream].record(message)
            case Hello():
                self.books[message.stream].hello = message
                self._ready.add(name)
            case Ready():
                self._ready.add(name)
            case Failed():
                self._failure = self._failure or message

    def _bury(self, name: str) -> None:
        """See what a process that has ended left behind."""
        process = self._processes.pop(name)
        process.join()  # its files close a moment before its exit code can be had
        for reports in [r for r, n in self._reports.items() if n == name]:
            while reports in self._reports and reports.poll():
                self._enter(reports)
        if process.exitcode and self._failure is None:
            how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
            self._failure = Failed(f"{name}: the worker died ({how})", bad_input=False)

    def _tell_captures(self, message: Go | Stop) -> None:
        for _, sender in self._wiring.returns:
            send(sender, message)

    def _publish_status(self, book: StreamBook) -> None:
        if select.select([], [self._wiring.outbox[1]], [], 0)[1]:  # a tracker that is stuck must not stop us too
            send(self._wiring.outbox[1], Publish(*encode(book.status())))

    def _end(self, patience_s: float) -> None:
        """Let the workers finish for so long; end those that do not."""
        self._tell_captures(Stop())
        send(self._wiring.outbox[1], Stop())
        deadline = time.monotonic() + patience_s
        while self._processes and self._signals < 2 and time.monotonic() < deadline:
            self._hear(TICK_S)  # the recorder has more to say, and whoever fails now too
        for process in self._processes.values():
            process.kill()
            process.join()
        for ring in self._wiring.rings:
            ring.close()
