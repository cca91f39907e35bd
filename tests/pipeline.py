"""A run of the pipeline from outside: real processes, and a subscriber that knows only pyzmq and msgpack."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import zmq

from stream.publish import free_endpoint
from stream.usage import own_shm

ROOT = Path(__file__).parents[1]
LIMIT_S = 90


@dataclass
class Outcome:
    """How a run ended."""

    code: int
    out: str
    err: str
    messages: list[dict]
    left: list[str]


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


def processes(mark: str) -> list[tuple[int, str]]:
    """Return the processes that carry a mark in their environment: a run and all its workers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((int(entry.name), (entry / "cmdline").read_bytes().decode().replace("\0", " ").strip()))
        except OSError:  # it ended while we looked
            continue
    return found


class Run:
    """A run in the background, marked so that whatever it leaves behind is found."""

    def __init__(
        self,
        *arguments: object,
        endpoint: str | None = None,
        cwd: Path = ROOT,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.endpoint = endpoint or free_endpoint()
        self.mark = f"IRSTREAM_TEST={uuid.uuid4()}"
        self.pids: set[int] = set()  # that were seen
        self.shm = own_shm(self.pids)
        name, _, value = self.mark.partition("=")
        command = [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, arguments), "--publish", self.endpoint]
        self.process = subprocess.Popen(
            command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            # SPT_NOENV: a process's new title may else be written over its environment, and the mark with it.
            env={**os.environ, **(environment or {}), name: value, "COLUMNS": "200", "SPT_NOENV": "1"},
            start_new_session=True,
        )  # fmt: skip

    def listen(self, until: Callable[[list[dict]], bool] | None = None) -> list[dict]:
        """Subscribe to everything; return the messages once ``until`` holds or the run has ended."""
        messages: list[dict] = []
        end = time.monotonic() + LIMIT_S
        # Closed whatever happens: a context that is left to the garbage collector waits for its sockets for ever.
        with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.connect(self.endpoint)
            subscriber.subscribe(b"")
            while time.monotonic() < end:
                if subscriber.poll(100):
                    messages.append(msgpack.unpackb(subscriber.recv_multipart()[1]))
                elif self.process.poll() is not None:
                    break
                if until and until(messages):
                    break
        return messages

    def worker(self, name: str) -> int:
        """Return the process id of a worker, once it is there."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [pid for pid, command in processes(self.mark) if command == f"irstream {name}"]
            return bool(found)

        wait_until(look, LIMIT_S, f"worker {name}")
        return found[0]

    def end(self, messages: list[dict] | None = None) -> Outcome:
        end = time.monotonic() + LIMIT_S
        while True:
            self.pids |= {pid for pid, _ in processes(self.mark)}
            try:
                out, err = self.process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise
        end = time.monotonic() + 5  # the fork server sees that we have gone, and goes
        while (left := [command for _, command in processes(self.mark)]) and time.monotonic() < end:
            time.sleep(0.02)
        left += [f"/dev/shm/{name}" for name in own_shm(self.pids) - self.shm]
        return Outcome(self.process.returncode, out, err, messages or [], left)


def run(*arguments: object, subscribed: bool = False, endpoint: str | None = None) -> Outcome:
    if not subscribed:
        return Run(*arguments, endpoint=endpoint).end()
    started = Run(*arguments, "--wait-for", 1, endpoint=endpoint)
    return started.end(started.listen())


def tracks_of(messages: list[dict], stream: str) -> list[dict]:
    return [m for m in messages if m["schema"] == "irstream.tracks/1" and m["stream"] == stream]
