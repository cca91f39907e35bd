"""The worker processes: started through a fork server, watched by their heartbeats, started again when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from engine.asides import warn
from stream.beats import PULSE, STEPS, Beats
from stream.channel import Channel, channel
from stream.frame import Failed
from stream.system import WorkerSpec
from stream.workers import work_watched

STOPS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup: it is to outlive its terminal
    STOPS = STOPS[:2]
STALL_S = 1.0  # without a pulse, of a process that is stopped
STARVED_S = 10.0  # without a pulse, of one that may only be waiting for a core
HANG_S = 30.0  # without a step of its main loop: it hangs
LATE_S = 0.5  # a look that comes so much later than the last says nothing of the workers: we were stopped ourselves
MOST_RESTARTS, SPAN_S = 5, 60.0
LOST = 255  # multiprocessing's exit code for a process whose fork server died: nobody knows its own
AWAKE_S = 0.25  # how often we look whether the fork server is stopped
FORK_S = 10.0  # how long a process may take to be started; a fork server that was just killed is replaced meanwhile
BACK_OFF_S = (0.0, 0.0, 0.5, 1.0, 2.0)  # before the first, second, ... restart within the span

# A new interpreter takes two seconds to import what a worker needs; a copy of one that has takes milliseconds. The
# fork server has no threads and no GPU, which would not survive the copying.
_context = multiprocessing.get_context("forkserver")


@dataclass
class Worker:
    """A worker and the process that does its work at the moment.

    Attributes:
        spec: its entry in the table.
        number: of its heartbeat.
        process: the process; None while there is none.
        reports: what it says; None once all was heard.
        ready: whether it has said that it is.
        finished: whether it has ended by itself, with its work done.
        said: how it failed, if it said so.
        stalled: why it was killed, if we did.
        started: when its process was, monotonic seconds.
        due: when it is to be started again.
        deaths: when its processes died.
    """

    spec: WorkerSpec
    number: int
    process: BaseProcess | None = None
    reports: Channel | None = None
    ready: bool = False
    finished: bool = False
    said: Failed | None = None
    stalled: str | None = None
    started: float = 0.0
    due: float | None = None
    deaths: deque[float] = field(default_factory=deque)
    _seen: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0), (0, 0.0)])

    def start(self, beats: Beats, spec: WorkerSpec) -> None:
        """Start its process."""
        self.reports, sender = channel()
        self.ready, self.said, self.stalled, self.due = False, None, None, None
        process = _context.Process(
            target=work_watched,
            args=(beats, self.number, spec.main, spec.name, sender, os.getpid(), spec.arguments),
            name=spec.name,
            daemon=True,
        )
        _start(process)
        self.process = process
        sender.close()
        self.started = time.monotonic()

    def died(self, now: float) -> float | None:
        """Note that its process has died; return when it is to be started again, None if it died too often."""
        self.deaths.append(now)
        while now - self.deaths[0] > SPAN_S:
            self.deaths.popleft()
        if len(self.deaths) > MOST_RESTARTS:
            return None
        self.due = now + BACK_OFF_S[len(self.deaths) - 1]
        return self.due

    def cause(self, exit_code: int) -> str:
        """Return why its process died, one line."""
        if self.stalled:
            return self.stalled
        if self.said:
            return self.said.reason.removeprefix(f"{self.spec.name}: ")
        if exit_code == LOST:
            return "the worker died with the fork server"
        return f"the worker died ({f'signal {-exit_code}' if exit_code < 0 else f'exit code {exit_code}'})"

    def look(self, beats: Beats, now: float, fair: bool) -> None:
        """Kill a process that is stopped or hangs.

        Args:
            beats: the heartbeats.
            now: monotonic seconds.
            fair: whether time has passed for the workers as it has for us.
        """
        if not self.process or not self.ready or self.stalled:
            return
        limits = ((PULSE, STALL_S, "does not run"), (STEPS, HANG_S, "does not get on"))
        for which, limit, what in limits:
            count, since = int(beats.counts[self.number, which]), self._seen[which][1]
            if count != self._seen[which][0] or not fair or not count or since < self.started:
                self._seen[which] = count, now
            elif now - since > limit and (which == STEPS or now - since > STARVED_S or is_stopped(self.process.pid)):
                self.stalled = f"the worker stalled ({what} for {limit:g} s)"
                self.process.kill()
                return


def is_stopped(pid: int | None) -> bool:
    """Tell whether a process is stopped, as by SIGSTOP."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return False
    return state in "Tt"


@contextmanager
def fork_server_awake() -> Iterator[None]:
    """Let the fork server go on whenever it is stopped: without it no worker's end is known, and none is started.

    On a thread, because whoever starts a worker waits for its answer. To kill it would be to kill all workers.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(AWAKE_S):
            pids = {
                "fork server": getattr(forkserver._forkserver, "_forkserver_pid", None),
                "resource tracker": getattr(resource_tracker._resource_tracker, "_pid", None),  # would outlive us
            }
            for name, pid in pids.items():
                if pid is not None and is_stopped(pid):
                    os.kill(pid, signal.SIGCONT)
                    warn(f"the {name} was stopped; it was told to go on")

    thread = threading.Thread(target=watch, name="fork server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def deaf_to_stops() -> Iterator[None]:
    """Block what stops a run, in this thread and in the processes that it starts meanwhile, which stay so.

    A terminal and a service manager signal the whole group; the others never hear it, the supervisor decides.
    """
    resource_tracker.ensure_running()  # starting it would unblock the signals again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def load_fork_server() -> threading.Thread:
    """Start the fork server; return a thread that ends when it has imported what workers need."""
    with _fork_server():  # not in that thread: it dies with the thread that started it
        pass
    loading = threading.Thread(target=_start_nothing, daemon=True)
    loading.start()
    return loading


def _start_nothing() -> None:
    process = _context.Process(target=os.getpid, daemon=True)
    with suppress(OSError, EOFError):  # the fork server was killed; a worker's start finds another
        process.start()
        process.join()


def _start(process: BaseProcess) -> None:
    """Start a process, whatever happened to the fork server."""
    deadline = time.monotonic() + FORK_S
    while True:
        try:
            with _fork_server():
                process.start()
        except (OSError, EOFError):  # it was killed a moment ago, which only its parent's wait will tell
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _fork_server() -> Iterator[None]:
    """See that the fork server runs, and that it and its children find this package and die with this process."""
    ours = {
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),  # read when numpy is imported
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
        "IRSTREAM_SUPERVISOR": str(os.getpid()),
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    _context.set_forkserver_preload(["stream.workers.preload"])
    try:
        with deaf_to_stops():
            forkserver.ensure_running()
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
