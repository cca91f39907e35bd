"""A fake pipeline, a server that listens to it, and a browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zmq

from stream.frame import STAGES
from stream.messages import StatusMessage, TracksMessage, WireMessage, WireTrack, encode
from stream.ring import FrameRing

ROOT = Path(__file__).parents[3]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
MS = 1_000_000


class FakePipeline:
    """What a pipeline publishes, without one: frames of 64x48 with one bright pixel at (20, 30), and their tracks."""

    width, height = 64, 48
    ground: Any = 40  # grey levels, of all pixels but one
    likely = 250  # that pixel in the target map

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.ring = FrameRing(slots=4)
        self.seq = 0
        self.bind(endpoint)

    def bind(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def wait_for(self, topic: str) -> None:
        """Wait until someone subscribes to a topic."""
        while self._socket.poll(20_000):
            if self._socket.recv() == b"\x01" + topic.encode():
                return
        raise AssertionError(f"nobody subscribed to {topic}")

    def send(self, *messages: WireMessage) -> None:
        for message in messages:
            topic, payload = encode(message)
            self._socket.send_multipart([topic.encode(), payload])

    def track(self, **given: object) -> WireTrack:
        values: dict = {
            "id": 1, "state": "confirmed", "x": 20.0, "y": 30.0, "vx": 0.0, "vy": 0.0, "cov": [0.0] * 16,
            "score": 9.5, "area": 4.0, "peak": 0.9, "scr": 6.0, "hits": 8, "age": 8,
        }  # fmt: skip
        return WireTrack(**(values | given))

    def tracks(self, late_ms: int = 12, **given: object) -> TracksMessage:
        now = time.monotonic_ns()
        values: dict = {
            "stream": "sky", "seq": self.seq, "captured_utc_ns": time.time_ns(), "captured_ns": now - late_ms * MS,
            "published_ns": now, "width": self.width, "height": self.height, "dropped": {},
            "stages": {stage: (i + 1) * late_ms * MS // len(STAGES) for i, stage in enumerate(STAGES)},
            "tracks": [self.track()],
        }  # fmt: skip
        return TracksMessage(**(values | given))

    def status(self, stream: str = "sky", **given: object) -> StatusMessage:
        values: dict = {
            "stream": stream, "health": "ok", "frames": 10, "fps": 30.0, "dropped": {},
            "latency_ms": {"p50": 12.0, "p99": 12.0, "max": 12.0}, "tracks": 1, "ring": self.ring.path,
        }  # fmt: skip
        return StatusMessage(**(values | given))

    def frame(self, **given: object) -> TracksMessage:
        """Put the next frame into the ring and publish its tracks."""
        slot = self.seq % self.ring.slots
        self.ring.unmark(slot)
        for pixels, dark, bright in (
            (self.ring.frame(slot, self.height, self.width, 8), self.ground, 255),
            (self.ring.targets(slot, self.height, self.width), 0, self.likely),
        ):
            pixels[:] = dark
            pixels[30, 20] = bright
        self.ring.mark(slot, self.seq, 8, 0.0, 255.0)
        message = self.tracks(**given)
        self.send(message)
        self.seq += 1
        return message

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def pipeline() -> Iterator[FakePipeline]:
    made = FakePipeline()
    yield made
    made.close()
    made.ring.close()


@dataclass
class Viewing:
    """``python -m stream.web`` in the background."""

    endpoint: str
    address: str = "127.0.0.1:0"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "stream.web", "--connect", self.endpoint, "--view", self.address]
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        assert self.process.stdout
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + self.process.stdout.read()
        self.url = found.group()
        self.said: list[str] = []
        threading.Thread(target=lambda: self.said.extend(self.process.stdout or []), daemon=True).start()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert self.said == []  # no warning, no traceback


@pytest.fixture
def view(pipeline: FakePipeline) -> Iterator[Callable[..., Viewing]]:
    """Start servers that listen to the fake pipeline."""
    started: list[Viewing] = []

    def start(**given: object) -> Viewing:
        started.append(Viewing(pipeline.endpoint, **given))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.close()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra 'dev')")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not path:
        pytest.skip(f"no {' or '.join(CHROMIUM)}; Debian's package chromium has one")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
