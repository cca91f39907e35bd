"""The supervisor: starts the workers, keeps their books, replaces those that die, stops them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from engine.asides import tell, warn
from engine.base import check_device
from engine.contract import find_model, read_model
from stream import StreamError
from stream.beats import Beats
from stream.books import StreamBook
from stream.config import Config
from stream.frame import (
    DeviceTimes,
    End,
    Failed,
    Go,
    Hello,
    Message,
    Passed,
    Publish,
    Ready,
    Recorded,
    Restarted,
    Returned,
    Stop,
    receive,
    send,
    try_send,
)
from stream.latency import DeviceLatency
from stream.messages import encode
from stream.processes import LATE_S, MOST_RESTARTS, SPAN_S, STOPS, Worker, fork_server_awake, load_fork_server
from stream.sources import check_source, masked
from stream.system import WorkerSpec, drops_nothing, for_again, process_table, wire

START_S = 120.0
STOP_S = 15.0
TICK_S = 0.25
PATIENCE_S = 8.0  # before a start is explained
STATUS_S = 1.0


class PipelineError(RuntimeError):
    """The pipeline itself failed; the message is one line."""


class Supervisor:
    """Runs the pipeline that a configuration describes, once.

    Args:
        config: what to run.
        show: called some four times a second with the streams' books, and once they are final.

    Raises:
        StreamError, EngineError: if a source, the model or the engine cannot be used.
    """

    def __init__(self, config: Config, show: Callable[[Sequence[StreamBook]], None]) -> None:
        self.config, self.show = config, show
        for stream in config.streams:
            check_source(stream.source)
        check_device(config.engine)
        models = {bits: read_model(find_model(config.model, bits))[1] for bits in (8, 16)}
        thresholds = {bits: model.threshold for bits, model in models.items()}
        self._wiring = wire(len(config.streams), record=config.record.folder is not None)
        self._device = DeviceLatency()
        self.books = [
            StreamBook(stream.name, masked(stream.source), ring=ring.path, device=self._device)
            for stream, ring in zip(config.streams, self._wiring.rings, strict=True)
        ]
        table = process_table(config, self._wiring, thresholds)
        self._lossless = drops_nothing(config)
        self._beats = Beats(len(table))
        self._workers = {spec.name: Worker(spec, number) for number, spec in enumerate(table)}
        self._captures = [self._workers[f"capture {stream.name}"] for stream in config.streams]
        self._ends: dict[int, End] = {}  # of the streams that capture has ended
        self._failure: Failed | None = None
        self._given_up: str | None = None  # why the first stream was, whose capture keeps dying
        self._signals = 0
        self._started = self._stopping = self._closing = self._asked = False
        self._looked = 0.0

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
        with fork_server_awake():
            try:
                loading, patience = load_fork_server(), time.monotonic() + PATIENCE_S
                while loading.is_alive() and not self._signals:  # seconds, in which Ctrl-C is to be answered
                    loading.join(TICK_S)
                    if time.monotonic() > patience:
                        patience = float("inf")
                        tell("still starting: the first start on a machine compiles detection and tracking, some 20 s")
                for worker in self._workers.values() if not self._signals else []:
                    self._begin(worker, worker.spec)
                finished = not self._signals and self._watch()
            finally:
                self._end(STOP_S if finished else 0)
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        self.show(self.books)
        if self._failure:
            raise (StreamError if self._failure.bad_input else PipelineError)(self._failure.reason)
        if self._given_up:
            raise PipelineError(self._given_up)
        if faults := [book.fault for book in self.books if book.fault]:
            raise StreamError("; ".join(faults))

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _watch(self) -> bool:
        """Watch until the streams have ended; return whether they have, so that the workers end by themselves."""
        deadline = time.monotonic() + START_S
        end = status = shown = float("inf")
        while not all(book.ended for book in self.books):
            self._hear(TICK_S)
            now = time.monotonic()
            if self._failure or self._signals > 1 or (self._signals and not self._started):
                return False
            if not self._started and all(worker.ready for worker in self._workers.values()):
                self._started = True
                self._tell_captures(Go())
                status = shown = now
                if self.config.duration:
                    end = now + self.config.duration
                for book in self.books:
                    book.started = now
            if self._started and not self._stopping and (self._signals or now > end):
                self._stopping = True
                deadline = now + STOP_S
                self._tell_captures(Stop())
            if now > deadline and (self._stopping or not self._started):
                names = [n for n, worker in self._workers.items() if not worker.ready]
                waiting = [b.name for b in self.books if not b.ended] if self._started else names
                raise PipelineError(f"{', '.join(sorted(waiting))}: no answer; gave up waiting")
            if not self._started and self._waits_for_subscribers():
                deadline = now + START_S  # they may take as long as they like
            self._look(now)
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

    def _waits_for_subscribers(self) -> bool:
        """Tell whether nothing is waited for but the subscribers that were asked for, and say so once."""
        publish = self.config.publish
        if not publish.wait_for or any(w.ready == (name == "track") for name, w in self._workers.items()):
            return False
        if not self._asked:
            self._asked = True
            tell(f"waiting for {publish.wait_for} to subscribe to tracks/ on {publish.endpoint}")
        return True

    def _look(self, now: float) -> None:
        """Kill the workers that stall, and start those again whose time has come."""
        fair, self._looked = now - self._looked < TICK_S + LATE_S, now
        for worker in self._workers.values():
            worker.look(self._beats, now, fair)
            if worker.process and not worker.ready and self._started and now - worker.started > START_S:
                worker.stalled = f"the worker did not become ready within {START_S:g} s"
                worker.process.kill()
            if worker.due is not None and now >= worker.due:
                self._restart(worker)

    def _hear(self, timeout: float) -> None:
        """Enter what the workers report, and see to those that have ended."""
        due = [worker.due for worker in self._workers.values() if worker.due is not None]
        timeout = min([timeout, *(max(0.0, at - time.monotonic()) for at in due)])
        reports: dict[object, Worker] = {w.reports: w for w in self._workers.values() if w.reports}
        ends: dict[object, Worker] = {w.process.sentinel: w for w in self._workers.values() if w.process}
        for heard in wait([*reports, *ends], timeout):  # type: ignore[list-item]
            if heard in reports:
                self._enter(reports[heard])
            else:
                self._bury(ends[heard])

    def _enter(self, worker: Worker) -> None:
        """Enter a worker's report."""
        if not worker.reports:
            return
        try:
            message: Message = receive(worker.reports)
        except EOFError:
            worker.reports.close()
            worker.reports = None
            return
        match message:
            case Passed():
                self.books[message.stream].add(message)
                if message.fault and not all(book.ended for book in self.books):
                    name = self.books[message.stream].name
                    warn(f"{name} has ended: {message.fault}; the others go on")
            case Recorded():
                self.books[message.stream].record(message)
            case Hello():
                self.books[message.stream].hello = message
                worker.ready = True
                if self._started:  # it takes the place of one that died
                    send(self._wiring.returns[message.stream][1], Stop() if self._stopping else Go())
            case End():
                self._ends[message.stream] = message
            case Ready():
                worker.ready = True
                for book in self.books if message.loaded else []:
                    book.loaded = message.loaded
            case DeviceTimes(rows):
                self._device.add(rows)
            case Failed():
                worker.said = message

    def _bury(self, worker: Worker) -> None:
        """See what a process that has ended left behind, and whether another is to take its place."""
        assert worker.process
        worker.process.join()  # its files close a moment before its exit code can be had
        code, worker.process = worker.process.exitcode or 0, None
        while worker.reports and worker.reports.poll():
            self._enter(worker)
        name, now = worker.spec.name, time.monotonic()
        if code == 0:
            worker.finished = True
            if name == "infer":  # it has sent every end, but a tracker may have died with them
                self._repeat_ends()
            return
        if name == "track":
            for book, ring in zip(self.books, self._wiring.rings, strict=True):
                book.tracker_died(int(ring.ledger["published"][0]), int(ring.ledger["passed"][0]))
        cause = worker.cause(code)
        bad_input = worker.said is not None and worker.said.bad_input
        reason = cause if bad_input or cause.startswith(name) else f"{name}: {cause}"
        if self._closing or self._failure:
            self._failure = self._failure or (worker.said if not self._stopping else None)
        elif not self._started:
            self._failure = Failed(reason, bad_input)
        elif worker in self._captures and (bad_input or self._stopping or worker.died(now) is None):
            self._give_up(self._captures.index(worker), reason, bad_input)
        elif worker not in self._captures and (bad_input or worker.died(now) is None):
            often = "" if bad_input else f"; {MOST_RESTARTS} restarts within {SPAN_S:g} s are the most"
            self._failure = Failed(f"{reason}{often}", bad_input)
        else:
            warn(f"{reason}; it is started again")
            for book in [self.books[self._captures.index(worker)]] if worker in self._captures else self.books:
                book.restarts[reason] += 1

    def _give_up(self, stream: int, reason: str, bad_input: bool) -> None:
        """End a stream whose capture worker cannot be replaced; the others go on."""
        self._captures[stream].finished = True
        fault = None if self._stopping else reason
        if fault and not bad_input:
            fault = f"{fault}; {MOST_RESTARTS} restarts within {SPAN_S:g} s are the most"
            self._given_up = self._given_up or fault
        self._ends[stream] = End(stream, int(self._wiring.rings[stream].ledger["next_seq"][0]), {}, fault)
        self._repeat_ends(stream)

    def _restart(self, worker: Worker) -> None:
        """Put a new process in a dead one's place, and let it find what that one held."""
        if worker.spec.name == "record":
            tap = self._wiring.tap[0]
            while tap.poll():  # what the dead one never saw goes by as well: its slots are given back
                tap.recv_bytes()
            for stream in range(len(self.books)):
                send(self._wiring.tapped[1], Returned(stream, -1, 0))
        self._begin(worker, for_again(worker.spec, [book.hello for book in self.books if book.hello]))
        if worker.spec.name in ("infer", "track"):
            for capture, (_, returns) in zip(self._captures, self._wiring.returns, strict=True):
                if not capture.finished:
                    send(returns, Restarted())
            for stream in self._ends:
                self._repeat_ends(stream)

    def _repeat_ends(self, stream: int | None = None) -> None:
        """Say again that a stream has ended, or that all have that did: who has heard it will pass it over."""
        infer = self._workers["infer"]
        for end in [self._ends[stream]] if stream is not None else self._ends.values():
            send(self._wiring.maps[1] if infer.finished else self._wiring.frames[end.stream][1], end)

    def _tell_captures(self, message: Go | Stop) -> None:
        for _, sender in self._wiring.returns:
            send(sender, message)

    def _begin(self, worker: Worker, spec: WorkerSpec) -> None:
        try:
            worker.start(self._beats, spec)
        except (OSError, EOFError) as error:
            raise PipelineError(f"{spec.name}: no process could be started ({error or 'no fork server'})") from None

    def _publish_status(self, book: StreamBook) -> None:
        try_send(self._wiring.outbox[1], Publish(*encode(book.status())))  # a tracker that is stuck must not stop us

    def _end(self, patience_s: float) -> None:
        """Let the workers finish for so long; end those that do not."""
        self._closing = True
        self._tell_captures(Stop())
        try_send(self._wiring.outbox[1], Stop())  # a tracker that is stuck must not stop us
        begun, patience = time.monotonic(), PATIENCE_S
        while self._running() and self._signals < 2:
            now = time.monotonic()
            delivers = patience_s > 0 and self._delivers()
            if now - begun > patience_s and not delivers:
                break
            if now - begun > patience and delivers:
                patience = float("inf")
                tell("all frames are published; subscribers are still taking the last messages, which Ctrl-C ends")
            self._hear(TICK_S)  # the recorder has more to say, and whoever fails now too
            fair, self._looked = now - self._looked < TICK_S + LATE_S, now
            self._workers["track"].look(self._beats, now, fair)
        for process in self._running():
            process.kill()
            process.join()
        if self.config.record.folder:
            for book in self.books:
                book.settle_recording()
        self._beats.close()
        for ring in self._wiring.rings:
            ring.close()

    def _delivers(self) -> bool:
        """Tell whether the tracker of a run that drops nothing may still wait for subscribers, as long as they take."""
        track = self._workers["track"]
        return self._lossless and track.process is not None and not self._signals

    def _running(self) -> list[BaseProcess]:
        return [worker.process for worker in self._workers.values() if worker.process]
